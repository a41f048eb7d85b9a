"""Backups of volumes in use, and their way back; archives that are up to no good."""

from __future__ import annotations

import gzip
import io
import os
import socket
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from lxcwrap import Host, Mount, State, Volume
from lxcwrap.errors import ConflictError, FormatError, InvalidSpecError, KernelError, WrongStateError


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture(params=[None, "320MiB"], ids=["directory", "of a size"])
def volume(host: Host, request: pytest.FixtureRequest) -> Iterator[Volume]:
    volume = host.volumes.create("data", size=request.param)
    yield volume
    volume.remove()


def furnish(host: Host, volume: Volume) -> None:
    """With one of everything that a container could leave there, and more."""
    script = """
        cd /v; mkdir -m 2750 -p dir/sub; chown 33:44 dir; echo text > dir/sub/file; ln dir/sub/file same
        ln -s /etc/passwd link; mkfifo fifo; echo > .wh.name; chmod 4711 same; chown 65533:1 link
        mknod whiteout c 0 0; ln whiteout again
    """
    mounts = [Mount.volume(volume, "/v")]
    host.containers.run("busybox", sh=script, mounts=mounts)
    with volume._open_root() as root:
        base = f"/proc/self/fd/{root.fd}"
        os.setxattr(f"{base}/dir/sub/file", "user.note", b"kept")
        # An access list that lets user 5 read; by tag, rights and id.
        entries = (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 5),
            (4, 4, 0xFFFFFFFF),
            (16, 4, 0xFFFFFFFF),
            (32, 0, 0xFFFFFFFF),
        )
        acl = (2).to_bytes(4, "little")
        for tag, rights, who in entries:
            acl += tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + who.to_bytes(4, "little")
        os.setxattr(f"{base}/.wh.name", "system.posix_acl_access", acl)
        os.utime(f"{base}/dir", ns=(0, 1_000_000_000_123_456_789))


