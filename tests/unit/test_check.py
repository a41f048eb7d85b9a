"""host.check(): what it says of this machine, of machines that lack something, and how it looks."""

from __future__ import annotations

import os
import platform
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from lxcwrap import check as doctor
from lxcwrap.check import Item, Report, Status
from lxcwrap.cli.main import main
from lxcwrap.drivers import probes
from lxcwrap.drivers.probes import ProbeFailed, probe

GOOD = Item("kernel", Status.OK, "Linux 6.18")
LACKS_TOOL = Item("nft", Status.DEGRADED, "not found", "apt install nftables")
LACKS_ALL = Item("user namespaces", Status.MISSING, "<none>", "sysctl -w user.max_user_namespaces=1")


def _fail(*_: str) -> str:
    raise ProbeFailed("no such thing")


# --- the report ---


def test_only_what_is_missing_makes_it_bad() -> None:
    """A lacking feature is no reason not to run."""
    assert Report((GOOD, LACKS_TOOL)).ok
    assert not Report((GOOD, LACKS_ALL)).ok


def test_table_is_aligned() -> None:
    """One line an item, and its remedy below."""
    assert str(Report((GOOD, LACKS_ALL))).splitlines() == [
        "kernel           ok        Linux 6.18",
        "user namespaces  missing   <none>",
        "                           -> sysctl -w user.max_user_namespaces=1",
    ]


def test_html_is_escaped() -> None:
    """Details come from the machine, not from us."""
    text = Report((LACKS_ALL,))._repr_html_()
    assert "&lt;none&gt;" in text
    assert "<none>" not in text


def test_the_exit_status_tells(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`python -m lxcwrap check` is of use in scripts."""
    for item, expected in ((GOOD, 0), (LACKS_TOOL, 0), (LACKS_ALL, 1)):
        monkeypatch.setattr(doctor, "check", lambda root, item=item: Report((item,)))
        assert main(["check", "--root", "/nowhere"]) == expected
        assert item.detail in capsys.readouterr().out


def test_this_machine(tmp_path: Path) -> None:
    """Everything is looked at, whoever asks, nothing is left, and what is not well has a remedy."""
    report = doctor.check(tmp_path / "root")
    assert [item.name for item in report.items if item.status is not Status.OK and not item.remedy] == []
    assert len({item.name for item in report.items}) == len(report.items) == 22
    assert list(tmp_path.iterdir()) == []


# --- probes run elsewhere ---


def test_a_probe_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one whose process dies, as of a crash in the bindings."""
    with pytest.raises(ProbeFailed, match="no such trial"):
        probe("no such trial")
    with pytest.raises(ProbeFailed, match="lower"):
        probe("overlay", "/nonexistent/lower")
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ProbeFailed, match="ended with 1"):
        probe("bindings")


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not hang the caller."""
    monkeypatch.setattr(probes, "_TIMEOUT_S", 0)
    with pytest.raises(ProbeFailed, match="no answer"):
        probe("bindings")


@pytest.mark.parametrize("name", ["_bindings", "_user_namespaces", "_seccomp"])
def test_a_failed_probe_is_missing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What containers cannot do without."""
    monkeypatch.setattr(doctor, "probe", _fail)
    item: Item = getattr(doctor, name)()
    assert (item.status, item.detail) == (Status.MISSING, "no such thing")
    assert item.remedy


def test_a_file_system_that_carries_no_overlay(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tried where the root directory will be, without making it."""
    monkeypatch.setattr(doctor, "probe", _fail)
    item = doctor._overlay("overlay", tmp_path / "a" / "b")
    assert item.status is Status.MISSING
    assert list(tmp_path.iterdir()) == []


# --- machines that lack something ---


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ({"ID": "debian"}, "apt install libseccomp2"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt install libseccomp2"),
        ({"ID": "mint", "ID_LIKE": "ubuntu debian"}, "apt install libseccomp2"),
        ({"ID": "fedora"}, "install the package libseccomp of this distribution"),
        ({}, "install the package libseccomp of this distribution"),
    ],
)
def test_remedy_by_distribution(
    release: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command where we know it, the package's name elsewhere."""
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert doctor._install("libseccomp2", "libseccomp") == expected


def test_remedy_without_os_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every system says what it is."""

    def unknown() -> dict[str, str]:
        raise OSError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", unknown)
    assert "this distribution" in doctor._install("a", "b")


@pytest.mark.parametrize(
    ("release", "status"),
    [
        ("5.15.0-91-generic", Status.MISSING),
        ("5.19.0", Status.OK),
        ("6.1.0-13-amd64", Status.OK),
        ("6.18+", Status.OK),
    ],
)
def test_kernel(release: str, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    """5.19 is the first that overlays id-mapped layers."""
    monkeypatch.setattr(platform, "release", lambda: release)
    assert doctor._kernel().status is status


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy runs the same again, as root."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    item = doctor._rights()
    assert item.status is Status.MISSING
    assert item.remedy.startswith("sudo ")


def test_root_without_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another container: each that lacks is named."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "read_text", lambda _: "Name:\tx\nCapEff:\t00000000a80425fb\n")
    item = doctor._rights()
    assert (item.status, "SYS_ADMIN" in item.detail, "CHOWN" in item.detail) == (Status.MISSING, True, False)


def test_directories_that_containers_cannot_pass(tmp_path: Path) -> None:
    """The ids of containers are nobody's on the host: every directory above their files must be passable."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    item = doctor._root_directory(closed / "root")
    assert item.status is Status.MISSING
    assert item.remedy.startswith(f"chmod o+x {closed}")


def test_little_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A full disk is told before it hurts."""
    for free, status in ((1 << 20, Status.DEGRADED), (1 << 40, Status.OK)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert doctor._disk(tmp_path / "root").status is status


@pytest.mark.parametrize(
    "look", [doctor._newuidmap, lambda: doctor._tool("nft", "networks", "nftables", "nftables")]
)
def test_tools_that_few_need(look: Callable[[], Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them containers run."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert look().status is not Status.MISSING


# --- programs ---


def _elf(bits: int, order: str, *segments: int) -> bytes:
    """An ELF header and its program headers, of the given types."""
    table_at = 64
    size = 56 if bits == 64 else 32
    head = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2]) + bytes(10)
    if bits == 64:
        head += struct.pack(
            f"{order}HHIQQQIHHHHHH", 2, 62, 1, 0, table_at, 0, 0, 64, size, len(segments), 0, 0, 0
        )
    else:
        head += struct.pack(
            f"{order}HHIIIIIHHHHHH", 2, 3, 1, 0, table_at, 0, 0, 52, size, len(segments), 0, 0, 0
        )
    return head.ljust(table_at, b"\0") + b"".join(
        struct.pack(f"{order}I", kind).ljust(size, b"\0") for kind in segments
    )


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_static_programs(bits: int, order: str, tmp_path: Path) -> None:
    """A program that names a loader is not static; what is no program is neither."""
    program = tmp_path / "program"
    for segments, expected in (((1, 4), True), ((6, 3, 1), False)):
        program.write_bytes(_elf(bits, order, *segments))
        assert doctor.is_static(program) is expected
    program.write_text("#!/bin/sh\n")
    assert not doctor.is_static(program)
