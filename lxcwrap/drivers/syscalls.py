"""The system calls Python has no name for. errno becomes OSError here, with the operation in its text.

The numbers of calls newer than Linux 5.0 are the same on every architecture (Linux: scripts/syscall.tbl).
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PIDFD_SEND_SIGNAL, OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 424, 428, 429, 430, 431, 432
CLOSE_RANGE, MOUNT_SETATTR, QUOTACTL_FD = 436, 442, 443

_PR_CAPBSET_DROP, _CAPABILITY_VERSION_3 = 24, 0x20080522
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER = 1, 4, 15, 22, 36
_PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 28, 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


def _function(name: str, *arguments: type) -> Callable[..., int]:
    """Found and typed now, in the process all others are forked from: a call then touches little memory."""
    function: Callable[..., int] = getattr(_libc, name)
    function.argtypes = arguments  # type: ignore[attr-defined]  # a foreign function
    return function


_int, _long, _ulong, _text = ctypes.c_int, ctypes.c_long, ctypes.c_ulong, ctypes.c_char_p
_unshare = _function("unshare", _int)
_setns = _function("setns", _int, _int)
_mount = _function("mount", _text, _text, _text, _ulong, _text)
_umount2 = _function("umount2", _text, _int)
_prctl = _function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
_personality = _function("personality", _ulong)
_setfsuid, _setfsgid = _function("setfsuid", _int), _function("setfsgid", _int)


def _checked(result: int, operation: str, path: str | None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{operation}: {os.strerror(number)}", path)
    return result


def syscall(operation: str, number: int, *arguments: int | bytes | None, path: str | None = None) -> int:
    """Call `number`; pointers are given as bytes or None. Raises OSError naming `operation` and `path`."""
    words = [_long(word) if isinstance(word, int) else word for word in arguments]
    return _checked(_libc.syscall(_long(number), *words), operation, path)


def unshare(flags: int) -> None:
    _checked(_unshare(flags), "unshare", None)


def setns(fd: int, kind: int) -> None:
    _checked(_setns(fd, kind), "setns", None)


def mount(source: str, target: str, fstype: str, flags: int, data: str | None = None) -> None:
    encoded = os.fsencode(data) if data is not None else None
    result = _mount(os.fsencode(source), os.fsencode(target), fstype.encode(), flags, encoded)
    _checked(result, "mount", target)


def umount(target: str, flags: int) -> None:
    _checked(_umount2(os.fsencode(target), flags), "umount", target)


def prctl(option: int, argument: int, second: int = 0) -> None:
    _checked(_prctl(option, argument, second, 0, 0), "prctl", None)


def limit_capabilities(mask: int) -> None:
    """This thread keeps those in `mask` only, and nothing it executes gets another one."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last = int(file.read())
    for number in range(last + 1):
        if not mask >> number & 1:
            prctl(_PR_CAPBSET_DROP, number)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    _checked(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)), "capset", None)


class ActingAs:
    """Within the block this thread makes files as user and group `owner`, with the capabilities it has. After
    it the thread no longer gains or loses any by changing its user (capabilities(7), SECBIT_NO_SETUID_FIXUP).
    """

    def __init__(self, owner: int) -> None:
        self._owner = owner

    def __enter__(self) -> None:
        prctl(_PR_SET_SECUREBITS, _NO_SETUID_FIXUP)
        self._before = _setfsuid(self._owner), _setfsgid(self._owner)
        if _setfsuid(-1) != self._owner:  # it reports no error
            raise OSError(1, f"setfsuid({self._owner}) was refused")

    def __exit__(self, *_: object) -> None:
        _setfsuid(self._before[0])
        _setfsgid(self._before[1])


def personality(persona: int) -> None:
    _checked(_personality(persona), "personality", None)


def close_on_exec_from(first: int) -> None:
    """Mark all descriptors from `first` on close-on-exec. Linux 5.11."""
    syscall("close_range", CLOSE_RANGE, first, 0xFFFFFFFF, 4)


def close_all_from(first: int) -> None:
    """Close all descriptors from `first` on."""
    syscall("close_range", CLOSE_RANGE, first, 0xFFFFFFFF, 0)


def set_process_name(name: str) -> None:
    """What `ps` and `top` show; 15 bytes at most."""
    fd = os.open("/proc/self/comm", os.O_WRONLY | os.O_CLOEXEC)
    os.write(fd, name.encode())
    os.close(fd)


def inotify_init(flags: int) -> int:
    return _checked(_libc.inotify_init1(flags), "inotify_init1", None)


def inotify_add_watch(fd: int, path: str, mask: int) -> None:
    result = _libc.inotify_add_watch(fd, os.fsencode(path), mask)
    _checked(result, "inotify_add_watch", path)


def load_seccomp(program: bytes) -> None:
    """Apply a seccomp filter (an array of struct sock_filter) to this thread; needs no_new_privs."""
    code = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    buffer = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, 2, ctypes.addressof(buffer))
