"""Processes forked ahead of the request they will serve, so that no request need wait for a fork."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..drivers.cgroups import CgroupHost
from . import attacher, nursery, starter
from .handover import hand, take


Fork = Callable[[Callable[[], None]], int]


class Worker:
    """A child for one exec, call or mount."""

    def __init__(self, fork: Fork, cgroups: CgroupHost) -> None:
        self._channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        def wait() -> None:
            self._channel.close()
            attacher.stand_by(channel, cgroups)

        with channel:
            fork(wait)

    def serve(self, request: dict[str, Any], client: socket.socket, fds: Sequence[int]) -> bool:
        """Let it serve a request; False when it has been killed meanwhile."""
        try:
            hand(self._channel, request, [client.fileno(), *fds])
            return True
        except OSError:
            return False
        finally:
            self.close()

    def close(self) -> None:
        self._channel.close()


class Standby:
    """The processes of one container: monitor and runner by the nursery, the starter by the fork-server itself. This is
    the server's end of them. They end when it is closed without a `launch`; a monitor with a container to hold then
    knows that it must clear up by itself."""

    def __init__(
        self,
        nursery_end: socket.socket,
        fork: Fork,
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
