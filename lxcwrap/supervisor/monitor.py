"""The process that holds one container from start to end, and the two that it works with:

fork-server ── nursery ── monitor   holds the lock, logs the output, sees, records and tells the end
     │                       └──── runner   sits in liblxc's foreground start, which wants no threads and
     │                                      comes back only at the end
     └── starter   prepares cgroups, namespaces and mounts, gives orders to the runner, hears from init until
                   the main process runs, and ends

Monitor and runner stay, so they do as little as can be and keep little memory. If the monitor dies the runner
dies, and with it the container; if the runner dies the monitor still knows how init ended. What is left to
clear then, the fork-server does (undertaker.py), or the monitor itself if that has gone.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import time

from ..drivers import syscalls
from ..drivers.pidfd import exit_code_of
from ..drivers.polling import readable
from ..storage.logs import LogWriter, open_pipe
from . import journal, restarting, runner
from .handover import WAITING, flat_json, hand, send_frame, take, unix_socket
from .oomwatch import OomWatch
from .records import Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_STDOUT, _STDERR = 1, 2
# How long a new start waits for the clean-up of the last run.
_LOCK_TIMEOUT_S = 15.0
_RUNNER_GRACE_MS = 1000
_TIOCGPTPEER = 0x5441
_HALTED = 128 + signal.SIGINT  # how the kernel tells that a system was halted or switched off: reboot(2)
_KILLED = "a process that took part in the start was killed"


def stand_by(channel: socket.socket, reports: socket.socket, orders_fd: int) -> None:
    """Wait on `channel` for the one container to hold, and hold it until it has ended.

    reports: to and from the starter.  orders_fd: of the runner, to which the starter has the other end.
    """
    os.setsid()
    syscalls.set_process_name(WAITING)
    monitor = Monitor(channel, reports, orders_fd)
    readable(channel.fileno(), monitor.runner_fd)
    if monitor.runner_has_ended() or (received := take(channel)) is None:
        return  # of no use without a runner; or the server has ended, or has enough of us
    syscalls.set_process_name("lxcwrap-monitor")
    order, (client, *fds) = received
    try:
        monitor.start(order, unix_socket(client), fds)
        monitor.watch()
    except BaseException as error:  # whatever it was, the caller is told and the container recorded as ended
        monitor.fail(error)
    finally:
        monitor.leave()


class Monitor:
    def __init__(self, channel: socket.socket, reports: socket.socket, orders_fd: int) -> None:
        self.channel = channel
        self.reports = reports
        self.poll = select.poll()
        self.handlers: dict[int, Callable[[], bool]] = {}  # each says whether it wants to hear more
        self.log: LogWriter | None = None
        self.outputs: set[int] = set()
        self.lock_fd = -1
        self.oom = OomWatch([])
        self.prober = self.prober_fd = 0
        self.init_pidfd: int | None = None
        self.has_started = self.starter_has_ended = False
        self.exec_error: str | None = None
        self.exit_recorded = False
        self.result_fd, result_end = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        self.runner = os.fork()
        if self.runner == 0:
            channel.close()
            reports.close()
            runner.stand_by(me, orders_fd, result_end)
        os.close(result_end)
        os.close(orders_fd)
        self.runner_fd = os.pidfd_open(self.runner)

    def runner_has_ended(self) -> bool:
        return bool(readable(self.runner_fd, timeout_s=0))

    # --- start ---

    def start(self, order: dict[str, Any], client: socket.socket, fds: list[int]) -> None:
        """`fds`: the caller's streams as named in the order, then the namespaces, if they were made ahead."""
        self.client = client
        self.order = order
        self.bundle: str = order["bundle"]
        self.records = Records(self.bundle)
        hand(self.reports, self.bundle)  # it may read the plan meanwhile
        lock_fd = self.records.hold(_LOCK_TIMEOUT_S)
        self._settle_restart()
        self.lock_fd = lock_fd
        if "health" in self.order:
            self.records.remove("health")
        self.records.remove("run")  # first: a run without an end is one whose monitor was killed
        self.records.remove("exit")
        count = len(order["stdio"])
        stdio = self._stdio(dict(zip(order["stdio"], fds[:count], strict=True)))
        hand(self.reports, os.getpid(), [client.fileno(), *stdio, *fds[count:]])
        for fd in {*stdio, *fds}:
            os.close(fd)
        self._hear(self.reports.fileno(), self._starter_reports)
        self._hear(self.runner_fd, self._runner_ended)

    def _settle_restart(self) -> None:
        """A user's start begins anew; one by policy is to be wanted still. We hold the lock: no other start
        is under way."""
        if "ticket" in self.order:
            if not restarting.is_wanted(self.order):
                raise RuntimeError("the restart was called off")
        elif "restart" in self.order:
            restarting.forget(self.order)

    def _stdio(self, given: dict[str, int]) -> tuple[int, int, int]:
        """Descriptors of init's 0, 1, 2: the caller's, or pipes to the log, or /dev/null."""
        stdin = given["stdin"] if "stdin" in given else os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if "stdout" in given and "stderr" in given:
            return stdin, given["stdout"], given["stderr"]
        self.log = LogWriter(f"{self.bundle}/logs", **self.order["log"])
        return (
            stdin,
            given.get("stdout") or self._log_pipe(_STDOUT),
            given.get("stderr") or self._log_pipe(_STDERR),
        )

    def _log_pipe(self, stream: int) -> int:
        reader, writer = open_pipe()
        self._log_from(reader, stream)
        return writer

    def _log_from(self, fd: int, stream: int) -> None:
        log = self.log
        assert log is not None
        self._hear(fd, lambda: log.pump(fd, stream))
        self.outputs.add(fd)

    # --- watch ---

    def _hear(self, fd: int, handler: Callable[[], bool], what: int = select.POLLIN) -> None:
        self.handlers[fd] = handler
        self.poll.register(fd, what)

    def _forget(self, fd: int) -> None:
        del self.handlers[fd]
        self.outputs.discard(fd)
        self.poll.unregister(fd)
        os.close(fd)

    def watch(self) -> None:
        """Until runner and starter have ended."""
        while self.handlers:
            for fd, _event in self.poll.poll(self.oom.patience_ms()):
                if fd in self.handlers and not self.handlers[fd]():
                    self._forget(fd)
            if self.oom.has_news():
                journal.note(self.order["root"], "oom", self.order["id"])

    def _starter_reports(self) -> bool:
        received = take(self.reports)
        if received is None:
            self.starter_has_ended = True
            self.reports.detach()  # closed by who called
            if not self.has_started and self.runner and not self._runner_is_ending():
                raise RuntimeError(_KILLED)
            return False
        report, fds = received
        if report[0] == "init":
            self.oom, fds = OomWatch(fds[: report[1]]), fds[report[1] :]
            if self.oom.fds and "quiet" not in self.order:
                self._hear(self.oom.fds[-1], self.oom.hear, self.oom.alarm)
            if fds:
                self.init_pidfd = os.dup(fds[0])
                self._hear(fds[0], self._init_ended)
        elif report[0] == "terminal":
            # Held: else the terminal hangs up whenever nobody inside has it open, as /dev/console often.
            fcntl.ioctl(fds[0], _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            os.set_blocking(fds[0], False)
            self._log_from(fds[0], _STDOUT)
        elif report[0] == "started":
            self.has_started = True
            self.exec_error = report[1]
            self.started_at = time.monotonic()
            if "health" in self.order:
                self._start_prober()
            if "ticket" in self.order:
                restarting.done(self.order)
                journal.note(self.order["root"], "restarted", self.order["id"], count=self.order["count"])
        else:
            raise RuntimeError(report[1])
        return True

    def _start_prober(self) -> None:
        from . import prober  # too much for monitors of containers without health check

        self.prober = prober.fork(self.bundle)
        self.prober_fd = os.pidfd_open(self.prober)
        self._hear(self.prober_fd, self._prober_ended)

    def _prober_ended(self) -> bool:
        """It was killed."""
        os.waitpid(self.prober, 0)
        self._start_prober()
        return False

    def _end_prober(self) -> None:
        if self.prober:
            os.kill(self.prober, signal.SIGKILL)
            os.waitpid(self.prober, 0)
            self._forget(self.prober_fd)
            self.prober = 0

    def _end_oom_watch(self) -> None:
        """Its count is read still."""
        self.oom.look_at = None
        for fd in self.oom.fds:
            if self.handlers.pop(fd, None):
                self.poll.unregister(fd)

    def _runner_is_ending(self) -> bool:
        """The starter ends too when the runner failed, who knows more."""
        poll = select.poll()
        poll.register(self.runner_fd, select.POLLIN)
        return bool(poll.poll(_RUNNER_GRACE_MS))

    def _hear_starter_out(self) -> None:
        """The container has ended: then the starter is about to, and first it says how the start went."""
        fd = self.reports.fileno()
        while not self.starter_has_ended:
            if not self._starter_reports():
                self._forget(fd)

    def _drain(self) -> None:
        """Log what the dead left in the pipes. liblxc holds their other ends on: no end to wait for."""
        outputs = tuple(self.outputs)
        if not outputs:
            return
        poll = select.poll()
        for fd in outputs:
            poll.register(fd, select.POLLIN)
        while events := poll.poll(0):
            for fd, _event in events:
                if not self.handlers[fd]():
                    poll.unregister(fd)
        for fd in outputs:
            self._forget(fd)

    def _init_ended(self) -> bool:
        """With init all its processes are gone. liblxc still tidies up; the caller need not wait."""
        self._hear_starter_out()
        self._drain()
        code = exit_code_of(self.init_pidfd, wait_s=0.05)
        # Else liblxc will say: an older kernel does not, and of a reboot(2) none tells here.
        if code is not None and not self.order["system"]:
            self._record_exit(code)
        return False

    def _runner_ended(self) -> bool:
        os.waitpid(self.runner, 0)
        self.runner = 0
        self._hear_starter_out()
        self._drain()
        answer = os.read(self.result_fd, 4096).decode(errors="replace")
        if answer.startswith("exit "):
            number = int(answer.removeprefix("exit "))
            self._record_exit(0 if number == _HALTED and self.order["system"] else number)
        elif self.init_pidfd is not None:  # killed: the kernel may still know how init ended
            code = exit_code_of(self.init_pidfd, wait_s=2.0)
            self._record_exit(code, None if code is not None else "liblxc's process was killed")
        elif not self.exit_recorded:
            raise RuntimeError(answer or _KILLED)
        return False

    # --- end ---

    def _record_exit(self, exit_code: int | None, error: str | None = None) -> None:
        """Once: write how it ended, and tell the caller."""
        if self.exit_recorded:
            return
        self.exit_recorded = True
        self._end_prober()
        self._end_oom_watch()
        record = {
            "exit_code": exit_code,
            "oom_killed": self.oom.count() > 0,
            "exec_error": self.exec_error,
            "error": error,
            "log_tail": self._log_tail() if error else None,
            "finished_at": time.time(),
        }
        self._arrange_restart(exit_code)
        self.records.end(record)
        if self.has_started and "quiet" not in self.order:
            root, oom_killed = self.order["root"], self.oom.has_more()
            journal.note_end(root, self.order["id"], exit_code, oom_killed=oom_killed)
        self._tell({"event": "exited", **record})

    def _arrange_restart(self, exit_code: int | None) -> None:
        """First: it must not look as if it had stopped for good."""
        if "ticket" not in self.order and (not self.has_started or self.exec_error):
            return  # a user's start failed, who is told
        ran_s = time.monotonic() - self.started_at if self.has_started else 0.0
        if again := restarting.plan_next(self.order, exit_code, ran_s):
            restarting.wait_forked(again)
        elif "ticket" in self.order:
            restarting.done(self.order)

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            send_frame(self.client, flat_json(message).encode())
        except OSError:
            pass  # the caller is gone: nobody to tell

    def _log_tail(self) -> str:
        """The end of liblxc's own log: its only explanation of a failed start."""
        try:
            with open(f"{self.bundle}/lxc.log", encoding="utf-8", errors="replace") as file:
                return file.read()[-2000:]
        except FileNotFoundError:
            return ""

    def fail(self, error: BaseException) -> None:
        reason = str(error) or type(error).__name__
        os.write(2, f"{self.bundle}: {reason}\n".encode())
        if self.lock_fd < 0:  # another run owns the records
            self._tell(
                {"event": "exited", "exit_code": None, "oom_killed": False, "error": reason, "refused": True}
            )
            return
        if self.runner:
            os.kill(self.runner, signal.SIGKILL)
            os.waitpid(self.runner, 0)
        self._record_exit(None, reason)

    def leave(self) -> None:
        """The server sees that we have ended, and clears up; without a server we do it ourselves."""
        if self.log:
            self.log.close()
        if self.lock_fd < 0:
            return
        os.close(self.lock_fd)
        try:
            hand(self.channel, "ended")
        except OSError:
            from ..drivers.cgroups import CgroupHost
            from .undertaker import bury

            cgroups = CgroupHost()
            bury(self.order, cgroups, self.init_pidfd, timeout_s=_LOCK_TIMEOUT_S)
            cgroups.unsettle()
