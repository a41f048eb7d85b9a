"""Tar archives as a stream of entries: ustar, PAX, GNU and star, sparse files included. Parsing only; touches
no disk.

Names stay bytes, as the kernel has them, and exactly as the archive has them: whoever uses one must check it.
Where formats contradict one another we read as Go's archive/tar does, so that Docker and we see the same
files in the same layer.
Sources: pax(1) in POSIX.1-2017, the manual of GNU tar ("Basic Tar Format", "Storing Sparse Files"), Go
archive/tar.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from zlib import adler32

from ..errors import FormatError

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
MAX_NAME = 4096  # PATH_MAX
MAX_EXTENSION = 1 << 20  # bytes of the extended headers of one entry: names, xattrs, sparse map
MAX_ID = (1 << 32) - 2  # 2**32 - 1 is -1, by which chown(2) means "leave it"
_MAX_SIZE = (1 << 63) - 1
_MAX_NS = 10**9 << 40

XATTR_PREFIX = b"SCHILY.xattr."
_SPARSE_PREFIX = b"GNU.sparse."
_KEYS = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))
_EXTENSION = (b"x", b"g", b"L", b"K")
_DECIMAL = re.compile(rb"(-?)(\d{1,20})(?:\.(\d*))?")


class Kind(StrEnum):
    """What an entry makes."""

    FILE, DIRECTORY, SYMLINK, HARDLINK = "file", "directory", "symlink", "hard link"
    CHAR, BLOCK, FIFO = "character device", "block device", "fifo"


KIND_OF_FLAG: Mapping[bytes, Kind] = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,  # contiguous
    b"S": Kind.FILE,  # sparse, GNU
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


_DEVICES = (Kind.CHAR, Kind.BLOCK)


class Entry(NamedTuple):
    """One member of an archive. `link` is the target of a symbolic or hard link; `device` is (major, minor).

    size: bytes of the file's content, holes included.
    """

    name: bytes
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def error(self, reason: str) -> FormatError:
        """The error to raise about this entry."""
        return FormatError(f"archive entry {os.fsdecode(self.name)!r}", reason)


class Segment(NamedTuple):
    """A piece of a sparse file that holds data."""

    offset: int
    length: int


class ByteStream:
    """Exact reads over chunks of any size. Running out raises FormatError."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._chunk = b""
        self._at = 0

    def read(self, count: int) -> bytes:
        data = self.read_up_to(count)
        if len(data) < count:
            raise _truncated()
        return data

    def read_up_to(self, count: int) -> bytes:
        """`count` bytes, or fewer at the end."""
        end = self._at + count
        data = self._chunk[self._at : end]
        if end <= len(self._chunk):
            self._at = end
            return data
        parts, missing = [data], count - len(data)
        while missing and self._refill():
            parts.append(self._chunk[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def copy(self, fd: int, count: int) -> None:
        """Write the next `count` bytes to `fd`."""
        while count:
            if self._at == len(self._chunk) and not self._refill():
                raise _truncated()
            piece = memoryview(self._chunk)[self._at : self._at + count]
            written = os.write(fd, piece)
            self._at += written
            count -= written

    def skip(self, count: int) -> None:
        while count > (left := len(self._chunk) - self._at):
            count -= left
            if not self._refill():
                raise _truncated()
        self._at += count

    def rest_is_zero(self) -> bool:
        """Read to the end."""
        clean = not self._chunk[self._at :].strip(b"\0")
        while self._refill():
            clean = clean and not self._chunk.strip(b"\0")
        return clean

    def _refill(self) -> bool:
        self._chunk = next(self._chunks, b"")
        self._at = 0
        return bool(self._chunk)


def _truncated() -> FormatError:
    return FormatError("archive", "is truncated")


class TarReader:
    """Iterate over the entries; `copy_to` while at a file writes its content. All damage raises FormatError.

    An archive without end marker is accepted if it ends between two entries, as by all other readers.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._stream = ByteStream(iter(chunks))
        self._globals: dict[bytes, bytes] = {}
        self._segments: list[Segment] | None = None
        self._data = 0  # bytes of the current entry not yet read
        self._padding = 0

    def copy_to(self, fd: int, size: int) -> None:
        """Write the content of the current entry, of `size` bytes, to `fd`, an empty file. Holes stay."""
        if self._segments is None:
            self._stream.copy(fd, self._data)
        else:
            os.ftruncate(fd, size)
            for segment in self._segments:
                os.lseek(fd, segment.offset, os.SEEK_SET)
                self._stream.copy(fd, segment.length)
        self._data = 0

    def __iter__(self) -> Iterator[Entry]:
        while header := self._next_header():
            records: dict[bytes, bytes] = {}
            xattrs: dict[bytes, bytes] = {}
            long_name = long_link = b""
            extension = 0
            while (flag := header[156:157]) in _EXTENSION:
                extension += (size := field_number(header, 124, 136))
                if size < 0 or extension > MAX_EXTENSION:
                    raise FormatError("archive", f"an extended header has more than {MAX_EXTENSION} bytes")
                payload = self._payload(size)
                if flag == b"x":
                    _merge(payload, records, xattrs)
                elif flag == b"g":
                    self._merge_global(payload)
                elif flag == b"L":
                    long_name = payload.partition(b"\0")[0]
                else:
                    long_link = payload.partition(b"\0")[0]
                if not (header := self._next_header()):
                    raise _truncated()
            if flag == b"V":  # a volume label of GNU tar: no member
                continue
            if self._globals:
                records = {**self._globals, **records}
            yield self._begin(header, records, xattrs, long_name, long_link)
            self._stream.skip(self._data + self._padding)

    def _next_header(self) -> bytes:
        """The next header, or nothing at the end of the archive."""
        header = self._stream.read_up_to(BLOCK)
        if not header:
            return b""
        if len(header) < BLOCK:
            raise _truncated()
        if header == ZERO_BLOCK:
            if not self._stream.rest_is_zero():
                raise FormatError("archive", "has data after its end marker")
            return b""
        _check_sum(header)
        return header

    def _payload(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._stream.skip(-size % BLOCK)
        return data

    def _merge_global(self, payload: bytes) -> None:
        xattrs: dict[bytes, bytes] = {}
        _merge(payload, self._globals, xattrs)
        # One name, link, size or attribute for all entries makes no sense, but would let two readers see two
        # archives.
        if xattrs or any(
            key in (b"path", b"linkpath", b"size") or key.startswith(_SPARSE_PREFIX) for key in self._globals
        ):
            raise FormatError("archive", "a global header sets what belongs to a single entry")

    def _begin(
        self,
        header: bytes,
        records: dict[bytes, bytes],
        xattrs: dict[bytes, bytes],
        long_name: bytes,
        long_link: bytes,
    ) -> Entry:
        flag = header[156:157]
        name = records.get(b"path") or long_name or _ustar_name(header)
        kind = KIND_OF_FLAG.get(flag)
        if kind is None:
            raise FormatError(f"archive entry {os.fsdecode(name)!r}", f"has the unknown type {flag!r}")
        is_file = kind is Kind.FILE
        if is_file and name.endswith(b"/"):
            is_file, kind = False, Kind.DIRECTORY  # as tar wrote them before there was a type for them
        link = records.get(b"linkpath") or long_link or _until_nul(header[157:257])
        size, uid, gid = _number(header[124:136]), _number(header[108:116]), _number(header[116:124])
        mtime_ns = _number(header[136:148]) * 10**9
        if records:
            size = _record_number(records, b"size", _MAX_SIZE, size)
            uid = _record_number(records, b"uid", MAX_ID, uid)
            gid = _record_number(records, b"gid", MAX_ID, gid)
            mtime_ns = _record_mtime_ns(records, mtime_ns)
        if not is_file:
            size = 0  # what the field says of a link or directory is no number of bytes that follow
        self._data, self._padding, self._segments = size, -size % BLOCK, None
        if is_file and (flag == b"S" or (records and _is_sparse(records))):
            size, name = self._read_sparse(header, records, name)
        device = (0, 0)
        if kind in _DEVICES:
            device = _number(header[329:337]), _number(header[337:345])
        entry = Entry(
            name, kind, _number(header[100:108]) & 0o7777, uid, gid, mtime_ns, size, link, device,
            tuple(xattrs.items()),
        )  # fmt: skip
        _check_entry(entry)
        return entry

    def _read_sparse(self, header: bytes, records: dict[bytes, bytes], name: bytes) -> tuple[int, bytes]:
        from . import tarsparse

        if header[156:157] == b"S":
            size, segments = tarsparse.read_gnu_map(self._stream, header)
        else:
            size, segments, map_size = tarsparse.read_pax_map(self._stream, records)
            self._data -= map_size
            name = records.get(b"GNU.sparse.name") or name
        tarsparse.check(segments, data=self._data, size=size)
        self._segments = segments
        return size, name


# --- headers ------------------------------------------------------------------------------------------------


def _check_sum(header: bytes) -> None:
    digits = header[148:156].strip(b" \0")
    told = int(digits, 8) if digits.isdigit() and not digits.translate(None, b"01234567") else -1
    total = _sum(header) - sum(header[148:156]) + 8 * ord(" ")
    # Some old tars added up signed characters.
    if told != total and told != total - 256 * sum(byte > 127 for byte in header[:148] + header[156:]):
        raise FormatError(
            "archive", "is damaged: the checksum of a header is wrong, or this is no tar archive"
        )


def _sum(header: bytes) -> int:
    """Of its bytes, in a tenth of the time that sum() takes: the low half of Adler-32 is 1 + the sum, which
    cannot reach its modulus of 65521 within 256 bytes.
    """
    return (adler32(header[:256]) & 0xFFFF) + (adler32(header[256:]) & 0xFFFF) - 2


def field_number(header: bytes, start: int, end: int) -> int:
    """A numeric field: octal digits, or base 256 when its first bit is set."""
    return _number(header[start:end])


@lru_cache(maxsize=4096)  # modes, owners and times repeat
def _number(field: bytes) -> int:
    if field[0] & 0x80:
        value = int.from_bytes(field, "big") & ~(1 << (8 * len(field) - 1))
        return value - (1 << (8 * len(field) - 1)) if field[0] & 0x40 else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    try:
        if digits.isdigit():  # int() would take signs and underscores
            return int(digits, 8)
    except ValueError:
        pass
    raise FormatError("archive", f"is damaged: {field!r} in a header is no octal number")


def _until_nul(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _ustar_name(header: bytes) -> bytes:
    name = _until_nul(header[:100])
    # GNU writes "ustar  \0" and keeps times where POSIX has the prefix; star ends the prefix early.
    if header[257:263] == b"ustar\0":
        prefix = _until_nul(header[345:476] if header[508:512] == b"tar\0" else header[345:500])
        if prefix:
            return prefix + b"/" + name
    return name


def _check_entry(entry: Entry) -> None:
    name, kind, _, uid, gid, mtime_ns, size, link, device, _ = entry
    if len(name) > MAX_NAME or len(link) > MAX_NAME:
        raise entry._replace(name=name[:80] + b"...").error(f"a name has more than {MAX_NAME} bytes")
    if b"\0" in name or b"\0" in link:
        raise entry.error("a name holds a NUL byte")
    if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
        raise entry.error(f"owner {uid}:{gid} is impossible")
    if not 0 <= size <= _MAX_SIZE:
        raise entry.error(f"size {size} is impossible")
    if not -_MAX_NS <= mtime_ns <= _MAX_NS:
        raise entry.error("its time is impossible")
    if kind in _DEVICES and not (0 <= device[0] < 1 << 12 and 0 <= device[1] < 1 << 20):
        raise entry.error(f"device number {device} is impossible")


# --- PAX records --------------------------------------------------------------------------------------------


def _merge(payload: bytes, records: dict[bytes, bytes], xattrs: dict[bytes, bytes]) -> None:
    """Add the records of an extended header: "<length> <key>=<value>\\n", the length counting itself."""
    at = 0
    while at < len(payload):
        space = payload.find(b" ", at, at + 10)
        digits = payload[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = payload[space + 1 : end - 1].partition(b"=")
        if not (space < end <= len(payload)) or payload[end - 1 : end] != b"\n" or not key or not equals:
            raise FormatError("archive", "is damaged: a PAX record is malformed")
        if key.startswith(XATTR_PREFIX):
            xattrs[key[len(XATTR_PREFIX) :]] = value
        elif value and (key in _KEYS or key.startswith(_SPARSE_PREFIX)):
            records[key] = value
        else:  # of no use to us; or empty: "the header block's value applies"
            records.pop(key, None)
        at = end


def _is_sparse(records: dict[bytes, bytes]) -> bool:
    return any(key.startswith(_SPARSE_PREFIX) for key in records)


def _record_number(records: dict[bytes, bytes], key: bytes, limit: int, default: int) -> int:
    text = records.get(key)
    if text is None:
        return default
    if not text.isdigit() or len(text) > 20 or int(text) > limit:
        raise FormatError("archive", f"is damaged: {key.decode()}={os.fsdecode(text[:40])!r} in a PAX record")
    return int(text)


def _record_mtime_ns(records: dict[bytes, bytes], default: int) -> int:
    text = records.get(b"mtime")
    if text is None:
        return default
    match = _DECIMAL.fullmatch(text)
    if not match:
        raise FormatError("archive", f"is damaged: mtime={os.fsdecode(text[:40])!r} in a PAX record")
    sign, seconds, fraction = match.groups(default=b"")
    nanoseconds = int(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -nanoseconds if sign else nanoseconds
