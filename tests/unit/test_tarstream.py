"""Every dialect of tar is read; damage is a FormatError."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from lxcwrap.errors import FormatError
from lxcwrap.storage.layerwriter import _header, _record
from lxcwrap.storage.tarstream import BLOCK, MAX_EXTENSION, Entry, Kind, TarReader
from tests.strategies import archive, directory, entry, file

END = bytes(2 * BLOCK)


def read(data: bytes, chunk: int = 1000) -> list[Entry]:
    return list(TarReader(data[at : at + chunk] for at in range(0, len(data), chunk)))


def contents(data: bytes, tmp_path: Path) -> dict[bytes, bytes]:
    """What each file of the archive holds."""
    reader, found = TarReader([data]), {}
    for number, member in enumerate(reader):
        if member.kind is Kind.FILE:
            path = tmp_path / str(number)
            with path.open("wb") as out:
                reader.copy_to(out.fileno(), member.size)
            found[member.name] = path.read_bytes()
    return found


def pax(flag: bytes, *records: tuple[bytes, bytes]) -> bytes:
    """An extended header of any content."""
    payload = b"".join(_record(key, value) for key, value in records)
    return raw(b"PaxHeader", flag, payload)


def raw(name: bytes, flag: bytes, payload: bytes = b"", size: int | None = None) -> bytes:
    """A member of any type; `size` may lie."""
    header = _header(entry(name, size=len(payload) if size is None else size))
    return patched(header, 156, flag) + payload + bytes(-len(payload) % BLOCK)


def patched(header: bytes, offset: int, value: bytes) -> bytes:
    """A header with another value somewhere, and the right checksum for it."""
    header = header[:offset] + value + header[offset + len(value) :]
    blank = header[:148] + b"        " + header[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


# --- dialects -------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    deep = tree / ("d" * 90) / ("e" * 90)
    deep.mkdir(parents=True)
    (tree / "plain").write_bytes(b"content\n" * 1000)
    (deep / "file").write_bytes(b"deep")
    (tree / "link").symlink_to("plain")
    os.link(tree / "plain", tree / "same")
    os.mkfifo(tree / "pipe")
    os.utime(tree / "plain", ns=(1_600_000_000_123_456_789,) * 2)
    return tree


@pytest.mark.parametrize("dialect", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_dialects_of_gnu_tar(tree: Path, dialect: str) -> None:
    """What GNU tar writes is read as Python's tarfile reads it."""
    if dialect == "v7":  # has no long names
        shutil.rmtree(tree / ("d" * 90))
        (tree / "pipe").unlink()
    data = subprocess.run(
        ["tar", "-C", tree, f"--format={dialect}", "-c", "."], check=True, capture_output=True
    )
    with tarfile.open(fileobj=io.BytesIO(data.stdout)) as expected:
        wanted = [
            (m.name, m.linkname, m.mode, m.uid, m.size if m.isreg() else 0, int(m.mtime)) for m in expected
        ]
    found = [
        (os.fsdecode(e.name).rstrip("/"), os.fsdecode(e.link), e.mode, e.uid, e.size, e.mtime_ns // 10**9)
        for e in read(data.stdout)
    ]
    assert found == wanted


def test_posix_times_have_nanoseconds(tree: Path) -> None:
    """The fraction of a PAX time is exact."""
    data = subprocess.run(
        ["tar", "-C", tree, "--format=posix", "-c", "plain"], check=True, capture_output=True
    ).stdout
    assert read(data)[0].mtime_ns == 1_600_000_000_123_456_789


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=posix"]])
@pytest.mark.parametrize("pieces", [1, 3, 60])
def test_sparse_files(tmp_path: Path, options: list[str], pieces: int) -> None:
    """Holes are read as zeros, whichever map describes them, and are not data in the archive."""
    with (tmp_path / "sparse").open("wb") as out:
        for piece in range(pieces):
            out.seek(piece << 17)
            out.write(b"data" * 1024)
        out.truncate((pieces << 17) + 5)
    data = subprocess.run(
        ["tar", "-C", tmp_path, *options, "--sparse", "-c", "sparse"], check=True, capture_output=True
    ).stdout
    assert len(data) < pieces << 16
    assert contents(data, tmp_path)[b"sparse"] == (tmp_path / "sparse").read_bytes()


def test_prefix_is_not_read_from_gnu_headers() -> None:
    """Old GNU headers keep times where POSIX has the prefix of the name."""
    header = patched(_header(entry("name")), 345, b"prefix")
    assert read(header + END)[0].name == b"prefix/name"
    assert read(patched(header, 257, b"ustar  \0") + END)[0].name == b"name"


def test_star_ends_the_prefix_early() -> None:
    """star keeps times behind a shorter prefix."""
    header = patched(_header(entry("name")), 345, b"p" * 131 + b"00000000000 00000000000 ")
    assert read(patched(header, 508, b"tar\0") + END)[0].name == b"p" * 131 + b"/name"


def test_numbers_in_base_256() -> None:
    """Large and negative numbers are binary."""
    header = patched(_header(entry("x")), 108, b"\x80\0\0\0" + (2**32 - 2).to_bytes(4, "big"))
    header = patched(header, 136, b"\xff" * 11 + b"\xfe")
    member = read(header + END)[0]
    assert (member.uid, member.mtime_ns) == (2**32 - 2, -2 * 10**9)


def test_directory_by_slash() -> None:
    """Before there was a type for directories, their names ended in a slash."""
    assert read(raw(b"dir/", b"\0") + END)[0].kind is Kind.DIRECTORY


def test_size_of_a_link_is_no_content() -> None:
    """Old tars wrote a size for hard links and directories that no content followed."""
    data = raw(b"link", b"1", size=700) + raw(b"dir", b"5", size=700) + archive(file("next", b"x"))
    assert [member.name for member in read(data)] == [b"link", b"dir", b"next"]


# --- PAX ------------------------------------------------------------------------------------------------


def test_pax_records_override_the_header(tmp_path: Path) -> None:
    """Path, size, owner, time and attributes come from the extended header, with any byte in them."""
    records = (
        (b"path", b"other\nname=\xff"),
        (b"uid", b"3000000"),
        (b"mtime", b"-1.5"),
        (b"size", b"4"),
        (b"SCHILY.xattr.user.x", b"a\0b=c\n"),
        (b"unknown", b"ignored"),
    )
    data = pax(b"x", *records) + raw(b"name", b"0", b"four", size=0) + END
    assert contents(data, tmp_path) == {b"other\nname=\xff": b"four"}
    member = read(data)[0]
    assert (member.uid, member.mtime_ns, member.xattrs) == (
        3000000,
        -1_500_000_000,
        ((b"user.x", b"a\0b=c\n"),),
    )


def test_global_header_holds_until_changed() -> None:
    """A global record is the default of all that follow; an empty one takes it back."""
    data = pax(b"g", (b"uid", b"7"), (b"comment", b"git")) + archive(file("a"))[:BLOCK]
    data += pax(b"x", (b"uid", b"8")) + archive(file("b"))[:BLOCK]
    data += pax(b"g", (b"uid", b"")) + archive(file("c", uid=9))
    assert [member.uid for member in read(data)] == [7, 8, 9]


@pytest.mark.parametrize("key", [b"path", b"linkpath", b"size", b"SCHILY.xattr.user.x", b"GNU.sparse.major"])
def test_global_header_of_what_belongs_to_one_entry(key: bytes) -> None:
    """Readers disagree on such an archive, so that one could see what another does not."""
    with pytest.raises(FormatError):
        read(pax(b"g", (key, b"1")) + archive(file("a")))


def test_gnu_long_names() -> None:
    """Types L and K come before the entry they belong to."""
    data = raw(b"././@LongLink", b"L", b"n" * 300 + b"\0") + raw(b"././@LongLink", b"K", b"t" * 200 + b"\0")
    member = read(data + raw(b"short", b"2") + END)[0]
    assert (member.name, member.link) == (b"n" * 300, b"t" * 200)


# --- damage ---------------------------------------------------------------------------------------------

GOOD = archive(directory("d"), file("d/f", b"content" * 300))


@pytest.mark.parametrize("length", [1, 100, BLOCK + 1, 2 * BLOCK, 3 * BLOCK, 2 * BLOCK + 2100])
def test_truncated(length: int) -> None:
    """An archive that ends within an entry is refused."""
    with pytest.raises(FormatError, match="truncated"):
        read(GOOD[:length])


def test_end_marker_may_lack() -> None:
    """As for all other readers, an archive may just end behind an entry."""
    assert len(read(GOOD[: -2 * BLOCK])) == 2


def test_padding_behind_the_end() -> None:
    """Zeros may follow; anything else may not."""
    assert len(read(GOOD + bytes(10240))) == 2
    with pytest.raises(FormatError, match="after its end"):
        read(GOOD + archive(file("hidden")))


def test_no_archive_at_all() -> None:
    """Something else is not taken for tar."""
    with pytest.raises(FormatError, match="checksum"):
        read(b"<html>" * 1000)


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (124, b"-0000000001\0"),
        (124, b"+0000000001\0"),
        (124, b"0_000000001\0"),
        (124, b"00000000009\0"),
        (124, b"\xff" * 12),
        (124, b"\xbf" + b"\xff" * 11),
        (108, b"\x80\0\0\0\xff\xff\xff\xff"),
        (108, b"\xff" * 8),
        (136, b"\x80" + b"\xff" * 11),
        (156, b"Z"),
        (156, b"M"),
    ],
)
def test_impossible_header(offset: int, value: bytes) -> None:
    """Numbers that cannot be, and unknown types, are refused though the checksum is right."""
    with pytest.raises(FormatError):
        read(patched(_header(entry("x")), offset, value) + END)


