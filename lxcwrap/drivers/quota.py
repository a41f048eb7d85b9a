"""Project quotas: a limit for what lies in a directory, where the file system has them.

Only the host may take a file out of its project, so a container cannot (fs/file_attr.c: from the initial user
namespace only). Source: quotactl(2), ioctl_xfs_fsgetxattr(2). Linux 5.14.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .syscalls import QUOTACTL_FD, syscall

_GETXATTR, _SETXATTR = 0x801C581F, 0x401C5820  # FS_IOC_FS*XATTR
_ATTRIBUTES = struct.Struct("5I8x")  # struct fsxattr: flags, extent size, extents, project, CoW extent size
_INHERIT = 0x200  # FS_XFLAG_PROJINHERIT: what is made below belongs to the project, too
_GET, _SET, _PROJECT = 0x800007, 0x800008, 2
_RECORD = struct.Struct("8QI4x")  # struct if_dqblk: hard, soft (KiB), used (bytes), ...; valid
_BLOCK_LIMITS = 1
_FIRST = 0x4C000000  # up to twice this: away from what people write in /etc/projid
_ATTEMPTS = 64
_PROBE_BYTES = 16 << 20


class Usage(NamedTuple):
    """Of a project, in bytes."""

    used: int
    limit: int


def is_enforced(directory: str) -> bool:
    """Whether the file system of `directory` limits projects: tried, as mount options and kernels differ.

    A directory's size is told to be its limit only by file systems that enforce it. Writing too much would
    prove nothing: some let root (CAP_SYS_RESOURCE) do so.
    """
    place = tempfile.mkdtemp(prefix=".quota-", dir=directory)
    try:
        limit(place, _PROBE_BYTES)
        found = os.statvfs(place)
        set_limit(place, 0)
        return found.f_blocks * found.f_frsize == _PROBE_BYTES
    except OSError:
        return False
    finally:
        os.rmdir(place)


def limit(directory: str, size: int) -> None:
    """Put the empty `directory` into a project of its own, which may have `size` bytes. Raises OSError."""
    with _opened(directory) as fd:
        inode = os.fstat(fd).st_ino
        for attempt in range(_ATTEMPTS):
            project = _FIRST + (inode + attempt) % _FIRST
            if not _usage(fd, project).used:
                break
        else:
            raise OSError(errno.EBUSY, "no free project id", directory)
        _set_limit(fd, project, size)
        flags, extent, _, _, cow = _attributes(fd)
        fcntl.ioctl(fd, _SETXATTR, _ATTRIBUTES.pack(flags | _INHERIT, extent, 0, project, cow))


def usage(directory: str) -> Usage | None:
    """Of the project of `directory`; None: it has none, or one that is not by `limit`."""
    try:
        with _opened(directory) as fd:
            project = _attributes(fd)[3]
            return _usage(fd, project) if _FIRST <= project < 2 * _FIRST else None
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESRCH):
            return None
        raise


def set_limit(directory: str, size: int) -> None:
    """Another size for a directory that `limit` was called for; 0: none, before it is deleted."""
    with _opened(directory) as fd:
        _set_limit(fd, _attributes(fd)[3], size)


@contextmanager
def _opened(directory: str) -> Iterator[int]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _attributes(fd: int) -> tuple[int, ...]:
    return _ATTRIBUTES.unpack(fcntl.ioctl(fd, _GETXATTR, bytes(_ATTRIBUTES.size)))


def _usage(fd: int, project: int) -> Usage:
    record = bytearray(_RECORD.size)
    try:
        _quotactl(fd, _GET, project, record)
    except OSError as error:
        if error.errno != errno.ENOENT:  # the file system knows nothing of it yet
            raise
    hard, _, used, *_ = _RECORD.unpack(record)
    return Usage(used, hard * 1024)


def _set_limit(fd: int, project: int, size: int) -> None:
    kibibytes = -(-size // 1024)
    record = bytearray(_RECORD.pack(kibibytes, kibibytes, *(0,) * 6, _BLOCK_LIMITS))
    _quotactl(fd, _SET, project, record)


def _quotactl(fd: int, command: int, project: int, record: bytearray) -> None:
    import ctypes

    buffer = (ctypes.c_char * len(record)).from_buffer(record)
    syscall("quotactl", QUOTACTL_FD, fd, command << 8 | _PROJECT, project, ctypes.addressof(buffer))
