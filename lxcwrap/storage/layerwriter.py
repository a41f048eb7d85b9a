"""A directory tree, plain or the upper of an overlay, as the tar of a layer; the way back of unpack.py.

The same tree always gives the same bytes: entries sorted, whole seconds, numeric ids, no names of users,
attributes sorted. `packing.pack_layer(blobs, read_tree(root))` makes a layer blob of it.

The tree may belong to a container that runs: it is walked by file descriptors and no link is followed, so
that a directory swapped for a link shows nothing of the host.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Generator, Iterable, Iterator, Mapping
from pathlib import Path

from ..errors import FormatError, InvalidSpecError
from ..ids import IDENTITY, IdMap
from .tarstream import BLOCK, MAX_NAME, XATTR_PREFIX, ZERO_BLOCK, Entry, Kind
from .unpack import (
    MAX_DEPTH,
    MAX_ENTRIES,
    MAX_LAYER_BYTES,
    OPAQUE_MARKER,
    OPAQUE_XATTR,
    WHITEOUT_PREFIX,
    Terms,
    is_kept_xattr,
    is_whiteout,
)

Member = tuple[Entry, Iterable[bytes]]
"""An entry, and the content of exactly its size."""

_READ = 1 << 18
# Who takes the chunks works in another thread. The kernel keeps two threads on one processor that wake one
# another more often than every half millisecond.
_CHUNK = 1 << 20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KIND = {
    stat.S_IFREG: Kind.FILE,
    stat.S_IFDIR: Kind.DIRECTORY,
    stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR,
    stat.S_IFBLK: Kind.BLOCK,
    stat.S_IFIFO: Kind.FIFO,
}
_FLAG = {
    Kind.FILE: b"0",
    Kind.HARDLINK: b"1",
    Kind.SYMLINK: b"2",
    Kind.CHAR: b"3",
    Kind.BLOCK: b"4",
    Kind.DIRECTORY: b"5",
    Kind.FIFO: b"6",
}


# --- reading a tree -----------------------------------------------------------------------------------------


def source_date_epoch(environ: Mapping[str, str] = os.environ) -> int | None:
    """What SOURCE_DATE_EPOCH says, in Unix seconds; None if it is not set (reproducible-builds.org)."""
    text = environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise InvalidSpecError(f"SOURCE_DATE_EPOCH={text!r}: must be a number of seconds")
    return int(text)


def read_tree(
    root: Path | int,
    *,
    ids: IdMap = IDENTITY,
    newest_s: int | None = None,
    leave_out: Collection[str] = (),
    only: Collection[str] | None = None,
    gone: Collection[str] = (),
    terms: Terms | None = None,
) -> Iterator[Member]:
    """
    Everything below `root`, and `root` itself, in the order and form of a layer. Sockets are left out.

    root: path or open descriptor of a directory. ids: how the ids on disk are shifted; those in the archive
    are the inner ones. newest_s: later times become this one (`source_date_epoch()`). Overlay whiteouts and
    opaque directories become ``.wh.`` entries. leave_out: absolute paths without an entry, ``/`` for that of
    `root`; a directory is left out with all that is in it. only: the only paths below `root`, with their
    directories. gone: paths that become whiteouts. terms: it is no layer, and nothing in it means a deletion.

    Raises FormatError: the tree cannot be a layer: a name begins with ``.wh.``, it is deeper or larger than
    what `unpack_tar` takes, overlayfs wrote to it with redirect_dir or metacopy, or it changes while it is
    read.
    """
    path, parent = (root, None) if isinstance(root, Path) else (".", root)
    fd = os.open(path, _OPEN | os.O_DIRECTORY, dir_fd=parent)
    reader = _TreeReader(ids, newest_s, _paths(leave_out), None if only is None else _paths(only), terms)
    max_bytes = MAX_LAYER_BYTES if terms is None else terms.max_bytes
    for lost in _paths(gone):
        prefix, slash, name = lost.rpartition(b"/")
        reader.gone.setdefault(prefix + slash, set()).add(name)
    size = 0
    for count, (entry, content) in enumerate(reader.directory(fd, b"", 0), 1):
        size += entry.size
        if size > max_bytes:  # told before it is read: it may be nothing but holes
            raise _unfit(entry.name, f"makes more than {max_bytes} bytes of content")
        if count > MAX_ENTRIES or len(entry.name) > MAX_NAME:
            raise _unfit(entry.name[-80:], f"makes more than {MAX_ENTRIES} files, or has too long a path")
        yield entry, content


def _paths(paths: Iterable[str]) -> frozenset[bytes]:
    """As names in the archive; the root's own is empty."""
    return frozenset(os.fsencode(path).removeprefix(b"/") for path in paths)