def test_wrong_checksum() -> None:
    """One flipped bit in a header is found."""
    with pytest.raises(FormatError, match="checksum"):
        read(b"e" + GOOD[1:])


@pytest.mark.parametrize(
    "payload",
    [
        b"x",
        b"5 a=b\n",
        b"99 a=b\n",
        b"7 a=bc\n"[:-1],
        b"6 ab\n\n",
        b"-6 a=b\n",
        b"0 a=b\n",
        b"6 =bc\n",
        b" 6 a=b\n",
        b"1_0 a=bcd\n",
    ],
)
def test_malformed_pax_record(payload: bytes) -> None:
    """Length, separator and newline of a record must be right."""
    with pytest.raises(FormatError):
        read(raw(b"PaxHeader", b"x", payload) + archive(file("a")))


@pytest.mark.parametrize(
    "record",
    [
        (b"uid", b"-1"), (b"uid", b"4294967295"), (b"uid", b"1.5"), (b"size", b"9" * 30),
        (b"size", "٣".encode()),
        (b"mtime", b"1e9"), (b"mtime", b"nan"), (b"mtime", b"9" * 19), (b"path", b"a\0b"),
        (b"linkpath", b"a\0b"), (b"path", b"a" * 5000),
    ],
)  # fmt: skip
def test_impossible_pax_value(record: tuple[bytes, bytes]) -> None:
    """Values that cannot be are refused; so are names no system call takes."""
    with pytest.raises(FormatError):
        read(pax(b"x", record) + archive(file("a")))


