"""A command's terminal joined to the one that this process has: keys in, output out, window size and all."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import termios
import tty
from typing import IO, Protocol

from .drivers.polling import readable
from .errors import ExecError


class OnTerminal(Protocol):
    """A command that has a terminal of its own: a `Popen`."""

    @property
    def tty(self) -> IO[bytes] | None: ...
    def fileno(self) -> int: ...
    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def resize(self, rows: int, columns: int) -> None: ...


def interact(command: OnTerminal) -> int:
    """Until its end; its exit code. Raises ExecError when stdin is no terminal."""
    keyboard, screen = sys.stdin.fileno(), sys.stdout.fileno()
    if not os.isatty(keyboard):
        raise ExecError("stdin is no terminal: use exec(), popen() or run() without one")
    before = termios.tcgetattr(keyboard)
    try:
        # Keys go to the terminal inside, which makes a signal of Ctrl-C; also those typed ahead.
        tty.setraw(keyboard, termios.TCSADRAIN)
        _relay(command, keyboard, screen)
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
    return command.wait()


def _relay(command: OnTerminal, keyboard: int, screen: int) -> None:
    assert command.tty is not None
    master = command.tty.fileno()
    resized, on_resize = socket.socketpair()

    def tell(_number: int, _frame: object) -> None:
        on_resize.send(b"w")

    previous = signal.signal(signal.SIGWINCH, tell)
    tell(0, None)
    try:
        with selectors.DefaultSelector() as selector, resized, on_resize:
            for fd in (keyboard, master, resized.fileno(), command.fileno()):
                selector.register(fd, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fd == resized.fileno():
                        resized.recv(64)
                        size = os.get_terminal_size(keyboard)
                        command.resize(size.lines, size.columns)
                    elif key.fd == keyboard:
                        if not _pass(keyboard, master):
                            selector.unregister(keyboard)
                    elif key.fd == master:
                        if not _pass(master, screen):
                            return
                    elif command.poll() is not None:
                        return _drain(master, screen)
    finally:
        signal.signal(signal.SIGWINCH, previous)


def _drain(master: int, screen: int) -> None:
    """What it had written when it ended. Others may hold its terminal open: no end to wait for."""
    while readable(master, timeout_s=0) and _pass(master, screen):
        pass


def _pass(source: int, target: int) -> bool:
    try:
        data = os.read(source, 65536)
    except OSError:  # EIO: the other side of the terminal is closed
        return False
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return bool(data)
