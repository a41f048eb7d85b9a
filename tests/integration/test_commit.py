"""Containers become images, layers become one: for real, read by others, and with kill -9 in between."""

from __future__ import annotations

import os
import stat
import struct
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Image, Mount, State
from lxcwrap.errors import (
    ContainerNotFoundError,
    FormatError,
    InvalidSpecError,
)
from lxcwrap.storage.packing import pack_layer
from lxcwrap.storage.treediff import tree
from tests.polling import eventually

CHANGES = """
mkdir -p /srv/d && echo new >/srv/d/file && ln /srv/d/file /srv/d/other && ln -s /etc/passwd /srv/link
rm /etc/shells && rm -rf /var/spool && mkdir /var/spool && touch /var/spool/new
chown 1000:1001 /srv/d/file && chmod 4711 /srv/d/file && mkfifo /srv/fifo && chmod 700 /var/www
touch /srv/attributes /srv/capable
"""
CAPABILITY = struct.pack("<5I", 2 << 24 | 1, 0x2000, 0, 0, 0)


@contextmanager
def removed(*images: Image) -> Iterator[None]:
    """`images`, removed at the end."""
    try:
        yield
    finally:
        for image in dict.fromkeys(images):
            image.remove()


def sleeping(host: Host, image: str | Image = "busybox", **options: object) -> Container:
    return host.containers.launch(image, ["sleep", "1000"], **options)  # type: ignore[arg-type]


def top_layer(image: Image) -> dict[str, tarfile.TarInfo]:
    """The members of its uppermost layer, as another program reads it."""
    store = image._store
    path = store.blobs.path(store.manifest(image.id).layers[-1].digest)
    with tarfile.open(path) as archive:
        return {member.name: member for member in archive}


@pytest.fixture(scope="module")
def container_id(shared_root: Path) -> Iterator[str]:
    """A stopped container that has written a little of everything."""
    with Host(shared_root) as host:
        container = sleeping(host, mounts=[Mount.tmpfs("/srv/mounted/here")])
        container.exec(["sh", "-ec", CHANGES])
        container.call(os.setxattr, "/srv/attributes", "user.note", b"kept")
        container.call(os.setxattr, "/srv/capable", "security.capability", CAPABILITY)
        container.exec(["sh", "-c", "echo volatile >/srv/mounted/here/file"])
        container.stop(timeout_s=0)
    yield container.id
    with Host(shared_root) as host:
        host.containers[container.id].remove()


@pytest.fixture
def written(host: Host, container_id: str) -> Container:
    return host.containers[container_id]


def test_a_commit_holds_what_was_written(host: Host, written: Container) -> None:
    """With owners, modes, links and attributes as the container saw them; without what was mounted."""
    image = written.commit("committed:1")
    with removed(image):
        layer = top_layer(image)
        assert {name for name in layer if name.startswith(("srv/d", "var/spool", "etc"))} == {
            *("etc", "etc/.wh.shells", "srv/d", "srv/d/file", "srv/d/other"),
            *("var/spool", "var/spool/.wh..wh..opq", "var/spool/new"),
        }
        assert "srv/mounted" not in layer and "." not in layer and "dev" not in layer
        file, other = layer["srv/d/file"], layer["srv/d/other"]
        assert (file.uid, file.gid, file.mode) == (1000, 1001, 0o4711)
        assert (other.type, other.linkname) == (tarfile.LNKTYPE, "srv/d/file")
        assert (layer["var/www"].mode, layer["var/www"].uid) == (0o700, 0)
        assert layer["srv/fifo"].isfifo() and layer["srv/link"].linkname == "/etc/passwd"
        assert layer["srv/attributes"].pax_headers["SCHILY.xattr.user.note"] == "kept"
        with sleeping(host, image) as again:
            assert again.call(os.getxattr, "/srv/capable", "security.capability") == CAPABILITY
            shown = again.exec(["sh", "-c", "cat /srv/d/other; ls /var/spool; ls /etc/shells"], check=False)
            assert (shown.stdout, "/etc/shells" in shown.stderr) == ("new\nnew\n", True)
            assert again.diff() == ()
        top, *_ = image.lower_dirs
        assert {change.path for change in image.diff()} > {"/srv/d/file", "/etc/shells", "/var/www"}
        assert (top / "srv/d/file").stat().st_uid == 1000


