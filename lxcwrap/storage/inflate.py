"""From stored bytes to plain tar and back: compression found by magic, both digests in the same pass.

    source -> read, hash, inflate (thread 1) -> hash (thread 2) -> the caller

All of that releases the GIL, so two processors are kept busy while the caller parses. Memory is bounded by
the queues between the stages and by inflating at most one chunk at a time, however much a few hostile bytes
expand to.
"""

from __future__ import annotations

import hashlib
import lzma
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO, Protocol, cast

from ..errors import FormatError

Source = Path | BinaryIO | Iterable[bytes]
Chunks = Generator[bytes, None, None]

CHUNK = 1 << 20
_READ = 1 << 18
_QUEUED = 4
# Small files take longer to make than to inflate, large ones the other way round: this evens them out.
_PLAIN_QUEUED = 16
_XZ_MEMORY = 256 << 20  # `xz -9` needs 65 MiB


class Compression(StrEnum):
    """How an archive is compressed; the suffix of its OCI media type, of which xz has none."""

    NONE, GZIP, ZSTD, XZ = "", "gzip", "zstd", "xz"

    @classmethod
    def of(cls, head: bytes, what: str) -> Compression:
        """That of a content with these first bytes. Raises FormatError: it is none that we read."""
        if head[1:4] == _ZSTD_SKIPPABLE and head[0] & 0xF0 == 0x50:
            return cls.ZSTD
        for magic, compression in _MAGIC:
            if head.startswith(magic):
                return cls(compression)
        if head.startswith(b"BZh"):
            raise FormatError(what, "is compressed by bzip2: use gzip, zstd or xz")
        return cls.NONE


_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\0", "xz"))
_MAGIC_SIZE = 6
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # a frame that holds no content may come first (RFC 8878, 3.1.2)


class PlainStream:
    """Iterator over the plain bytes of `source`, which may be compressed. Close it, or use it in `closing`.

    limit: most plain bytes accepted; more raises FormatError, as does any damage. A file or iterator given as
    source is read in another thread until `close` returns, and stays open. `compression` is known at once,
    `digest` and `diff_id` when the end was reached. digested: whether `digest` will be asked for.
    tee: set it before iterating to be given the stored bytes too, in that other thread.
    """

    def __init__(self, source: Source, *, what: str, limit: int, digested: bool = True) -> None:
        self._what = what
        self._limit = limit
        self._digested = digested
        self._blob_hash = hashlib.sha256()
        self._plain_hash = hashlib.sha256()
        self.bytes_read = 0
        self.source_error: OSError | None = None
        self.tee: Callable[[bytes], object] | None = None
        self._source = _read(source)
        self._head = b""
        while len(self._head) < _MAGIC_SIZE and (chunk := next(self._source, b"")):
            self._head += chunk
        self.compression = Compression.of(self._head, what)
        self._chunks = ahead(self._counted(ahead(self._inflated(), 2)), _PLAIN_QUEUED)

    @property
    def digest(self) -> str:
        """Digest of the source as it is."""
        # Plain content is its own blob, and is hashed only once.
        plain = self.compression is Compression.NONE
        return "sha256:" + (self._plain_hash if plain else self._blob_hash).hexdigest()

    @property
    def diff_id(self) -> str:
        """Digest of the plain content."""
        return "sha256:" + self._plain_hash.hexdigest()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Stop reading and end the threads."""
        self._chunks.close()
        self._source.close()

    def _counted(self, chunks: Chunks) -> Chunks:
        size = 0
        with closing(
            chunks
        ):  # not left to the garbage collector: an error keeps this frame, and a thread would wait
            for chunk in chunks:
                size += len(chunk)
                if size > self._limit:
                    raise FormatError(self._what, f"expands to more than the {self._limit} bytes allowed")
                self._plain_hash.update(chunk)
                yield chunk

    def _stored(self) -> Chunks:
        try:
            with closing(self._source):
                for chunk in _chain(self._head, self._source):
                    if self._digested and self.compression is not Compression.NONE:
                        self._blob_hash.update(chunk)
                    self.bytes_read += len(chunk)
                    if self.tee:
                        self.tee(chunk)
                    yield chunk
        except OSError as error:
            self.source_error = error
            raise

    def _inflated(self) -> Chunks:
        chunks = self._stored()
        try:
            if self.compression is Compression.NONE:
                yield from chunks
            elif self.compression is Compression.ZSTD:
                yield from _zstd(chunks)
            else:
                yield from _members(
                    chunks, _gzip_member if self.compression is Compression.GZIP else _xz_member
                )
        except _inflate_errors() as error:
            raise FormatError(self._what, f"damaged {self.compression} data: {error}") from error


class _Member(Protocol):
    """What bz2, lzma and igzip_lib agree on."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


