"""The fork-server: a small process with liblxc loaded and no threads, one per root directory, started on demand.

It accepts a connection, reads one request, and forks a child that does the work and answers on that connection:
the monitor of a container (`launch`), an attacher (`exec`, `call`), or a helper for one act (`freeze`, `mount`).
Between requests it prepares user and network namespaces for the starts that are likely to come next. It ends by
itself when it has been idle; containers are not concerned, their monitors are sessions of their own.
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
from typing import NoReturn

from ..ids import RANGE_SIZE
from . import attacher, monitor, wire
from .pool import NamespacePool, close_pair

_IDLE_S = 60.0


class Server:
    def __init__(self, root: str, listener: socket.socket, lock: int) -> None:
        self.root = root
        self.listener = listener
        self.lock = lock
        self.pool = NamespacePool()
        self.retired = False

    def serve(self) -> None:
        """Until retired, or idle for a while."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        last = time.monotonic()
        while not self.retired:
            # First the requests; when there is none, one step of preparation; then sleep.
            ready = poll.poll(0) or (None if self.pool.prepare_one() else poll.poll(1000))
            if ready:
                connection, _ = self.listener.accept()
                with connection:
                    self._serve_one(connection)
                last = time.monotonic()
            elif ready is not None and time.monotonic() - last > _IDLE_S:
                break
        self.pool.close()

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
        finally:
            wire.close_all(fds)

    def _dispatch(self, request: wire.Message, connection: socket.socket, fds: list[int]) -> None:
        operation = request.get("op")
        if operation == "hello":
            self.retired = request["protocol"] != wire.PROTOCOL or bool(request.get("retire"))
            wire.send(connection, {"protocol": wire.PROTOCOL, "pid": os.getpid()})
        elif operation == "launch":
            base = request["plan"]["idmap"][0]
            pair = self.pool.take(base)
            self._fork(lambda: monitor.run(request, connection, fds, pair))
            close_pair(pair)
            if base:
                self.pool.expect(base, base + RANGE_SIZE)
        elif operation in attacher.OPERATIONS:
            self._fork(lambda: attacher.OPERATIONS[operation](request, connection, fds))
        else:
            wire.send(connection, {"error": f"unknown request {operation!r}"})

    def _fork(self, work: Callable[[], None]) -> None:
        if os.fork() == 0:
            status = 1
            try:
                self.listener.close()
                os.close(self.lock)  # a child outlives the server, and must not keep the next one out
                self.pool.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)


def main(root: str, ready_fd: int) -> NoReturn:
    """Serve `root`; says ``ok`` on `ready_fd` when connections are taken. Another server's presence ends this one."""
    if os.fork():
        os._exit(0)  # nobody's child: the caller need not reap us
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    log = os.open(f"{root}/run/server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for target, fd in ((0, null), (1, log), (2, log)):
        os.dup2(fd, target)
    lock = os.open(f"{root}/run/server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.write(ready_fd, b"ok")
        os._exit(0)
    path = f"{root}/run/server.sock"
    if os.path.lexists(path):
        os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(1024)
        os.write(ready_fd, b"ok")
        os.close(ready_fd)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
        gc.collect()
        gc.freeze()  # the collector must not touch, and so copy, the pages shared with every child
        gc.disable()
        try:
            Server(root, listener, lock).serve()
        finally:
            os.unlink(path)
    os._exit(0)
