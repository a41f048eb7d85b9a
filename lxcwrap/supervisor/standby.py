"""Processes forked ahead of the request they will serve, so that no request need wait for a fork."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ..drivers.cgroups import CgroupHost
from ..drivers.polling import readable
from . import nursery, starter
from .handover import close_all, hand, take

Fork = Callable[[Callable[[], None]], int]  # gives the process id


class Worker:
    """A child of the nursery for one exec or call (`kind`: nursery.EXECUTOR, nursery.CALLER)."""

    def __init__(self, nursery_end: socket.socket, kind: str) -> None:
        self._channel, channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with channel:
            fork_in(nursery_end, kind, [channel])

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
    """The processes of one container: monitor and runner by the nursery, the starter by the fork-server
    itself. This is the server's end of them. They end when it is closed without a `launch`; a monitor with a
    container to hold then knows that it must clear up by itself."""

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

        with channel, reports, monitor_reports, orders, runner_orders:
            ends = [channel, monitor_reports, runner_orders]
            self.monitor = os.pidfd_open(fork_in(nursery_end, nursery.MONITOR, ends))
            self._starter = os.pidfd_open(fork(wait))

    def launch(
        self, order: dict[str, Any], client: socket.socket, fds: Sequence[int], pair: Sequence[int]
    ) -> bool:
        """Let them hold a container; False when one of them has been killed meanwhile."""
        try:
            if not _has_ended(self._starter):
                hand(self._channel, order, [client.fileno(), *fds, *pair])
                return True
        except OSError:
            pass
        self.close()
        return False

    def disown(self) -> bool:
        """From now on the monitor must clear up by itself. True: it has ended, and thinks that we do."""
        self._channel.shutdown(socket.SHUT_RD)
        return take(self._channel) is not None or _has_ended(self.monitor)

    def close(self) -> None:
        self._channel.close()
        close_all((self.monitor, self._starter))


def _has_ended(pidfd: int) -> bool:
    return bool(readable(pidfd, timeout_s=0))


def fork_in(nursery_end: socket.socket, what: str, ends: Sequence[socket.socket]) -> int:
    """Process id of what the nursery has forked."""
    hand(nursery_end, what, [end.fileno() for end in ends])
    answer = take(nursery_end)
    if answer is None:
        raise RuntimeError("the nursery was killed")
    return int(answer[0])
