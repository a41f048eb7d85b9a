"""`Popen` for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from types import TracebackType
from typing import IO, Any, Concatenate, ParamSpec, Self, cast

from .. import execution as plain
from ..waiting import steps
from . import threads
from .driving import Method, drive, in_thread

P = ParamSpec("P")


class Popen:
    """A command in a container: as `lxcwrap.Popen`, with the streams of `asyncio.subprocess.Process`.

    stdin: a `StreamWriter`; stdout, stderr: `StreamReader`; where PIPE was asked for, else None.
    """

    def __init__(self, process: plain.Popen) -> None:
        self._sync = process
        self._waiting = asyncio.Lock()  # answers go to one who waits
        self._transports: list[asyncio.BaseTransport] = []
        self.stdin: asyncio.StreamWriter | None = None
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None

    async def _open(self) -> Self:
        self.stdin = await self._writer(self._sync.stdin)
        self.stdout = await self._reader(self._sync.stdout)
        self.stderr = await self._reader(self._sync.stderr)
        return self

    async def _reader(self, file: IO[bytes] | None) -> asyncio.StreamReader | None:
        if file is None:
            return None
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, file)
        self._transports.append(transport)
        return reader

    async def _writer(self, file: IO[bytes] | None) -> asyncio.StreamWriter | None:
        if file is None:
            return None
        loop = asyncio.get_running_loop()
        # The protocol of a stream that is read from: as writer, it knows of the flow, and of the end.
        protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        transport, _ = await loop.connect_write_pipe(lambda: protocol, file)
        self._transports.append(transport)
        return asyncio.StreamWriter(transport, protocol, None, loop)

    @property
    def argv(self) -> tuple[str, ...]:
        """The command."""
        return self._sync.argv

    @property
    def container(self) -> str:
        """The container's name."""
        return self._sync.container

    @property
    def pid(self) -> int:
        """Its process id as the host sees it."""
        return self._sync.pid

    @property
    def tty(self) -> IO[bytes] | None:
        """The master of its terminal, with ``tty=True``: a file as of `lxcwrap.Popen`."""
        return self._sync.tty

    @property
    def exec_error(self) -> str | None:
        """Why the command could not be run, once that is known."""
        return self._sync.exec_error

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed it for want of memory."""
        return self._sync.oom_killed

    @property
    def exit_code(self) -> int | None:
        """Its exit code (128+signal when killed by one), or None while it runs."""
        return self.poll()

    returncode = exit_code

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return None if self._waiting.locked() else self._sync.poll()

    async def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; its exit code. Raises TimeoutExpired, and it goes on, as when this is
        cancelled."""
        async with self._waiting:
            return await drive(steps(self._sync.wait)(timeout_s))

    def send_signal(self, sig: str | int) -> None:
        """Send a signal, by name or number; nothing happens when it has ended."""
        self._sync.send_signal(sig)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._sync.terminate()

    def kill(self) -> None:
        """Send SIGKILL."""
        self._sync.kill()

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of its terminal. Raises ExecError when it has none."""
        self._sync.resize(rows, columns)

    async def communicate(self, input: bytes | str | None = None) -> tuple[bytes, bytes]:
        """Send `input`, read stdout and stderr to their end, wait. Cancelled, as by `asyncio.timeout`, it
        leaves the command alone."""
        stdout, stderr, _ = await asyncio.gather(
            _all_of(self.stdout), _all_of(self.stderr), self._send(plain.input_bytes(input))
        )
        await self.wait()
        return stdout, stderr

    async def _send(self, data: bytes) -> None:
        if self.stdin is None:
            return
        try:
            self.stdin.write(data)
            await self.stdin.drain()
            self.stdin.close()
        except (BrokenPipeError, ConnectionResetError):
            pass  # it does not want to read it all: its own decision

    def close(self) -> None:
        """Close the streams and stop listening. The command itself is left alone."""
        self._close_transports()
        self._sync.close()

    def _close_transports(self) -> None:
        for transport in self._transports:
            transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_transports()
        if error is not None:
            self._sync._kill_group()  # a cancelled or failed block must not wait for ever
        try:
            await self.wait()
        finally:
            self.close()

    def __repr__(self) -> str:
        return repr(self._sync)


def popening(
    function: Callable[Concatenate[Any, P], plain.Popen],
) -> Method[P, Coroutine[Any, Any, Popen]]:
    """The method of a noun that starts a command, awaited."""

    @wraps(function)
    async def awaited(self: Any, *args: P.args, **kwargs: P.kwargs) -> Popen:
        start = partial(function, self._sync, *args, **kwargs)
        made = Popen(await in_thread(threads.brief(), start, _end))
        try:
            return await made._open()
        except BaseException:  # cancelled: nobody has a handle on it
            made._sync._kill_group()
            made.close()
            raise

    return cast(Method[P, Coroutine[Any, Any, Popen]], awaited)


def _end(process: plain.Popen) -> None:
    process._kill_group()
    process.close()


async def _all_of(reader: asyncio.StreamReader | None) -> bytes:
    return b"" if reader is None else await reader.read()
