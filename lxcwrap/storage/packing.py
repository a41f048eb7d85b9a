"""Members of a tree into a layer blob: read, hashed, compressed and written in one pass, side by side.

    read (thread 1) -> compress (threads 2..) -> hash and write (the caller)

Compressed content is cut into blocks of one size, so that its bytes depend on nothing but the content: not on
how many processors there are. gzip's blocks are parts of one deflate stream (RFC 1951: a byte-aligned empty
block ends each), so that every reader sees an ordinary gzip file; zstd's are frames (RFC 8878, 3).
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Final

from ..errors import InvalidSpecError
from ..oci import OCI_LAYER
from .blobs import BlobStore
from .inflate import Compression, ahead
from .layers import IngestedLayer
from .layerwriter import Member, tar_chunks

_BLOCK: Final = 1 << 20
_GZIP_LEVEL: Final = 2
_ZSTD_LEVEL: Final = 3
_GZIP_HEADER: Final = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time, of no particular system (RFC 1952)
_LAST_BLOCK: Final = b"\x03\0"


def parse_compression(name: str) -> Compression:
    """``none``, ``gzip`` or ``zstd``. Raises InvalidSpecError."""
    if name not in ("none", "gzip", "zstd"):
        raise InvalidSpecError(f"compression {name!r}: choose 'gzip', 'zstd' or 'none'")
    return Compression("" if name == "none" else name)


def pack_layer(
    blobs: BlobStore,
    members: Iterable[Member],
    *,
    compression: Compression = Compression.GZIP,
    what: str = "layer",
) -> IngestedLayer:
    """
    Store `members`, as `read_tree` gives them, as a layer blob. They are read in another thread.

    compression: none, gzip or zstd. The same members always give the same bytes. What reading them raises is
    raised here; nothing is kept then.
    """
    plain = hashlib.sha256()
    with closing(ahead(tar_chunks(members))) as chunks, blobs.writer(what=what) as blob:
        if compression is Compression.NONE:
            for chunk in chunks:
                blob.write(chunk)
            digest = diff_id = blob.commit()
        else:
            for chunk in compressed(_hashed(chunks, plain.update), compression):
                blob.write(chunk)
            digest, diff_id = blob.commit(), "sha256:" + plain.hexdigest()
    media_type = f"{OCI_LAYER}+{compression}" if compression else OCI_LAYER
    return IngestedLayer(digest, blob.size, diff_id, media_type)


def compressed(chunks: Iterable[bytes], compression: Compression) -> Iterator[bytes]:
    """`chunks`, compressed; the same content always gives the same bytes. compression: none, gzip or zstd."""
    if compression is Compression.GZIP:
        return _gzipped(chunks)
    if compression is Compression.ZSTD:
        return _side_by_side(_zstd_frame, _blocks(chunks))
    return iter(chunks)


def _hashed(chunks: Iterable[bytes], update: Callable[[bytes], object]) -> Iterator[bytes]:
    for chunk in chunks:
        update(chunk)
        yield chunk


def _gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    from isal.isal_zlib import crc32

    checksum = size = 0

    def counted() -> Iterator[bytes]:
        nonlocal checksum, size
        for block in _blocks(chunks):
            checksum, size = crc32(block, checksum), size + len(block)
            yield block

    yield _GZIP_HEADER
    yield from _side_by_side(_deflated, counted())
    yield _LAST_BLOCK + checksum.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little")


def _deflated(block: bytes) -> bytes:
    from isal import isal_zlib

    compressor = isal_zlib.compressobj(level=_GZIP_LEVEL, wbits=-15)
    return bytes(compressor.compress(block) + compressor.flush(isal_zlib.Z_SYNC_FLUSH))


def _zstd_frame(block: bytes) -> bytes:
    from zstandard import ZstdCompressor

    return ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compress(block)


def _side_by_side(work: Callable[[bytes], bytes], blocks: Iterable[bytes]) -> Iterator[bytes]:
    """`work` done on each of `blocks`, in their order, by as many threads as there are processors."""
    from concurrent.futures import Future, ThreadPoolExecutor

    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads, thread_name_prefix="lxcwrap-pack") as pool:
        under_way: deque[Future[bytes]] = deque()
        for block in blocks:
            under_way.append(pool.submit(work, block))
            if len(under_way) > 2 * threads:
                yield under_way.popleft().result()
        for future in under_way:
            yield future.result()


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same content in pieces of `_BLOCK` bytes, but for the last, which may be empty."""
    parts: list[bytes] = []
    room = _BLOCK
    for chunk in chunks:
        while len(chunk) >= room:
            yield b"".join((*parts, chunk[:room]))
            chunk, parts, room = chunk[room:], [], _BLOCK
        if chunk:
            parts.append(chunk)
            room -= len(chunk)
    yield b"".join(parts)
