"""What init="system" makes of an image and a caller's options: on a directory that stands for the image."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.errors import InvalidSpecError
from lxcwrap.ids import IDENTITY
from lxcwrap.inroot import Root
from lxcwrap.options import ContainerOptions, make_spec
from lxcwrap.specs import ContainerSpec
from lxcwrap.supervisor.plan import ALL_CAPABILITIES, capabilities
from lxcwrap.systems import CAPABILITIES, as_system, find_init
from tests.unit.test_options import ID, NGINX


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """With a systemd, as Debian has it, and a busybox; nothing leads to them yet."""
    for name in ("sbin", "bin", "usr/lib/systemd"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("usr/lib/systemd/systemd", "bin/busybox", "sbin/runit-init"):
        (tmp_path / name).touch(0o755)
    (tmp_path / "lib").symlink_to("usr/lib")
    return tmp_path


@pytest.fixture
def root(rootfs: Path) -> Iterator[Root]:
    fd = os.open(rootfs, os.O_RDONLY | os.O_DIRECTORY)
    yield Root(fd, IDENTITY, "image", read_only=True)
    os.close(fd)


def make(root: Root, argv: list[str] | None = None, sh: str | None = None, **options: Any) -> ContainerSpec:
    given: ContainerOptions = {"init": "system", **options}  # type: ignore[typeddict-item]  # wrong ones, too
    config, given = as_system(NGINX, root, argv, sh, given)
    return make_spec("sha256:00", config, argv, sh, given, container_id=ID, auto_remove=False)


# --- which init -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "stop_signal"),
    [
        ("/lib/systemd/systemd", "RTMIN+3"),
        ("../lib/systemd/systemd", "RTMIN+3"),
        ("/bin/busybox", "USR2"),
        ("runit-init", "CONT"),
    ],
)
def test_an_init_is_known_by_its_program(root: Root, rootfs: Path, target: str, stop_signal: str) -> None:
    """Through links, which end in the image: each has a signal of its own to shut down."""
    (rootfs / "sbin/init").symlink_to(target)
    assert find_init(root) == ("/sbin/init", stop_signal)


def test_a_hard_link_of_busybox_is_busybox(root: Root, rootfs: Path) -> None:
    """As in images made of its commands."""
    (rootfs / "sbin/init").hardlink_to(rootfs / "bin/busybox")
    assert find_init(root) == ("/sbin/init", "USR2")


def test_without_a_link_systemd_is_found(root: Root) -> None:
    """Images without systemd-sysv."""
    assert find_init(root) == ("/usr/lib/systemd/systemd", "RTMIN+3")


def test_any_other_init_gets_the_power_supplys_signal(root: Root, rootfs: Path) -> None:
    """As LXC does."""
    (rootfs / "sbin/init").touch(0o755)
    assert find_init(root) == ("/sbin/init", "PWR")


def test_an_image_without_init_is_refused(root: Root, rootfs: Path) -> None:
    """Also when it is no program, or leads to nowhere."""
    (rootfs / "usr/lib/systemd/systemd").unlink()
    (rootfs / "bin/init").touch(0o644)
    (rootfs / "sbin/init").symlink_to("/etc/passwd")  # which the host has, and the image has not
    with pytest.raises(InvalidSpecError):
        find_init(root)


# --- image and caller -----------------------------------------------------------------------------------


def test_the_images_application_does_not_matter(root: Root) -> None:
    """Its entrypoint, command, user, directory and signal are of an application; its environment stays."""
    spec = make(root)
    assert spec.is_system and spec.tty
    assert (spec.argv, spec.user, spec.cwd) == (("/usr/lib/systemd/systemd",), "", "/")
    assert spec.stop_signal == signal.SIGRTMIN + 3 and spec.env["VERSION"] == "1"


def test_the_caller_names_an_init(root: Root) -> None:
    """Its words are its own; its program tells how it is stopped; a signal that is given counts."""
    spec = make(root, ["/bin/busybox", "init"])
    assert (spec.argv, spec.stop_signal) == (("/bin/busybox", "init"), signal.SIGUSR2)
    assert make(root, stop_signal="TERM").stop_signal == signal.SIGTERM
    with pytest.raises(InvalidSpecError):
        make(root, ["/sbin/missing"])


def test_a_system_has_what_is_its_own(root: Root) -> None:
    """Capabilities that end at its namespaces, set-user-ID programs; not what acts on the host."""
    security = make(root).security
    assert capabilities(security) == CAPABILITIES and not security.no_new_privs
    assert security.seccomp and security.masked_paths and not security.privileged
    assert {"SYS_ADMIN", "SYS_BOOT", "NET_ADMIN"} <= CAPABILITIES
    assert not {"SYS_MODULE", "SYS_TIME", "SYS_RAWIO", "SYSLOG", "MAC_ADMIN", "BPF"} & CAPABILITIES


def test_capabilities_are_added_and_dropped(root: Root) -> None:
    """As with any container, from where a system begins."""
    kept = capabilities(make(root, cap_add=["BPF"], cap_drop=["CAP_SYS_PTRACE"]).security)
    assert kept == (CAPABILITIES | {"BPF"}) - {"SYS_PTRACE"}
    assert capabilities(make(root, cap_add=["ALL"]).security) == ALL_CAPABILITIES
    only = make(root, cap_drop=["ALL"], cap_add=["SYS_ADMIN", "SYS_BOOT"])
    assert capabilities(only.security) == {"SYS_ADMIN", "SYS_BOOT"}
    assert make(root, no_new_privs=True).security.no_new_privs


@pytest.mark.parametrize(
    "options",
    [
        {"user": "www-data"},
        {"groups": ["video"]},
        {"cwd": "/srv"},
        {"tty": False},
        {"entrypoint": ["/x"]},
        {"privileged": True},
        {"sh": "true"},
        {"cap_drop": ["SYS_ADMIN"]},
        {"cap_drop": ["ALL"]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_fits_no_system_is_refused(root: Root, options: dict[str, Any]) -> None:
    """Before anything is made, and nothing of it ignored."""
    with pytest.raises(InvalidSpecError):
        make(root, **options)


def test_options_that_change_nothing_are_taken(root: Root) -> None:
    """They say what is so anyway."""
    assert make(root, user=0, cwd="/", tty=True, privileged=False, groups=None).user == "0"


@pytest.mark.parametrize("value", ["systemd", 1, "", ["system"]])
def test_init_has_three_values(value: object) -> None:
    """True, False and "system": TypeError for what is near."""
    options: ContainerOptions = {"init": value}  # type: ignore[typeddict-item]  # on purpose
    with pytest.raises(TypeError):
        make_spec("sha256:00", NGINX, None, None, options, container_id=ID, auto_remove=False)
