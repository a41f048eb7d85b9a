"""A command in the foreground: its streams are ours, and who interrupts us ends it."""

from __future__ import annotations

import os
import select
import selectors
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType, TracebackType
from typing import IO, TYPE_CHECKING

from ..errors import LxcwrapError

if TYPE_CHECKING:
    from .. import Popen

_CHUNK = 1 << 16
_MOST_AFTER_END = 1 << 22  # of output that others go on writing
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """In its block the first of Ctrl-C, SIGTERM and SIGHUP asks the command to end, the second kills it."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._count = 0
        self._actions: list[Callable[[int], None]] = []

    def aim(self, ask: Callable[[int], None], kill: Callable[[int], None]) -> None:
        """There is a command now: what has come meanwhile is for it."""
        self._actions = [ask, kill]
        if self.first is not None:
            self._act(ask)

    def exit_code(self, code: int) -> int:
        """Ours: that of the command, unless we were interrupted."""
        return code if self.first is None else 128 + self.first

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.first = self.first or number
        self._count += 1
        if self._actions:
            self._act(self._actions[min(self._count, 2) - 1])
        elif self._count > 1:
            raise KeyboardInterrupt  # there is nothing yet, and no patience

    def _act(self, action: Callable[[int], None]) -> None:
        """In a thread: to ask may take as long as the command takes to end, and we show what it says."""

        def act() -> None:
            with suppress(LxcwrapError):  # it has ended
                action(self.first or signal.SIGTERM)

        threading.Thread(target=act, daemon=True).start()

    def __enter__(self) -> Interrupts:
        self._before = [signal.signal(number, self._on_signal) for number in _SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in zip(_SIGNALS, self._before, strict=True):
            signal.signal(number, handler)


def attend(process: Popen) -> int:
    """Hand on what it writes to our stdout and stderr, and our stdin to it, until its end; its exit code.

    Who reads our stdout no more is read for no more: the command's writing fails as in any pipeline.
    """
    with selectors.PollSelector() as selector:  # epoll refuses files
        _Relay(process, selector).run()
    return process.wait()


class _Relay:
    def __init__(self, process: Popen, selector: selectors.BaseSelector) -> None:
        self._process = process
        self._selector = selector
        self._end = process.fileno()
        self._targets: dict[IO[bytes], int] = {}
        self._pending = b""  # for its stdin
        outputs = ((process.stdout, _STDOUT), (process.stderr, _STDERR), (process.tty, _STDOUT))
        for file, target in outputs:
            if file is not None:
                self._targets[file] = target
                selector.register(file, selectors.EVENT_READ, file)
        if self._end >= 0:
            selector.register(self._end, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(_STDIN, selectors.EVENT_READ)

    def run(self) -> None:
        after_end = 0
        while after_end < _MOST_AFTER_END:
            has_ended = self._process.fileno() < 0
            events = self._selector.select(0 if has_ended else None)
            if has_ended and not any(key.data in self._targets for key, _ in events):
                return
            for key, _ in events:
                if key.data in self._targets:
                    count = self._show(key.data)
                    after_end += count if has_ended else 0
                elif key.fd == self._end:
                    if self._process.poll() is not None:
                        self._selector.unregister(self._end)
                elif key.fd == _STDIN:
                    self._read_keyboard()
                else:
                    self._feed()

    def _show(self, file: IO[bytes]) -> int:
        """How many bytes there were."""
        try:
            data = os.read(file.fileno(), _CHUNK)
        except OSError:  # EIO: nobody has its terminal open any more
            data = b""
        try:
            _write_all(self._targets[file], data)
        except BrokenPipeError:
            data = b""
        if not data:
            self._selector.unregister(file)
            del self._targets[file]
            file.close()
        return len(data)

    def _read_keyboard(self) -> None:
        self._selector.unregister(_STDIN)  # until all of it is written
        self._pending = os.read(_STDIN, _CHUNK)
        assert self._process.stdin is not None
        if self._pending:
            self._selector.register(self._process.stdin, selectors.EVENT_WRITE)
        else:
            self._process.stdin.close()

    def _feed(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        try:
            with suppress(BlockingIOError):
                self._pending = self._pending[os.write(stdin.fileno(), self._pending) :]
        except BrokenPipeError:  # it wants no more
            self._selector.unregister(stdin)
            return stdin.close()
        if not self._pending:
            self._selector.unregister(stdin)
            self._selector.register(_STDIN, selectors.EVENT_READ)


def _write_all(target: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except BlockingIOError:  # somebody has left our terminal so
            poll = select.poll()
            poll.register(target, select.POLLOUT)
            poll.poll()
