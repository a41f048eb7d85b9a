"""What a container wrote, on disk: the format and its writer. Standard library only: the monitor imports it.

logs/00000001 00000002 ...   The highest number is written to, the lowest are deleted. None is ever renamed:
                             a reader that has finished with one goes on with the next higher number.

file:   "lxcwlog" | version: u8 | blocks
block:  64 KiB, counted from the start of the file: frame | frame | ... | fewer than 12 bytes unused
frame:  time: u64, ns since 1970 | length: u16 | stream: u8, 1 stdout, 2 stderr | length bytes
        To the stream 128 is added where it goes on with a line that began in an older file.
        All little-endian. A frame holds what one read gave, not a line; none crosses into the next block.

As every block begins with a frame, a reader enters at any block: the tail of a log costs a block or two, and
no bytes a container writes can pass for a frame. A torn end (the writer was killed) is a frame longer than
the file: readers pass over it, and the next writer cuts it off. A damaged frame costs the rest of its block.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import time

STDOUT, STDERR, CONTINUES = 1, 2, 128
MAGIC = b"lxcwlog\x01"
BLOCK_SIZE = 1 << 16
_HEADER = struct.Struct("<QHB")
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW
_PIPE_SIZE = 1 << 20
_NEWLINE = ord("\n")
# After a read of less, a container that waits for the processor goes first: it writes more, and we are woken
# less often. Of 100,000 single lines on two busy processors: 160 reads instead of 7,000, and half the time.
_FEW = 4096


TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Frame(NamedTuple):
        time_ns: int
        stream: int
        data: bytes

else:  # typing is too heavy for the monitor (supervisor/handover.py)
    from collections import namedtuple

    Frame = namedtuple("Frame", ("time_ns", "stream", "data"))


class FormatVersionError(Exception):
    """A log file of another version than ours, or none of ours at all."""


def open_pipe() -> tuple[int, int]:
    """A pipe for one output stream: (non-blocking end for `LogWriter.pump`, the container's end).

    It holds 1 MiB, so that the container rarely waits for us. Memory is taken only while it is filled.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.fchmod(writer, 0o666)  # whoever the main process is may open /dev/stdout, as many programs do
    os.set_blocking(reader, False)
    # Refused to users without privileges who have many pipes already: a smaller one works too, only slower.
    with contextlib.suppress(PermissionError):
        fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
    return reader, writer


def file_name(number: int) -> str:
    return f"{number:08d}"


def file_numbers(directory: str | os.PathLike[str]) -> list[int]:
    """Numbers of the log files there, oldest first."""
    try:
        return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())
    except FileNotFoundError:
        return []


def open_file(directory: str | os.PathLike[str], number: int, flags: int = os.O_RDONLY) -> int:
    """Descriptor of a log file. One still without its magic is new and holds nothing yet.

    Raises:
        FormatVersionError: it was written by another version of lxcwrap.
    """
    fd = os.open(os.path.join(directory, file_name(number)), flags | _OPEN)
    if not MAGIC.startswith(os.pread(fd, len(MAGIC), 0)):
        os.close(fd)
        raise FormatVersionError(os.path.join(directory, file_name(number)))
    return fd


def read_block(fd: int, offset: int) -> tuple[list[Frame], int]:
    """Complete frames from `offset`, a frame's start, to the end of its block; and where to go on.

    The same offset comes back when nothing complete is there (yet).
    """
    offset = max(offset, len(MAGIC))
    room = BLOCK_SIZE - offset % BLOCK_SIZE
    data = os.pread(fd, room, offset)
    frames: list[Frame] = []
    position, end, header_size, unpack = 0, len(data), _HEADER.size, _HEADER.unpack_from
    while position + header_size < end:
        time_ns, length, stream = unpack(data, position)
        start, after = position + header_size, position + header_size + length
        if after > end or not length or stream & ~CONTINUES not in (STDOUT, STDERR):
            break
        frames.append(Frame(time_ns, stream, data[start:after]))
        position = after
    is_full = room - position <= header_size
    # Beyond a full block there may be another; what is left of it is then unused, or damaged and skipped.
    if is_full or (end == room and os.fstat(fd).st_size > offset + room):
        return frames, offset + room
    return frames, offset + position


def last_block(size: int) -> int:
    """Where the last block of a file of `size` bytes begins."""
    return max(size - 1, 0) // BLOCK_SIZE * BLOCK_SIZE


