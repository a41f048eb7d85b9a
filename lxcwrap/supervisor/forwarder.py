"""Published ports at ::1, where the kernel can lead no connection elsewhere: a small process takes them, and
hands on what comes. To all other addresses, 127.0.0.1 too, nothing of ours is in the way.

A process serves what a start or `publish` gave it. It looks at the container's mark again at SIGHUP, and ends
with the container's monitor. ``forwarders`` in the container's directory names them all.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NoReturn

from ..drivers import syscalls
from ..drivers.pidfd import open_same, start_time
from ..drivers.polling import readable
from ..net.firewall import Firewall, Forward
from . import wire
from .relays import Datagrams, Listener, Loop

_HOST = "::1"
_LIST = "forwarders"
_PATIENCE_S = 1.0
_NO_IPV6 = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def begin(root: str, container_id: str, forwards: Iterable[Forward], monitor: int) -> None:
    """Serve `forwards` from now on, in a process of its own, as long as process `monitor` lives. Raises
    OSError EADDRINUSE. The caller has no threads."""
    bound = [(forward, server) for forward in forwards if (server := _bind(forward))]
    if not bound:
        return
    bundle, start = f"{root}/containers/{container_id}", start_time(monitor)
    blocked = signal.pthread_sigmask(
        signal.SIG_BLOCK, [signal.SIGHUP]
    )  # before it can be heard it would kill
    child = os.fork()
    if child == 0:
        try:
            _serve(root, container_id, bound, monitor, start)
        finally:
            os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for _, server in bound:
        server.close()
    with open(f"{bundle}/{_LIST}", "a") as file:
        file.write(f"{child} {start_time(child)}\n")


def serve(request: wire.Message, client: socket.socket) -> None:
    """The same for a container that runs; the answer has `errno` when it cannot be."""
    try:
        forwards = [Forward(*each) for each in request["forwards"]]
        begin(request["root"], request["id"], forwards, request["monitor"])
        wire.send(client, {"done": True})
    except OSError as error:
        wire.send(client, {"error": str(error.strerror), "errno": error.errno})


def look_again(bundle: str, leaving: Iterable[Forward] = ()) -> None:
    """Those of the container in directory `bundle` give up what does not lead to it any more. `leaving` is
    free for others when this returns."""
    for pidfd in _processes(bundle):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGHUP)
        os.close(pidfd)
    deadline = time.monotonic() + _PATIENCE_S
    for forward in leaving:
        while _is_taken(forward) and time.monotonic() < deadline:
            time.sleep(0.0002)


def end(bundle: str) -> None:
    """All of a run that has ended: their ports are free when this returns."""
    for pidfd in _processes(bundle):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        readable(pidfd, timeout_s=_PATIENCE_S)
        os.close(pidfd)
    with suppress(FileNotFoundError):
        os.unlink(f"{bundle}/{_LIST}")


def _processes(bundle: str) -> Iterator[int]:
    with suppress(FileNotFoundError), open(f"{bundle}/{_LIST}", errors="replace") as file:
        for line in file:
            # A damaged line is of nobody: they end with the container at the latest.
            with suppress(ValueError, OverflowError, OSError):
                pid, start = map(int, line.split())
                if (pidfd := open_same(pid, start)) is not None:
                    yield pidfd


def is_lost(forward: Forward) -> bool:
    """Whether nobody serves it, and somebody could."""
    try:
        server = _bind(forward)
    except OSError:
        return False
    if server:
        server.close()
    return server is not None


def _is_taken(forward: Forward) -> bool:
    try:
        if server := _bind(forward):
            server.close()
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def _bind(forward: Forward) -> socket.socket | None:
    """None: this host has no ::1."""
    kind = socket.SOCK_STREAM if forward.protocol == "tcp" else socket.SOCK_DGRAM
    try:
        server = socket.socket(socket.AF_INET6, kind | socket.SOCK_NONBLOCK)
        try:
            if forward.protocol == "tcp":
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((_HOST, forward.host_port))
            if forward.protocol == "tcp":
                server.listen(socket.SOMAXCONN)
        except BaseException:
            server.close()
            raise
    except OSError as error:
        if error.errno in _NO_IPV6:
            return None
        where = f"{forward.protocol} port {forward.host_port} of ::1"
        raise OSError(error.errno, f"{where}: {error.strerror}") from None
    return server


def _serve(
    root: str, container_id: str, bound: list[tuple[Forward, socket.socket]], monitor: int, start: int
) -> NoReturn:
    syscalls.set_process_name("lxcwrap-forward")
    signal.signal(signal.SIGHUP, lambda *_: None)
    wake, wakes = socket.socketpair()
    wakes.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno())
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _close_others([wake.fileno(), wakes.fileno(), *(server.fileno() for _, server in bound)])
    os.setsid()
    end = open_same(monitor, start)
    if end is None:
        os._exit(0)
    loop = Loop()
    servers = {}
    for forward, server in bound:
        make = Listener if forward.protocol == "tcp" else Datagrams
        servers[forward.protocol, forward.host_port] = make(loop, server, (forward.address, forward.port))
    firewall = Firewall(root)

    def look(_: int) -> None:
        wake.recv(64)
        exposed = firewall.exposed(container_id)
        wanted = {each[:2]: (each.address, each.port) for each in exposed.forwards} if exposed else {}
        for key in tuple(servers):
            if key in wanted:
                servers[key].lead_to(wanted[key])
            else:
                servers.pop(key).close()

    loop.watch(wake.fileno(), select.POLLIN, look)
    loop.watch(end, select.POLLIN, lambda _: os._exit(0))
    loop.run(at_least=3)  # else there is nothing to serve any more
    os._exit(0)


def _close_others(kept: Iterable[int]) -> None:
    """What others wait for the end of."""
    first = 3
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = fd + 1
    syscalls.close_all_from(first)
