"""The process that holds one container, from start to the last trace. All are forks of the fork-server:

monitor     holds the lock, logs the output, sees the end, records it, tells the caller, clears up
├─ starter  prepares cgroups, namespaces and mounts, gives the runner its orders, hears from init until the main
│           process runs, and ends; it does the heavy work so that the others, which stay, keep little memory
└─ runner   sits in liblxc's foreground start, which wants a process without threads and comes back only at the end

If the monitor dies the others die, and with the runner the container; if the runner dies the monitor still knows how
init ended. The mounts are in a mount namespace of the starter's and the runner's, so they end with the runner.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import suppress

from ..drivers import syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.pidfd import exit_code_of
from ..storage.logs import LogWriter, open_pipe
from ..storage.root import RootDir
from . import runner, starter, wire
from .records import Records
from .undertaker import remove_container

_STDOUT, _STDERR = 1, 2
# How long a new start waits for the clean-up of the last run.
_LOCK_TIMEOUT_S = 15.0


def stand_by(channel: socket.socket, server: socket.socket, cgroups: CgroupHost) -> None:
    """Wait on `channel` for the one container to hold, and hold it until it has ended.

    `server` is told which process is init, so that it can say how that ended should this monitor be killed.
    """
    os.setsid()
    syscalls.set_process_name("lxcwrap-monitor")
    monitor = Monitor(server, cgroups)
    received = wire.take(channel)
    if received is None:
        return  # the server has ended, or has enough of us
    order, (client, *fds) = received
    channel.close()
    try:
        monitor.start(order, socket.socket(fileno=client), fds)
        monitor.watch()
    except BaseException as error:  # whatever it was, the caller is told and the container recorded as ended
        monitor.fail(error)
    finally:
        monitor.tear_down()


class Monitor:
    def __init__(self, server: socket.socket, cgroups: CgroupHost) -> None:
        self.cgroups = cgroups
        self.poll = select.poll()
        self.handlers: dict[int, Callable[[], bool]] = {}  # each says whether it wants to hear more
        self.log: LogWriter | None = None
        self.outputs: list[int] = []
        self.lock_fd = -1
        self.init_pidfd: int | None = None
        self.has_started = False
        self.exec_error: str | None = None
        self.exit_recorded = False
        self._fork_others(server)

    def _fork_others(self, server: socket.socket) -> None:
        me = os.getpid()
        orders, orders_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.reports, starter_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.result_fd, result_end = os.pipe2(os.O_CLOEXEC)
        self.runner = os.fork()
        if self.runner == 0:
            for end in (orders, self.reports, starter_end):
                end.close()
            runner.stand_by(me, orders_end, self.cgroups, result_end)
        os.close(result_end)
        orders_end.close()
        self.starter = os.fork()
        if self.starter == 0:
            self.reports.close()
            starter.stand_by(me, starter_end, orders, server, self.cgroups)
        starter_end.close()
        orders.close()  # the runner must see their end if the starter dies
        self.runner_fd = os.pidfd_open(self.runner)

    # --- start ---

    def start(self, order: wire.Message, client: socket.socket, fds: list[int]) -> None:
        """`fds`: the caller's streams as named in the order, then the namespaces, if they were made ahead."""
        self.client = client
        self.order = order
        self.id: str = order["id"]
        self.bundle: str = order["bundle"]
        self.records = Records(self.bundle)
        self.lock_fd = self.records.hold(_LOCK_TIMEOUT_S)
        for name in ("exit", "run"):
            self.records.remove(name)
        with suppress(FileNotFoundError):
            os.unlink(f"{self.bundle}/lxc.log")
        count = len(order["stdio"])
        stdio = self._stdio(dict(zip(order["stdio"], fds[:count], strict=True)))
        wire.hand(self.reports, self.bundle, [client.fileno(), *stdio, *fds[count:]])
        for fd in {*stdio, *fds}:
            os.close(fd)
        self._hear(self.reports.fileno(), self._starter_reports)
        self._hear(self.runner_fd, self._runner_ended)

    def _stdio(self, given: dict[str, int]) -> tuple[int, int, int]:
        """Descriptors of init's 0, 1, 2: the caller's, or pipes to the log, or /dev/null."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if not {"stdout", "stderr"} <= given.keys():
            self.log = LogWriter(f"{self.bundle}/logs", **self.order["log"])
        outputs = []
        for stream, name in ((_STDOUT, "stdout"), (_STDERR, "stderr")):
            if name in given:
                outputs.append(given[name])
            else:
                reader, writer = open_pipe()
                self._log_from(reader, stream)
                outputs.append(writer)
        return given.get("stdin", null), outputs[0], outputs[1]

    def _log_from(self, fd: int, stream: int) -> None:
        log = self.log
        assert log is not None
        self._hear(fd, lambda: log.pump(fd, stream))
        self.outputs.append(fd)

    # --- watch ---

    def _hear(self, fd: int, handler: Callable[[], bool]) -> None:
        self.handlers[fd] = handler
        self.poll.register(fd, select.POLLIN)

    def _forget(self, fd: int) -> None:
        del self.handlers[fd]
        self.poll.unregister(fd)
        os.close(fd)

    def watch(self) -> None:
        """Until runner and starter have ended."""
        while self.handlers:
            for fd, _event in self.poll.poll():
                if fd in self.handlers and not self.handlers[fd]():
                    self._forget(fd)

    def _starter_reports(self) -> bool:
        received = wire.take(self.reports)
        if received is None:
            os.waitpid(self.starter, 0)
            self.starter = 0
            self.reports.detach()  # closed by who called
            if not self.has_started and self.runner:
                raise RuntimeError("the process that prepared the start was killed")
            return False
        report, fds = received
        if report["event"] == "init" and fds:
            self.init_pidfd = os.dup(fds[0])
            self._hear(fds[0], self._init_ended)
        elif report["event"] == "terminal":
            os.set_blocking(fds[0], False)
            self._log_from(fds[0], _STDOUT)
        elif report["event"] == "started":
            self.has_started = True
            self.exec_error = report["exec_error"]
        elif report["event"] == "failed":
            raise RuntimeError(report["error"])
        return True

    def _drain(self) -> None:
        """Log what the dead left in the pipes. liblxc holds their other ends a little longer: no end to wait for."""
        poll = select.poll()
        for fd in self.outputs:
            if fd in self.handlers:
                poll.register(fd, select.POLLIN)
        while events := poll.poll(0):
            for fd, _event in events:
                if not self.handlers[fd]():
                    poll.unregister(fd)
        for fd in self.outputs:
            if fd in self.handlers:
                self._forget(fd)

    def _init_ended(self) -> bool:
        """With init all processes of the container are gone. liblxc still tidies up; the caller need not wait."""
        if self.starter:  # first what it has to say: how the start went
            return True
        self._drain()
        code = exit_code_of(self.init_pidfd, wait_s=0.05)
        if code is not None:  # an older kernel: liblxc will say
            self._record_exit(code)
        return False

    def _runner_ended(self) -> bool:
        os.waitpid(self.runner, 0)
        self.runner = 0
        self._drain()
        answer = os.read(self.result_fd, 4096).decode(errors="replace")
        if answer.startswith("exit "):
            self._record_exit(int(answer.removeprefix("exit ")))
        elif self.init_pidfd is not None:  # killed: the kernel may still know how init ended
            self._record_exit(exit_code_of(self.init_pidfd, wait_s=0.2))
        elif not self.exit_recorded:
            raise RuntimeError(answer or "liblxc's process was killed")
        return False

    # --- end ---

    def _record_exit(self, exit_code: int | None, error: str | None = None) -> None:
        """Once: write how it ended, and tell the caller."""
        if self.exit_recorded:
            return
        self.exit_recorded = True
        record = {
            "exit_code": exit_code,
            "oom_killed": self.cgroups.exists(self.id) and self.cgroups.oom_kills(self.id) > 0,
            "exec_error": self.exec_error,
            "error": error,
            "log_tail": self._log_tail() if error else "",
            "finished_at": time.time(),
        }
        self.records.end(record)
        self._tell({"event": "exited", **record})

    def _tell(self, message: wire.Message) -> None:
        with suppress(OSError):  # the caller is gone: nobody to tell
            wire.send(self.client, message)

    def _log_tail(self) -> str:
        """The end of liblxc's own log: its only explanation of a failed start."""
        try:
            with open(f"{self.bundle}/lxc.log", encoding="utf-8", errors="replace") as file:
                return file.read()[-2000:]
        except FileNotFoundError:
            return ""

    def fail(self, error: BaseException) -> None:
        traceback.print_exc()
        reason = str(error) or type(error).__name__
        if self.lock_fd < 0:  # another run owns the records
            self._tell({"event": "exited", "exit_code": None, "error": reason})
            return
        for pid in (self.starter, self.runner):
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        self._record_exit(None, reason)

    def tear_down(self) -> None:
        """Undo all that start did."""
        if self.lock_fd < 0:
            return
        if self.log:
            self.log.close()
        self.cgroups.remove(self.id)
        if self.order["auto_remove"]:
            remove_container(RootDir(self.order["root"]), self.id)
