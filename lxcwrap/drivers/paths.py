"""Opening paths that others control: openat2(2), which Python does not offer.

An archive, or a process inside a container, may put a symbolic link anywhere. Only the kernel can follow a
path and hold it inside a directory without a race, so every such path is opened here.
"""

from __future__ import annotations

import ctypes
import errno
import os

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_SYS_OPENAT2 = 437  # the same on every architecture Linux 5.6 and newer knows, but alpha
_ATTEMPTS = 128

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(dirfd: int, path: str | bytes, flags: int, *, resolve: int, mode: int = 0) -> int:
    """File descriptor of `path`, looked up from `dirfd` by the RESOLVE_* rules. OSError as from open(2)."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ValueError("embedded null byte")
    how = _OpenHow(flags, mode, resolve)
    fd: int = _libc.syscall(_SYS_OPENAT2, dirfd, name, ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return fd


def open_in_root(rootfd: int, path: str | bytes, flags: int, mode: int = 0) -> int:
    """`path` as a process chrooted to `rootfd` would open it: ``..``, absolute names and links all end
    inside.

    Magic links (/proc/PID/fd and their like) are refused. The descriptor is close-on-exec.
    """
    for _ in range(_ATTEMPTS):
        try:
            return openat2(
                rootfd, path, flags | os.O_CLOEXEC, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS, mode=mode
            )
        except (
            BlockingIOError
        ):  # EAGAIN: something was renamed meanwhile, so the kernel could not be sure (openat2(2))
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def syncfs(fd: int) -> None:
    """Wait until the file system that holds `fd` is on disk. OSError as from syncfs(2)."""
    if _libc.syncfs(fd):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