class _TreeReader:
    def __init__(
        self,
        ids: IdMap,
        newest_s: int | None,
        left_out: frozenset[bytes],
        only: frozenset[bytes] | None,
        terms: Terms | None,
    ) -> None:
        self._is_layer = terms is None
        self._keeps = terms.keeps if terms else is_kept_xattr
        self._ids = ids
        self._newest_s = newest_s
        self._left_out = left_out
        self._only = only
        self.gone: dict[bytes, set[bytes]] = {}  # names of what becomes a whiteout, by directory
        self._first_names: dict[tuple[int, int], bytes] = {}

    def directory(self, fd: int, prefix: bytes, depth: int) -> Iterator[Member]:
        """The directory `fd`, which is closed, and all below it."""
        try:
            status, xattrs = os.fstat(fd), self._xattrs(fd, prefix)
            if prefix or b"" not in self._left_out:
                yield self._entry(prefix or b"./", status, xattrs), ()
            if self._is_layer and xattrs.get(OPAQUE_XATTR.encode()) == b"y":
                yield Entry(prefix + OPAQUE_MARKER, Kind.FILE), ()
            gone = self.gone.get(prefix, set())
            for name in sorted(gone | set(map(os.fsencode, os.listdir(fd)))):
                if name in gone:
                    yield _whiteout(prefix, name)
                elif self._is_wanted(prefix + name):
                    yield from self._member(fd, name, prefix, depth)
            if os.fstat(fd).st_ctime_ns != status.st_ctime_ns:
                raise _changed(prefix or b"/")
        finally:
            os.close(fd)

    def _is_wanted(self, path: bytes) -> bool:
        return path not in self._left_out and (self._only is None or path in self._only)

    def _member(self, parent: int, name: bytes, prefix: bytes, depth: int) -> Iterator[Member]:
        path = prefix + name
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise _changed(path) from None
        if self._is_layer and is_whiteout(status):
            yield _whiteout(prefix, name)
            return
        if self._is_layer and name.startswith(WHITEOUT_PREFIX):
            raise _unfit(path, "has a name that means a deletion in a layer")
        if stat.S_ISSOCK(status.st_mode):
            return
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode) and not is_whiteout(status):
            first = self._first_names.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                yield (
                    self._entry(path, status)._replace(kind=Kind.HARDLINK, link=first, size=0, device=(0, 0)),
                    (),
                )
                return
        if stat.S_ISDIR(status.st_mode):
            if depth == MAX_DEPTH:
                raise _unfit(path, f"is more than {MAX_DEPTH} directories deep")
            yield from self.directory(_open(parent, name, path, status), path + b"/", depth + 1)
        elif stat.S_ISREG(status.st_mode):
            yield from self._file(parent, name, path, status)
        else:
            link = _link(parent, name, path) if stat.S_ISLNK(status.st_mode) else b""
            yield self._entry(path, status)._replace(link=link), ()

    def _file(self, parent: int, name: bytes, path: bytes, status: os.stat_result) -> Iterator[Member]:
        fd = _open(parent, name, path, status)
        try:
            status = os.fstat(fd)
            yield self._entry(path, status, self._xattrs(fd, path)), _content(fd, path, status)
        finally:
            os.close(fd)

    def _entry(
        self, name: bytes, status: os.stat_result, xattrs: Mapping[bytes, bytes] | None = None
    ) -> Entry:
        kind = _KIND[stat.S_IFMT(status.st_mode)]
        is_device = kind in (Kind.CHAR, Kind.BLOCK)
        time_ns = status.st_mtime_ns
        if self._is_layer:
            time_ns -= time_ns % 10**9
        if self._newest_s is not None:
            time_ns = min(time_ns, self._newest_s * 10**9)
        return Entry(
            name=name,
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=self._ids.to_inner(status.st_uid),
            gid=self._ids.to_inner(status.st_gid),
            mtime_ns=time_ns,
            size=status.st_size if kind is Kind.FILE else 0,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
            xattrs=tuple(
                (key, self._inner_capability(value) if key == b"security.capability" else value)
                for key, value in sorted((xattrs or {}).items())
                if self._keeps(key)
            ),
        )

    def _xattrs(self, fd: int, path: bytes) -> dict[bytes, bytes]:
        xattrs = {os.fsencode(name): os.getxattr(fd, name) for name in os.listxattr(fd)}
        for feature in (b"redirect", b"metacopy", b"whiteout"):
            if self._is_layer and b"trusted.overlay." + feature in xattrs:
                raise _unfit(
                    path, f"was written by an overlay with {feature.decode()}, which a layer cannot express"
                )
        return xattrs

    def _inner_capability(self, value: bytes) -> bytes:
        """Revision 2 for 3, which adds the id that a user namespace's root has here (capabilities(7))."""
        if len(value) == 24:
            magic, *sets, root_id = struct.unpack("<6I", value)
            if magic >> 24 == 3 and self._ids.to_inner(root_id) == 0:
                return struct.pack("<5I", 2 << 24 | magic & 0xFFFFFF, *sets)
        return value


