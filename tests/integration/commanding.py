"""The command line as a program of its own, as users start it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

COMMAND = (sys.executable, "-m", "lxcwrap")
TIMEOUT_S = 60


def cli(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end; without `stdin` it has none."""
    return subprocess.run(
        [*COMMAND, *words],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Run it meanwhile, to be looked at and interrupted."""
    with subprocess.Popen(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def on_terminal(*words: str) -> Iterator[tuple[int, int]]:
    """Run it on a terminal of 30 rows and 90 columns; its pid, and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
        os.execv(sys.executable, [*COMMAND, *words])
    try:
        yield pid, terminal
    finally:
        os.close(terminal)
        with suppress(ChildProcessError, ProcessLookupError):  # it has been waited for
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
