"""kill -9 between any two lines of what is done with volumes and disks: all or nothing, and no trace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Limits, Mount
from lxcwrap.errors import LxcwrapError
from tests import faults
from tests.integration.test_disk import devices
from tests.polling import eventually

# Every how many lines one is struck. 1 tries them all.
STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "31"))
NAME = "victim"


@pytest.fixture(scope="module")
def host(roots: Path) -> Iterator[Host]:
    """A host of this module's own, with the default image made."""
    with Host(roots / "volume-faults") as host:
        host.containers.run("busybox", ["true"])
        with Host(host.root), Host(host.root):  # SQLite keeps descriptors it closed for the next time
            faults.assert_clean(host.root)
        volume = host.volumes.create("source")
        (volume.files / "new").write_text("new")
        volume.backup(host.root / "new.tar")
        volume.remove()
        yield host
        host.close(stop_server=True)


def nothing(host: Host) -> None:
    pass


def filled(host: Host, size: str | None = None) -> None:
    volume = host.volumes.create("data", size=size)
    (volume.files / "old").write_text("old")


def with_volume(host: Host) -> None:
    filled(host)
    host.containers.launch("busybox", ["sleep", "1000"], name=NAME)


def attached(host: Host) -> None:
    with_volume(host)
    host.volumes["data"].attach(NAME, "/data")


def check(host: Host) -> None:
    """One new `Host` is enough: records and files agree, and everything can be used and removed."""
    faults.assert_clean(host.root)
    directory = host.root / "volumes"
    assert sorted(os.listdir(directory)) == sorted(volume.name for volume in host.volumes)
    for volume in host.volumes:
        place = directory / volume.name
        assert set(os.listdir(place)) <= {"data", "image", "lock"}
        lock = place / "lock"
        assert not lock.exists() or lock.stat().st_size == 0
        found = [path.name for path in volume.files.iterdir()]
        assert found in ([], ["old"], ["new"]) or {"passwd", "group"} <= set(found)
    if container := host.containers.get(NAME):
        recorded = {volume.name for volume in host.volumes if container in volume.containers}
        assert recorded == set(container.spec.volumes)
        container.remove(force=True)
    host.volumes.prune()
    eventually(lambda: not devices(host.root))
    assert os.listdir(directory) == [] == list(host.volumes)


ACTS: dict[str, tuple[Callable[[Host], object], Callable[[Host], object]]] = {
    "create": (nothing, lambda host: host.volumes.create("data", labels={"a": "b"})),
    "create with a size": (nothing, lambda host: host.volumes.create("data", size="32MiB")),
    "first use": (
        nothing,
        lambda host: host.containers.create(
            "busybox", ["true"], name=NAME, mounts=[Mount.volume("data", "/etc")]
        ),
    ),
    "create with a disk": (
        nothing,
        lambda host: host.containers.create("busybox", ["true"], name=NAME, disk="32MiB"),
    ),
    "backup": (filled, lambda host: host.volumes["data"].backup(host.root / "backup.tar.gz")),
    "backup of a size": (
        lambda host: filled(host, "300MiB"),
        lambda host: host.volumes["data"].backup(host.root / "backup.tar"),
    ),
    "restore": (filled, lambda host: host.volumes["data"].restore(host.root / "new.tar", replace=True)),
    "restore of a size": (
        lambda host: filled(host, "32MiB"),
        lambda host: host.volumes["data"].restore(host.root / "new.tar", replace=True),
    ),
    "attach": (with_volume, lambda host: host.volumes["data"].attach(NAME, "/data")),
    "detach": (attached, lambda host: host.volumes["data"].detach(NAME)),
    "resize": (
        lambda host: host.volumes.create("data", size="300MiB"),
        lambda host: host.volumes["data"].resize("320MiB"),
    ),
    "update": (
        lambda host: host.containers.launch("busybox", ["sleep", "1000"], name=NAME, disk="300MiB"),
        lambda host: host.containers[NAME].update(Limits(disk="320MiB")),
    ),
    "remove": (filled, lambda host: host.volumes["data"].remove()),
}


@pytest.mark.parametrize("operation", ACTS)
def test_the_caller_may_be_killed_at_any_line(host: Host, operation: str) -> None:
    """The next host completes or undoes what it had begun."""
    prepare, act = ACTS[operation]
    n = 1
    while True:
        prepare(host)
        with Host(host.root) as callers:
            was_struck = faults.killed_at(n, lambda: act(callers))
        for path in host.root.glob("*.part"):  # of a backup: it is the user's, and not complete
            path.unlink()
        check(host)
        if not was_struck:
            break
        n += STRIDE
    print(f"{operation}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s


@pytest.mark.parametrize("operation", ["attach", "detach"])
def test_who_mounts_and_unmounts_may_be_killed_at_any_line(host: Host, operation: str) -> None:
    """Its caller gets an error, and all is as before; or it was done."""
    prepare, act = ACTS[operation]
    n, error = 1, None
    with faults.armed_server(host) as (set_fault, was_struck):
        while True:
            prepare(host)
            set_fault("remounter", n)
            try:
                act(host)
            except LxcwrapError as caught:
                error = caught
            struck = was_struck()
            has = bool(host.volumes["data"].containers)
            if has != (operation == "detach"):
                assert error is None
            check(host)
            if not struck:
                break
            error, n = None, n + STRIDE
    assert error is None
    print(f"{operation}: {n} lines")  # noqa: T201  # for pytest -s
