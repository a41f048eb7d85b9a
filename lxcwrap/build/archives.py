"""Tar archives that are unpacked as they are: build contexts, and what ADD is given.

Names that mean deletions in a layer (``.wh.``) are none here. In a context they are ordinary; in an image no
layer could hold them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import BinaryIO, Final

from ..errors import FormatError
from ..storage.inflate import PlainStream
from ..storage.tarstream import Entry, Kind, TarReader
from ..storage.unpack import WHITEOUT_PREFIX, unpack_tree

MAX_BYTES: Final = 64 << 30
_CHUNK: Final = 1 << 18
_BZIP2: Final = b"BZh"


def is_archive(file: BinaryIO) -> bool:
    """Whether a tar is in `file`, compressed or not, by its beginning. Reading starts anew after that."""
    try:
        with closing(_plain(file, "archive")) as stream:
            return next(iter(TarReader(stream)), None) is not None
    except FormatError:
        return False
    finally:
        file.seek(0)


def unpack_context(file: BinaryIO, root_fd: int, *, what: str) -> None:
    """Make the files of an archive in the empty directory `root_fd`. Raises FormatError, KernelError."""

    def check(entry: Entry) -> Entry:
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            raise entry.error("is a device, which no context has")
        return entry

    _unpack(file, root_fd, check, what)


def unpack_added(file: BinaryIO, target_fd: int, edit: Callable[[Entry], Entry | None], *, what: str) -> None:
    """Unpack into the directory `target_fd`, over what is there, entries as `edit` returns them; None: not.

    Links in the archive are followed within that directory. Directories merge; all else is replaced.
    Raises FormatError, KernelError.
    """

    def check(entry: Entry) -> Entry | None:
        if any(name.startswith(WHITEOUT_PREFIX) for name in entry.name.split(b"/")):
            raise entry.error("has a name that means a deletion in a layer")
        return edit(entry)

    _unpack(file, target_fd, check, what)


class _Edited:
    """The entries of an archive, changed on their way."""

    def __init__(self, archive: TarReader, edit: Callable[[Entry], Entry | None]) -> None:
        self._archive = archive
        self._edit = edit
        self.copy_to = archive.copy_to

    def __iter__(self) -> Iterator[Entry]:
        return (entry for original in self._archive if (entry := self._edit(original)) is not None)


def _unpack(file: BinaryIO, root_fd: int, edit: Callable[[Entry], Entry | None], what: str) -> None:
    with closing(_plain(file, what)) as stream:
        try:
            unpack_tree(_Edited(TarReader(stream), edit), root_fd)
        except FormatError as error:
            if stream.source_error is not None:
                raise stream.source_error from None
            if error.what == what:
                raise
            raise FormatError(f"{what}: {error.what}", error.reason) from error


def _plain(file: BinaryIO, what: str) -> PlainStream:
    head = file.read(len(_BZIP2))
    chunks = itertools.chain((head,), iter(lambda: file.read(_CHUNK), b""))
    return PlainStream(_bunzip(chunks, what) if head == _BZIP2 else chunks, what=what, limit=MAX_BYTES)


def _bunzip(chunks: Iterable[bytes], what: str) -> Iterator[bytes]:
    """No layer is compressed by bzip2, so `PlainStream` does not know it; but Docker's ADD does."""
    import bz2

    member, started = bz2.BZ2Decompressor(), False
    for data in chunks:
        while data or (started and not member.needs_input):
            try:
                plain = member.decompress(data, _CHUNK)
            except OSError as error:
                raise FormatError(what, f"damaged bzip2 data: {error}") from None
            yield plain
            data, started = b"", True
            if member.eof:  # members may follow one another
                data = member.unused_data
                member, started = bz2.BZ2Decompressor(), False
    if started:
        raise FormatError(what, "damaged bzip2 data: it ends in the middle")