def test_the_same_container_becomes_the_same_image(
    written: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SOURCE_DATE_EPOCH, in whatever compression the files are the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    images = [written.commit(compression=kind) for kind in ("none", "gzip", "gzip", "zstd")]
    with removed(*images):
        assert len(set(images)) == 1
        assert images[0].created_at.timestamp() == 1_700_000_000
        assert max(member.mtime for member in top_layer(images[0]).values()) == 1_700_000_000


def test_what_a_commit_says(host: Host, written: Container) -> None:
    """What is not changed stays; the history tells who made it of what."""
    image = written.commit(
        message="why", author="who", cmd=["ls"], env={"A": 1, "PATH": None}, labels={"l": "m"},
        user="nobody", working_dir="/srv", exposed_ports=[80, "53/udp"], volumes=["/data"], stop_signal="INT",
    )  # fmt: skip
    with removed(image):
        config, base = image.config, host.images["busybox"].config
        assert (config.cmd, dict(config.env), dict(config.labels)) == (("ls",), {"A": "1"}, {"l": "m"})
        assert (config.user, config.working_dir, config.stop_signal) == ("nobody", "/srv", "INT")
        assert (config.exposed_ports, config.volumes) == (("53/udp", "80/tcp"), ("/data",))
        assert (config.author, config.diff_ids[:-1]) == ("who", base.diff_ids)
        *older, last = image.history()
        assert tuple(older) == base.history
        assert (last.comment, last.author, last.created_by) == ("why", "who", "sleep 1000")


@pytest.mark.parametrize("wrong", [{"cmd": "ls"}, {"exposed_ports": [0]}, {"volumes": ["data"]}, {"what": 1}])
def test_a_wrong_change_is_refused(host: Host, written: Container, wrong: dict[str, object]) -> None:
    """Before anything is read."""
    count = len(host.images)
    with pytest.raises((InvalidSpecError, TypeError)):
        written.commit(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpecError):
        written.commit(compression="lzma")  # type: ignore[arg-type]
    assert len(host.images) == count


@pytest.mark.parametrize("read_only", [True, False])
def test_nothing_written_is_no_layer(host: Host, read_only: bool) -> None:
    """The image differs in what was asked for alone."""
    with sleeping(host, read_only=read_only, mounts=[Mount.tmpfs("/a/b/c")]) as container:
        image = container.commit(labels={"x": "y"})
    with removed(image):
        base = host.images["busybox"]
        assert image != base and image.layers == base.layers
        assert image.history()[-1].empty_layer


def test_devices_of_a_privileged_container(host: Host) -> None:
    """They are kept, with their numbers."""
    with sleeping(host, privileged=True) as container:
        container.exec(["mknod", "/srv/null", "c", "1", "3"])
        image = container.commit()
    with removed(image):
        device = top_layer(image)["srv/null"]
        assert (device.type, device.devmajor, device.devminor) == (tarfile.CHRTYPE, 1, 3)


def test_mount_points_behind_links_are_left_out(host: Host) -> None:
    """/var/run leads to /run in many images."""
    with sleeping(host, mounts=[Mount.tmpfs("/var/run/there")]) as container:
        image = container.commit()
    with removed(image):
        assert image.layers == host.images["busybox"].layers


# --- what moves meanwhile -------------------------------------------------------------------------------


def test_a_running_container_is_held_still(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """And runs again afterwards; a paused one stays paused."""
    with sleeping(host) as container:
        container.exec(["touch", "/srv/file"])
        states = []

        def look_then_pack(*args: object, **options: object) -> object:
            states.append(container.state)
            return pack_layer(*args, **options)  # type: ignore[arg-type]

        monkeypatch.setattr("lxcwrap.storage.commit.pack_layer", look_then_pack)
        images = [container.commit(), container.commit(pause=False)]
        after = container.state
        container.pause()
        images.append(container.commit())
        with removed(*images):
            assert states == [State.PAUSED, State.RUNNING, State.PAUSED]
            assert (after, container.state) == (State.RUNNING, State.PAUSED)


def test_commits_of_one_container_take_turns(host: Host) -> None:
    """None lets it go on while another reads."""
    with sleeping(host) as container:
        images: list[Image] = []
        with container.popen(["sh", "-c", "while :; do date >/srv/file; date >/srv/new-$$; done"]) as writer:
            threads = [threading.Thread(target=lambda: images.append(container.commit())) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert container.state is State.RUNNING
            assert writer.poll() is None
            writer.kill()
    with removed(*images):
        assert len(images) == 4


def test_what_is_written_meanwhile_is_refused(host: Host) -> None:
    """If it is not held still; nothing is kept."""
    count = len(host.images)
    with sleeping(host) as container:
        container.exec(["dd", "if=/dev/zero", "of=/srv/file", "bs=1M", "count=64"])
        with container.popen(["sh", "-c", "while :; do echo more >>/srv/file; done"]) as writer:
            with pytest.raises(FormatError):
                while True:
                    container.commit(pause=False).remove()
            writer.kill()
    assert len(host.images) == count


def test_a_container_that_is_removed_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it is no image."""
    count = len(host.images)
    container = sleeping(host)
    container.exec(["sh", "-c", "for n in $(seq 3000); do echo $n >/srv/$n; done"])
    container.stop(timeout_s=0)

    def remove_then_pack(*args: object, **options: object) -> object:
        host._machinery.forget(container.id)
        return pack_layer(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("lxcwrap.storage.commit.pack_layer", remove_then_pack)
    with pytest.raises(ContainerNotFoundError):
        container.commit()
    assert len(host.images) == count


def test_a_killed_commit_lets_the_container_go_on(host: Host) -> None:
    """The fork-server's child notices the end of the caller."""
    with sleeping(host) as container:
        container.exec(["dd", "if=/dev/zero", "of=/srv/file", "bs=1M", "count=256"])
        child = os.fork()
        if not child:
            with Host(host.root) as other:
                other.containers[container.id].commit("never:1")
            os._exit(0)
        eventually(lambda: container.state is State.PAUSED)
        os.kill(child, 9)
        os.waitpid(child, 0)
        eventually(lambda: container.state is State.RUNNING)
    assert "never:1" not in host.images
    host.images.prune()


# --- squash and diff ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_ids(shared_root: Path) -> Iterator[list[str]]:
    """busybox, and three layers on it."""
    steps = (
        "mkdir /srv/a; echo 1 >/srv/a/kept; echo 1 >/srv/a/gone; ln /srv/a/kept /srv/a/linked",
        "rm /srv/a/gone /etc/shells; rm -rf /var/spool; mkdir /var/spool; echo 2 >/etc/hostname.new",
        "echo 3 >/srv/a/last; chmod 700 /srv/a; rm -rf /var/www; echo file >/var/www; touch -d @5 /etc/group",
    )
    with Host(shared_root) as host:
        images = [host.images["busybox"]]
        for step in steps:
            with sleeping(host, image=images[-1]) as container:
                container.exec(["sh", "-c", step])
                images.append(container.commit())
        assert images[-1].lower_dirs  # unpacked now, and not by a test
    yield [image.id for image in images]
    with Host(shared_root) as host:
        for image in images[1:]:
            host.images[image.id].remove()


@pytest.fixture
def images(host: Host, image_ids: list[str]) -> list[Image]:
    return [host.images[image_id] for image_id in image_ids]


def listing(image: Image) -> dict[str, tuple[object, ...]]:
    """All that a container of it sees, but for inode numbers."""
    found: dict[str, tuple[object, ...]] = {}
    with tree(image.lower_dirs) as fd:
        for path, names, others, directory in os.fwalk(".", dir_fd=fd):
            for name in (*names, *others):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                kind = stat.S_IFMT(status.st_mode)
                size = status.st_size if kind == stat.S_IFREG else 0
                links = status.st_nlink if kind == stat.S_IFREG else 0
                time = int(status.st_mtime)
                found[f"{path}/{name}"] = (status.st_mode, status.st_uid, status.st_gid, size, links, time)
    return found


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_squashed_image_has_the_same_files(images: list[Image], kept: int) -> None:
    """In fewer layers, those of the base being its own; nothing differs, whichever way it is asked."""
    base = images[kept - 1] if kept else None
    squashed = images[-1].squash("squashed:1", base=base)
    assert squashed == images[-1].squash(base=base)
    with removed(squashed):
        assert squashed.tags == ("squashed:1",)
        assert len(squashed.layers) == kept + 1
        assert squashed.layers[1:] == (base.layers if base else ())
        assert listing(squashed) == listing(images[-1])
        assert squashed.diff(images[-1]) == images[-1].diff(squashed) == ()
        *older, last = squashed.history()
        assert [entry.created_by for entry in older] == [step.created_by for step in images[-1].history()]
        assert sum(not entry.empty_layer for entry in squashed.history()) == kept + 1
        assert not last.empty_layer and images[-1].id in last.created_by


def test_what_was_deleted_is_not_in_a_squashed_layer(images: list[Image]) -> None:
    """Neither the file nor its whiteout, unless the base has it."""
    busybox = images[0]
    squashed = images[-1].squash(base=busybox)
    with removed(squashed):
        names = top_layer(squashed).keys()
    assert "etc/.wh.shells" in names and "srv/a/.wh.gone" not in names and "srv/a/gone" not in names
    assert "bin/busybox" not in names and "etc/passwd" not in names


def test_a_single_layer_is_squashed_already(images: list[Image]) -> None:
    """It is the same image, which gets the name."""
    busybox = images[0]
    assert busybox.squash() == busybox
    assert images[-1].squash("again:1", base=images[-2]) == images[-1]
    assert "again:1" in images[-1].tags
    images[-1].untag("again:1")
    with pytest.raises(InvalidSpecError):
        busybox.squash(base=images[1])


def test_what_two_images_differ_in(images: list[Image]) -> None:
    """The uppermost layer's changes, or those of all layers; and the other way round."""
    busybox = images[0]
    found = {change.path: change.kind for change in images[-1].diff(images[-2])}
    assert found == {
        "/srv": "modified",
        "/srv/a": "modified",
        "/srv/a/last": "added",
        "/var": "modified",
        "/var/www": "modified",
        "/etc": "modified",
        "/etc/group": "modified",
    }
    top = {change.path for change in images[-1].diff()}
    assert top == found.keys()
    back = {change.path: change.kind for change in busybox.diff(images[-1])}
    assert back["/srv/a"] == "deleted" and back["/etc/shells"] == "added" and "/srv/a/kept" not in back
    assert busybox.diff(busybox) == ()
