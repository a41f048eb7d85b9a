"""The system calls Python has no name for. errno becomes OSError here, with the operation in its text.

The numbers of calls newer than Linux 5.0 are the same on every architecture (Linux: scripts/syscall.tbl).
"""

from __future__ import annotations

import ctypes
import os
import struct

PIDFD_SEND_SIGNAL, OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 424, 428, 429, 430, 431, 432
MOUNT_SETATTR = 442

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 4, 15, 22, 36

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, operation: str, path: str | None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{operation}: {os.strerror(number)}", path)
    return result


def syscall(operation: str, number: int, *arguments: int | bytes | None, path: str | None = None) -> int:
    """Call `number`; pointers are given as bytes or None. Raises OSError naming `operation` and `path`."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), operation, path)


def unshare(flags: int) -> None:
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare", None)


def setns(fd: int, kind: int) -> None:
    _checked(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns", None)


def mount(source: str, target: str, fstype: str, flags: int, data: str | None = None) -> None:
    encoded = os.fsencode(data) if data is not None else None
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode(), ctypes.c_ulong(flags), encoded)
    _checked(_libc.mount(*arguments), "mount", target)


def umount(target: str, flags: int) -> None:
    _checked(_libc.umount2(os.fsencode(target), ctypes.c_int(flags)), "umount", target)


def prctl(option: int, argument: int, second: int = 0) -> None:
    words = (ctypes.c_ulong(word) for word in (argument, second, 0, 0))
    _checked(_libc.prctl(ctypes.c_int(option), *words), "prctl", None)


def personality(persona: int) -> None:
    _checked(_libc.personality(ctypes.c_ulong(persona)), "personality", None)


def set_process_name(name: str) -> None:
    """What `ps` and `top` show; 15 bytes at most."""
    _libc.prctl(ctypes.c_int(PR_SET_NAME), name.encode()[:15], 0, 0, 0)


def load_seccomp(program: bytes) -> None:
    """Apply a seccomp filter (an array of struct sock_filter) to this thread; needs no_new_privs."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(buffer))
