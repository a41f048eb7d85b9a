"""Processes by descriptor: identity, signals, and how one ended that is not our child."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# linux/pidfd.h: PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15 and newer
_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11
_INFO_EXIT = 1 << 3
_SO_PASSPIDFD, _SCM_PIDFD = 76, 4
_boot_id = ""


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of `pid`: with the pid, a name that is never used again. 0: no such
    process, or it has ended and waits for its parent, which it may do for ever."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if fields[0] in b"ZX" else int(fields[19])


def boot_id() -> str:
    """Names this boot of the machine: pids and start times of another one mean nothing now."""
    global _boot_id
    if not _boot_id:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            _boot_id = file.read().strip()
    return _boot_id


def lives(pid: int, start: int, boot: str | None) -> bool:
    """Whether the process that had `pid` at `start` in this `boot` lives. None: this one."""
    return start_time(pid) == start and boot in (None, boot_id())


def open_same(pid: int, start: int) -> int | None:
    """A pidfd of the process that had `pid` at `start` (see `start_time`), or None when it is gone."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if start_time(pid) != start:
        os.close(fd)
        return None
    return fd


def exit_code_of(pidfd: int | None, *, wait_s: float) -> int | None:
    """Exit code (128+signal) of a process that has ended, not only our child's; None: the kernel cannot say.

    It can from the moment its parent has reaped it, so this waits up to `wait_s` seconds.
    """
    if pidfd is None:
        return None
    deadline = time.monotonic() + wait_s
    pause_s = 0.00002
    while True:
        buffer = bytearray(struct.pack("<Q", _INFO_EXIT) + bytes(56))
        try:
            fcntl.ioctl(pidfd, _GET_INFO, buffer)
        except OSError:
            return None  # an older kernel, or reaped before anyone could ask
        if struct.unpack_from("<Q", buffer)[0] & _INFO_EXIT:
            return _code(buffer)
        if time.monotonic() > deadline:
            return None
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.001)


def _code(buffer: bytearray) -> int:
    code = os.waitstatus_to_exitcode(struct.unpack_from("<i", buffer, 60)[0])
    return 128 - code if code < 0 else code


def pass_sender(sock: socket.socket) -> None:
    """Let `sock` tell who sent each packet: `sender` reads it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSPIDFD, 1)
    except OSError:
        pass  # Linux before 6.5


def sender(ancillary: Sequence[tuple[int, int, bytes]]) -> tuple[int, int | None]:
    """Pid of who sent a packet, as this process sees it, and a pidfd, which may be of a process that has
    ended since; None when the kernel can give none any more."""
    pid, pidfd = 0, None
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid = struct.unpack_from("i", payload)[0]
        elif level == socket.SOL_SOCKET and kind == _SCM_PIDFD and len(payload) >= 4:
            pidfd = struct.unpack_from("i", payload)[0]
    if pidfd is None or pidfd < 0:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            pidfd = None
    return pid, pidfd