def _whiteout(prefix: bytes, name: bytes) -> Member:
    return Entry(prefix + WHITEOUT_PREFIX + name, Kind.FILE), ()


def _open(parent: int, name: bytes, path: bytes, expected: os.stat_result) -> int:
    try:
        fd = os.open(name, _OPEN, dir_fd=parent)
    except OSError as error:
        raise _unfit(path, f"cannot be read: {error.strerror}") from error
    if os.path.samestat(os.fstat(fd), expected):
        return fd
    os.close(fd)
    raise _changed(path)


def _link(parent: int, name: bytes, path: bytes) -> bytes:
    try:
        return os.readlink(name, dir_fd=parent)
    except OSError:  # it is gone, or is no link any more
        raise _changed(path) from None


def _content(fd: int, path: bytes, status: os.stat_result) -> Iterator[bytes]:
    size = status.st_size
    while size and (chunk := os.read(fd, min(_READ, size))):
        size -= len(chunk)
        yield chunk
    if size or os.fstat(fd).st_ctime_ns != status.st_ctime_ns:
        raise _changed(path)


def _changed(path: bytes) -> FormatError:
    return _unfit(path, "changed while it was read")


def _unfit(path: bytes, reason: str) -> FormatError:
    return FormatError(f"file {os.fsdecode(path)!r}", reason)


# --- writing tar --------------------------------------------------------------------------------------------


def tar_chunks(members: Iterable[Member]) -> Generator[bytes, None, None]:
    """The archive of `members`: ustar, with PAX headers only where that is too small.

    Raises FormatError: content is not of the size its entry says.
    """
    parts: list[bytes] = []
    waiting = 0
    for part in _tar_parts(members):
        parts.append(part)
        waiting += len(part)
        if waiting >= _CHUNK:
            yield b"".join(parts)
            parts, waiting = [], 0
    yield b"".join(parts)


def _tar_parts(members: Iterable[Member]) -> Iterator[bytes]:
    for entry, content in members:
        yield _header(entry)
        written = 0
        for chunk in content:
            written += len(chunk)
            yield chunk
        if written != entry.size:
            raise entry.error(
                f"has {written} bytes of content, not {entry.size}: it changed while it was read"
            )
        yield bytes(-written % BLOCK)
    yield 2 * ZERO_BLOCK


def _header(entry: Entry) -> bytes:
    name, link = entry.name, entry.link
    if entry.kind is Kind.DIRECTORY and not name.endswith(b"/"):
        name += b"/"
    seconds, nanoseconds = divmod(entry.mtime_ns, 10**9)
    records: dict[bytes, bytes] = {}
    if len(name) > 100:
        records[b"path"] = name
    if len(link) > 100:
        records[b"linkpath"] = link
    if nanoseconds or not 0 <= seconds < 8**11:
        sign, positive = ("-", -entry.mtime_ns) if entry.mtime_ns < 0 else ("", entry.mtime_ns)
        records[b"mtime"] = f"{sign}{positive // 10**9}.{positive % 10**9:09}".encode()
    for key, number, digits in ((b"uid", entry.uid, 7), (b"gid", entry.gid, 7), (b"size", entry.size, 11)):
        if number >= 8**digits:
            records[key] = b"%d" % number
    records |= {XATTR_PREFIX + key: value for key, value in entry.xattrs}
    header = _ustar(
        name[:100],
        _FLAG[entry.kind],
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size,
        seconds,
        link[:100],
        entry.device,
    )
    return _pax(records) + header if records else header


def _pax(records: Mapping[bytes, bytes]) -> bytes:
    payload = b"".join(_record(key, records[key]) for key in sorted(records))
    header = _ustar(b"PaxHeader", b"x", 0o644, 0, 0, len(payload), 0, b"", (0, 0))
    return header + payload + bytes(-len(payload) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    if len(rest) + len(str(length)) != length:  # its own digits made it one digit longer
        length += 1
    return b"%d" % length + rest


def _ustar(
    name: bytes,
    flag: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    mtime: int,
    link: bytes,
    device: tuple[int, int],
) -> bytes:
    header = struct.pack(
        "100s8s8s8s12s12s8s1s100s6s2s64x8s8s167x",
        name,
        _octal(mode, 7),
        _octal(uid, 7),
        _octal(gid, 7),
        _octal(size, 11),
        _octal(mtime, 11),
        b"        ",
        flag,
        link,
        b"ustar",
        b"00",
        _octal(device[0], 7),
        _octal(device[1], 7),
    )
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _octal(number: int, digits: int) -> bytes:
    """Zero when a PAX record says it instead."""
    return b"%0*o" % (digits, number if 0 <= number < 8**digits else 0)
