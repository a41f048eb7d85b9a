"""Volumes without root: names, records, first use, and what killed processes leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Mount, Volume
from lxcwrap.errors import (
    InvalidSpecError,
    KernelError,
    NameInUseError,
    StillUsedError,
    VolumeNotFoundError,
)
from lxcwrap.storage.root import RootDir
from lxcwrap.storage.state import State
from lxcwrap.storage.volumes import VolumeStore
from lxcwrap.testing import fake_host


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with fake_host(tmp_path / "root") as host:
        yield host


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VolumeStore]:
    root = RootDir(tmp_path / "root")
    root.prepare()
    state = State(root.state_db)
    yield VolumeStore(root, state)
    state.close()


def names(store: VolumeStore) -> list[str]:
    """Directories, those under way too."""
    return sorted(os.listdir(store.directory("x").parent))


# --- the collection ---


def test_volumes_are_a_mapping_by_name(host: Host) -> None:
    """The newest first."""
    one, two = host.volumes.create("one", labels={"a": "b", "n": 1}), host.volumes.create("two")  # type: ignore[dict-item]  # numbers are taken
    assert list(host.volumes) == [two, one] and len(host.volumes) == 2
    assert "one" in host.volumes and one in host.volumes and 1 not in host.volumes
    assert host.volumes["one"] == one == host.volumes[one] and host.volumes.get("three", 3) == 3
    assert one != two and len({one, host.volumes["one"]}) == 1 and repr(one) == "<Volume one>"
    assert dict(one.labels) == {"a": "b", "n": "1"} and one.size is None and one.used == 0
    assert one.path.stat().st_mode & 0o7777 == 0o755 and one.path.parent.stat().st_mode & 0o7777 == 0o700
    path = one.path
    host.volumes.remove("one")
    assert list(host.volumes) == [two] and not path.exists()
    for act in (one.remove, lambda: one.labels, lambda: one.used, lambda: host.volumes["one"]):
        with pytest.raises(VolumeNotFoundError):
            act()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", ".new-1", "-x", "a\0b", "x" * 129, 7])
def test_a_name_cannot_lead_elsewhere(host: Host, name: str) -> None:
    """It is a directory's name."""
    with pytest.raises(InvalidSpecError):
        host.volumes.create(name)
    if isinstance(name, str):
        assert name not in host.volumes
    with pytest.raises(InvalidSpecError):
        Mount.volume(name or "/", "/data") if isinstance(name, str) else Mount.volume("", "/data")
    assert list(host.volumes) == []


def test_a_name_is_used_once(host: Host) -> None:
    """Also when two make it at the same time; a removed one's can be used again."""
    volume = host.volumes.create("one")
    (volume.path / "x").touch()
    with pytest.raises(NameInUseError):
        host.volumes.create("one")
    assert (volume.path / "x").exists()
    volume.remove()
    assert list(host.volumes.create("one").path.iterdir()) == []


@pytest.mark.parametrize("size", ["1MiB", 0, "big", -1, True])
def test_absurd_sizes_are_refused(host: Host, size: int) -> None:
    """Before anything is made."""
    with pytest.raises(InvalidSpecError):
        host.volumes.create("one", size=size)
    assert list(host.volumes) == [] and os.listdir(host.root / "volumes") == []


def test_containers_make_volumes_and_keep_them(host: Host) -> None:
    """Until the container is removed; then it can be pruned."""
    mounts = [Mount.volume("data", "/data"), Mount.volume("data", "/more"), Mount.bind("/tmp", "/tmp")]
    with host.containers.create("busybox", ["true"], name="web", mounts=mounts) as container:
        volume = host.volumes["data"]
        assert volume.containers == (container,) and container.spec.volumes == ("data", "data")
        for act in (volume.remove, lambda: host.volumes.remove(volume)):
            with pytest.raises(StillUsedError) as caught:
                act()
        assert (caught.value.kind, caught.value.name, caught.value.users) == ("volume", "data", ["web"])
        assert host.volumes.prune() == []
        container.start().wait()
        assert volume.containers == (container,)
    assert not volume.containers and host.volumes.prune() == ["data"]
    host.containers.run("busybox", ["true"], mounts=mounts)
    assert "data" in host.volumes and not host.volumes["data"].containers


