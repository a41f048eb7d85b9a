"""The fork-server: a small process with liblxc and no threads, one per root directory, started on demand.

It accepts a connection, reads one request, and forks a child that does the work and answers on that
connection: the monitor of a container (`launch`), a worker (`exec`, `call`), or a helper for one act
(`mount`, `remount`, `freeze`). Between requests it prepares user and network namespaces for the starts that
are likely to come next. It ends by itself when it has been idle; containers are not concerned, their monitors
are sessions of their own.
"""

from __future__ import annotations

import fcntl
import gc
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, NoReturn

from ..drivers import syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.pidfd import boot_id
from ..ids import RANGE_SIZE
from ..net import firewall
from . import forwarder, keeping, layered, livemounts, mounter, nursery, pauser, restarting, wire, wiring
from .handover import close_all, hand
from .pool import NamespacePool, close_pair
from .standby import Standby, Worker, fork_in
from .undertaker import bury, is_settled

_IDLE_S = 60.0
# How long after a launch, and after the start of its init, the next is not yet prepared.
_START_S, _SHORT_S = 0.05, 0.008
_BURY_TIMEOUT_S = 10.0


class Held(NamedTuple):
    """A container that runs: `order` is what asked for its start, `init` a pidfd, when the starter has sent
    it. By a pidfd of the monitor."""

    order: wire.Message
    standby: Standby
    init: int | None


