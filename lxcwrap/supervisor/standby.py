"""Monitors forked ahead of the launch they will serve, each with its starter and runner: three forks that a launch
need not wait for, and processes that share almost all their memory, as they have done nothing yet.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from ..drivers.cgroups import CgroupHost
from . import monitor, wire


class Standby:
    """The server's end of one waiting monitor. It ends when this end is closed without a `launch`."""

    def __init__(
        self, fork: Callable[[Callable[[], None]], int], server: socket.socket, cgroups: CgroupHost
    ) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def wait() -> None:
            self._channel.close()
            monitor.stand_by(theirs, server, cgroups)

        self.pid = fork(wait)
        theirs.close()

    def launch(self, order: wire.Message, client: socket.socket, fds: Sequence[int], pair: Sequence[int]) -> bool:
        """Let it hold a container; False when it has been killed meanwhile."""
        try:
            wire.hand(self._channel, order, [client.fileno(), *fds, *pair])
            return True
        except OSError:
            return False
        finally:
            self.close()

    def close(self) -> None:
        self._channel.close()
