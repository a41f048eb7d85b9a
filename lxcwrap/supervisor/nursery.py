"""The process that monitors are forked from: forked itself from the fork-server before that loads the rest.

It loads next to nothing, and does nothing but fork, so monitors and runners share nearly all memory with it.
"""

from __future__ import annotations

import gc
import os
import signal
import socket

from ..drivers import liblxc, syscalls
from . import executor, monitor
from .handover import WAITING, close_all, hand, take, unix_socket

JOIN = "join"
MONITOR, EXECUTOR, CALLER = "monitor", "executor", "caller"
CALLERS = "callers"  # a nursery for callers


def start(log_fd: int, ready_fd: int) -> socket.socket:
    """Fork the nursery, its stderr to the log; our end of the socket to it. It ends when that is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    liblxc.warm_up()
    gc.collect()
    gc.freeze()  # the collector must not touch, and so copy, the pages shared with every child
    gc.disable()
    if os.fork() == 0:
        try:
            ours.close()
            os.close(ready_fd)
            os.dup2(log_fd, 2)
            syscalls.set_process_name("lxcwrap-nursery")
            _serve(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ours


def _serve(server: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    while (received := take(server)) is not None:
        request, fds = received
        if request == JOIN:  # cgroups, by their `tasks` files
            for fd in fds:
                os.write(fd, b"0")
        else:
            pid = os.fork()
            if pid == 0:
                _become(request, server, fds)
            hand(server, pid)
        close_all(fds)


def _become(what: str, server: socket.socket, fds: list[int]) -> None:
    try:
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if what == MONITOR:
            channel_fd, reports_fd, orders_fd = fds
            monitor.stand_by(unix_socket(channel_fd), unix_socket(reports_fd), orders_fd)
        elif what == EXECUTOR:
            executor.stand_by(unix_socket(fds[0]))
        else:
            from . import caller  # too much for monitors to carry

            if what == CALLERS:
                syscalls.set_process_name(WAITING)
                _serve(unix_socket(fds[0]))
            caller.stand_by(unix_socket(fds[0]))
    finally:
        os._exit(0)
