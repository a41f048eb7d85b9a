"""Popen, and what goes to and fro, over a conversation whose other end is the test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from lxcwrap.errors import CommandFailedError, ExecError, SupervisorError, TimeoutExpired
from lxcwrap.execution import DEVNULL, PIPE, STDOUT, Popen, Streams, Transfer, checked, input_bytes
from lxcwrap.results import Completed
from lxcwrap.supervisor import wire
from lxcwrap.supervisor.client import Conversation
from lxcwrap.waiting import finish


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


class Other:
    """The supervisor's side: answers on the socket, and has its copies of the streams."""

    def __init__(self, stdin: Any = None, stdout: Any = None, stderr: Any = None) -> None:
        ours, self.sock = socket.socketpair()
        self.streams = Streams(stdin, stdout, stderr)
        self.fds = {name: os.dup(fd) for name, fd in zip(self.streams.names, self.streams.fds, strict=True)}
        self.streams.sent()
        self.conversation = Conversation(ours, "exec of x")
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
        self.popen: Popen | None = None

    def say(self, event: str, fds: Sequence[int] = (), **facts: Any) -> None:
        wire.send(self.sock, {"event": event, **facts}, fds)

    def started(self, exec_error: str | None = None) -> Popen:
        pidfd = os.pidfd_open(self.process.pid)
        self.say("started", [pidfd], pid=self.process.pid, exec_error=exec_error)
        os.close(pidfd)
        self.popen = Popen(["x"], "web", self.conversation, self.streams)
        return self.popen

    def exited(self, exit_code: int | None = 0, **facts: Any) -> None:
        self.close_streams()
        self.say("exited", exit_code=exit_code, **facts)

    def close_streams(self, *names: str) -> None:
        for name in names or tuple(self.fds):
            os.close(self.fds.pop(name))

    def end(self) -> None:
        self.close_streams()
        self.sock.close()
        self.process.kill()
        self.process.communicate()
        if self.popen:
            self.popen.close()
        self.conversation.close()
        self.streams.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Other]]:
    """Other sides, all ended with the test; nothing of them stays open."""
    made: list[Other] = []
    before = open_fds()

    def one(**streams: Any) -> Other:
        made.append(Other(**streams))
        return made[-1]

    yield one
    for other in made:
        other.end()
    assert open_fds() <= before  # garbage of other tests may have been closed


Make = Callable[..., Other]


# --- streams --------------------------------------------------------------------------------------------


def test_streams_as_in_subprocess() -> None:
    """PIPE makes a pipe, DEVNULL and None nothing, STDOUT joins; files and descriptors are as they are."""
    with tempfile.TemporaryFile() as file:
        streams = Streams(DEVNULL, file, STDOUT)
        assert (streams.names, streams.fds) == (["stdout", "stderr"], [file.fileno()] * 2)
        streams.close()
        assert not file.closed and os.fstat(file.fileno())  # the caller's own
    streams = Streams(PIPE, PIPE, None)
    assert set(streams.files) == {"stdin", "stdout"} and streams.names == ["stdin", "stdout"]
    streams.close()
    assert Streams(None, None, STDOUT).fds == []


@pytest.mark.parametrize(
    ("wrong", "error"),
    [((STDOUT, None, None), ValueError), ((None, STDOUT, None), ValueError), ((PIPE, PIPE, "x"), TypeError)],
)
def test_wrong_streams_leave_nothing_open(wrong: tuple[Any, Any, Any], error: type[Exception]) -> None:
    """Also the pipes made before the wrong one was seen."""
    before = open_fds()
    with pytest.raises(error):
        Streams(*wrong)
    assert open_fds() <= before  # garbage of other tests may have been closed


def test_pipes_are_not_inherited() -> None:
    """By other children of the caller's: they would keep the end from being seen."""
    streams = Streams(PIPE, PIPE, PIPE)
    assert not any(os.get_inheritable(fd) for fd in streams.fds)
    assert not any(os.get_inheritable(file.fileno()) for file in streams.files.values())
    streams.close()


# --- Popen ----------------------------------------------------------------------------------------------


def test_a_command_that_runs_and_ends(make: Make) -> None:
    """poll, wait and exit_code say the same, as often as asked."""
    other = make()
    process = other.started()
    assert process.pid == other.process.pid
    assert process.poll() is None and process.exit_code is None
    other.exited(3)
    assert (
        process.wait()
        == process.wait(timeout_s=0)
        == process.poll()
        == process.exit_code
        == process.returncode
        == 3
    )


