"""Each way to loosen a container does its one thing, for its main process, an exec and a call alike."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Host, Mount
from lxcwrap.specs import Device
from tests.integration import probing
from tests.integration.probing import Report, report

NET_ADMIN, SYS_ADMIN, CHOWN = 1 << 12, 1 << 21, 1 << 0
FOURTEEN = 0xA80425FB
ALL = 0x1FFFFFFFFFF
LOOK = ["/probe", "look"]
MASK = "/proc/timer_list"


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    return Mount.bind(probing.compile_probe(tmp_path_factory.mktemp("probe")), "/probe", read_only=True)


def facts(seen: Report) -> dict[str, object]:
    """What the options are about, in one value each."""
    return {
        "capabilities": int(seen["status", "CapEff"], 16),
        "bounding": int(seen["status", "CapBnd"], 16),
        "no_new_privs": seen["status", "NoNewPrivs"] == "1",
        "filters": int(seen["status", "Seccomp_filters"]),
        "range": int(seen["id", "map"].split()[2]),
        "keyctl": int(seen["call", "keyctl"]),
        "mount": int(seen["call", "mount"]),
        "block": int(seen["node", "block"]),
    }


TIGHT: dict[str, object] = {
    "capabilities": FOURTEEN,
    "bounding": FOURTEEN,
    "no_new_privs": True,
    "filters": 1,
    "range": 65536,
    "keyctl": errno.EPERM,
    "mount": errno.EPERM,
    "block": errno.EPERM,
}


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({}, {}),
        ({"seccomp": False}, {"filters": 0, "keyctl": 0}),
        ({"no_new_privs": False}, {"no_new_privs": False}),
        ({"masked_paths": False}, {}),
        (
            {"cap_add": ["NET_ADMIN"]},
            {"capabilities": FOURTEEN | NET_ADMIN, "bounding": FOURTEEN | NET_ADMIN},
        ),
        ({"cap_drop": ["CHOWN"]}, {"capabilities": FOURTEEN & ~CHOWN, "bounding": FOURTEEN & ~CHOWN}),
        ({"cap_drop": ["ALL"]}, {"capabilities": 0, "bounding": 0}),
        (
            {"cap_add": ["SYS_ADMIN"]},
            {"capabilities": FOURTEEN | SYS_ADMIN, "bounding": FOURTEEN | SYS_ADMIN, "mount": 0},
        ),
    ],
    ids=str,
)
def test_a_loosening_does_its_one_thing(
    host: Host, probe: Mount, options: dict[str, Any], difference: dict[str, object]
) -> None:
    """All else is as it was."""
    with host.containers.launch("busybox", ["sleep", "60"], mounts=[probe], **options) as container:
        started = host.containers.run("busybox", ["/probe"], mounts=[probe], **options).stdout
        for text in (started, container.exec(["/probe"]).stdout, container.call(probing.probe)):
            assert facts(report(text)) == {**TIGHT, **difference}
        shown = container.exec(["cat", MASK], check=False).stdout
        assert bool(shown) == ("masked_paths" in options and Path(MASK).exists() and _may_read(MASK))


def _may_read(path: str) -> bool:
    return bool(os.stat(path).st_mode & stat.S_IROTH)


def test_privileged_drops_all_protections(host: Host, probe: Mount) -> None:
    """Root inside is root outside; namespaces are the container's still."""
    with host.containers.launch("busybox", ["sleep", "60"], mounts=[probe], privileged=True) as container:
        started = host.containers.run("busybox", LOOK, mounts=[probe], privileged=True).stdout
        mine = int(Path("/proc/self/status").read_text().partition("CapEff:\t")[2].split()[0], 16)
        for text in (started, container.exec(LOOK).stdout, container.call(probing.probe, "look")):
            seen = report(text)
            assert int(seen["status", "CapEff"], 16) == mine & ALL
            assert seen["status", "NoNewPrivs"] == seen["status", "Seccomp"] == "0"
            assert seen["id", "map"].split() == ["0", "0", str((1 << 32) - 1)]
            outside = {name: os.readlink(f"/proc/self/ns/{name}") for name in seen.of("ns")}
            shared = {name for name, link in seen.of("ns").items() if link == outside[name]}
            assert shared == {"user", "time", "time_for_children"}


def test_set_user_id_programs_work_without_no_new_privs(host: Host, probe: Mount) -> None:
    """Their user is the container's root."""
    with host.containers.launch("busybox", ["sleep", "60"], mounts=[probe], no_new_privs=False) as container:
        container.exec(sh="cp /probe /tmp/suid && chmod 4755 /tmp/suid")
        assert container.exec(["/tmp/suid", "ids"], user=1000).stdout == "1000 0\n"


@pytest.fixture
def device() -> Iterator[str]:
    """A node of the kernel's log, which any user may open."""
    path = f"/dev/lxcwrap-test-{os.getpid()}"
    os.mknod(path, stat.S_IFCHR, os.makedev(1, 11))
    os.chmod(path, 0o666)
    yield path
    os.unlink(path)


def test_a_device_given_can_be_used_as_far_as_it_was_given(host: Host, device: str, probe: Mount) -> None:
    """To write only, here; the usual ones are there as always."""
    given = Device(path=device, target="/dev/log", access="w")
    words = ["/probe", "open", "/dev/log", "/dev/null"]
    with host.containers.launch("busybox", ["sleep", "60"], mounts=[probe], devices=[given]) as container:
        seen = report(container.exec(words).stdout)
    assert (seen["read", "/dev/log"], seen["write", "/dev/log"]) == (str(errno.EPERM), "0")
    assert (seen["read", "/dev/null"], seen["write", "/dev/null"]) == (str(errno.ENODATA), "0")


@pytest.mark.parametrize("where", ["exec", "call"])
def test_keys_of_the_host_stay_outside(host: Host, probe: Mount, where: str) -> None:
    """Also without a filter: each process that enters has an empty session keyring of its own."""
    with host.containers.launch("busybox", ["sleep", "60"], mounts=[probe], seccomp=False) as container:
        text = (
            container.call(probing.probe, "keys")
            if where == "call"
            else container.exec(["/probe", "keys"]).stdout
        )
        assert report(text)["keys", "held"] == "0"