class Server:
    def __init__(self, listener: socket.socket, lock: int, nursery_end: socket.socket) -> None:
        self.nursery = nursery_end
        self.listener = listener
        self.lock = lock
        self.pool = NamespacePool()
        self.standby: Standby | None = None
        self.has_launched = False  # a container: more may follow
        self.networked = self.warm = False  # one on a network; what the next needs is loaded
        self.callers: socket.socket | None = None  # the nursery of callers, once there was a call
        self.workers: dict[str, Worker] = {}
        self.wanted: set[str] = set()  # kinds of work that were asked for: more may follow
        self.cgroups = CgroupHost()
        self.retired = False
        # A start is under way, which is not to share the processors with preparations.
        self.busy_until = 0.0
        self.poll = select.poll()
        self.held: dict[int, Held] = {}  # by a pidfd of the monitor
        self.guarded: dict[int, wire.Message] = {}  # by a pidfd of who waits to do a restart
        # Starters send what container it is and a pidfd of its init.
        self.inbox, self.outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.poll.register(listener, select.POLLIN)
        self.poll.register(self.inbox, select.POLLIN)
        self.inbox.setblocking(False)
        self.poll.register(self.nursery, 0)  # its end

    def settle(self) -> None:
        """Leave the caller's cgroups, and the nursery too: the end of its session must not be ours."""
        self.cgroups.settle()
        fds = self.cgroups.supervisor_fds()
        hand(self.nursery, nursery.JOIN, fds)
        close_all(fds)

    def serve(self) -> None:
        """Until retired, or idle for a while."""
        last = time.monotonic()
        while not self.retired:
            try:
                ready = self._next()
                for fd, _event in ready or ():
                    self._attend(fd)
                    last = time.monotonic()
            except (OSError, RuntimeError):  # there can be no more processes, or the nursery was killed
                traceback.print_exc()
                break
            if not ready and time.monotonic() - last > _IDLE_S:
                break
        self._retire()

    def _next(self) -> list[tuple[int, int]] | None:
        """First what comes in; then, if nothing is under way that wants the processors, one step of
        preparation (None); then sleep, for a while."""
        wait_s = self.busy_until - time.monotonic()
        if wait_s > 0 and (ready := self.poll.poll(wait_s * 1000)):
            return ready
        if ready := self.poll.poll(0):
            return ready
        return None if self._prepare_one() else self.poll.poll(1000)

    def _retire(self) -> None:
        """Answer those who have connected; no more can. Monitors clear up by themselves from now on."""
        self.listener.shutdown(socket.SHUT_RD)
        with suppress(OSError):  # until there are none
            while True:
                self._accept()
        for fd, held in list(self.held.items()):
            if held.standby.disown():
                self._monitor_ended(fd)

    def _attend(self, fd: int) -> None:
        if fd == self.listener.fileno():
            self._accept()
        elif fd == self.inbox.fileno():
            self._read_inbox()
        elif fd == self.nursery.fileno():
            self.retired = True  # it was killed: the next server has another
        elif fd in self.guarded:
            self._guarded_ended(fd)
        else:
            self._monitor_ended(fd)

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            self._serve_one(connection)

    def _read_inbox(self) -> None:
        with suppress(BlockingIOError):
            while True:
                name, fds, _flags, _address = socket.recv_fds(self.inbox, 64, 1)
                for monitor_fd, held in self.held.items():
                    if fds and held.order["id"] == name.decode():
                        self.held[monitor_fd] = held._replace(init=fds.pop())
                        self.busy_until = time.monotonic() + _SHORT_S
                close_all(fds)

    def _hold(self, order: wire.Message, standby: Standby) -> None:
        self.held[standby.monitor] = Held(order, standby, None)
        self.poll.register(standby.monitor, select.POLLIN)

    def _monitor_ended(self, fd: int) -> None:
        """By itself or killed: do what is left to do."""
        self._read_inbox()
        self.poll.unregister(fd)
        held = self.held.pop(fd)
        held.standby.close()
        if not is_settled(held.order, self.cgroups):
            self._guard(held.order, self._fork(lambda: self._bury(held)))
        else:
            self._see_to_restart(held.order)
        if held.init is not None:
            os.close(held.init)

    def _bury(self, held: Held) -> None:
        """In a process of its own, which also does the restart."""
        if again := bury(held.order, self.cgroups, held.init, timeout_s=_BURY_TIMEOUT_S):
            restarting.do(again)

    def _guard(self, order: wire.Message, pid: int) -> None:
        """See to the restart when process `pid` has ended, who is about to do it, or to decide on it."""
        if "restart" not in order:
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return self._see_to_restart(order)
        self.guarded[fd] = order
        self.poll.register(fd, select.POLLIN)

    def _guarded_ended(self, fd: int) -> None:
        self.poll.unregister(fd)
        os.close(fd)
        self._see_to_restart(self.guarded.pop(fd))

    def _see_to_restart(self, order: wire.Message) -> None:
        if pid := restarting.waiter(order):
            self._guard(order, pid)
        elif restarting.left_behind(order):
            self._guard(order, self._fork(lambda: restarting.take_over(order)))

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(5.0)
            received = wire.receive(connection)
            connection.settimeout(None)
            if received is None:
                return
            request, fds = received
        except (OSError, ValueError) as error:
            print(f"a bad request: {error}", file=sys.stderr)
            return
        try:
            self._dispatch(request, connection, fds)
        except BrokenPipeError:
            pass  # the caller has gone
        except Exception:  # one request must not end the server of all; its caller sees the connection end
            traceback.print_exc()
        finally:
            close_all(fds)

    def _dispatch(self, request: wire.Message, connection: socket.socket, fds: list[int]) -> None:
        operation = request.get("op")
        if operation == "hello":
            self.retired |= request["retire"]
            _answer(connection, {"pid": os.getpid()})
        elif operation == "launch":
            self._launch(request, connection, fds)
        elif operation == "exec":
            self._work(nursery.EXECUTOR, request, connection, fds)
        elif operation == "call":
            self._work(nursery.CALLER, request, connection, fds)
        elif operation == "mount":
            self._fork(lambda: mounter.mount_root(request, connection))
        elif operation == "remount":
            self._fork(lambda: livemounts.change(request, connection))
        elif operation == "names":
            self._fork(lambda: wiring.serve_names(request, connection))
        elif operation == "forward":
            self._fork(lambda: forwarder.serve(request, connection))
        elif operation == "freeze":
            self._fork(lambda: pauser.keep_frozen(request, connection, self.cgroups))
        elif operation == "impair":
            self._fork(lambda: keeping.keep_impaired(request, connection))
        else:
            _answer(connection, {"error": f"unknown request {operation!r}"})

    def _launch(self, order: wire.Message, connection: socket.socket, fds: list[int]) -> None:
        self.busy_until = time.monotonic() + _START_S
        self.has_launched = True
        self.networked |= wiring.is_networked(order["bundle"])
        base = order["id_base"]
        pair = self.pool.take(base)
        while not (standby := self.standby or self._new_standby()).launch(order, connection, fds, pair):
            self.standby = None
        self.standby = None
        self._hold(order, standby)
        close_pair(pair)
        if base:
            self.pool.expect(base, base + RANGE_SIZE)

    def _work(self, kind: str, request: wire.Message, connection: socket.socket, fds: list[int]) -> None:
        try:
            entry_fds = self.cgroups.entry_fds(request["id"])
        except FileNotFoundError:
            answer = {"event": "exited", "exit_code": None, "error": "the container does not run"}
            return _answer(connection, answer)
        fds = [*fds, *entry_fds]
        while not (self.workers.pop(kind, None) or self._new_worker(kind)).serve(request, connection, fds):
            continue  # the one that waited was killed
        close_all(entry_fds)
        self.wanted.add(kind)

    def _new_worker(self, kind: str) -> Worker:
        if kind != nursery.CALLER:
            return Worker(self.nursery, kind)
        try:
            return Worker(self.callers or self._new_callers(), kind)
        except (OSError, RuntimeError):  # it was killed
            return Worker(self._new_callers(), kind)

    def _new_callers(self) -> socket.socket:
        self.callers, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs:
            fork_in(self.nursery, nursery.CALLERS, [theirs])
        return self.callers

    def _new_standby(self) -> Standby:
        while True:
            with suppress(ProcessLookupError):  # killed already
                return Standby(self.nursery, self._fork, self.outbox, self.cgroups)

    def _prepare_one(self) -> bool:
        """One thing that the next launch need not wait for; False when all is ready."""
        if self.networked and not self.warm:
            firewall.warm()
            self.warm = True
            return True
        if self.standby is None and self.has_launched:
            self.standby = self._new_standby()
            return True
        for kind in self.wanted - self.workers.keys():
            self.workers[kind] = self._new_worker(kind)
            return True
        return self.pool.prepare_one()

    def _fork(self, work: Callable[[], None]) -> int:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                self.let_go()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return child

    def let_go(self) -> None:
        """Of what is the server's alone: at its end, and in a child, which may outlive it and must not keep
        the next one out."""
        self.listener.close()
        self.inbox.close()
        self.nursery.close()
        if self.callers:
            self.callers.close()
        os.close(self.lock)
        self.pool.close()
        if self.standby:
            self.standby.close()
        for worker in self.workers.values():
            worker.close()
        for held in self.held.values():
            held.standby.close()


def _answer(connection: socket.socket, message: wire.Message) -> None:
    with suppress(OSError):  # it has not waited
        wire.send(connection, message)


def main(root: str, ready_fd: int, nursery_end: socket.socket) -> NoReturn:
    """Serve `root`, as the only one; says ``ok`` on `ready_fd` when connections are taken."""
    lock = os.open(f"{root}/run/{wire.SERVER}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # the last one may be about to end
    path = f"{wire.SERVER}.sock"
    os.chdir(f"{root}/run")  # for a path relative to it, as a socket's can have 107 bytes only
    if os.path.lexists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(1024)
        server = Server(listener, lock, nursery_end)
        server.settle()
        boot_id()  # read once, for all forks
        layered.supports_descriptors()  # asked once, for all forks
        os.chdir("/")
        os.write(ready_fd, b"ok")
        os.close(ready_fd)
        # Children are reaped by the kernel, and so are the inits of killed monitors, which would else go to
        # the host's init: only of a process that has been reaped the kernel tells the exit code.
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            server.serve()
        finally:
            os.unlink(f"{root}/run/{path}")
            server.let_go()  # those that wait end now, and with them the last in our cgroup
            server.cgroups.unsettle()
    os._exit(0)