def test_waiting_ends_in_time(make: Make) -> None:
    """And the command goes on."""
    other = make()
    process = other.started()
    began = time.monotonic()
    with pytest.raises(TimeoutExpired) as caught:
        process.wait(timeout_s=0.05)
    assert 0.05 <= time.monotonic() - began < 2 and caught.value.timeout_s == 0.05
    other.exited(0)
    assert process.wait(timeout_s=5) == 0


def test_signals_go_by_descriptor(make: Make) -> None:
    """By name or number; to nobody else when it has ended, even if its pid was used again."""
    other = make()
    process = other.started()
    process.send_signal("TERM")
    assert other.process.wait() == -signal.SIGTERM
    for send in (process.kill, process.terminate, lambda: process.send_signal(9)):
        send()
    other.exited(143)
    assert process.wait() == 143
    process.close()
    process.kill()


def test_a_command_that_cannot_be_executed(make: Make) -> None:
    """Is one that ended with 127, and says why."""
    other = make()
    process = other.started("2 exec")
    other.exited(127)
    assert (process.exec_error, process.wait()) == ("2 exec", 127)


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_other_side_dies(make: Make, when: str) -> None:
    """SupervisorError, not an exit code that nobody has seen; no waiting for ever."""
    other = make()
    if when == "before":
        other.sock.close()
        with pytest.raises(SupervisorError):
            Popen(["x"], "web", other.conversation, other.streams)
        return
    process = other.started()
    other.sock.close()
    for _ in range(2):
        with pytest.raises(SupervisorError):
            process.wait(timeout_s=1)


def test_refused_to_enter(make: Make) -> None:
    """An end without an exit code has a reason, which is in the error."""
    other = make()
    other.exited(None, error="liblxc could not enter the container")
    with pytest.raises(SupervisorError, match="could not enter"):
        Popen(["x"], "web", other.conversation, other.streams)


def test_its_terminal(make: Make) -> None:
    """A file, whose size can be set; without one, ExecError."""
    master, slave = os.openpty()
    other = make()
    other.say("terminal", [master])
    process = other.started()
    assert process.tty is not None
    process.resize(40, 100)
    assert os.get_terminal_size(slave) == os.terminal_size((100, 40))
    os.close(master)
    os.close(slave)
    with pytest.raises(ExecError):
        make().started().resize(1, 1)


def test_the_block_waits(make: Make) -> None:
    """As subprocess' does: it closes the files, then waits."""
    other = make(stdin=PIPE, stdout=PIPE)
    with other.started() as process:
        threading.Timer(0.05, other.exited, args=[4]).start()
    assert process.wait() == 4
    assert process.stdin and process.stdin.closed and process.stdout and process.stdout.closed


def test_a_failed_block_kills(make: Make) -> None:
    """It must not wait for ever for a command nobody talks to any more."""
    other = make()

    def end_when_killed() -> None:
        other.exited(128 - other.process.wait())

    waiter = threading.Thread(target=end_when_killed)
    waiter.start()
    with pytest.raises(KeyboardInterrupt), other.started() as process:
        raise KeyboardInterrupt
    waiter.join()
    assert process.wait() == 137


def test_closing_leaves_the_command_alone(make: Make) -> None:
    """And may be done twice."""
    other = make(stdout=PIPE)
    process = other.started()
    process.close()
    process.close()
    assert other.process.poll() is None


# --- communicate ----------------------------------------------------------------------------------------


def echo(other: Other, exit_code: int = 0) -> threading.Thread:
    """The other side reads all its input, then says it on both outputs and ends."""

    def work() -> None:
        with os.fdopen(other.fds.pop("stdin"), "rb") as stdin:
            data = stdin.read()
        for name in ("stdout", "stderr"):
            with os.fdopen(other.fds.pop(name), "wb") as file:
                file.write(data)
        other.say("exited", exit_code=exit_code)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


@pytest.mark.parametrize("size", [0, 1, 100_000, 5_000_000])
def test_all_of_input_and_output(make: Make, size: int) -> None:
    """Much more than pipes hold, both outputs at once: no deadlock, nothing missing."""
    other = make(stdin=PIPE, stdout=PIPE, stderr=PIPE)
    process = other.started()
    thread = echo(other)
    data = os.urandom(size)
    assert process.communicate(data, timeout_s=20) == (data, data)
    thread.join()
    assert process.wait() == 0


def test_text_is_utf_8(make: Make) -> None:
    """As files have it; other types are refused before anything is sent."""
    other = make(stdin=PIPE, stdout=PIPE, stderr=PIPE)
    process = other.started()
    thread = echo(other)
    assert process.communicate("ü", timeout_s=20)[0] == "ü".encode()
    thread.join()
    wrong: Any
    for wrong in (1, ["x"], {}):
        with pytest.raises(TypeError):
            input_bytes(wrong)


