"""The process that sits in liblxc's foreground start of one container. It stays: the less it does, the less
memory it has to itself."""

from __future__ import annotations

import os
import signal

from ..drivers import syscalls
from ..drivers.liblxc import LxcDriver
from .argv import with_descriptors
from .handover import take, unix_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

_CLONE_NEWNS, _CLONE_NEWNET = 0x00020000, 0x40000000
HERE = "here"  # a network namespace to be in, which the container then keeps


def stand_by(monitor: int, orders_fd: int, result_fd: int) -> NoReturn:
    """Wait for the starter's orders, start, and write to `result_fd` how it ended: ``exit CODE``, or why
    not."""
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != monitor:
            os._exit(1)
        os.setsid()
        orders = unix_socket(orders_fd)
        first = take(orders)
        if first is None:
            os._exit(1)  # there was nothing to do
        syscalls.set_process_name("lxcwrap-runner")
        name, lxc_path, config = first[0]
        driver = LxcDriver(lxc_path)
        driver.prepare(name, config)
        rest = take(orders)
        if rest is None:
            os._exit(1)  # the starter failed, and has said why
        code = _start(driver, name, *rest)
        os.write(result_fd, f"exit {code}".encode())
    except BaseException as error:
        os.write(result_fd, f"{type(error).__name__}: {error}".encode()[:4000])
    finally:
        os._exit(0)


def _start(driver: LxcDriver, name: str, order: dict[str, Any], fds: list[int]) -> int:
    stdin, stdout, stderr, mounts_fd, status_fd, *others = fds
    count = order["counts"]
    enter_fds, entry_fds, namespace_fds = others[: count[0]], others[count[0] : count[1]], others[count[1] :]
    syscalls.setns(mounts_fd, _CLONE_NEWNS)
    for fd in enter_fds:
        os.write(fd, b"0")
    for target, fd in ((0, stdin), (1, stdout), (2, stderr)):
        os.dup2(fd, target, inheritable=True)
    config = order["config"]
    for kind, fd in zip(order["namespaces"], namespace_fds, strict=True):
        if kind == HERE:
            syscalls.setns(fd, _CLONE_NEWNET)
            continue
        config.append((f"lxc.namespace.share.{kind}", f"/proc/self/fd/{fd}"))
    argv = with_descriptors(order["init"], status_fd, entry_fds) + order["argv"]
    return driver.start(name, config, argv, keep_fds=(status_fd, *entry_fds))
