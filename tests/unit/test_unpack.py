"""What an archive becomes on disk, and what a hostile one does not."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.errors import FormatError, KernelError
from lxcwrap.storage import unpack
from lxcwrap.storage.layerwriter import Member
from lxcwrap.storage.tarstream import Kind, TarReader
from lxcwrap.storage.unpack import unpack_tar
from tests.strategies import OWN_IDS, archive, directory, entry, file, hard_link, symlink

as_root = pytest.mark.lxc


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Some need root, but none a container: nothing the leak check of tests/conftest.py knows is touched."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty directory; beside it lies something that must not be touched."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("secret")
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture(autouse=True)
def nothing_outside_changes(root: Path) -> Iterator[None]:
    """Whatever an archive holds, only its directory is written to."""
    before = os.stat(root.parent / "outside")
    yield
    after = os.stat(root.parent / "outside")
    assert sorted(os.listdir(root.parent)) == ["outside", "root"]
    assert os.listdir(root.parent / "outside") == ["secret"]
    assert (root.parent / "outside/secret").read_text() == "secret"
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


def unpack_bytes(data: bytes, root: Path) -> None:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        unpack_tar(TarReader([data]), fd)
    finally:
        os.close(fd)


def unpacked(root: Path, *members: Member) -> Path:
    unpack_bytes(archive(*members), root)
    return root


def listing(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def is_whiteout(path: Path) -> bool:
    return unpack.is_whiteout(path.lstat())


# --- ordinary archives ----------------------------------------------------------------------------------


def test_files_links_and_directories(root: Path) -> None:
    """Content, mode, times and links are as in the archive."""
    unpacked(
        root,
        directory("./", mode=0o711, mtime_ns=5 * 10**9),
        directory("etc", mode=0o555, mtime_ns=7 * 10**9),
        file("etc/passwd", b"root", mode=0o600, mtime_ns=123_456_789),
        symlink("etc/link", b"/nowhere", mtime_ns=9 * 10**9),
        hard_link("etc/same", b"etc/passwd"),
        (entry("pipe", Kind.FIFO, mode=0o622, mtime_ns=11 * 10**9), ()),
    )
    passwd, etc, pipe = (root / "etc/passwd").stat(), (root / "etc").stat(), (root / "pipe").stat()
    assert (root / "etc/passwd").read_bytes() == b"root"
    assert (stat.S_IMODE(passwd.st_mode), passwd.st_mtime_ns) == (0o600, 123_456_789)
    assert (stat.S_IMODE(etc.st_mode), etc.st_mtime_ns) == (0o555, 7 * 10**9)
    assert (stat.S_IMODE(root.stat().st_mode), root.stat().st_mtime_ns) == (0o711, 5 * 10**9)
    assert (pipe.st_mode, pipe.st_mtime_ns) == (stat.S_IFIFO | 0o622, 11 * 10**9)
    assert os.readlink(root / "etc/link") == "/nowhere"
    assert (root / "etc/link").lstat().st_mtime_ns == 9 * 10**9
    assert (root / "etc/same").stat().st_ino == passwd.st_ino


def test_names_are_relative_to_the_root(root: Path) -> None:
    """Leading slashes, dots and double slashes mean nothing."""
    unpacked(root, file("/abs"), file("./dot"), file("a//b/./c"), directory("dir/"))
    assert listing(root) == ["a", "a/b", "a/b/c", "abs", "dir", "dot"]


def test_umask_does_not_matter(root: Path) -> None:
    """Modes are the archive's, also with a tight umask."""
    before = os.umask(0o077)
    try:
        unpacked(root, directory("d", mode=0o777), file("d/f", mode=0o666), file("p/q"))
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "d/f", "p", "p/q")]
    assert modes == [0o777, 0o666, 0o755, 0o644]


def test_set_user_id_bits_stay(root: Path) -> None:
    """chown clears them, so the mode comes last; files in a set-group-ID directory keep their own group."""
    unpacked(
        root,
        directory("d", mode=0o2775),
        file("d/su", mode=0o4755),
        directory("d/e"),
        directory("t", mode=0o1777),
    )
    modes = [stat.S_IMODE((root / name).stat().st_mode) for name in ("d", "d/su", "d/e", "t")]
    assert modes == [0o2775, 0o4755, 0o755, 0o1777]


