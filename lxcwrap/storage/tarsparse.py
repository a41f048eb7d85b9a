"""Maps of sparse files in tar archives: GNU's old format (type S) and PAX version 1.0, what `tar --sparse`
writes.

Source: the manual of GNU tar, "Storing Sparse Files". PAX versions 0.0 and 0.1, of tar 1.14 to 1.15.91, are
refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import FormatError
from .tarstream import BLOCK, MAX_EXTENSION, ByteStream, Segment, field_number

_MAX_SEGMENTS = MAX_EXTENSION // 24


def read_gnu_map(stream: ByteStream, header: bytes) -> tuple[int, list[Segment]]:
    """(size of the file, its segments): four in the header, 21 in each block that follows."""
    segments = _gnu_segments(header[386:482])
    extended = header[482]
    while extended:
        block = stream.read(BLOCK)
        segments += _gnu_segments(block[:504])
        extended = block[504]
        if len(segments) > _MAX_SEGMENTS:
            raise _bad(f"has more than {_MAX_SEGMENTS} pieces")
    return field_number(header, 483, 495), segments


def _gnu_segments(table: bytes) -> list[Segment]:
    return [
        Segment(field_number(table, at, at + 12), field_number(table, at + 12, at + 24))
        for at in range(0, len(table), 24)
        if table[at + 12]
    ]


def read_pax_map(stream: ByteStream, records: Mapping[bytes, bytes]) -> tuple[int, list[Segment], int]:
    """(size of the file, its segments, bytes of the map): decimal lines before the data, in whole blocks."""
    version = (records.get(b"GNU.sparse.major"), records.get(b"GNU.sparse.minor"))
    if version != (b"1", b"0"):
        raise _bad("is of a version other than 1.0: write it anew with a tar of this decade")
    size = _decimal(records.get(b"GNU.sparse.realsize", b""))
    text = _MapText(stream)
    segments = [Segment(text.number(), text.number()) for _ in range(text.number())]
    return size, segments, text.size


class _MapText:
    """Numbers, one a line; `size` bytes were read, in whole blocks."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._text = b""
        self.size = 0

    def number(self) -> int:
        if b"\n" not in self._text:  # no number is longer than a block
            self._text += self._stream.read(BLOCK)
            self.size += BLOCK
            if self.size > MAX_EXTENSION:
                raise _bad(f"has more than {MAX_EXTENSION} bytes")
        line, _, self._text = self._text.partition(b"\n")
        return _decimal(line)


def check(segments: Sequence[Segment], *, data: int, size: int) -> None:
    """FormatError unless the segments are in order, within the file, and hold just the `data` bytes that
    follow.
    """
    end = 0
    for segment in segments:
        if segment.offset < end or segment.length < 0:
            raise _bad("has pieces that overlap")
        end = segment.offset + segment.length
    if end > size:
        raise _bad("reaches beyond the end of the file")
    if sum(segment.length for segment in segments) != data:
        raise _bad("does not add up to the data stored")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise _bad("is damaged")
    return int(text)


def _bad(reason: str) -> FormatError:
    return FormatError("archive", f"the map of a sparse file {reason}")
