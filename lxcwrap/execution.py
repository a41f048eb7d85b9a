"""Processes in containers, in the shape of `subprocess.Popen`: pipes, waiting, signals, collected output."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Literal, Protocol

from .errors import CommandFailedError, ExecError, LxcwrapError, SupervisorError, TimeoutExpired
from .results import Completed
from .specs import parse_signal
from .supervisor.client import Conversation
from .terminal import interact
from .waiting import Steps, Wait, steps, waits

PIPE, STDOUT, DEVNULL = subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL

# What a stream may be: PIPE, DEVNULL, STDOUT (for stderr), a descriptor, a file, or None for nothing.
Stream = int | IO[bytes] | IO[str] | None
# Told of output as it comes: "stdout" or "stderr", and the bytes.
OnOutput = Callable[[Literal["stdout", "stderr"], bytes], object]
_STREAM_NAMES = ("stdin", "stdout", "stderr")
_PIPE_SIZE = 1 << 20
_CHUNK = 1 << 18
_FORGO_S = 5.0  # how long an interrupt waits for a start to be over


class Streams:
    """The two ends of a process' standard streams: descriptors to send away, and files to keep."""

    def __init__(self, stdin: Stream, stdout: Stream, stderr: Stream) -> None:
        self.names: list[str] = []
        self.fds: list[int] = []
        self.files: dict[str, IO[bytes]] = {}
        self._to_close: list[int] = []
        try:
            for name, stream in zip(_STREAM_NAMES, (stdin, stdout, stderr), strict=True):
                self._add(name, stream)
        except BaseException:
            self.close()
            raise

    def _add(self, name: str, stream: Stream) -> None:
        if stream is None or (stream == DEVNULL and isinstance(stream, int)):
            return  # /dev/null on the other side
        if stream == PIPE and isinstance(stream, int):
            self._give(name, self._pipe(name))
        elif stream == STDOUT and isinstance(stream, int):
            if name != "stderr":
                raise ValueError(f"{name}=STDOUT: only stderr can go where stdout goes")
            if "stdout" in self.names:
                self._give(name, self.fds[self.names.index("stdout")])
        elif isinstance(stream, int) or hasattr(stream, "fileno"):
            self._give(name, stream if isinstance(stream, int) else stream.fileno())
        else:
            raise TypeError(f"{name}={stream!r}: give PIPE, DEVNULL, an open file, a descriptor or None")

    def _give(self, name: str, fd: int) -> None:
        self.names.append(name)
        self.fds.append(fd)

    def _pipe(self, name: str) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.fchmod(
            reader, 0o666
        )  # both ends: whoever the command runs as may open /dev/stdout, as many programs do
        with suppress(OSError):  # over the user's pipe quota: the usual 64 KiB serve too
            fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        ours, theirs = (writer, reader) if name == "stdin" else (reader, writer)
        self._to_close.append(theirs)
        self.files[name] = os.fdopen(ours, "wb" if name == "stdin" else "rb", buffering=0)
        return theirs

    def sent(self) -> None:
        """The other side has its copies: close ours, or its end would never be seen."""
        while self._to_close:
            os.close(self._to_close.pop())

    def __enter__(self) -> Streams:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.sent()
        for file in self.files.values():
            file.close()