def test_missing_parents_are_made(root: Path) -> None:
    """Directories without an entry belong to root, 0755, until their own entry comes."""
    unpacked(root, file("a/b/c/f"), directory("a/b", mode=0o700))
    assert stat.S_IMODE((root / "a").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o700


def test_unwritable_directory_can_be_filled(root: Path) -> None:
    """The mode of a directory is set when all is in it."""
    unpacked(root, directory("d", mode=0o000), file("d/f"))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0
    (root / "d").chmod(0o700)
    assert (root / "d/f").exists()


def test_parent_that_is_a_link(root: Path) -> None:
    """An entry below a link to a directory goes where the link leads, inside."""
    unpacked(root, directory("usr/lib"), symlink("lib", b"/usr/lib"), file("lib/x", b"x"))
    assert (root / "usr/lib/x").read_bytes() == b"x"
    assert (root / "lib").is_symlink()


def test_attributes_are_kept_or_dropped(root: Path) -> None:
    """user.* is content; labels and overlayfs' own marks are not."""
    xattrs: tuple[tuple[bytes, bytes], ...] = (
        (b"user.a", b"1\0"),
        (b"security.selinux", b"x"),
        (b"trusted.overlay.opaque", b"y"),
    )
    xattrs += ((b"user.overlay.opaque", b"y"), (b"trusted.overlay.redirect", b"/etc"), (b"system.x", b""))
    unpacked(root, file("f", xattrs=xattrs), directory("d", xattrs=xattrs), symlink("l", b"f", xattrs=xattrs))
    for name in ("f", "d"):
        assert os.listxattr(root / name) == ["user.a"]
        assert os.getxattr(root / name, "user.a") == b"1\0"
    assert os.listxattr(root / "l", follow_symlinks=False) == []


def test_large_trees_need_few_descriptors(root: Path) -> None:
    """Cached directories are closed again."""
    before = len(os.listdir("/proc/self/fd"))
    unpacked(root, *(file(f"d{number}/f") for number in range(500)))
    assert len(listing(root)) == 1000
    assert len(os.listdir("/proc/self/fd")) == before


# --- one name, several entries --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    sorted(
        {
            *itertools.product(
                ("file", "link", "dangling", "pipe", "full", "whiteout"),
                ("file", "link", "pipe", "dir", "hard"),
            )
        }
        - {("whiteout", "dir")}
    ),  # makes an opaque directory, which takes root: see below
)
def test_last_entry_wins(root: Path, first: str, second: str) -> None:
    """Anything replaces anything, without following what was there."""
    kinds: dict[str, list[Member]] = {
        "file": [file("x", b"old")],
        "link": [symlink("x", b"target")],
        "dangling": [symlink("x", b"nothing")],
        "pipe": [(entry("x", Kind.FIFO), ())],
        "full": [file("x/y/z"), file("x/f")],
        "dir": [directory("x")],
        "hard": [hard_link("x", b"target")],
        "whiteout": [file(".wh.x")],
    }
    unpacked(root, file("target", b"target"), *kinds[first], *kinds[second])
    assert (root / "target").read_bytes() == b"target"
    status = (root / "x").lstat()
    expected = {"link": stat.S_IFLNK, "pipe": stat.S_IFIFO, "dir": stat.S_IFDIR}.get(second, stat.S_IFREG)
    assert stat.S_IFMT(status.st_mode) == expected
    assert second != "hard" or status.st_nlink == 2


def test_directory_twice_is_merged(root: Path) -> None:
    """A second entry of a directory changes its mode and keeps what is in it."""
    unpacked(root, directory("d", mode=0o700), file("d/f"), directory("d", mode=0o750))
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o750
    assert listing(root) == ["d", "d/f"]


def test_directory_replaced_and_made_again(root: Path) -> None:
    """What is remembered of a directory does not outlive it."""
    unpacked(root, directory("d", mode=0o700), file("d/old"), file("d"), directory("d"), file("d/new"))
    assert listing(root) == ["d", "d/new"]
    assert stat.S_IMODE((root / "d").stat().st_mode) == 0o755


def test_link_swapped_between_two_uses(root: Path) -> None:
    """A directory that was reached through a link is looked up anew when the link changes."""
    unpacked(
        root, directory("a"), directory("b"), symlink("l", b"a"), file("l/1"), symlink("l", b"b"), file("l/2")
    )
    assert listing(root) == ["a", "a/1", "b", "b/2", "l"]


def test_file_linked_to_itself(root: Path) -> None:
    """A hard link to its own name changes nothing."""
    unpacked(root, file("f", b"kept"), hard_link("f", b"./f"))
    assert (root / "f").read_bytes() == b"kept"


# --- whiteouts ------------------------------------------------------------------------------------------


