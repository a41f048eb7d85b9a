"""The members of an image archive or layout directory, looked up by name.

Archives come from strangers. Nothing is ever extracted: a name is a key into a table of offsets, never a path
on this machine; links are followed inside the table only; what one header makes us read or keep is bounded.
"""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, Protocol

from ..errors import FormatError, InvalidSpecError
from ..storage.inflate import Compression, PlainStream

_CHUNK: Final = 1 << 18
BLOCK: Final = 512
_EXTENSIONS: Final = (b"x", b"g", b"L", b"K")
_WITHOUT_DATA: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
_MAX_EXTENSION: Final = 1 << 20  # a long name, or the PAX records of one member
_MAX_MEMBERS: Final = 200_000
_MAX_HOPS: Final = 10
_MAX_ARCHIVE: Final = 1 << 40  # inflated


class Members(Protocol):
    """Regular files by the names they have in a layout. Missing ones raise FormatError."""

    what: str

    def __contains__(self, name: str) -> bool: ...
    def size(self, name: str) -> int: ...
    def chunks(self, name: str) -> Generator[bytes, None, None]: ...


def read_member(members: Members, name: str, *, limit: int) -> bytes:
    """The whole member. Raises FormatError: it is missing, or larger than `limit` bytes."""
    data = b""
    with closing(members.chunks(name)) as chunks:
        for chunk in chunks:
            data += chunk
            if len(data) > limit:
                raise FormatError(members.what, f"{name} is larger than {limit} bytes")
    return data


