"""A tree becomes the same archive every time, one that every tar reads."""

from __future__ import annotations

import io
import os
import shutil
import socket
import stat
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from lxcwrap.errors import FormatError, InvalidSpecError
from lxcwrap.ids import IdMap
from lxcwrap.storage.layerwriter import read_tree, source_date_epoch, tar_chunks
from lxcwrap.storage.tarstream import Kind, TarReader
from tests.strategies import entry, file

as_root = pytest.mark.lxc


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Some need root, but none a container: nothing the leak check of tests/conftest.py knows is touched."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A little of everything that needs no privilege."""
    tree = tmp_path / "tree"
    (tree / "b").mkdir(parents=True)
    (tree / "b" / ("n" * 200)).write_bytes(b"long")
    (tree / "b.x").write_bytes(b"x" * 600)
    (tree / "a").symlink_to("t" * 150)
    os.link(tree / "b.x", tree / "c")
    os.mkfifo(tree / "p", 0o640)
    for path in (tree / "b.x", tree / "b", tree):
        os.utime(path, ns=(10**9, 1_700_000_000_999_999_999))
    return tree


def written(tree: Path, **options: object) -> bytes:
    return b"".join(tar_chunks(read_tree(tree, **options)))  # type: ignore[arg-type]


def test_same_tree_same_bytes(tree: Path) -> None:
    """Reading changes nothing, and order and time of writing do not show."""
    first = written(tree)
    (tree / "b.x").rename(tree / "tmp")
    (tree / "tmp").rename(tree / "b.x")
    os.utime(tree, ns=(0, 1_700_000_000_000_000_000))
    assert written(tree) == first


def test_others_read_it(tree: Path) -> None:
    """Python's tarfile and GNU tar see what is there."""
    data = written(tree)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [(member.name, member.type, member.linkname, member.size) for member in archive]
        assert archive.getmember("b.x").mtime == 1_700_000_000
    long = "b/" + "n" * 200
    assert found == [
        (".", tarfile.DIRTYPE, "", 0),
        ("a", tarfile.SYMTYPE, "t" * 150, 0),
        ("b", tarfile.DIRTYPE, "", 0),
        (long, tarfile.REGTYPE, "", 4),
        ("b.x", tarfile.REGTYPE, "", 600),
        ("c", tarfile.LNKTYPE, "b.x", 0),
        ("p", tarfile.FIFOTYPE, "", 0),
    ]
    names = subprocess.run(["tar", "-t"], input=data, capture_output=True, check=True)
    assert names.stdout.decode().split() == ["./", "a", "b/", long, "b.x", "c", "p"]
    assert names.stderr == b""


def test_times_are_clamped(tree: Path) -> None:
    """Later times become the given one, earlier ones stay."""
    os.utime(tree / "p", (5, 5))
    times = {member.name: member.mtime_ns for member, _ in read_tree(tree, newest_s=1000)}
    assert (times[b"b.x"], times[b"p"]) == (1000 * 10**9, 5 * 10**9)


def test_source_date_epoch() -> None:
    """The variable is read as its specification says."""
    assert source_date_epoch({"SOURCE_DATE_EPOCH": "1700000000"}) == 1_700_000_000
    assert source_date_epoch({}) is None
    with pytest.raises(InvalidSpecError):
        source_date_epoch({"SOURCE_DATE_EPOCH": "yesterday"})


def test_ids_are_mapped_back(tree: Path) -> None:
    """Shifted ids become inner ones; an id that is not mapped becomes the overflow id."""
    base = os.geteuid() - 5
    if base >= 0:
        assert {member.uid for member, _ in read_tree(tree, ids=IdMap(base))} == {5}
    assert {member.uid for member, _ in read_tree(tree, ids=IdMap(1 << 30))} == {65534}


def test_sockets_are_left_out(tree: Path) -> None:
    """A socket is nothing without who listens."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tree / "s"))
        assert b"s" not in {member.name for member, _ in read_tree(tree)}


def test_name_of_a_whiteout_is_refused(tree: Path) -> None:
    """Such a file would delete another one."""
    (tree / "b/.wh.x").touch()
    with pytest.raises(FormatError) as caught:
        written(tree)
    assert "b/.wh.x" in caught.value.what


def test_links_are_not_followed(tree: Path) -> None:
    """A link to a directory of the host is a link, not that directory."""
    (tree / "etc").symlink_to("/etc")
    assert [m.kind for m, _ in read_tree(tree) if m.name.startswith(b"etc")] == [Kind.SYMLINK]


def test_directory_swapped_for_a_link(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that becomes a link after it was looked at is not entered."""
    real_open = os.open

    def swap_then_open(path: object, *arguments: object, **options: object) -> int:
        if path == b"b":
            (tree / "b").rename(tree.parent / "moved")
            (tree / "b").symlink_to("/etc")
        return real_open(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swap_then_open)
    with pytest.raises(FormatError) as caught:
        written(tree)
    assert "'b'" in caught.value.what


def test_file_that_shrinks(tree: Path) -> None:
    """Content and header must agree, or the archive would be damaged."""
    chunks = tar_chunks(
        (member, ()) if member.name == b"b.x" else (member, content) for member, content in read_tree(tree)
    )
    with pytest.raises(FormatError, match="changed"):
        list(chunks)


