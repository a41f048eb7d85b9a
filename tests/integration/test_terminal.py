"""Terminals: commands on one of their own, and `attach` on the caller's."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Popen
from lxcwrap.errors import ExecError
from tests.polling import eventually


@pytest.fixture
def box(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        yield container


def read_until(fd: int, text: bytes, *, within_s: float = 10.0) -> bytes:
    """What comes from a terminal up to and with `text`."""
    deadline, got = time.monotonic() + within_s, b""
    while text not in got:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{text!r} did not come, but {got!r}"
        try:
            data = os.read(fd, 4096)
        except OSError:  # EIO: the other side is closed
            data = b""
        assert data, f"the terminal ended after {got!r}"
        got += data
    return got


def runs(box: Container, *argv: str) -> bool:
    return argv in {process.argv for process in box.top()}


def master(process: Popen) -> int:
    assert process.tty is not None
    return process.tty.fileno()


def test_a_command_may_have_a_terminal(box: Container) -> None:
    """All three streams are it, it has a name inside, and it is the controlling one."""
    script = (
        "test -t 0 && test -t 1 && test -t 2 && tty && echo $TERM && echo for-the-user > /dev/tty; exit 4"
    )
    with box.popen(["sh", "-c", script], tty=True) as process:
        output = read_until(master(process), b"for-the-user")
        assert output.split()[0].startswith(b"/dev/pts/") and output.split()[1] == b"xterm"
        assert process.wait(timeout_s=10) == 4


def test_keys_go_in_and_are_echoed(box: Container) -> None:
    """As on any terminal; Ctrl-D is the end of input."""
    with box.popen(["cat"], tty=True) as process:
        assert process.tty
        process.tty.write(b"hello\n")
        assert read_until(master(process), b"hello\r\nhello\r\n")
        process.tty.write(b"\x04")
        assert process.wait(timeout_s=10) == 0


def test_ctrl_c_interrupts_the_foreground_process(box: Container) -> None:
    """And the shell goes on."""
    with box.popen(["sh", "-i"], tty=True) as process:
        assert process.tty
        process.tty.write(b"sleep 1234\n")
        eventually(lambda: runs(box, "sleep", "1234"))
        process.tty.write(b"\x03")
        process.tty.write(b"echo sta''tus $?\n")
        read_until(master(process), b"status 130")
        process.tty.write(b"exit 3\n")
        assert process.wait(timeout_s=10) == 3


def test_job_control_works(box: Container) -> None:
    """Ctrl-Z stops, fg goes on: the shell is the leader of its session."""
    with box.popen(["sh", "-i"], tty=True) as process:
        assert process.tty
        process.tty.write(b"sleep 1234\n")
        eventually(lambda: runs(box, "sleep", "1234"))
        process.tty.write(b"\x1a")
        read_until(master(process), b"Stopped")
        process.tty.write(b"kill %1; exit\n")
        process.tty.write(b"exit\n")
        process.wait(timeout_s=10)


def test_a_terminal_has_a_size_and_tells_of_changes(box: Container) -> None:
    """By SIGWINCH."""
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
    with box.popen(["sh", "-c", script], tty=True) as process:
        read_until(master(process), b"ready")
        process.resize(33, 101)
        read_until(master(process), b"33 101")
        process.kill()
    with box.popen(["sleep", "1000"]) as process:
        with pytest.raises(ExecError):
            process.resize(10, 10)
        process.kill()


def test_a_closed_terminal_hangs_up(box: Container) -> None:
    """As when a window is closed."""
    process = box.popen(["sleep", "1000"], tty=True)
    pid = process.pid
    process.close()
    eventually(lambda: pid not in {each.host_pid for each in box.top()})


def test_the_main_process_may_have_a_terminal(host: Host) -> None:
    """What it writes there is the log."""
    script = "test -t 0 && test -t 1 && tty; echo to stderr >&2; exit 6"
    with host.containers.launch("busybox", sh=script, tty=True) as container:
        assert container.wait(timeout_s=10) == 6
        lines = [(line.stream, line.text.rstrip("\r")) for line in container.log_lines()]
    assert lines[0][1].startswith("/dev/") and lines[1] == ("stdout", "to stderr")


def test_a_shell_on_a_terminal_waits_for_input(host: Host) -> None:
    """Launched without a command the image's shell stays, as with ``docker run -dt``; stop ends it."""
    with host.containers.launch("busybox", tty=True) as container:
        time.sleep(0.1)
        assert container.state == "running"
        assert container.stop(timeout_s=0.5) is not None


# --- attach ---


@contextmanager
def attached(box: Container, arguments: str) -> Iterator[tuple[int, int]]:
    """A Python program whose terminal we hold; it exits with what attach gives. (its pid, the terminal)"""
    program = (
        "import sys, lxcwrap\n"
        "host = lxcwrap.Host(sys.argv[1])\n"
        f"code = host.containers[sys.argv[2]].attach({arguments})\n"
        "print('left', flush=True)\n"
        "sys.exit(code)\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", program, str(box._machinery.root.path), box.id])
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        yield pid, terminal
    finally:
        os.close(terminal)
        with suppress(ChildProcessError, ProcessLookupError):  # it has been waited for
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def exit_code(pid: int, terminal: int) -> int:
    """Of the program of `attached`, when it has left."""
    read_until(terminal, b"left")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_attach_is_a_shell_on_our_terminal(box: Container) -> None:
    """With its size, its TERM, Ctrl-C inside, and the exit code; afterwards the terminal is as it was."""
    with attached(box, "env={'GREETING': 'hi'}") as (pid, terminal):
        before = termios.tcgetattr(terminal)
        os.write(terminal, b"echo $GREETING-$(stty size | tr ' ' x)\n")
        read_until(terminal, b"hi-24x80")
        os.write(terminal, b"sleep 1234\n")
        eventually(lambda: runs(box, "sleep", "1234"))
        os.write(terminal, b"\x03")
        os.write(terminal, b"echo status-$?\n")
        read_until(terminal, b"status-130")
        os.write(terminal, b"exit 7\n")
        assert exit_code(pid, terminal) == 7
        assert termios.tcgetattr(terminal) == before


def test_attach_passes_a_new_size_on(box: Container) -> None:
    """When the window is changed."""
    with attached(
        box, "['sh', '-c', 'trap \"stty size\" WINCH; echo ready; while :; do sleep 0.01; done']"
    ) as (
        _,
        terminal,
    ):
        read_until(terminal, b"ready")
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
        read_until(terminal, b"50 132")


def test_attach_ends_with_the_container(box: Container) -> None:
    """And gives the terminal back."""
    with attached(box, "['sh', '-c', 'echo ready; sleep 1000']") as (pid, terminal):
        read_until(terminal, b"ready")
        box.kill()
        assert exit_code(pid, terminal) == 137


def test_attach_carries_much_output(box: Container) -> None:
    """Whole, to a slow terminal."""
    with attached(box, "['seq', '20000']") as (_, terminal):
        assert read_until(terminal, b"left").count(b"\n") >= 20000


def test_attach_needs_a_terminal(box: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what does not."""
    with Path("/dev/null").open() as null, monkeypatch.context() as patch:
        patch.setattr("sys.stdin", null)
        patch.setattr("sys.stdout", null)
        with pytest.raises(ExecError, match=r"exec\(\) or popen\(\)"):
            box.attach()