def test_whiteouts(root: Path) -> None:
    """A whiteout, even one with content, is a device 0/0 and nothing else."""
    unpacked(
        root,
        file("d/.wh.gone", b"body" * 200),
        file("d/next"),
        file(".wh..wh.plnk/1.2"),
        file(".wh..wh.aufs"),
    )
    assert listing(root) == ["d", "d/gone", "d/next"]
    assert is_whiteout(root / "d/gone")


@pytest.mark.parametrize("members", [[file(".wh.x"), file("x", b"new")], [file("x", b"new"), file(".wh.x")]])
def test_whiteout_is_about_lower_layers(root: Path, members: list[Member]) -> None:
    """What the same layer holds stays, whichever comes first."""
    assert (unpacked(root, *members) / "x").read_bytes() == b"new"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh.", ".wh.x/file", ".wh..wh..opq/file"])
def test_meaningless_whiteouts(root: Path, name: str) -> None:
    """A whiteout of nothing, or one with something in it, is refused."""
    with pytest.raises(FormatError):
        unpacked(root, file(name))


# --- hostile archives -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "..", "a/.."])
def test_dots_are_refused(root: Path, name: str) -> None:
    """No name with '..' is taken, whatever it would mean."""
    with pytest.raises(FormatError) as caught:
        unpacked(root, file(name))
    assert name in caught.value.what


@pytest.mark.parametrize("target", ["..", "../outside", "/outside", "{outside}", "/", "../../../.."])
def test_links_to_directories_outside(root: Path, target: str) -> None:
    """Entries below a link that leads out end inside, or are refused."""
    link = target.replace("{outside}", str(root.parent / "outside")).encode()
    try:
        unpacked(root, symlink("l", link), file("l/secret", b"evil"), directory("l/d"))
    except FormatError:
        assert not (root / "outside").exists()
    else:
        assert (root / "secret").read_bytes() == b"evil"


def test_links_to_files_outside(root: Path) -> None:
    """A file takes the place of a link; it is not written through it."""
    secret = os.fsencode(root.parent / "outside/secret")
    unpacked(root, symlink("l", secret), file("l", b"evil"), symlink("m", secret), hard_link("n", b"m"))
    assert (root / "l").read_bytes() == b"evil"
    assert (root / "n").is_symlink()


@pytest.mark.parametrize(
    "target", [b"../outside/secret", b"/etc/passwd", b"l/secret", b"nothing", b"", b".", b".."]
)
def test_hard_links_out(root: Path, target: bytes) -> None:
    """A hard link reaches what this layer holds, nothing else."""
    with pytest.raises(FormatError) as caught:
        unpacked(root, symlink("l", b"../outside"), hard_link("h", target))
    assert "h" in caught.value.what


@pytest.mark.parametrize("target", [b"d", b"gone"])
def test_hard_links_to_what_cannot_be(root: Path, target: bytes) -> None:
    """Directories and whiteouts have no second name."""
    with pytest.raises(FormatError):
        unpacked(root, directory("d"), file(".wh.gone"), hard_link("h", target))


def test_root_stays_a_directory(root: Path) -> None:
    """No entry takes the place of the root."""
    for name in ("./", "/", "."):
        with pytest.raises(FormatError):
            unpacked(root, symlink(name, b"/etc"))


@pytest.mark.parametrize(
    "members",
    [
        [file("f"), file("f/below")],
        [symlink("l", b"nothing"), file("l/below")],
        [symlink("l", b"l"), file("l/below")],
        [symlink("l", b"/proc/self/root"), file("l/below")],
        [file("n" * 256)],
        [file("n" * 256 + "/f")],
        [symlink("l", b"")],
    ],
)
def test_impossible_entries(root: Path, members: list[Member]) -> None:
    """What the file system cannot hold is the archive's fault, and is said with the entry's name."""
    with pytest.raises(FormatError) as caught:
        unpacked(root, *members)
    assert os.fsdecode(members[-1][0].name) in caught.value.what


@pytest.mark.parametrize("depth", [256, 2000])
def test_depth_is_bounded(root: Path, depth: int) -> None:
    """No long name makes a tree that nobody can walk, or delete."""
    with pytest.raises(FormatError, match="deep"):
        unpacked(root, file("d/" * depth + "f"))
    shutil.rmtree(root / "d")


def test_deep_trees(root: Path) -> None:
    """Up to the bound all is well."""
    unpacked(root, file("d/" * 255 + "f"))
    shutil.rmtree(root / "d")