@pytest.mark.parametrize("data", [b"", b"y" * 600, b"x" * 604], ids=["shorter", "other", "longer"])
def test_file_that_is_written_meanwhile(tree: Path, data: bytes) -> None:
    """Half of it old and half of it new is what nobody has written."""
    for member, content in read_tree(tree):
        if member.name == b"b.x":
            (tree / "b.x").write_bytes(data)
            with pytest.raises(FormatError) as caught:
                list(content)
            assert "'b.x'" in caught.value.what


def test_file_that_vanishes(tree: Path) -> None:
    """Between its name and its inode."""
    members = read_tree(tree)
    next(members), next(members)
    (tree / "p").unlink()
    with pytest.raises(FormatError) as caught:
        list(members)
    assert "'p'" in caught.value.what


def test_file_that_comes(tree: Path) -> None:
    """A directory that changes was read in no one state."""
    members = read_tree(tree)
    next(members), next(members)
    (tree / "new").touch()
    with pytest.raises(FormatError) as caught:
        list(members)
    assert "'/'" in caught.value.what


def test_what_is_left_out(tree: Path) -> None:
    """An entry, a directory with all that is in it, and the root's own entry."""
    names = {member.name for member, _ in read_tree(tree, leave_out=["/", "/b", "/c", "/b.x/none"])}
    assert names == {b"a", b"b.x", b"p"}


def test_only_some_paths(tree: Path) -> None:
    """And whiteouts for what is gone, in their place among the names."""
    members = read_tree(tree, only=["/b", "/c", "/b.x"], gone=["/bb", "/b/old"])
    assert [member.name for member, _ in members] == [b"./", b"b/", b"b/.wh.old", b"b.x", b".wh.bb", b"c"]


def test_a_tree_by_its_descriptor(tree: Path) -> None:
    """It may be mounted nowhere; the descriptor stays open."""
    fd = os.open(tree, os.O_PATH)
    try:
        assert b"".join(tar_chunks(read_tree(fd))) == written(tree)
        os.fstat(fd)
    finally:
        os.close(fd)


def test_large_numbers(tmp_path: Path) -> None:
    """What octal digits cannot hold is in a PAX header."""
    big = entry("x", uid=3_000_000, gid=2**32 - 2, mtime_ns=-1_500_000_000, size=0)
    [read] = TarReader(tar_chunks([(big, ())]))
    assert read == big


def test_record_length_counts_itself() -> None:
    """Around every power of ten the length of a record is right."""
    for length in (*range(1, 120), *range(960, 1010), *range(9950, 10010)):
        member = entry("f", xattrs=((b"user.x", b"v" * length),))
        assert list(TarReader(tar_chunks([(member, ())]))) == [member]


def test_deep_trees_are_refused(tmp_path: Path) -> None:
    """What could not be unpacked is not packed."""
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    with pytest.raises(FormatError, match="deep"):
        written(tmp_path)
    shutil.rmtree(tmp_path / "d")


def test_content_must_have_its_size() -> None:
    """Content of another size than its entry says is refused."""
    member, _ = file("f", b"12345")
    for content in (b"1234", b"123456"):
        with pytest.raises(FormatError):
            list(tar_chunks([(member, (content,))]))


# --- overlay uppers -------------------------------------------------------------------------------------


@as_root
def test_overlay_marks(tmp_path: Path) -> None:
    """Whiteouts and opaque directories become entries; other marks of overlayfs are not content."""
    (tmp_path / "d").mkdir()
    os.setxattr(tmp_path / "d", "trusted.overlay.opaque", b"y")
    os.setxattr(tmp_path / "d", "trusted.overlay.origin", b"x")
    os.mknod(tmp_path / "d/gone", stat.S_IFCHR, 0)
    members = [member for member, _ in read_tree(tmp_path)]
    assert [member.name for member in members] == [b"./", b"d/", b"d/.wh..wh..opq", b"d/.wh.gone"]
    assert {member.kind for member in members[2:]} == {Kind.FILE}
    assert members[1].xattrs == ()


@as_root
@pytest.mark.parametrize("feature", ["redirect", "metacopy", "whiteout"])
def test_overlay_features_a_layer_cannot_express(tmp_path: Path, feature: str) -> None:
    """Such a file is not what it looks like, so it is refused."""
    (tmp_path / "f").touch()
    os.setxattr(tmp_path / "f", f"trusted.overlay.{feature}", b"/x")
    with pytest.raises(FormatError, match=feature):
        written(tmp_path)


@as_root
def test_capability_without_the_namespace(tmp_path: Path) -> None:
    """A capability set in a container names its root on this host; in the image it names none."""
    (tmp_path / "ping").touch()
    sets = (0x2000, 0, 0, 0)
    os.setxattr(tmp_path / "ping", "security.capability", struct.pack("<6I", 3 << 24 | 1, *sets, 0x40000000))
    member = next(m for m, _ in read_tree(tmp_path, ids=IdMap(0x40000000)) if m.name == b"ping")
    assert member.xattrs == ((b"security.capability", struct.pack("<5I", 2 << 24 | 1, *sets)),)
