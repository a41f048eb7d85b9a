"""Reading what `logs` wrote: whole lines, from the beginning, the tail or a time on, and as they come.

Lines are in the order in which they were finished, and `LogLine.time` is when the end of the line was read
from the container (as Docker has it), so times ascend as long as the machine's clock does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Literal, NamedTuple

from ..errors import FormatError, InvalidSpecError, TimeoutExpired
from ..results import LogLine
from ..specs import StrPath
from ..waiting import Flow, Wait, flows
from .logs import (
    BLOCK_SIZE,
    CONTINUES,
    STDERR,
    STDOUT,
    FormatVersionError,
    Frame,
    file_name,
    file_numbers,
    last_block,
    open_file,
    read_block,
)

StreamName = Literal["stdout", "stderr"]
_STREAMS: dict[int, StreamName] = {STDOUT: "stdout", STDERR: "stderr"}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A longer line is given in pieces of about this size: a container must not fill its reader's memory.
MAX_LINE = 1 << 20
# A follower looks this often while lines come, and ever more seldom, down to the second, while none do.
# That takes 0.3 % of a processor, half of it for sleeping itself, and works on every file system.
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.005, 0.015


@flows
def read_lines(
    directory: StrPath,
    *,
    tail: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    stream: StreamName | None = None,
    follow: bool = False,
    is_finished: Callable[[], bool] = lambda: True,
    timeout_s: float | None = None,
) -> Flow[LogLine]:
    """Lines of the log in `directory`, oldest first; none if there is no log.

    tail: only the last so many of the lines asked for; read from the end of the log.
    since, until: only lines of these times and between; without a time zone they are local time.
    stream: only that one.
    follow: then wait for more, until the time is after `until` or `is_finished()` says that nothing will be
    written any more. It is called up to 200 times a second, 70 while no lines come.
    timeout_s: how long to follow.

    A last line without newline is given when the log is at its end; with `follow`, when the container has
    finished. A line of more than `MAX_LINE` bytes is given in pieces.

    Raises:
        InvalidSpecError: `tail` or `stream` cannot be right.
        FormatError: a file was written by another version of lxcwrap, or is none of its.
        TimeoutExpired: `timeout_s` is over; all lines written by then have been given.
    """
    query = _checked(tail, since, until, stream)
    return _read(directory, tail, query, is_finished if follow else None, timeout_s)


def read_text(
    directory: StrPath,
    *,
    tail: int | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    stream: StreamName | None = None,
) -> str:
    """The log as one text, both streams merged line by line; the arguments are those of `read_lines`.

    If one stream alone was written to, this is exactly what was written.
    """
    query = _checked(tail, since, until, stream)
    with closing(_Log(directory)) as log:
        found, assembler = _so_far(log, query, tail)
        lines = list(found)
    text = "\n".join(line.text for line in lines)
    return text if not lines or assembler.unfinished() else text + "\n"


class _Query(NamedTuple):
    since: datetime | None
    until: datetime | None
    stream: StreamName | None


def _checked(
    tail: int | None, since: datetime | None, until: datetime | None, stream: StreamName | None
) -> _Query:
    if tail is not None and tail < 0:
        raise InvalidSpecError(f"tail={tail}: must not be negative")
    if stream not in (None, *_STREAMS.values()):
        raise InvalidSpecError(f"stream {stream!r}: use 'stdout', 'stderr' or None for both")
    return _Query(since and since.astimezone(UTC), until and until.astimezone(UTC), stream)


def _read(
    directory: StrPath,
    tail: int | None,
    query: _Query,
    is_finished: Callable[[], bool] | None,
    timeout_s: float | None,
) -> Flow[LogLine]:
    with closing(_Log(directory)) as log:
        found, assembler = _so_far(log, query, tail, with_unfinished=is_finished is None)
        yield from found
        if is_finished is not None:
            yield from _follow(log, assembler, query.until, is_finished, timeout_s)


def _so_far(
    log: _Log, query: _Query, tail: int | None, *, with_unfinished: bool = True
) -> tuple[Iterable[LogLine], _Assembler]:
    """The lines up to the present end, and what knows the unfinished ones after it."""
    end = log.end()
    if tail is not None:
        return _tail(log, query, tail, end, with_unfinished)
    assembler = _Assembler(query)

    def lines() -> Iterator[LogLine]:
        for frames in log.read(end):
            yield from assembler.feed(frames)
        if with_unfinished:
            yield from assembler.unfinished()

    return lines(), assembler


def _tail(
    log: _Log, query: _Query, count: int, end: tuple[int, int], with_unfinished: bool
) -> tuple[list[LogLine], _Assembler]:
    """Enter the log ever farther from its end, until the last `count` lines are certainly whole."""
    blocks = 1
    while True:
        is_all = not log.go_back(blocks, end)
        assembler = _Assembler(query)
        lines = [line for frames in log.read(end) for line in assembler.feed(frames)]
        unfinished = assembler.unfinished()
        known = len(lines) + (len(unfinished) if with_unfinished else 0)
        lines += unfinished
        # The first line of each stream may have begun before the place where we entered.
        streams = [line.stream for line in lines]
        doubtful = max(streams.index(name) if name in streams else -1 for name in _STREAMS.values())
        if is_all or (known >= count and doubtful < known - count):
            return lines[max(0, known - count) : known], assembler
        blocks *= 4


def _follow(
    log: _Log,
    assembler: _Assembler,
    until: datetime | None,
    is_finished: Callable[[], bool],
    timeout_s: float | None,
) -> Flow[LogLine]:
    deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    pause = _SHORTEST_PAUSE_S
    while True:
        # Asked before reading: what was written until then is read now.
        ends = is_finished() or (until is not None and datetime.now(UTC) > until)
        for frames in log.read(log.end()):
            pause = _SHORTEST_PAUSE_S
            yield from assembler.feed(frames)
        if ends:
            yield from assembler.unfinished()
            return
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutExpired("following the log", timeout_s or 0.0)
        yield Wait(None, min(pause, remaining))
        pause = min(pause * 1.5, _LONGEST_PAUSE_S)


class _Partial:
    """A line whose end has not come yet."""

    __slots__ = ("is_headless", "pieces", "size", "time_ns")

    def __init__(self) -> None:
        self.is_headless = False  # its beginning is in a file that was deleted: it is not told
        self.pieces: list[bytes] = []
        self.size = 0
        self.time_ns = 0


class _Assembler:
    """Makes lines of frames: a line may span frames, with frames of the other stream in between."""

    def __init__(self, query: _Query) -> None:
        self._since, self._until = query.since, query.until
        self._partials = {s: _Partial() for s, name in _STREAMS.items() if query.stream in (None, name)}

    def feed(self, frames: Iterable[Frame]) -> list[LogLine]:
        """The lines that end in `frames`."""
        lines: list[LogLine] = []
        for time_ns, stream, data in frames:
            partial = self._partials.get(stream)
            if partial is None:
                partial = self._continued(stream)
                if partial is None:
                    continue
                stream &= ~CONTINUES
            if partial.is_headless:
                _head, newline, data = data.partition(b"\n")
                partial.is_headless = not newline
                if not data:
                    continue
            whole, newline, rest = data.rpartition(b"\n")
            if newline:
                if partial.pieces:
                    whole = b"".join((*partial.pieces, whole))
                    partial = self._partials[stream] = _Partial()
                lines += self._lines(time_ns, stream, whole)
            if rest:
                partial.pieces.append(rest)
                partial.size += len(rest)
                partial.time_ns = time_ns
                if partial.size >= MAX_LINE:
                    lines += self._lines(time_ns, stream, b"".join(partial.pieces))
                    self._partials[stream] = _Partial()
        return lines

    def _continued(self, stream: int) -> _Partial | None:
        partial = self._partials.get(stream & ~CONTINUES) if stream & CONTINUES else None
        if partial is not None and not partial.pieces:
            partial.is_headless = True
        return partial

    def unfinished(self) -> list[LogLine]:
        """What has come of lines without an end."""
        rests = [(each.time_ns, stream, b"".join(each.pieces)) for stream, each in self._partials.items()]
        return [
            line
            for time_ns, stream, data in sorted(rests)
            if data
            for line in self._lines(time_ns, stream, data)
        ]

    def _lines(self, time_ns: int, stream: int, data: bytes) -> Iterable[LogLine]:
        when = _EPOCH + timedelta(microseconds=time_ns // 1000)
        if (self._since and when < self._since) or (self._until and when > self._until):
            return ()
        text, name = data.decode(errors="replace"), _STREAMS[stream]
        if "\n" not in text:
            return (LogLine(when, name, text),)
        return map(LogLine._make, zip(repeat(when), repeat(name), text.split("\n"), strict=False))


class _Log:
    """A place in a log: file number and offset. Files that are deleted meanwhile are passed over."""

    def __init__(self, directory: StrPath) -> None:
        self._directory = directory
        self._number, self._offset = 0, 0
        self._fd = -1

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def end(self) -> tuple[int, int]:
        """The place where the log ends now."""
        while numbers := file_numbers(self._directory):
            size = self._size(numbers[-1])
            if size is not None:
                return numbers[-1], size
        if self._fd >= 0:  # all were deleted; what we have open can be read to its end
            return self._number, os.fstat(self._fd).st_size
        return 0, 0

    def read(self, end: tuple[int, int]) -> Iterator[list[Frame]]:
        """Frames from here to `end`, block by block."""
        while (self._number, self._offset) < end:
            frames, offset = read_block(self._fd, self._offset) if self._fd >= 0 else ([], self._offset)
            if offset > self._offset:
                self._offset = offset
                yield frames
            # A file with a successor is not written to any more, and `end` was seen before we read: go on.
            elif self._number == end[0] or not self._open_next():
                return

    def go_back(self, blocks: int, end: tuple[int, int]) -> bool:
        """Go `blocks` blocks back from `end`. False: there are not as many, this is the beginning."""
        for number in reversed(file_numbers(self._directory)):
            size = end[1] if number == end[0] else self._size(number)
            if number > end[0] or size is None:
                continue
            start = last_block(size) - (blocks - 1) * BLOCK_SIZE
            if start >= 0:
                self._number = number - 1
                if self._open_next():
                    self._offset = start if self._number == number else 0
                    return True
            blocks -= last_block(size) // BLOCK_SIZE + 1
        self.close()
        self._number = self._offset = 0
        return False

    def _size(self, number: int) -> int | None:
        try:
            return os.stat(os.path.join(self._directory, file_name(number))).st_size
        except FileNotFoundError:
            return None

    def _open_next(self) -> bool:
        """Open the file after this one."""
        for number in file_numbers(self._directory):
            if number > self._number:
                try:
                    fd = open_file(self._directory, number)
                except FileNotFoundError:
                    continue
                except FormatVersionError as error:
                    raise FormatError(str(error), "not a log of this version of lxcwrap") from None
                self.close()
                self._fd, self._number, self._offset = fd, number, 0
                return True
        return False
