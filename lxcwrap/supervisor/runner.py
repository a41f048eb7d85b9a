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


def run(
    monitor: int,
    name: str,
    lxc_path: str,
    cgroups: CgroupHost,
    stdio: tuple[int, int, int],
    orders: socket.socket,
    result_fd: int,
) -> NoReturn:
    """Wait for the starter's orders, start, and write to `result_fd` how it ended: ``exit CODE``, or why it did not."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != monitor:
            os._exit(1)
        os.setsid()
        syscalls.set_process_name("lxcwrap-runner")
        received = wire.receive(orders)
        if received is None:
            os._exit(1)  # the starter failed, and has said why
        order, fds = received
        mounts_fd, status_fd, *namespace_fds = fds
        mounts.enter(mounts_fd)
        cgroups.enter(name)
        entry_fds = cgroups.entry_fds(name)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target, inheritable=True)
        config = [tuple(item) for item in order["config"]]
        for kind, fd in zip(("net", "user"), namespace_fds, strict=False):
            config.append((f"lxc.namespace.share.{kind}", f"/proc/self/fd/{fd}"))
        argv = with_descriptors(order["init"], status_fd, entry_fds) + order["argv"]
        code = LxcDriver(lxc_path).start(name, config, argv, keep_fds=(status_fd, *entry_fds))
        os.write(result_fd, f"exit {code}".encode())
    except BaseException as error:
        os.write(result_fd, f"{type(error).__name__}: {error}".encode()[:4000])
    finally:
        os._exit(0)
