"""What the nouns call: requests to the fork-server of a root directory, which is started when there is none.

No liblxc in this process, no fork of it: the server is spawned by vfork and exec, all else is a connection.
Any thread and any process may use it; each request has a connection of its own.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from ..drivers.polling import readable
from ..errors import SupervisorError, UnsupportedError
from . import spawning, wire

_START_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 5.0


class Conversation:
    """One request under way: the answers, in order, until the other end has no more to say."""

    def __init__(self, sock: socket.socket, what: str) -> None:
        self._sock = sock
        self._what = what

    def __enter__(self) -> Conversation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def finish(self) -> None:
        """Nothing more will be asked; answers may still come."""
        self._sock.shutdown(socket.SHUT_WR)

    def ready(self, timeout_s: float | None) -> bool:
        """Whether an answer, or the end, comes within `timeout_s` seconds; None waits for ever."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def receive(self) -> tuple[wire.Message, list[int]]:
        """The next answer. Raises SupervisorError when the process that should give it has died."""
        try:
            answer = wire.receive(self._sock)
        except (OSError, ValueError) as error:
            raise SupervisorError(f"{self._what}: no answer", str(error)) from error
        except BaseException:
            # Interrupted, maybe within an answer: what follows would make no sense.
            self._sock.shutdown(socket.SHUT_RDWR)
            raise
        if answer is None:
            raise SupervisorError(
                f"{self._what}: its process ended before it answered",
                "see run/server.log in the root directory",
            )
        return answer


class Supervisor:
    """The fork-server of one root directory, as its users see it."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def ask(self, message: Mapping[str, object], fds: Sequence[int] = (), *, what: str) -> Conversation:
        """Send a request; `what` names it in errors."""
        while True:
            sock = self._connect()
            try:
                wire.send(sock, dict(message), fds)
                return Conversation(sock, what)
            except (BrokenPipeError, ConnectionResetError):
                sock.close()  # the server retired just now: a new one is started
            except BaseException:
                sock.close()
                raise

    def pid(self) -> int | None:
        """Process id of the server, None when none runs."""
        return self._hello(retire=False)

    def stop(self) -> None:
        """Let the server end, and wait for that. Containers go on; the next request starts another."""
        pid = self._hello(retire=True)
        with suppress(ProcessLookupError):
            if pid is not None:
                server = os.pidfd_open(pid)
                try:
                    readable(server, timeout_s=_END_TIMEOUT_S)
                finally:
                    os.close(server)

    def _hello(self, *, retire: bool) -> int | None:
        try:
            with spawning.connect(os.fspath(self._root)) as sock:
                wire.send(sock, {"op": "hello", "retire": retire})
                answer = wire.receive(sock)
        except OSError:
            return None
        return int(answer[0]["pid"]) if answer else None

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return spawning.connect(os.fspath(self._root))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > deadline:
                    raise SupervisorError("the fork-server cannot be reached", str(error)) from error
            try:
                spawning.spawn_if(os.fspath(self._root), lambda: self.pid() is None)
            except spawning.BindingsMissing as error:
                raise UnsupportedError(str(error)) from None
            except spawning.SpawnFailed as error:
                raise SupervisorError("the fork-server did not start", str(error)) from None