def test_depth_is_bounded_through_links(root: Path) -> None:
    """Real depth counts, not that of the name."""
    with pytest.raises(FormatError, match="deep"):
        unpacked(root, file("d/" * 200 + "f"), symlink("l", b"d/" * 200), file("l/" + "e/" * 200 + "f"))


def test_whiteout_device_in_archive(root: Path) -> None:
    """A device 0/0 in an archive would hide a file below without saying so."""
    with pytest.raises(FormatError, match="0/0"):
        unpacked(root, (entry("x", Kind.CHAR), ()))


def test_number_of_entries_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inodes are not used up."""
    monkeypatch.setattr(unpack, "MAX_ENTRIES", 10)
    unpacked(root, *(file(f"f{number}") for number in range(10)))
    with pytest.raises(FormatError, match="more than 10"):
        unpacked(root, *(file(f"f{number}") for number in range(11)))


def test_truncated_in_a_file(root: Path) -> None:
    """The entry cut short is an error; the descriptor is closed."""
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FormatError, match="truncated"):
        unpack_bytes(archive(file("f", b"x" * 5000))[:3000], root)
    assert len(os.listdir("/proc/self/fd")) == before


# --- as root --------------------------------------------------------------------------------------------


@as_root
def test_owners(root: Path) -> None:
    """Every kind of entry belongs to whom the archive says; set-user-ID stays."""
    ids: dict[str, Any] = {"uid": 1234, "gid": 2**32 - 2}
    unpacked(
        root,
        directory("./", **ids),
        directory("d", **ids),
        file("d/f", mode=0o6755, **ids),
        symlink("l", b"d", **ids),
        (entry("p", Kind.FIFO, **ids), ()),
        (entry("c", Kind.CHAR, device=(1, 3), mode=0o666, **ids), ()),
        (entry("b", Kind.BLOCK, device=(7, 0x12345), **ids), ()),
    )
    for name in (".", "d", "d/f", "l", "p", "c", "b"):
        status = (root / name).lstat()
        assert (status.st_uid, status.st_gid) == (1234, 2**32 - 2)
    assert stat.S_IMODE((root / "d/f").stat().st_mode) == 0o6755
    assert (root / "c").stat().st_mode == stat.S_IFCHR | 0o666
    assert (root / "c").stat().st_rdev == os.makedev(1, 3)
    assert (root / "b").stat().st_rdev == os.makedev(7, 0x12345)


@as_root
def test_group_is_not_inherited(root: Path) -> None:
    """A file of root's in another group's set-group-ID directory belongs to root."""
    unpacked(
        root, directory("mail", mode=0o2775, gid=8), file("mail/root", uid=0, gid=0), directory("mail/d")
    )
    assert (root / "mail/root").stat().st_gid == 0
    assert stat.S_IMODE((root / "mail/d").stat().st_mode) == 0o755


@as_root
def test_file_capabilities(root: Path) -> None:
    """security.capability survives the change of owner."""
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    unpacked(root, file("ping", uid=5, xattrs=((b"security.capability", capability),)))
    assert os.getxattr(root / "ping", "security.capability") == capability


@as_root
@pytest.mark.parametrize(
    "members",
    [
        [file("d/f"), file("d/.wh..wh..opq")],
        [file("d/.wh..wh..opq"), directory("d")],
        [file(".wh.d"), directory("d")],
        [file(".wh.d"), file("d/f")],
        [directory("d"), file(".wh.d")],
    ],
)
def test_opaque_directories(root: Path, members: list[Member]) -> None:
    """A marker, or a directory hidden and made anew, shows nothing of the one below."""
    unpacked(root, *members)
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"


@as_root
def test_opaque_root_is_refused(root: Path) -> None:
    """overlayfs never looks for that mark on the root of a layer."""
    with pytest.raises(FormatError, match="opaque"):
        unpacked(root, file(".wh..wh..opq"))


@as_root
def test_device_bomb(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of devices is bounded."""
    monkeypatch.setattr(unpack, "MAX_DEVICES", 3)
    devices = [(entry(f"d{number}", Kind.BLOCK, device=(8, number)), ()) for number in range(4)]
    unpacked(root, *devices[:3])
    with pytest.raises(FormatError, match="devices"):
        unpacked(root, *devices)


def test_the_machine_refuses(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No space or no permission is not the archive's fault: a KernelError that names the entry."""

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(KernelError) as caught:
        unpacked(root, symlink("l", b"x"))
    assert caught.value.errno == 28
    assert "'l'" in str(caught.value)


def test_own_ids_need_no_privilege() -> None:
    """The entries above are of whoever runs the tests, who may not be root."""
    assert (os.geteuid(), os.getegid()) == OWN_IDS
