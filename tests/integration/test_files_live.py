"""Files of containers from outside: `path`, `copy_in`, `copy_out`, `diff`, on running and on stopped ones."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Mount
from lxcwrap.errors import ContainerNotFoundError, InvalidSpecError, PathNotFoundError
from tests.polling import eventually

KINDS = ("created", "running", "paused", "stopped")


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture
def directory(roots: Path) -> Iterator[Path]:
    """On the host, for the test."""
    path = roots / "of-the-host"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=KINDS)
def container(host: Host, request: pytest.FixtureRequest) -> Iterator[Container]:
    """One in each state in which files can be reached."""
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        bring(container, request.param)
        yield container


def bring(container: Container, state: str) -> None:
    if state != "created":
        container.start()
    if state == "paused":
        container.pause()
    if state == "stopped":
        container.stop()


def seen_inside(container: Container, script: str) -> str:
    """What a shell line says in the container, brought to run for that."""
    if container.state == "paused":
        container.unpause()
    elif container.state != "running":
        container.start()
    return container.exec(sh=script).stdout.strip()


def test_files_can_be_read_and_written_in_any_state(container: Container) -> None:
    """What is written belongs to root inside, and stays over the next start."""
    etc = container.path("/etc")
    assert "root:x:0:0" in (etc / "passwd").read_text() and (etc / "no-such").exists() is False
    (etc / "new").write_text("hello\n")
    assert (etc / "new").read_text() == "hello\n" and (etc / "new").stat().uid == 0
    container.path("/srv/a/b").mkdir(parents=True)
    container.path("/srv/a/link").symlink_to("/etc/new")
    container.path("/srv/a/b/owned").write_bytes(b"\0")
    container.path("/srv/a/b/owned").chown(33, 44)
    container.path("/srv/a/b/owned").chmod(0o640)
    script = "cat /srv/a/link; stat -c '%u:%g %a' /etc/new /srv/a/b /srv/a/b/owned"
    assert seen_inside(container, script).split() == [
        "hello", "0:0", "644", "0:0", "755", "33:44", "640"]  # fmt: skip


def test_copies_go_in_and_come_out(container: Container, directory: Path) -> None:
    """Trees with modes, links and times; owned by root inside, and by the caller outside."""
    tree = directory / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/program").write_text("#!/bin/sh\necho ran\n")
    (tree / "sub/program").chmod(0o755)
    (tree / "link").symlink_to("sub/program")
    os.chown(tree / "sub/program", 12, 34)
    os.utime(tree / "sub/program", (1_000_000_000, 1_000_000_000))
    assert container.copy_in(tree, "/opt").files == 1
    container.copy_out("/opt", directory / "back")
    back = directory / "back/sub/program"
    status = back.stat()
    assert (back.read_text(), status.st_mode & 0o777, status.st_mtime) == (
        "#!/bin/sh\necho ran\n",
        0o755,
        1e9,
    )
    assert (status.st_uid, os.readlink(directory / "back/link")) == (os.getuid(), "sub/program")
    assert seen_inside(container, "/opt/link; stat -c %u:%g /opt/sub/program").split() == ["ran", "0:0"]


def test_what_is_not_there_is_told(container: Container, directory: Path) -> None:
    """By errors that are the builtin ones too."""
    with pytest.raises(FileNotFoundError):
        container.copy_in(directory / "no-such", "/x")
    with pytest.raises(PathNotFoundError) as missing:
        container.copy_out("/no-such", directory)
    assert isinstance(missing.value, FileNotFoundError) and missing.value.path == "/no-such"
    with pytest.raises(IsADirectoryError):
        container.path("/etc").read_text()
    with pytest.raises(NotADirectoryError):
        container.path("/etc/passwd/x").write_text("")
    with pytest.raises(InvalidSpecError):
        container.path("/a\0b")


def test_links_never_lead_out_of_the_container(container: Container, directory: Path) -> None:
    """Neither absolute ones nor those with dots: they mean what they mean inside."""
    (directory / "secret").write_text("of the host")
    for name, target in (("absolute", f"{directory}/secret"), ("dots", f"../../../../..{directory}/secret")):
        link = container.path(f"/srv/{name}")
        link.symlink_to(target)
        with pytest.raises(PathNotFoundError):
            link.read_text()
        with pytest.raises(OSError):
            link.write_text("overwritten")
    assert (directory / "secret").read_text() == "of the host"


def test_diff_tells_what_changed(container: Container) -> None:
    """Added, modified and deleted; nothing that lxcwrap itself made."""
    assert container.diff() == ()
    container.path("/srv/new").write_text("x")
    container.path("/etc/passwd").write_text(container.path("/etc/passwd").read_text() + "me:x:9:9::/:\n")
    container.path("/etc/group").unlink()
    assert {(change.path, change.kind) for change in container.diff()} == {
        ("/srv", "modified"), ("/srv/new", "added"), ("/etc", "modified"), ("/etc/passwd", "modified"),
        ("/etc/group", "deleted")}  # fmt: skip


def test_diff_leaves_mounts_out(host: Host, directory: Path) -> None:
    """With the mount points made for them."""
    mounts = [Mount.bind(directory, "/mnt/deep/data"), Mount.tmpfs("/scratch")]
    script = "touch /mnt/deep/data/x /scratch/x /dev/shm/x /root/kept"
    with host.containers.launch("busybox", sh=script, mounts=mounts) as container:
        assert container.wait(timeout_s=10) == 0
        assert {(change.path, change.kind) for change in container.diff()} == {
            ("/root", "modified"),
            ("/root/kept", "added"),
        }


@pytest.mark.parametrize("state", KINDS)
def test_mounts_are_seen_from_outside_in_any_state(host: Host, directory: Path, state: str) -> None:
    """What is written below one is not hidden under it; owners are the host's."""
    mounts = [Mount.bind(directory, "/data"), Mount.tmpfs("/scratch")]
    (directory / "ours").write_text("hello")
    with host.containers.create("busybox", ["sleep", "1000"], mounts=mounts) as container:
        bring(container, state)
        assert container.path("/data/ours").read_text() == "hello"
        container.path("/data/theirs").write_text("there")
        assert ((directory / "theirs").read_text(), (directory / "theirs").stat().st_uid) == ("there", 0)
        assert seen_inside(container, "cat /data/theirs; stat -c ' %u' /data/theirs").split() == [
            "there",
            "0",
        ]


