"""Files of a container's root where ids differ: what needs root, and real overlay and id-mapped mounts."""

from __future__ import annotations

import ctypes
import os
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap.copying import Skipped, copy_in, copy_out
from lxcwrap.drivers import mounts, namespaces
from lxcwrap.drivers.filesystem import creating_as
from lxcwrap.errors import InvalidSpecError, PathError
from lxcwrap.ids import IdMap
from lxcwrap.storage.upperdiff import changes
from tests.fakeroot import FakeRoot

IDS = IdMap(100000)
_PR_GET_DUMPABLE = 3


@pytest.fixture
def directory(roots: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=roots) as path:
        yield Path(path)


@pytest.fixture
def root(directory: Path) -> FakeRoot:
    """A root that belongs to root inside, with a private directory of the user 33 inside."""
    for name, inner in (("root", 0), ("root/home", 33)):
        (directory / name).mkdir(mode=0o700)
        os.chown(directory / name, IDS.to_host(inner), IDS.to_host(inner))
    return FakeRoot(directory / "root", idmap=IDS)


def owner(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_what_is_made_belongs_to_root_inside(root: FakeRoot) -> None:
    """From the first moment, also where only a user inside may enter; what exists keeps its owner."""
    home = root.path("/home")
    (home / "file").write_text("x")
    (home / "dir/below").mkdir(parents=True)
    (home / "link").symlink_to("file")
    (home / "touched").touch()
    for name in ("file", "dir", "dir/below", "link", "touched"):
        assert owner(root.dir / "home" / name) == (IDS.base, IDS.base), name
    (home / "file").chown(33, 44)
    (home / "file").write_text("y")
    (home / "file").chown(gid=45)
    assert owner(root.dir / "home/file") == (IDS.base + 33, IDS.base + 45)
    assert ((home / "file").stat().uid, (home / "file").stat().gid) == (33, 45)
    with pytest.raises(InvalidSpecError):
        (home / "file").chown(65536)


def test_ids_from_elsewhere_are_shown_as_nobody(root: FakeRoot) -> None:
    (root.dir / "hosts").touch()
    assert root.path("/hosts").stat().uid == 65534


def test_the_owner_of_copies(root: FakeRoot, directory: Path) -> None:
    """In: root inside, or who is named, with setuid kept; out: the caller."""
    (directory / "dist").mkdir()
    (directory / "dist/tool").touch()
    (directory / "dist/tool").chmod(0o4755)
    (directory / "dist/link").symlink_to("tool")
    copy_in(root.open, directory / "dist", "/home")
    copy_in(root.open, directory / "dist/.", "/home/own", owner=(33, 44))
    for name in ("", "tool", "link"):
        assert owner(root.dir / "home/dist" / name) == (IDS.base, IDS.base)
        assert owner(root.dir / "home/own" / name) == (IDS.base + 33, IDS.base + 44)
    assert (root.dir / "home/own/tool").stat().st_mode & stat.S_ISUID
    copy_out(root.open, "/home/own", directory / "back")
    for name in ("", "tool", "link"):
        assert owner(directory / "back" / name) == (os.geteuid(), os.getegid())
    assert not (directory / "back/tool").stat().st_mode & stat.S_ISUID
    with pytest.raises(InvalidSpecError):
        copy_in(root.open, directory / "dist", "/", owner=(70000, 0))
    assert not (root.dir / "dist").exists()


def test_devices_are_skipped_and_left_alone(root: FakeRoot, directory: Path) -> None:
    os.mknod(root.dir / "zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    assert copy_out(root.open, "/.", directory / "out").skipped == (Skipped(path="/zero", reason="device"),)
    with pytest.raises(PathError):
        root.path("/zero").chmod(0o666)
    with pytest.raises(PathError):
        root.path("/zero").chown(0, 0)
    assert stat.S_IMODE((root.dir / "zero").stat().st_mode) == 0o600 and owner(root.dir / "zero") == (0, 0)


def test_a_read_only_root_says_nothing_of_other_mounts() -> None:
    """A volume in a read-only container is written."""
    path = FakeRoot(Path("/dev"), read_only=True).path(f"/shm/lxcwrap-test-{os.getpid()}")
    path.touch()
    path.unlink()
    with pytest.raises(PathError):
        path.parent.parent.joinpath("new").touch()


def test_creating_as_changes_one_thread_and_nothing_for_good(directory: Path) -> None:
    """Ids and capabilities are as before, other threads see no change, the process stays dumpable."""
    libc, go, done = ctypes.CDLL(None), threading.Event(), threading.Event()

    def work_beside() -> None:
        go.wait(10)
        (directory / "beside").touch()
        done.set()

    def status(*names: str) -> list[str]:
        lines = Path("/proc/thread-self/status").read_text().splitlines()
        return [line for line in lines if line.startswith(names)]

    before, capable = status("Uid", "Gid", "Cap"), status("Cap")
    dumpable = libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    thread = threading.Thread(target=work_beside)
    thread.start()
    with creating_as(IDS.base, IDS.base):
        go.set()
        assert done.wait(10)
        (directory / "ours").touch()
        assert status("Cap") == capable
    thread.join()
    (directory / "after").touch()
    assert status("Uid", "Gid", "Cap") == before and libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == dumpable
    assert owner(directory / "ours") == (IDS.base, IDS.base)
    assert owner(directory / "beside") == owner(directory / "after") == (os.geteuid(), os.getegid())


@pytest.fixture
def userns() -> Iterator[int]:
    fd = namespaces.make_user_namespace(IDS)
    yield fd
    os.close(fd)


def test_a_mapped_volume_is_written(directory: Path, userns: int) -> None:
    """On an id-mapped mount the kernel refuses every creation by an id it does not hold."""
    (directory / "volume").mkdir()
    (directory / "volume").chmod(0o777)
    fd = mounts.idmapped_clone(str(directory / "volume"), userns)
    try:
        root = FakeRoot(Path(f"/proc/self/fd/{fd}"), idmap=IDS)
        root.path("/dir").mkdir()
        root.path("/dir/file").write_text("x")
        copy_in(root.open, directory / "volume/dir", "/copy", owner=(33, 33))
        assert root.path("/copy/file").stat().uid == 33
        root.path("/copy/file").rename("/dir/moved").chmod(0o600)
        root.path("/dir/second").hardlink_to("/dir/moved")
        root.path("/dir/link").symlink_to("moved")
        assert owner(directory / "volume/dir/file") == (0, 0) and owner(directory / "volume/copy") == (33, 33)
    finally:
        os.close(fd)


def test_differences_of_a_real_overlay(directory: Path, userns: int) -> None:
    """What the kernel writes into an upper is told as it was done through the mount, and paths work on it."""
    for name in ("lower/etc/keep", "lower/srv/old/deep", "lower/var/x", "upper", "work"):
        (directory / name).mkdir(parents=True)
    for name in ("lower/etc/conf", "lower/srv/a", "lower/srv/b", "lower/var/x/y"):
        (directory / name).write_text("image")
    for name in ("upper", "work"):
        os.chown(directory / name, IDS.base, IDS.base)
    lower = mounts.idmapped_clone(str(directory / "lower"), userns)
    fd = mounts.overlay_by_descriptors([lower], (str(directory / "upper"), str(directory / "work")))
    try:
        os.close(lower)
        path = FakeRoot(Path(f"/proc/self/fd/{fd}"), idmap=IDS).path("/")
        assert (path / "etc/conf").stat().uid == 0
        (path / "etc/conf").write_text("changed")
        (path / "srv").remove_tree()
        (path / "srv").mkdir()  # opaque: it hides what the image has there
        (path / "srv/b").write_text("again")
        (path / "var/x").remove_tree()
        (path / "new").symlink_to("etc")
    finally:
        os.close(fd)
    assert os.getxattr(directory / "upper/srv", "trusted.overlay.opaque") == b"y"
    found = {change.path: change.kind for change in changes(directory / "upper", [directory / "lower"])}
    assert found == {
        "/etc": "modified",
        "/etc/conf": "modified",
        "/new": "added",
        "/srv": "modified",
        "/srv/a": "deleted",
        "/srv/b": "modified",
        "/srv/old": "deleted",
        "/var": "modified",
        "/var/x": "deleted",
    }


def test_an_opaque_lower_hides_those_below(directory: Path) -> None:
    for name in ("top/srv", "bottom/srv", "upper/srv"):
        (directory / name).mkdir(parents=True)
    (directory / "bottom/srv/hidden").touch()
    (directory / "upper/srv/hidden").touch()
    os.setxattr(directory / "top/srv", "trusted.overlay.opaque", b"y")
    found = changes(directory / "upper", [directory / "top", directory / "bottom"])
    assert [(change.path, change.kind) for change in found] == [
        ("/srv", "modified"),
        ("/srv/hidden", "added"),
    ]