def test_a_command_that_does_not_read_its_input(make: Make) -> None:
    """It may close it, or end: no BrokenPipeError for the caller, and the output is there."""
    other = make(stdin=PIPE, stdout=PIPE)
    process = other.started()
    other.close_streams("stdin")
    os.write(other.fds["stdout"], b"enough")
    threading.Timer(0.05, other.exited, args=[1]).start()
    assert process.communicate(b"x" * 5_000_000, timeout_s=20) == (b"enough", b"")
    assert process.wait() == 1


def test_output_until_the_time_was_over(make: Make) -> None:
    """It is on the error; asked again, it goes on where it was."""
    other = make(stdout=PIPE, stderr=PIPE)
    process = other.started()
    os.write(other.fds["stdout"], b"first")
    with pytest.raises(TimeoutExpired) as caught:
        process.communicate(timeout_s=0.05)
    assert (caught.value.stdout, caught.value.stderr, caught.value.timeout_s) == (b"first", b"", 0.05)
    os.write(other.fds["stdout"], b" second")
    other.exited(0)
    assert process.communicate(timeout_s=5) == (b"first second", b"")
    with pytest.raises(ValueError):
        process.communicate(b"late input")


def test_a_background_process_is_not_waited_for(make: Make) -> None:
    """The command has ended, something still has its output open: what is there is read, and that is all."""
    other = make(stdout=PIPE)
    process = other.started()
    os.write(other.fds["stdout"], b"said")
    other.say("exited", exit_code=0)
    assert process.communicate(timeout_s=5) == (b"said", b"")


def test_the_other_side_dies_while_it_is_listened_to(make: Make) -> None:
    """SupervisorError at once, though the output is still open."""
    other = make(stdout=PIPE)
    process = other.started()
    threading.Timer(0.02, other.sock.close).start()
    with pytest.raises(SupervisorError):
        process.communicate(timeout_s=10)


def test_communicate_without_pipes(make: Make) -> None:
    """Just waits."""
    other = make()
    process = other.started()
    other.exited(2)
    assert process.communicate(timeout_s=5) == (b"", b"")
    assert process.wait() == 2


@contextmanager
def flood(fd: int) -> Iterator[None]:
    """Within the block somebody writes to `fd` as fast as he can."""
    code = "import os\nwhile True: os.write(1, b'y' * 65536)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", code], stdout=fd) as process:
        try:
            yield
        finally:
            process.kill()


def test_time_is_kept_while_output_comes_without_end(make: Make) -> None:
    """``run(["yes"], timeout_s=1)``: there is always something to read, and still it ends."""
    other = make(stdout=PIPE)
    transfer = Transfer(None, other.streams.files["stdout"], None, None)
    began = time.monotonic()
    with flood(other.fds["stdout"]), pytest.raises(TimeoutExpired):
        finish(transfer.run(began + 0.2, other.conversation, lambda: False))
    assert time.monotonic() - began < 5 and transfer.result()[0].startswith(b"yy")


def test_a_background_process_that_floods_is_not_waited_for(make: Make) -> None:
    """``sh -c "yes & exit"``: all that the command wrote is there, and then it ends."""
    other = make(stdout=PIPE, stderr=PIPE)
    process = other.started()
    os.write(other.fds["stdout"], b"the command's")
    os.write(other.fds["stderr"], b"e" * 60000)
    with flood(other.fds["stdout"]):
        other.say("exited", exit_code=0)
        stdout, stderr = process.communicate()
    assert stdout.startswith(b"the command's") and stderr == b"e" * 60000


# --- checked --------------------------------------------------------------------------------------------


def test_checked() -> None:
    """0 passes, all else is an error with all that is known, unless it is not to be checked."""
    good = Completed(argv=("x",), exit_code=0, stdout_bytes=b"", stderr_bytes=b"")
    bad = Completed(argv=("x",), exit_code=3, stdout_bytes=b"out", stderr_bytes=b"err", oom_killed=True)
    assert checked(good, "web", check=True) is good
    assert checked(bad, "web", check=False) is bad
    with pytest.raises(CommandFailedError) as caught:
        checked(bad, "web", check=True)
    error = caught.value
    assert (error.argv, error.exit_code, error.stdout, error.stderr) == (("x",), 3, "out", "err")
    assert (error.container, error.oom_killed) == ("web", True)