class LogWriter:
    """Appends to the log in `directory`, made if need be. One writer per log; not for several threads.

    max_bytes: size a file may reach (4 KiB at least). max_files: how many are kept, the newest included.
    A full disk never stops the container: what cannot be stored is dropped, and its amount noted in the log
    when there is room again.
    """

    def __init__(self, directory: str | os.PathLike[str], *, max_bytes: int, max_files: int) -> None:
        self._directory = os.fspath(directory)
        self._max_bytes = max(max_bytes, 4096)
        self._max_files = max(max_files, 1)
        self._lost = 0
        self._unfinished: set[int] = set()  # within a line
        self._continuing: set[int] = set()  # within one that an older file begins
        self._buffer = memoryview(mmap.mmap(-1, BLOCK_SIZE))  # for all reads; no page before the first
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self._number = max(file_numbers(directory), default=0)
        try:
            self._fd = open_file(directory, self._number, os.O_RDWR)
        except (FileNotFoundError, FormatVersionError):
            self._number, self._fd = self._number + 1, self._create(self._number + 1)
        self._end = self._cut_torn_end()
        self._delete_old()

    def pump(self, fd: int, stream: int) -> bool:
        """Store what one read of `fd` gives, 64 KiB at most; waits only if `fd` does. False at its end."""
        try:
            size = os.readv(fd, (self._buffer[: self._room()],))
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last process on a terminal has gone
            return False
        self.add(stream, self._buffer[:size])
        if size < _FEW:
            os.sched_yield()
        return size > 0

    def add(self, stream: int, data: bytes | memoryview) -> None:
        """Store `data` as written to `stream` now."""
        if self._lost:
            self._note_loss()
        while data:
            room = self._room()
            if not self._write(stream, data[:room]):
                self._lost += len(data[:room])
            data = data[room:]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _create(self, number: int) -> int:
        path = os.path.join(self._directory, file_name(number))
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
        try:
            os.pwrite(fd, MAGIC, 0)
        except OSError:  # readers must not take it for the one being written
            os.close(fd)
            os.unlink(path)
            raise
        return fd

    def _cut_torn_end(self) -> int:
        size = os.fstat(self._fd).st_size
        _frames, end = read_block(self._fd, last_block(size))
        if size < len(MAGIC):
            os.pwrite(self._fd, MAGIC, 0)
        elif end < size:
            os.ftruncate(self._fd, end)
        return end

    def _room(self) -> int:
        """How much the next frame may hold, after a change of file or block if there is no room here."""
        if self._max_bytes - self._end <= _HEADER.size:
            self._rotate()
        if BLOCK_SIZE - self._end % BLOCK_SIZE <= _HEADER.size:
            self._end += BLOCK_SIZE - self._end % BLOCK_SIZE
        room = BLOCK_SIZE - self._end % BLOCK_SIZE
        if self._max_bytes - self._end > _HEADER.size:
            room = min(room, self._max_bytes - self._end)
        return room - _HEADER.size

    def _rotate(self) -> None:
        try:
            fd = self._create(self._number + 1)
        except OSError:
            return  # the disk is full: the old file has to do until it is not
        os.close(self._fd)
        self._fd, self._number, self._end = fd, self._number + 1, len(MAGIC)
        self._continuing = set(self._unfinished)
        self._delete_old()

    def _delete_old(self) -> None:
        for number in file_numbers(self._directory)[: -self._max_files]:
            with contextlib.suppress(OSError):  # the next change of file tries again
                os.unlink(os.path.join(self._directory, file_name(number)))

    def _note_loss(self) -> None:
        note = b"\n[lxcwrap: %d bytes of output could not be stored]\n" % self._lost
        if self._room() >= len(note) and self._write(STDERR, note):
            self._lost = 0

    def _write(self, stream: int, data: bytes | memoryview) -> bool:
        mark = CONTINUES if stream in self._continuing else 0
        header = _HEADER.pack(time.time_ns(), len(data), stream | mark)
        try:
            written = os.pwritev(self._fd, (header, data), self._end)
        except OSError:
            written = -1
        if written == len(header) + len(data):
            self._end += written
            self._continuing.discard(stream)
            self._unfinished.discard(stream) if data[-1] == _NEWLINE else self._unfinished.add(stream)
            return True
        with contextlib.suppress(OSError):  # readers and the next writer pass over a torn end
            os.ftruncate(self._fd, self._end)
        return False