def layers_at_a_time() -> int:
    """How many to unpack side by side: one keeps two processors busy, as it is inflated by another thread."""
    return max(1, min(3, len(os.sched_getaffinity(0)) // 2))


@contextmanager
def open_members(path: Path, *, scratch: Path) -> Iterator[Members]:
    """
    Members of the directory or tar at `path`. A compressed tar is inflated to a nameless file in `scratch`.

    Raises InvalidSpecError: no such file; FormatError: not a tar, or a damaged or hostile one.
    """
    what = path.name
    if path.is_dir():
        yield Directory(path, what)
        return
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise InvalidSpecError(f"{path}: there is no such file") from None
    if file is None:
        raise InvalidSpecError(f"{path}: neither a regular file nor a directory")
    with file, _plain(file, what, scratch) as plain:
        yield Archive(plain, what)


def open_regular(path: Path) -> BinaryIO | None:
    """The file, or None if it is of another kind: opening a FIFO must not block, nor a device be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


@contextmanager
def _plain(file: BinaryIO, what: str, scratch: Path) -> Iterator[BinaryIO]:
    if Compression.of(os.pread(file.fileno(), BLOCK, 0), what) is Compression.NONE:
        yield file
        return
    with (
        closing(PlainStream(file, what=what, limit=_MAX_ARCHIVE, digested=False)) as stream,
        tempfile.TemporaryFile(dir=scratch) as spool,
    ):
        for chunk in stream:
            spool.write(chunk)
        spool.flush()
        yield spool


class Directory:
    """A layout directory. Its files may be symbolic links, as build tools make: content is what counts."""

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self.what = what

    def __contains__(self, name: str) -> bool:
        return _is_inside(name) and (self._path / name).is_file()

    def size(self, name: str) -> int:
        with self._open(name) as file:
            return os.fstat(file.fileno()).st_size

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        with self._open(name) as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def _open(self, name: str) -> BinaryIO:
        try:
            file = open_regular(self._path / name) if _is_inside(name) else None
        except OSError:  # not there, or a name that cannot be
            file = None
        if file is None:
            raise FormatError(self.what, f"{name} is missing")
        return file


def _is_inside(name: str) -> bool:
    return bool(name) and name == posixpath.normpath(name) and not name.startswith(("/", "../"))


class _Member(NamedTuple):
    offset: int
    size: int
    link: str = ""  # name of another member


class Archive:
    """A plain tar in a file that can be read at any offset."""

    def __init__(self, file: BinaryIO, what: str) -> None:
        self._descriptor = file.fileno()
        self._end = os.fstat(self._descriptor).st_size
        self.what = what
        self._members = self._scan()

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def size(self, name: str) -> int:
        return self._member(name).size

    def chunks(self, name: str) -> Generator[bytes, None, None]:
        member = self._member(name)
        offset, end = member.offset, member.offset + member.size
        while offset < end:
            chunk = self._read(offset, min(_CHUNK, end - offset))
            offset += len(chunk)
            yield chunk

    def _member(self, name: str) -> _Member:
        member = self._find(name)
        if member is None:
            raise self._error(f"{name} is missing")
        return member

    def _find(self, name: str) -> _Member | None:
        for _ in range(_MAX_HOPS):
            member = self._members.get(name)
            if member is None or not member.link:
                return member
            name = member.link
        return None

    def _scan(self) -> dict[str, _Member]:
        members: dict[str, _Member] = {}
        extension: dict[bytes, bytes] = {}
        extended = offset = 0
        while offset < self._end and any(header := self._read(offset, BLOCK)):
            offset += BLOCK
            size = self._header_size(header, extension)
            if size > self._end - offset:
                raise self._error("the archive is truncated")
            kind = header[156:157]
            if kind in _EXTENSIONS:
                extended += size
                if extended > _MAX_EXTENSION:
                    raise self._error(f"extended headers have more than {_MAX_EXTENSION} bytes")
                extension |= self._extension(kind, offset, size)
            else:
                name, member = self._parse(header, offset, size, extension)
                if member:
                    members[name] = member  # as tar does: of several the last one counts
                extension, extended = {}, 0
            if len(members) > _MAX_MEMBERS:
                raise self._error(f"has more than {_MAX_MEMBERS} members")
            offset += -(-size // BLOCK) * BLOCK
        return members

    def _header_size(self, header: bytes, extension: dict[bytes, bytes]) -> int:
        if self._number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * ord(" "):
            raise self._error("is no tar archive, or a damaged one: the checksum of a header is wrong")
        if any(key.startswith(b"GNU.sparse.") for key in extension) or header[156:157] == b"S":
            raise self._error("has a sparse member, which no image has")
        if header[156:157] in _WITHOUT_DATA:
            return 0
        return self._number(extension[b"size"], 10) if b"size" in extension else self._number(header[124:136])

    def _extension(self, kind: bytes, offset: int, size: int) -> dict[bytes, bytes]:
        """What a GNU long name or PAX records say of the next member. Global ones say nothing of use here."""
        data = self._read(offset, size)
        if kind in b"LK":
            return {b"path" if kind == b"L" else b"linkpath": data.partition(b"\0")[0]}
        return dict(self._records(data)) if kind == b"x" else {}

    def _records(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """PAX records: ``"<length> <key>=<value>\\n"``, the length counting itself."""
        at = 0
        while at < len(data):
            length = self._number(data[at : at + 10].partition(b" ")[0], 10)
            key, equals, value = data[at : at + length].partition(b" ")[2].partition(b"=")
            if not equals or not value.endswith(b"\n"):
                raise self._error("is damaged: a PAX record is malformed")
            yield key, value[:-1]
            at += length

    def _parse(
        self, header: bytes, offset: int, size: int, extension: dict[bytes, bytes]
    ) -> tuple[str, _Member | None]:
        short, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
        if prefix and header[257:263] == b"ustar\0":
            short = prefix + b"/" + short
        name = _normal(extension.get(b"path", short))
        link = extension.get(b"linkpath", header[157:257].partition(b"\0")[0])
        match header[156:157]:
            case b"0" | b"\0" | b"7":
                return name, _Member(offset, size)
            case b"1":
                return name, _Member(offset, 0, _normal(link))
            case b"2":
                return name, _Member(offset, 0, _normal(posixpath.dirname(os.fsencode(name)) + b"/" + link))
        return name, None

    def _number(self, field: bytes, base: int = 8) -> int:
        if field[:1] == b"\x80":  # base 256
            return int.from_bytes(field[1:], "big")
        digits = field.strip(b" \0") or b"0"
        if not digits.isdigit() or len(digits) > 20 or (base == 8 and set(digits) & set(b"89")):
            raise self._error(f"is damaged: {digits[:20]!r} is no number")
        return int(digits, base)

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        if len(data) < size:
            raise self._error("the archive is truncated")
        return data

    def _error(self, reason: str) -> FormatError:
        return FormatError(self.what, reason)


def _normal(name: bytes) -> str:
    """``./a//b`` and ``x/../a/b`` are ``a/b``. What leads out of the archive is the name of no member."""
    return posixpath.normpath(os.fsdecode(name)).removeprefix("/") if name else ""