def test_extended_headers_are_bounded() -> None:
    """Neither one large header nor many small ones fill the memory."""
    with pytest.raises(FormatError, match="extended header"):
        read(raw(b"PaxHeader", b"x", size=MAX_EXTENSION + 1))
    with pytest.raises(FormatError, match="extended header"):
        read(pax(b"x", (b"comment", b"c" * 60000)) * 20 + archive(file("a")))


def test_header_without_entry() -> None:
    """An extended header must be followed by the entry it extends."""
    with pytest.raises(FormatError, match="truncated"):
        read(pax(b"x", (b"path", b"p")) + END)


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (100, b"1\n0\n999999\n"),  # beyond the end
        (9999, b"2\n600\n512\n0\n0\n"),  # backwards
        (9999, b"1\n0\n100\n"),  # less than there is
        (9999, b"1\n0\n-1\n"),
        (9999, b"99999999999999\n"),
        (9999, b"x" * 600),
    ],
)
def test_lying_sparse_map(size: int, pieces: bytes) -> None:
    """A map must describe exactly the data that follows."""
    records = pax(
        b"x", (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % size)
    )
    payload = pieces + bytes(-len(pieces) % BLOCK) + bytes(BLOCK)
    with pytest.raises(FormatError):
        read(records + raw(b"s", b"0", payload) + END)


def test_old_sparse_versions_are_refused() -> None:
    """PAX sparse versions before 1.0 are refused, not read as if whole."""
    with pytest.raises(FormatError, match=r"1\.0"):
        read(pax(b"x", (b"GNU.sparse.map", b"0,1")) + archive(file("a", b"x")))
