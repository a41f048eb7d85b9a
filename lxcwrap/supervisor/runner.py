"""The process that sits in liblxc's foreground start of one container. It stays: the less it does, the less memory
it has to itself."""

from __future__ import annotations

import os
import signal
import socket
from typing import NoReturn

from ..drivers import mounts, syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.liblxc import LxcDriver
from . import wire
from .argv import with_descriptors


def stand_by(monitor: int, orders: socket.socket, cgroups: CgroupHost, result_fd: int) -> NoReturn:
    """Wait for the starter's orders, start, and write to `result_fd` how it ended: ``exit CODE``, or why it did not."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != monitor:
            os._exit(1)
        os.setsid()
        syscalls.set_process_name("lxcwrap-runner")
        received = wire.take(orders)
        if received is None:
            os._exit(1)  # the starter failed, and has said why; or there was nothing to do
        order, (stdin, stdout, stderr, mounts_fd, status_fd, *namespace_fds) = received
        mounts.enter(mounts_fd)
        cgroups.enter(order["id"])
        entry_fds = cgroups.entry_fds(order["id"])
        for target, fd in ((0, stdin), (1, stdout), (2, stderr)):
            os.dup2(fd, target, inheritable=True)
        config = order["config"]
        for kind, fd in zip(("net", "user"), namespace_fds, strict=False):
            config.append((f"lxc.namespace.share.{kind}", f"/proc/self/fd/{fd}"))
        argv = with_descriptors(order["init"], status_fd, entry_fds) + order["argv"]
        code = LxcDriver(order["lxc_path"]).start(order["id"], config, argv, keep_fds=(status_fd, *entry_fds))
        os.write(result_fd, f"exit {code}".encode())
    except BaseException as error:
        os.write(result_fd, f"{type(error).__name__}: {error}".encode()[:4000])
    finally:
        os._exit(0)
