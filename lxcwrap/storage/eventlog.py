"""The file that events are written to, for `Host.events`. No heavy imports here (supervisor/handover.py).

run/events.log, run/events.log.1 (older)   a line of JSON for each event: time, kind, and facts by kind

Lines that belong together are one write to a file opened for appending. What a full disk has cut off stays as
a line of its own, that says nothing. The file is renamed when it is full, by who holds its flock alone; who
writes shares it, so nothing is added to a renamed file.
"""

from __future__ import annotations

import errno
import fcntl
import os

NAME = "events.log"
_MOST = 1 << 20  # bytes of a file; an event has about 150


def append(root: str | os.PathLike[str], lines: str) -> None:
    """`lines` are whole ones. Raises OSError: the disk is full, the root directory gone."""
    path = f"{os.fspath(root)}/run/{NAME}"
    fd = _open(path)
    try:
        data = (lines if _is_whole(fd) else f"\n{lines}").encode()
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if os.fstat(fd).st_size > _MOST:
            _turn(path, fd)
    finally:
        os.close(fd)


def _open(path: str) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if is_at(path, fd):
            return fd
        os.close(fd)


def _is_whole(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return not size or os.pread(fd, 1, size - 1) == b"\n"


def _turn(path: str, fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_EX)
    if is_at(path, fd):
        os.rename(path, f"{path}.1")


def is_at(path: str, fd: int) -> bool:
    """Whether the file at `path` is still that of `fd`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
