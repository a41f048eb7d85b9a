"""The process that holds one container, from start to the last trace: two processes, forked from the fork-server.

The monitor prepares (lock, cgroups, namespaces, mounts), forks the *runner*, and then waits: for init's status, for
output to log, for the end. The runner sits in liblxc's foreground start, which must be called from a process without
threads and does not come back before the container has ended. If the monitor dies the runner dies (and with it the
container); if the runner dies the monitor still knows how init ended, records it, and cleans up.
All mounts are in the monitor's own mount namespace, so they end with it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from ..drivers import mounts, namespaces, syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.liblxc import LxcDriver
from ..drivers.pidfd import exit_code_of, pass_sender, sender, start_time
from ..ids import IdMap
from ..storage.logs import LogWriter, open_pipe
from ..storage.root import RootDir
from . import rootfs, wire
from .argv import INIT, with_descriptors
from .records import Records
from .undertaker import remove_container

Plan = dict[str, Any]
_STDOUT, _STDERR = 1, 2
# How long a new start waits for the clean-up of the last run.
_LOCK_TIMEOUT_S = 15.0
_LOOK_EVERY_MS = 1


def run(
    request: wire.Message,
    client: socket.socket,
    fds: list[int],
    pair: tuple[int | None, int] | None,
    server: socket.socket,
) -> None:
    """Hold the container of `request` until it has ended. `fds`: the caller's stdin, stdout, stderr, where given.
    `server` is told which process is init, so that it can say how that ended should this monitor be killed."""
    os.setsid()
    syscalls.set_process_name("lxcwrap-monitor")
    monitor = Monitor(request["plan"], client, dict(zip(request["stdio"], fds, strict=True)), server)
    try:
        monitor.start(pair)
        monitor.watch()
    except BaseException as error:  # whatever it was, the caller is told and the container recorded as ended
        monitor.fail(error)
    finally:
        monitor.tear_down()


class Monitor:
    def __init__(
        self, plan: Plan, client: socket.socket, stdio: dict[str, int], server: socket.socket
    ) -> None:
        self.server = server
        self.plan = plan
        self.id: str = plan["id"]
        self.records = Records(plan["bundle"])
        self.client: socket.socket | None = client
        self.stdio = stdio
        self.cgroups = CgroupHost()
        self.poll = select.poll()
        self.handlers: dict[int, Callable[[], bool]] = {}  # each says whether it wants to hear more
        self.log: LogWriter | None = None
        self.lock_fd = -1
        self.outputs: list[int] = []
        self.runner = 0
        self.runner_has_ended = False
        self.init_pid = 0
        self.init_pidfd: int | None = None
        self.exec_error: str | None = None
        self.exit_code: int | None = None
        self.exit_recorded = False
        self.told_started = False
        self.becoming = False  # init=False: PID 1 is our init still, about to execute the command

    # --- start ---

    def start(self, pair: tuple[int | None, int] | None) -> None:
        plan = self.plan
        self.lock_fd = self.records.hold(_LOCK_TIMEOUT_S)
        for name in ("exit", "run"):
            self.records.remove(name)
        with suppress(FileNotFoundError):
            os.unlink(f"{plan['bundle']}/lxc.log")
        self.cgroups.prepare(self.id, plan["limits"], plan["devices"])
        idmap = IdMap(*plan["idmap"])
        userns_fd, netns_fd = pair or namespaces.make_pair(idmap)
        entry_fds = self.cgroups.entry_fds(self.id)
        mounts.private_mount_namespace()
        self.cgroups.hide_from_liblxc()
        root = rootfs.mount_all(plan, userns_fd)
        config = [*map(tuple, plan["config"]), *self.cgroups.config_items(self.id, plan["devices"])]
        config += [
            ("lxc.rootfs.path", f"dir:{root}"),
            ("lxc.namespace.share.net", f"/proc/self/fd/{netns_fd}"),
        ]
        if userns_fd is not None:
            config.append(("lxc.namespace.share.user", f"/proc/self/fd/{userns_fd}"))
        status, init_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pass_sender(status)
        stdio = self._stdio()
        result, result_end = os.pipe2(os.O_CLOEXEC)
        me = os.getpid()
        self.runner = os.fork()
        if self.runner == 0:
            _runner(me, self, config, stdio, init_end.fileno(), entry_fds, result_end)
        self.runner_fd = os.pidfd_open(self.runner)
        self.result_fd = result
        os.close(result_end)
        init_end.close()
        for fd in {*stdio, *entry_fds, netns_fd, *(() if userns_fd is None else (userns_fd,))}:
            os.close(fd)
        self._hear(status.fileno(), lambda: self._init_says(status))
        self._hear(self.runner_fd, self._runner_ended)

    def _stdio(self) -> tuple[int, int, int]:
        """Descriptors of init's 0, 1, 2: the caller's, or /dev/null and pipes to the log."""
        if self.plan["log"]:
            self.log = LogWriter(f"{self.plan['bundle']}/logs", **self.plan["log"])
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        stdin = self.stdio.pop("stdin", null)
        outputs = []
        for stream, name in ((_STDOUT, "stdout"), (_STDERR, "stderr")):
            if name in self.stdio:
                outputs.append(self.stdio.pop(name))
            elif self.log:
                outputs.append(self._log_pipe(stream))
            else:
                outputs.append(null)
        return stdin, outputs[0], outputs[1]

    def _log_pipe(self, stream: int) -> int:
        reader, writer = open_pipe()
        self._log_from(reader, stream)
        return writer

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
        """Until the runner has ended."""
        while self.handlers:
            for fd, _event in self.poll.poll(_LOOK_EVERY_MS if self.becoming else None):
                if fd in self.handlers and not self.handlers[fd]():
                    self._forget(fd)
            if self.becoming and not _is_init(self.init_pid):
                self.becoming = False
                self._has_started()

    def _drain(self) -> None:
        """Log what the dead have left in the pipes. liblxc holds their other ends a little longer: no end to wait for."""
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

    def _init_says(self, status: socket.socket) -> bool:
        data, ancillary, _flags, _address = status.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
        if data == b"S":
            self._init_is(*sender(ancillary))
        elif data == b"T":
            self._terminal(wire.received_fds(ancillary)[0])
        elif data.startswith(b"E"):
            self.exec_error = data[1:].decode()
            self._has_started()
        elif data == b"R":
            self._has_started()
        elif not data:
            status.detach()
            return False
        return True

    def _has_started(self) -> None:
        """The main process runs, or could not be executed."""
        if not self.told_started:
            self.told_started = True
            self._tell({"event": "started", "init_pid": self.init_pid, "exec_error": self.exec_error})

    def _init_is(self, pid: int, pidfd: int | None) -> None:
        self.init_pid, self.init_pidfd = pid, pidfd
        me = os.getpid()
        run = {"monitor": me, "monitor_start": start_time(me), "init_pid": pid, "init_start": start_time(pid)}
        self.records.write("run", {**run, "started_at": time.time()})
        if pidfd is not None:
            self._hear(os.dup(pidfd), self._init_ended)
            with suppress(OSError):  # the server has ended: then there is no second witness
                socket.send_fds(self.server, [self.id.encode()], [pidfd], socket.MSG_DONTWAIT)
        if "-x" in self.plan["init"]:  # it becomes the command itself, and there is nobody to say so
            self.becoming = True

    def _terminal(self, master: int) -> None:
        if self.client is not None and self.plan["tty_to_caller"]:
            self._tell({"event": "terminal"}, [master])
            os.close(master)
        elif self.log:
            os.set_blocking(master, False)
            self._log_from(master, _STDOUT)

    def _init_ended(self) -> bool:
        """With init all processes of the container are gone; liblxc still tidies up, but the caller need not wait."""
        self._drain()
        self._record_exit(exit_code_of(self.init_pidfd, wait_s=0.05))
        return False

    def _runner_ended(self) -> bool:
        os.waitpid(self.runner, 0)
        self.runner_has_ended = True
        self._drain()
        answer = os.read(self.result_fd, 4096).decode(errors="replace")
        os.close(self.result_fd)
        if answer.startswith("exit "):
            self.exit_code = int(answer.removeprefix("exit "))
        elif self.init_pid:  # killed: the kernel may still know how init ended
            self.exit_code = exit_code_of(self.init_pidfd, wait_s=0.2)
        elif not self.exit_recorded:
            raise RuntimeError(answer or "liblxc's process was killed")
        return False

    # --- end ---

    def _record_exit(self, exit_code: int | None, error: str | None = None) -> None:
        """Once: write how it ended, and tell the caller. Unknown while liblxc may still say: not yet."""
        if self.exit_recorded or (exit_code is None and not self.runner_has_ended and error is None):
            return
        self.exit_recorded = True
        record = {
            "exit_code": exit_code,
            "oom_killed": self.cgroups.oom_kills(self.id) > 0,
            "exec_error": self.exec_error,
            "error": error,
            "log_tail": self._log_tail() if error else "",
            "finished_at": time.time(),
        }
        self.records.write("exit", record)
        self._tell({"event": "exited", **record})

    def _tell(self, message: wire.Message, fds: Sequence[int] = ()) -> None:
        if self.client is None:
            return
        try:
            wire.send(self.client, message, fds)
        except OSError:  # the caller is gone: nobody to tell
            self.client.close()
            self.client = None

    def fail(self, error: BaseException) -> None:
        traceback.print_exc()
        reason = str(error) or type(error).__name__
        if self.lock_fd < 0:  # another run owns the records
            self._tell({"event": "exited", "exit_code": None, "error": reason})
        else:
            self._kill_runner()
            self._record_exit(None, reason)

    def _log_tail(self) -> str:
        """The end of liblxc's own log: its only explanation of a failed start."""
        try:
            with open(f"{self.plan['bundle']}/lxc.log", encoding="utf-8", errors="replace") as file:
                return file.read()[-2000:]
        except FileNotFoundError:
            return ""

    def _kill_runner(self) -> None:
        if self.runner and not self.runner_has_ended:
            os.kill(self.runner, signal.SIGKILL)
            os.waitpid(self.runner, 0)
            self.runner_has_ended = True

    def tear_down(self) -> None:
        """Undo all that start did. The mounts go with this process' mount namespace."""
        if self.lock_fd < 0:
            return
        if self.log:
            self.log.close()
        self._record_exit(self.exit_code)
        self.cgroups.remove(self.id)
        if self.plan["auto_remove"]:
            with suppress(OSError):  # never mounted
                mounts.detach(f"{self.plan['bundle']}/rootfs")
            remove_container(RootDir(self.plan["root"]), self.id)


def _is_init(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(INIT)
    except FileNotFoundError:
        return False


def _runner(
    parent: int,
    monitor: Monitor,
    config: list[tuple[str, str]],
    stdio: tuple[int, int, int],
    status_fd: int,
    entry_fds: list[int],
    result_fd: int,
) -> None:
    """liblxc's foreground start; never returns."""
    plan = monitor.plan
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        monitor.cgroups.enter(monitor.id)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target, inheritable=True)
        argv = with_descriptors(plan["init"], status_fd, entry_fds) + plan["argv"]
        code = LxcDriver(plan["lxc_path"]).start(monitor.id, config, argv, keep_fds=(status_fd, *entry_fds))
        os.write(result_fd, f"exit {code}".encode())
    except BaseException as error:
        os.write(result_fd, f"{type(error).__name__}: {error}".encode()[:4000])
    finally:
        os._exit(0)
