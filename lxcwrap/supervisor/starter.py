"""The process that prepares one container's start: it ends as soon as the main process runs."""

from __future__ import annotations

import os
import select
import socket
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from ..drivers import mounts, namespaces, syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.pidfd import boot_id, pass_sender, sender, start_time
from ..ids import IdMap
from . import journal, rootfs, runner, streams, wire, wiring
from .argv import INIT
from .handover import WAITING, hand, received_fds, take
from .records import Records

Plan = Mapping[str, Any]
_LOOK_EVERY_MS = 1


def stand_by(
    reports: socket.socket, orders: socket.socket, server: socket.socket, cgroups: CgroupHost
) -> NoReturn:
    """Wait on `reports` for what the monitor hands over; prepare, give the runner its `orders`, hear from
    init, and tell monitor, caller and server what they must know."""
    try:
        syscalls.set_process_name(WAITING)
        received = take(reports)
        if received is None:
            os._exit(1)
        syscalls.set_process_name("lxcwrap-starter")
        bundle = received[0]
        plan = Records(bundle).read("plan")
        received = take(reports)
        if received is None:
            os._exit(1)  # the monitor could not begin, and has said why
        monitor, (client, *fds) = received
        if plan is None:
            raise FileNotFoundError(f"{bundle}/plan.json is missing: the container is damaged, remove it")
        began = time.time()  # before it can write anything: its log is searched from there on
        status = _prepare(plan, fds, cgroups, orders, monitor)
        oom_fds = cgroups.oom_fds(plan["id"])
        listener = _Listener(plan, began, monitor, oom_fds, reports, socket.socket(fileno=client), server)
        listener.listen(status)
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):
            hand(reports, ("failed", str(error) or type(error).__name__))
    finally:
        os._exit(0)


def _prepare(
    plan: Plan, fds: Sequence[int], cgroups: CgroupHost, orders: socket.socket, monitor: int
) -> socket.socket:
    """All up to liblxc's start; the socket on which init will report. `fds`: standard streams, what the
    caller gives, network and user namespace."""
    given = 3 + plan.get("given", 0)
    stdio, more, pair = fds[:3], fds[3:given], fds[given:]
    # Most of what liblxc must be told: the runner does so while the rest is made.
    hand(orders, (plan["id"], plan["lxc_path"], plan["config"]))
    owner = plan["idmap"][0] if plan["system"] else None
    cgroups.prepare(plan["id"], plan["limits"], plan["devices"], owner=owner)
    streams.open_to_all(stdio)
    namespace_fds = pair or namespaces.make_pair(IdMap(*plan["idmap"]))
    plan = wiring.plug_in(plan, namespace_fds[0], monitor)
    borrowed = wiring.borrowed(plan)
    mounts.private_mount_namespace()
    cgroups.hide_from_liblxc()
    userns_fd = namespace_fds[1] if len(namespace_fds) > 1 else None
    root = rootfs.mount_all(plan, userns_fd, more, wiring.sysfs(plan, borrowed))
    config = [
        *_given_variables(plan, more),
        *cgroups.config_items(plan["id"], plan["devices"]),
        ("lxc.rootfs.path", f"dir:{root}"),
    ]
    status, init_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pass_sender(status)
    own_fds, kinds = namespace_fds, ["net", "user"][: len(namespace_fds)]
    if plan["network"] == "host":
        kinds, namespace_fds = kinds[1:], namespace_fds[1:]
    elif borrowed is not None:
        # liblxc would enter it from within the user namespace, which has no right to.
        kinds, namespace_fds = [runner.HERE, *kinds[1:]], [borrowed, *namespace_fds[1:]]
    if plan["sysctls"]:
        namespace_fds = [*namespace_fds, namespaces.make_ipc(plan["sysctls"], *own_fds)]
        kinds.append("ipc")
    order = {"init": plan["init"], "argv": plan["argv"], "namespaces": kinds}
    with init_end, orders:
        enter_fds, entry_fds = cgroups.runner_fds(plan["id"]), cgroups.entry_fds(plan["id"])
        counts = (len(enter_fds), len(enter_fds) + len(entry_fds))
        fds = [*stdio, mounts.current_namespace(), init_end.fileno(), *enter_fds, *entry_fds, *namespace_fds]
        hand(orders, {**order, "config": config, "counts": counts}, fds)
    for fd in stdio:
        os.close(fd)
    return status