def _gzip_member() -> _Member:
    from isal import igzip_lib

    member: _Member = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return member


def _xz_member() -> _Member:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _members(chunks: Iterator[bytes], begin: Callable[[], _Member]) -> Chunks:
    """Inflate members that follow one another, as gzip and xz files may hold."""
    member = begin()
    started = False
    for data in chunks:
        while data or (started and not member.needs_input):
            plain = member.decompress(data, CHUNK)
            data, started = b"", True
            if plain:
                yield plain
            if member.eof:
                data = member.unused_data
                member, started = begin(), False
    if started:
        raise EOFError("it ends in the middle")


def _zstd(chunks: Iterator[bytes]) -> Chunks:
    # 128 MiB of window are zstandard's own limit. A frame cut short is not reported by zstandard; the tar
    # reader and the digests find out.
    import zstandard

    reader = zstandard.ZstdDecompressor().stream_reader(
        cast(BinaryIO, _ChunkFile(chunks)), read_across_frames=True
    )
    while plain := reader.read(CHUNK):
        yield plain


class _ChunkFile:
    """Just enough of a file for zstandard, which takes pieces of any size."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self, size: int = -1) -> bytes:
        return next(self._chunks, b"")


def gzip_tee(chunks: Iterable[bytes], write: Callable[[bytes], object]) -> Iterator[bytes]:
    """`chunks` as they are, while `write` is given them compressed, the same content always alike."""
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=2, wbits=31)
    for chunk in chunks:
        write(compressor.compress(chunk))
        yield chunk
    write(compressor.flush())


def _inflate_errors() -> tuple[type[Exception], ...]:
    from isal import igzip_lib
    from zstandard import ZstdError

    return (cast(type[Exception], igzip_lib.error), ZstdError, lzma.LZMAError, EOFError)


def _read(source: Source) -> Chunks:
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as file:
            yield from _read_file(file)
    elif hasattr(source, "read"):
        yield from _read_file(cast(BinaryIO, source))
    else:
        yield from (chunk for chunk in source if chunk)


def _read_file(file: BinaryIO) -> Chunks:
    while chunk := file.read(_READ):
        yield chunk


def _chain(head: bytes, chunks: Iterator[bytes]) -> Chunks:
    if head:
        yield head
    yield from chunks


class _End:
    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(chunks: Chunks, most: int = _QUEUED) -> Chunks:
    """`chunks`, a generator, run in a thread of its own, `most` chunks ahead. Its error is raised here."""
    ready: SimpleQueue[bytes | _End] = SimpleQueue()
    free: SimpleQueue[None] = SimpleQueue()  # as a semaphore, which Python has not in C
    for _ in range(most):
        free.put(None)
    abandoned = False

    def produce() -> None:
        failure: BaseException | None = None
        try:
            with closing(chunks):  # ends the stages before this one, too
                for chunk in chunks:
                    ready.put(chunk)
                    free.get()
                    if abandoned:
                        return
        except BaseException as error:
            failure = error
        ready.put(_End(failure))

    thread = threading.Thread(target=produce, name="lxcwrap-unpack", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
            free.put(None)
        if item.error is not None:
            raise item.error
    finally:
        abandoned = True
        free.put(None)
        thread.join()
