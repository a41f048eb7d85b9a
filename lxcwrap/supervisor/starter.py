"""The process that prepares one container's start: it ends as soon as the main process runs."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from ..drivers import mounts, namespaces, syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.pidfd import pass_sender, sender, start_time
from ..ids import IdMap
from . import rootfs, wire
from .argv import INIT
from .records import Records

Plan = Mapping[str, Any]
_LOOK_EVERY_MS = 1


def run(
    monitor: int,
    plan: Plan,
    pair: tuple[int | None, int] | None,
    cgroups: CgroupHost,
    orders: socket.socket,
    reports: socket.socket,
    client: socket.socket,
    server: socket.socket,
) -> NoReturn:
    """Prepare, give the runner its `orders`, hear from init, and tell monitor, caller and server what they must know."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != monitor:
            os._exit(1)
        syscalls.set_process_name("lxcwrap-starter")
        status = _prepare(plan, pair, cgroups, orders)
        _Listener(plan, monitor, reports, client, server).listen(status)
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):
            wire.send(reports, {"event": "failed", "error": str(error) or type(error).__name__})
    finally:
        os._exit(0)


def _prepare(
    plan: Plan, pair: tuple[int | None, int] | None, cgroups: CgroupHost, orders: socket.socket
) -> socket.socket:
    """Everything up to liblxc's start; the socket on which init will report."""
    cgroups.prepare(plan["id"], plan["limits"], plan["devices"])
    userns_fd, netns_fd = pair or namespaces.make_pair(IdMap(*plan["idmap"]))
    mounts.private_mount_namespace()
    cgroups.hide_from_liblxc()
    root = rootfs.mount_all(plan, userns_fd)
    config = [*plan["config"], *cgroups.config_items(plan["id"], plan["devices"]), ("lxc.rootfs.path", f"dir:{root}")]
    status, init_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pass_sender(status)
    with init_end:
        fds = [mounts.current_namespace(), init_end.fileno(), netns_fd, *(() if userns_fd is None else (userns_fd,))]
        wire.send(orders, {"config": config, "init": plan["init"], "argv": plan["argv"]}, fds)
    return status


class _Listener:
    """Hears what init says, until the main process runs."""

    def __init__(
        self, plan: Plan, monitor: int, reports: socket.socket, client: socket.socket, server: socket.socket
    ) -> None:
        self.plan, self.monitor, self.reports, self.client, self.server = plan, monitor, reports, client, server
        self.init_pid = 0

    def listen(self, status: socket.socket) -> None:
        poll = select.poll()
        poll.register(status, select.POLLIN)
        while True:
            # init=False: PID 1 is our init still, about to become the command, with nobody to say that it has.
            becoming = self.init_pid and "-x" in self.plan["init"]
            if not poll.poll(_LOOK_EVERY_MS if becoming else None):
                if not _is_init(self.init_pid):
                    return self._started(None)
                continue
            data, ancillary, _flags, _address = status.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
            if data == b"S":
                self._init(*sender(ancillary))
            elif data == b"T":
                self._terminal(wire.received_fds(ancillary)[0])
            elif data.startswith(b"E"):
                return self._started(data[1:].decode())
            elif data == b"R":
                return self._started(None)
            elif not data:
                return None  # the runner failed; it has said why

    def _init(self, pid: int, pidfd: int | None) -> None:
        self.init_pid = pid
        Records(self.plan["bundle"]).begin(
            {
                "monitor": self.monitor,
                "monitor_start": start_time(self.monitor),
                "init_pid": pid,
                "init_start": start_time(pid),
                "started_at": time.time(),
            }
        )
        fds = [] if pidfd is None else [pidfd]
        wire.send(self.reports, {"event": "init"}, fds)
        with suppress(OSError):  # the server has ended: then there is no second witness
            socket.send_fds(self.server, [self.plan["id"].encode()], fds, socket.MSG_DONTWAIT)

    def _terminal(self, master: int) -> None:
        if self.plan["tty_to_caller"]:
            self._tell({"event": "terminal"}, [master])
        else:
            wire.send(self.reports, {"event": "terminal"}, [master])
        os.close(master)

    def _started(self, exec_error: str | None) -> None:
        """The main process runs, or could not be executed."""
        wire.send(self.reports, {"event": "started", "exec_error": exec_error})
        self._tell({"event": "started", "init_pid": self.init_pid, "exec_error": exec_error})

    def _tell(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        with suppress(OSError):  # the caller is gone: nobody to tell
            wire.send(self.client, message, fds)


def _is_init(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(INIT)
    except FileNotFoundError:
        return False