def _given_variables(plan: Plan, given: Sequence[int]) -> list[tuple[str, str]]:
    """Variables that must not come to any disk: ``name=value``, ended by NUL, in a file of the caller's."""
    if "variables" not in plan:
        return []
    fd = given[plan["variables"]]
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    return [("lxc.environment", text) for text in data.decode().split("\0")[:-1]]


class _Listener:
    """Hears what init says, until the main process runs."""

    def __init__(
        self,
        plan: Plan,
        began: float,
        monitor: int,
        oom_fds: list[int],
        reports: socket.socket,
        client: socket.socket,
        server: socket.socket,
    ) -> None:
        self.plan, self.began, self.monitor, self.oom_fds = plan, began, monitor, oom_fds
        self.reports, self.client, self.server = reports, client, server
        self.init_pid, self.init_pidfd = 0, -1

    def listen(self, status: socket.socket) -> None:
        poll = select.poll()
        poll.register(status, select.POLLIN)
        while True:
            # init=False: PID 1 is our init still, about to become the command, and nobody says when it has.
            becoming = self.init_pid and "-x" in self.plan["init"]
            if not poll.poll(_LOOK_EVERY_MS if becoming else None):
                if not _is_init(self.init_pid):
                    return self._started(None)
                continue
            data, ancillary, _flags, _address = status.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
            if data == b"S":
                self._init(*sender(ancillary))
            elif data == b"T":
                self._terminal(received_fds(ancillary)[0])
            elif data.startswith(b"E"):
                return self._started(data[1:].decode())
            elif data == b"R":
                return self._started(None)
            elif not data:
                # The runner has ended: the command too, faster than we looked; or it failed and has said why.
                return self._started(None) if becoming else None

    def _init(self, pid: int, pidfd: int | None) -> None:
        self.init_pid, self.init_pidfd = pid, -1 if pidfd is None else pidfd
        Records(self.plan["bundle"]).begin(
            {
                "monitor": self.monitor,
                "monitor_start": start_time(self.monitor),
                "init_pid": pid,
                "init_start": start_time(pid),
                "started_at": self.began,
                "boot": boot_id(),
            }
        )
        fds = [] if pidfd is None else [pidfd]
        hand(self.reports, ("init", len(self.oom_fds)), [*self.oom_fds, *fds])
        with suppress(OSError):  # the server has ended: then there is no second witness
            socket.send_fds(self.server, [self.plan["id"].encode()], fds, socket.MSG_DONTWAIT)

    def _terminal(self, master: int) -> None:
        if self.plan.get("attached"):
            self._tell({"event": "terminal"}, [master])  # it hangs up if the caller is gone
        else:
            hand(self.reports, ("terminal",), [master])
        os.close(master)

    def _started(self, exec_error: str | None) -> None:
        """The main process runs, or could not be executed. The caller is told before the monitor, who might
        tell it at once that the container has ended."""
        if "draft" not in self.plan:  # of a build
            journal.note(self.plan["root"], "started", self.plan["id"])
        fds = [self.init_pidfd] if self.plan.get("attached") and self.init_pidfd >= 0 else []
        self._tell({"event": "started", "init_pid": self.init_pid, "exec_error": exec_error}, fds)
        hand(self.reports, ("started", exec_error))

    def _tell(self, message: wire.Message, fds: Sequence[int]) -> None:
        with suppress(OSError):  # the caller is gone: nobody to tell
            wire.send(self.client, message, fds)


def _is_init(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(INIT)
    except FileNotFoundError:
        return False