def test_a_read_only_mount_is_so_from_outside(host: Host, directory: Path) -> None:
    """Running or not."""
    mount = Mount.bind(directory, "/data", read_only=True)
    with host.containers.create("busybox", ["sleep", "1000"], mounts=[mount]) as container:
        for state in ("created", "running"):
            bring(container, state)
            with pytest.raises(OSError, match="Read-only"):
                container.path("/data/x").write_text("")
    assert list(directory.iterdir()) == []


def test_the_hosts_proc_and_devices_are_not_reached(host: Host) -> None:
    """Of a running container: its /proc and /dev are for those inside."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        for path in ("/proc/sys/kernel/hostname", "/proc/1/environ", "/dev/null", "/dev/zero"):
            with pytest.raises(OSError):
                container.path(path).read_bytes(10)
            with pytest.raises(OSError):
                container.path(path).write_text("x")


def test_a_start_waits_for_who_uses_the_files(fresh_host: Host, directory: Path) -> None:
    """A stopped container's root is never mounted twice: copying and starting happen one after the other."""
    (directory / "big").write_bytes(bytes(30_000_000))
    with fresh_host.containers.create("busybox", ["stat", "-c", "%s", "/big"]) as container:
        thread = threading.Thread(target=container.copy_in, args=(directory / "big", "/big"))
        thread.start()
        lock = fresh_host.root / "containers" / container.id / "lock"
        eventually(lambda: lock.exists() or not thread.is_alive())
        assert container.start().wait(timeout_s=20) == 0 and container.logs() == "30000000\n"
        thread.join()
        assert container.path("/big").stat().size == 30_000_000


def test_files_can_be_put_into_a_container_that_will_remove_itself(host: Host) -> None:
    """Before its first start, as into any other."""
    container = host.containers.create("busybox", ["cat", "/note"], auto_remove=True)
    container.path("/note").write_text("kept")
    assert container.path("/note").read_text() == "kept"
    container.start()
    with suppress(ContainerNotFoundError):  # it may be gone already
        assert container.wait(timeout_s=10) == 0
    eventually(lambda: container.id not in [other.id for other in host.containers])
