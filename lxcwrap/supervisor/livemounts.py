"""Volumes mounted in and unmounted from a container that runs, by a child of the fork-server: only a process
without threads can enter a mount namespace.

Nothing there is trusted: where a path leads, and what is there, may change at any time.
"""

from __future__ import annotations

import errno
import os
import posixpath
import socket
from contextlib import ExitStack

from ..drivers import mounts, syscalls
from ..drivers.paths import open_in_root
from ..drivers.pidfd import start_time
from ..ids import IdMap
from . import detachable, rootfs, wire

_UMOUNT_NOFOLLOW = 8


def change(request: wire.Message, client: socket.socket) -> None:
    """Mount `request["mount"]`, or unmount it (``"unmount": True``), in the container whose init is `pid`;
    what has been done already is not done again. The answer has `errno` when it cannot be: ESRCH: it has
    ended."""
    try:
        with ExitStack() as stack:
            _change(stack, request)
        wire.send(client, {"done": True})
    except OSError as error:
        wire.send(client, {"error": str(error.strerror or error), "errno": error.errno or errno.EIO})


def _change(stack: ExitStack, request: wire.Message) -> None:
    idmap, mount = IdMap(*request["idmap"]), request["mount"]
    root, namespace, users = _entrances(stack, request["pid"], request["start"])
    mounts.private_mount_namespace()
    fd = rootfs.new_mount(mount, idmap, None if idmap.is_identity else users, set())
    if not idmap.is_identity:
        fd = detachable.sealed(fd, users, f"{request['bundle']}/stage")
    stack.callback(os.close, fd)
    mounts.enter(namespace)
    is_there = _is_at(root, mount["target"], os.fstat(fd))
    if request["unmount"]:
        if is_there:
            _unmount(root, mount["target"], os.fstat(fd))
    elif not is_there:
        rootfs.attach_at(root, os.dup(fd), mount["target"], idmap)


def _entrances(stack: ExitStack, pid: int, start: int) -> list[int]:
    """Root directory, mount and user namespace of the process that had `pid` at `start`."""
    try:
        fds = []
        for name, flags in (("root", os.O_PATH), ("ns/mnt", os.O_RDONLY), ("ns/user", os.O_RDONLY)):
            fds.append(os.open(f"/proc/{pid}/{name}", flags | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    if start_time(pid) != start:  # asked when they are open: before, its number might become another's
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    return fds


def _is_at(root: int, target: str, volume: os.stat_result) -> bool:
    try:
        fd = open_in_root(root, target, os.O_PATH)
    except OSError:
        return False
    try:
        return os.path.samestat(os.fstat(fd), volume)
    finally:
        os.close(fd)


def _unmount(root: int, target: str, volume: os.stat_result) -> None:
    """The kernel keeps the name of a mount point from being renamed; so what is looked at by its name, in a
    directory that is pinned, is what will be unmounted. Nothing else must be: it may hide what is the
    host's."""
    directory, name = posixpath.split(target)
    parent = open_in_root(root, directory, os.O_PATH | os.O_DIRECTORY)
    try:
        os.fchdir(parent)
    finally:
        os.close(parent)
    if not os.path.samestat(os.stat(name, follow_symlinks=False), volume):
        raise OSError(errno.EINVAL, f"{target} was replaced by a link")
    syscalls.umount(name, _UMOUNT_NOFOLLOW)
