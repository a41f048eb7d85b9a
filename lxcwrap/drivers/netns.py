"""Network namespaces by descriptor. Imported by the fork-server: no heavy imports here."""

from __future__ import annotations

import os

from . import syscalls

CLONE_NEWNET = 0x40000000


class within:
    """Within the block this thread is in the network namespace `netns_fd`: sockets and processes made there
    stay in it. /proc/sys/net and /proc/thread-self/net are that namespace's; /sys/class/net is not."""

    def __init__(self, netns_fd: int) -> None:
        self._netns_fd = netns_fd

    def __enter__(self) -> None:
        self._home = current()
        try:
            syscalls.setns(self._netns_fd, CLONE_NEWNET)
        except BaseException:
            os.close(self._home)
            raise

    def __exit__(self, *_: object) -> None:
        _return(self._home)


def current() -> int:
    """A descriptor of this thread's network namespace."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def make() -> int:
    """A descriptor of a new namespace, which lives as long as that, its members and its sockets."""
    home = current()
    try:
        syscalls.unshare(CLONE_NEWNET)
        return current()
    finally:
        _return(home)


def _return(home: int) -> None:
    try:
        syscalls.setns(home, CLONE_NEWNET)
    except OSError:
        # All that this thread does from here on would be done to the wrong namespace.
        os.abort()
    os.close(home)
