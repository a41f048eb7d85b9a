"""The processes of one container, made ahead of the launch they will serve, so that a launch need not wait for forks:
monitor and runner by the nursery, the starter by the fork-server itself. They have done nothing yet.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..drivers.cgroups import CgroupHost
from . import nursery, starter
from .handover import hand, take


class Standby:
    """The server's end of them. They end when it is closed without a `launch`; a monitor with a container to hold then
    knows that it must clear up by itself."""

    def __init__(
        self,
        nursery_end: socket.socket,
        fork: Callable[[Callable[[], None]], int],
        server: socket.socket,
        cgroups: CgroupHost,
    ) -> None:
        self._channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        reports, monitor_reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        orders, runner_orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def wait() -> None:
            for end in (self._channel, channel, monitor_reports, runner_orders):
                end.close()
            starter.stand_by(reports, orders, server, cgroups)

        theirs = (channel, monitor_reports, runner_orders)
        with channel, reports, monitor_reports, orders, runner_orders:
            hand(nursery_end, nursery.MONITOR, [end.fileno() for end in theirs])
            fork(wait)
        answer = take(nursery_end)
        if answer is None:
            raise RuntimeError("the nursery was killed")
        self.monitor: int = answer[0]

    def launch(
        self, order: dict[str, Any], client: socket.socket, fds: Sequence[int], pair: Sequence[int]
    ) -> bool:
        """Let them hold a container; False when the monitor has been killed meanwhile."""
        try:
            hand(self._channel, order, [client.fileno(), *fds, *pair])
            return True
        except OSError:
            self.close()
            return False

    def close(self) -> None:
        self._channel.close()