def test_a_failure_takes_its_new_volumes_along(host: Host) -> None:
    """Not those that were there."""
    host.volumes.create("old")
    host.containers.create("busybox", ["true"], name="taken")
    mounts = [Mount.volume("old", "/old"), Mount.volume("new", "/new")]
    with pytest.raises(NameInUseError):
        host.containers.create("busybox", ["true"], name="taken", mounts=mounts)
    assert [volume.name for volume in host.volumes] == ["old"]


def test_an_attachment_is_kept_for_the_next_start(host: Host) -> None:
    """Of a container that does not run; each place once."""
    volume = host.volumes.create("data")
    with host.containers.create("busybox", ["true"], name="web") as container:
        volume.attach("web", "/data", read_only=True)
        (mount,) = container.spec.mounts
        assert (mount.source, mount.target, mount.read_only) == ("data", "/data", True)
        (planned,) = (host._machinery.records(container.id).read("plan") or {})["mounts"]
        assert planned["source"] == str(volume.path) and volume.containers == (container,)
        for target in ("/data", "/proc", "relative"):
            with pytest.raises(InvalidSpecError):
                volume.attach(container, target)
        with pytest.raises(InvalidSpecError):
            volume.detach(container, "/elsewhere")
        volume.detach(container)
        assert not container.spec.mounts and not volume.containers
    gone = Volume(host._machinery, "gone")
    with host.containers.create("busybox", ["true"]) as container, pytest.raises(VolumeNotFoundError):
        gone.attach(container, "/data")


# --- what killed processes leave ---


def killed(store: VolumeStore, act: str) -> None:
    """`act` in a child that is killed in its midst."""
    child = os.fork()
    if child == 0:
        try:
            if act == "create":
                with store._draft() as draft:
                    (draft / "data").mkdir()
                    os.kill(os.getpid(), signal.SIGKILL)
            with store.held("one") as place:
                os.makedirs(f"{place}/.draft-1/{'/'.join('d' * 200)}")
                os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def test_a_half_made_volume_is_swept_away_when_its_maker_is_gone(store: VolumeStore) -> None:
    """Not before."""
    killed(store, "create")
    with store._draft() as draft:
        assert len(names(store)) == 2
        store.clean()
        assert names(store) == [draft.name]
    assert names(store) == [] == store.names()


def test_what_was_being_made_of_a_volume_is_swept_away(store: VolumeStore) -> None:
    """And its files stay; another that is at it is left alone."""
    store.create("one")
    (store.directory("one") / "data/file").touch()
    killed(store, "hold")
    assert ".draft-1" in os.listdir(store.directory("one"))
    store.clean()
    assert sorted(os.listdir(store.directory("one"))) == ["data", "lock"]
    with store.held("one") as place:
        os.mkdir(f"{place}/.draft-2")
        store.clean()
        assert os.path.isdir(f"{place}/.draft-2")
        with pytest.raises(BlockingIOError), store.held("one", wait=False):
            pass
    assert (store.directory("one") / "data/file").exists()


def test_files_without_a_record_get_one_and_records_without_files_go(store: VolumeStore) -> None:
    """As between the steps of making and of removing; files are never given up."""
    for name in ("one", "two"):
        store.create(name)
    (store.directory("one") / "data/file").touch()
    with store._state.transaction() as change:
        change.execute("DELETE FROM volumes WHERE name = 'one'")
    store._root.discard(store.directory("two"))
    (store.directory("junk")).mkdir()
    store.clean()
    assert store.names() == ["one"] and (store.directory("one") / "data/file").exists()


def test_an_interrupted_beginning_is_continued(store: VolumeStore, tmp_path: Path) -> None:
    """What the image has is complete in the end, and what was written meanwhile is not lost."""
    store.create("one")
    data, fill = store.directory("one") / "data", store.directory("one") / "fill"
    fill.mkdir(mode=0o750)
    for name in ("a", "b"):
        (fill / name).write_text("image")
    (data / "b").write_text("written")
    assert store.is_fresh("one")
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        store.fill("one", fd, "/does/not/matter")
    finally:
        os.close(fd)
    assert {path.name: path.read_text() for path in data.iterdir()} == {"a": "image", "b": "written"}
    assert not fill.exists() and data.stat().st_mode & 0o777 == 0o750 and not store.is_fresh("one")


def test_what_the_machine_refuses_is_undone(host: Host) -> None:
    """The fake has no file systems: nothing is attached, and nothing is recorded."""
    volume = host.volumes.create("data")
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        with pytest.raises(KernelError):
            volume.attach(container, "/data")
        assert not container.spec.mounts and not volume.containers