class Popen:
    """A command that runs in a container. Made by `Container.popen`; like `subprocess.Popen`.

    stdin, stdout, stderr: unbuffered binary files where PIPE was asked for, else None.
    pid: its process id as the host sees it.  tty: the master of its terminal, with ``tty=True``.
    """

    def __init__(
        self,
        argv: Sequence[str],
        container: str,
        conversation: Conversation,
        streams: Streams,
        start_error: Callable[[dict[str, object]], LxcwrapError] | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.container = container
        self.stdin = streams.files.get("stdin")
        self.stdout = streams.files.get("stdout")
        self.stderr = streams.files.get("stderr")
        self.tty: IO[bytes] | None = None
        self.exec_error: str | None = None
        self.oom_killed = False
        self._conversation: Conversation | None = conversation
        self._exit_code: int | None = None
        self._pidfd = -1
        self._transfer: Transfer | None = None
        self._start_error = start_error  # what an end without a start means
        self.pid = 0
        try:
            self._await_start(None)
        except BaseException:
            self._forgo()
            raise

    def _await_start(self, timeout_s: float | None) -> None:
        # An interrupt comes while this waits, not within an answer: so it can be waited for once more.
        while self.pid == 0 and self._conversation is not None and self._conversation.ready(timeout_s):
            self._take_answer()

    def _forgo(self) -> None:
        """Interrupted before it was known to run: nobody could end it later. Whom nobody hears, its executor
        ends."""
        try:
            with suppress(LxcwrapError):
                self._await_start(_FORGO_S)
            self._kill_group()
        finally:
            self.close()

    def _take_answer(self) -> bool:
        """Take in what the other side says; whether the command has ended."""
        assert self._conversation is not None
        answer, fds = self._conversation.receive()
        event = answer.get("event")
        if event == "started":
            self._started(answer, fds)
        elif event == "terminal":
            self.tty = os.fdopen(fds[0], "r+b", buffering=0)
        elif event == "exited":
            self._exited(answer)
        return self._conversation is None

    def _started(self, answer: dict[str, object], fds: list[int]) -> None:
        self.pid = int(str(answer.get("pid") or answer["init_pid"]))
        self._pidfd = fds[0] if fds else -1  # it has ended already
        self.exec_error = str(answer["exec_error"]) if answer.get("exec_error") else None

    def _exited(self, answer: dict[str, object]) -> None:
        self._close_conversation()
        error, code = answer.get("error"), answer.get("exit_code")
        if code is None and self.pid == 0 and self._start_error is not None:
            raise self._start_error(answer)
        if code is None:
            raise SupervisorError(
                f"{self.container}: {list(self.argv)!r}", str(error or "its exit code is unknown")
            )
        self._exit_code = int(str(code))
        self.oom_killed = bool(answer.get("oom_killed"))

    def _close_conversation(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.close()

    @property
    def exit_code(self) -> int | None:
        """Its exit code (128+signal when killed by one), or None while it runs. Looks now, does not wait."""
        return self.poll()

    returncode = exit_code

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        try:
            return self.wait(timeout_s=0)
        except TimeoutExpired:
            return None

    @waits
    def wait(self, timeout_s: float | None = None) -> Steps[int]:
        """Wait for its end; its exit code. Raises TimeoutExpired, and it goes on."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self._conversation is not None:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not (yield Wait(self._conversation.fileno(), remaining)):
                raise TimeoutExpired(f"{self.container}: {list(self.argv)!r}", timeout_s or 0.0)
            self._take_answer()
        if self._exit_code is None:
            raise SupervisorError(f"{self.container}: {list(self.argv)!r}", "its exit code is unknown")
        return self._exit_code

    def send_signal(self, sig: str | int) -> None:
        """Send a signal, by name or number; nothing happens when it has ended."""
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, parse_signal(sig))

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _kill_group(self) -> None:
        """With what it has started, as Ctrl-C in a terminal would end it: of a script also what that waits
        for."""
        if self._pidfd < 0:
            return
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, 0)  # it is not reaped yet, so its number is its own
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()

    def fileno(self) -> int:
        """A descriptor that is readable once it has ended: for select, before `poll`. -1 after its end."""
        return -1 if self._conversation is None else self._conversation.fileno()

    def interact(self) -> int:
        """Join its terminal to this process' own, keys, Ctrl-C, window size and all, until its end; its exit
        code. Raises ExecError when it has none, or stdin is none."""
        if self.tty is None:
            raise ExecError("interact: the command has no terminal; start it with tty=True")
        return interact(self)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal; it gets SIGWINCH. Raises ExecError when it has none."""
        if self.tty is None:
            raise ExecError("resize: the command has no terminal; start it with tty=True")
        fcntl.ioctl(self.tty, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @waits
    def communicate(
        self,
        input: bytes | str | None = None,
        timeout_s: float | None = None,
        *,
        on_output: OnOutput | None = None,
    ) -> Steps[tuple[bytes, bytes]]:
        """Send `input`, read stdout and stderr to their end, wait. Raises TimeoutExpired with what was read;
        call it again, without input, to go on. on_output: as with `Containers.run`, given the first time."""
        if self._transfer is None:
            self._transfer = Transfer(self.stdin, self.stdout, self.stderr, input, on_output)
        elif input is not None:
            raise ValueError("communicate: input can be given the first time only")
        transfer = self._transfer
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            if self._conversation is not None:
                yield from transfer.run(deadline, self._conversation, self._take_answer)
            yield from steps(self.wait)(None if deadline is None else max(0.0, deadline - time.monotonic()))
        except TimeoutExpired:
            stdout, stderr = transfer.result()
            raise TimeoutExpired(
                f"{self.container}: {list(self.argv)!r}", timeout_s or 0.0, stdout, stderr
            ) from None
        return transfer.result()

    def close(self) -> None:
        """Close the files and stop listening. The command itself is left alone."""
        for file in (self.stdin, self.stdout, self.stderr, self.tty):
            if file is not None:
                with suppress(BrokenPipeError):
                    file.close()
        self._close_conversation()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def __enter__(self) -> Popen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in (self.stdin, self.stdout, self.stderr):
            if file is not None:
                with suppress(BrokenPipeError):
                    file.close()
        try:
            if self._conversation is not None and error is None:
                self.wait()
            elif self._conversation is not None:
                self._kill_group()  # an interrupted or failed block must not wait for ever
                with suppress(SupervisorError):  # the error there is matters more
                    self.wait()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Popen {list(self.argv)!r} in {self.container}>"


def input_bytes(data: bytes | str | None) -> bytes:
    """`data` as it will be sent."""
    if not isinstance(data, str | bytes | bytearray | memoryview | None):
        raise TypeError(f"input= takes bytes or str, not {type(data).__name__}")
    return data.encode() if isinstance(data, str) else bytes(data or b"")


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Transfer:
    """Input to and output from a process, until it has ended or closed both outputs."""

    def __init__(
        self,
        stdin: IO[bytes] | None,
        stdout: IO[bytes] | None,
        stderr: IO[bytes] | None,
        data: bytes | str | None,
        on_output: OnOutput | None = None,
    ) -> None:
        self._input = memoryview(input_bytes(data))
        self._on_output = on_output
        self._chunks: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._received = 0
        self._stdin = stdin
        self._outputs = {"stdout": stdout, "stderr": stderr}

    def run(
        self, deadline: float | None, conversation: HasFileno, has_ended: Callable[[], bool]
    ) -> Steps[None]:
        """`has_ended` is asked when the conversation has an answer. After the end only what is already in the
        pipes is
        read: a background process that keeps them open is not waited for. Raises TimeoutExpired past
        `deadline`."""
        with selectors.EpollSelector() as selector:
            self._register(selector)
            selector.register(conversation, selectors.EVENT_READ)
            ended, most = False, 0
            while len(selector.get_map()) > (0 if ended else 1):
                if not ended:
                    yield Wait(
                        selector.fileno(), None if deadline is None else max(0.0, deadline - time.monotonic())
                    )
                events = selector.select(0.0)
                for key, _ in events:
                    if key.data is None:
                        if has_ended():
                            # What it wrote is in the pipes: after that much comes another's, without end.
                            ended, most = True, self._received + 2 * _PIPE_SIZE
                            selector.unregister(key.fileobj)
                    elif not self._move(key.data):
                        selector.unregister(key.fileobj)
                        key.fileobj.close()  # type: ignore[union-attr]  # only files have a name
                if ended and (not events or self._received > most):
                    return
                if not ended and deadline is not None and time.monotonic() >= deadline:
                    raise TimeoutExpired("output", 0.0)

    def _register(self, selector: selectors.BaseSelector) -> None:
        if self._stdin is not None and not self._stdin.closed:
            os.set_blocking(self._stdin.fileno(), False)
            selector.register(self._stdin, selectors.EVENT_WRITE, "stdin")
        for name, file in self._outputs.items():
            if file is not None and not file.closed:
                selector.register(file, selectors.EVENT_READ, name)

    def _move(self, name: Literal["stdin", "stdout", "stderr"]) -> bool:
        if name == "stdin":
            return self._write()
        file = self._outputs[name]
        assert file is not None
        data = os.read(file.fileno(), _CHUNK)
        self._chunks[name].append(data)
        self._received += len(data)
        if self._on_output is not None and data:
            self._on_output(name, data)
        return bool(data)

    def _write(self) -> bool:
        assert self._stdin is not None
        try:
            self._input = (
                self._input[os.write(self._stdin.fileno(), self._input[:_CHUNK]) :]
                if self._input
                else self._input
            )
        except BlockingIOError:
            return True
        except BrokenPipeError:
            return False  # it does not want to read it all: its own decision
        return bool(self._input)

    def result(self) -> tuple[bytes, bytes]:
        return b"".join(self._chunks["stdout"]), b"".join(self._chunks["stderr"])


def checked(done: Completed, container: str, *, check: bool) -> Completed:
    """`done`, or CommandFailedError when it was to be checked and did not end with 0."""
    if check and done.exit_code != 0:
        raise CommandFailedError(
            done.argv, done.exit_code, done.stdout, done.stderr, container, done.oom_killed
        )
    return done