def picture(volume: Volume) -> dict[str, tuple[object, ...]]:
    """All that is in it, with all that is to be kept."""
    found: dict[str, tuple[object, ...]] = {}
    with volume._open_root() as root:
        base = Path(f"/proc/self/fd/{root.fd}/.")
        for directory, names, files in os.walk(base):
            for name in (".", *names, *files):
                path = os.path.join(directory, name)
                status = os.lstat(path)
                linked = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
                names_of = os.listxattr(path, follow_symlinks=False)  # trusted: how XFS stores access lists
                attributes = {key: os.getxattr(path, key) for key in names_of if key[:8] != "trusted."}
                content = Path(path).read_bytes() if stat.S_ISREG(status.st_mode) else b""
                link = os.readlink(path) if stat.S_ISLNK(status.st_mode) else ""
                found[os.path.relpath(path, base)] = (
                    *(status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev),
                    *(linked, attributes, content, link),
                )
    return found


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.zst"])
def test_a_backup_brings_everything_back(host: Host, volume: Volume, tmp_path: Path, suffix: str) -> None:
    """Owners, modes, times, links, fifos, whiteouts, attributes and access lists; the same files give the
    same bytes, and other programs can read them."""
    furnish(host, volume)
    before, archives = picture(volume), [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    assert len(before) == 10 and before["dir/sub/file"][5] == 2
    for archive in archives:
        volume.backup(archive)
    assert archives[0].read_bytes() == archives[1].read_bytes()
    data = archives[0].read_bytes()
    if suffix == "tar.gz":
        data = gzip.decompress(data)
    if suffix == "tar.zst":
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("dir/sub/file").uid == 0 and "./dir/sub" not in tar.getnames()
    other = host.volumes.create("other")
    other.restore(archives[0])
    assert picture(other) == before
    (volume.files / "added").touch()
    with pytest.raises(ConflictError):
        volume.restore(archives[0])
    with archives[0].open("rb") as file:
        volume.restore(file, replace=True)
    assert picture(volume) == before
    other.remove()


def test_a_backup_is_of_one_moment(host: Host, volume: Volume, tmp_path: Path) -> None:
    """A writer never sees itself half done, and goes on afterwards, as do one that is paused and one that
    does not run."""
    script = """
        i=0; while :; do i=$((i+1)); for n in a b; do
            for k in 1 2 3 4 5 6 7 8; do echo $i > /v/$n$k; done; done; done
    """
    mounts = [Mount.volume(volume, "/v")]
    with (
        host.containers.launch("busybox", sh=script, mounts=mounts) as writer,
        host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as paused,
        host.containers.create("busybox", ["true"], mounts=mounts) as idle,
    ):
        while not (volume.files / "b8").exists():
            pass
        paused.pause()
        for number in range(3):
            volume.backup(tmp_path / "x.tar")
            with tarfile.open(tmp_path / "x.tar") as tar:
                texts = {}
                for name in tar.getnames():
                    if file := tar.extractfile(name):
                        texts[name] = int(file.read() or b"0")
            order = [texts[f"{letter}{k}"] for letter in "ab" for k in range(1, 9)]
            full = [value for value in order if value]  # one may just have been emptied
            assert full == sorted(full, reverse=True) and full[0] - full[-1] <= 1, number
        assert (writer.state, paused.state, idle.state) == (State.RUNNING, State.PAUSED, State.CREATED)
        was = int((volume.files / "a1").read_text() or 0)
        while int((volume.files / "a1").read_text() or 0) <= was:
            pass
        assert idle.start().wait(timeout_s=10) == 0


def test_without_a_pause_a_change_is_told(host: Host, volume: Volume, tmp_path: Path) -> None:
    """Nothing is kept then, and the container has gone on all the time."""
    script = "while :; do dd if=/dev/zero of=/v/big bs=64k count=64 2>/dev/null; done"
    with host.containers.launch("busybox", sh=script, mounts=[Mount.volume(volume, "/v")]):
        while not (volume.files / "big").exists():
            pass
        with pytest.raises(FormatError):
            for _ in range(100):
                volume.backup(tmp_path / "x.tar", pause=False)
                (tmp_path / "x.tar").unlink()
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_backed_up_or_restored(host: Host, volume: Volume, tmp_path: Path) -> None:
    """Names that do not say how; no place for it; a volume of a container that runs. Sockets are left out."""
    (volume.files / "kept").write_text("kept")
    with volume._open_root() as root, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{root.fd}/socket")
    for name in ("x", "x.zip", "tar", "x.gz"):
        with pytest.raises(InvalidSpecError):
            volume.backup(tmp_path / name)
    with pytest.raises(InvalidSpecError):
        volume.backup(tmp_path / "no/such/directory/x.tar")
    volume.backup(tmp_path / "x.tar")
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert sorted(tar.getnames()) == [".", "kept"]
    with host.containers.launch(
        "busybox", ["sleep", "1000"], mounts=[Mount.volume(volume, "/v")]
    ) as container:
        for replace in (False, True):
            with pytest.raises(WrongStateError) as caught:
                volume.restore(tmp_path / "x.tar", replace=replace)
        assert caught.value.container == container.name
        container.stop()
        volume.restore(tmp_path / "x.tar", replace=True)
        assert container.start().exec(["ls", "/v"]).stdout == "kept\n"


def hostile(**facts: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo("evil")
    for key, value in facts.items():
        setattr(info, key, value)
    return info


@pytest.mark.parametrize(
    "members",
    [
        [hostile(name="../../evil")],
        [hostile(type=tarfile.SYMTYPE, name="way", linkname="/"), hostile(name="way/../evil")],
        [hostile(type=tarfile.LNKTYPE, linkname="/etc/shadow")],
        [hostile(type=tarfile.LNKTYPE, linkname="../../../../etc/shadow")],
        [hostile(name="/".join("d" * 300))],
    ],
    ids=["up", "through a link", "hard link", "hard link up", "deep"],
)
def test_a_hostile_archive_changes_nothing(
    host: Host, volume: Volume, tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    """It is refused, and what the volume held is still there."""
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        for member in members:
            tar.addfile(member)
    (volume.files / "kept").write_text("kept")
    with pytest.raises(FormatError):
        volume.restore(archive, replace=True)
    assert [path.name for path in volume.files.iterdir()] == ["kept"]
    assert not (host.root / "volumes/evil").exists()


def test_links_in_an_archive_end_within_the_volume(volume: Volume, tmp_path: Path) -> None:
    """A name that leads through a link to / makes a file in the volume."""
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(hostile(type=tarfile.SYMTYPE, name="way", linkname="/"))
        tar.addfile(hostile(name="way/lxcwrap-test-evil"))
    volume.restore(archive)
    assert (volume.files / "lxcwrap-test-evil").exists() and not Path("/lxcwrap-test-evil").exists()


@pytest.mark.parametrize("damage", ["cut", "bomb", "text"])
def test_a_damaged_archive_or_a_bomb_changes_nothing(host: Host, tmp_path: Path, damage: str) -> None:
    """Cut off; expanding to more than there is room for; no archive at all."""
    volume = host.volumes.create("small", size="32MiB")
    (volume.files / "kept").write_text("kept")
    archive = tmp_path / "x.tar.gz"
    if damage == "text":
        archive.write_text("this is no archive, but a text that is long enough to be looked at" * 100)
    else:
        with tarfile.open(archive, "w:gz") as tar:
            info = hostile(size=1 << 20 if damage == "cut" else 64 << 20)
            tar.addfile(info, io.BytesIO(os.urandom(info.size) if damage == "cut" else bytes(info.size)))
        if damage == "cut":
            os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises((FormatError, KernelError)):
        volume.restore(archive, replace=True)
    assert [path.name for path in volume.files.iterdir()] == ["kept"] and volume.used < 1 << 20
    volume.remove()
