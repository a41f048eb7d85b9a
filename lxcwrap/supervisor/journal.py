"""Writing down what happens to containers, for `Host.events`. No heavy imports here (handover.py).

run/events.log, run/events.log.1 (older)   a line of JSON for each event: time, kind, id, and facts by kind

Each line is one write to a file opened for appending. The file is renamed when it is full, by who holds its
flock alone; who writes shares it, so nothing is added to a renamed file.
"""

from __future__ import annotations

import fcntl
import os
import time

from .handover import flat_json

NAME = "events.log"
_MOST = 1 << 20  # bytes of a file; an event has about 150


def note(root: str | os.PathLike[str], kind: str, container_id: str, **facts: object) -> None:
    """A disk that is full, or a root directory that is gone, costs the event, not what it tells of."""
    line = flat_json({"time": time.time(), "kind": kind, "id": container_id, **facts}) + "\n"
    path = f"{os.fspath(root)}/run/{NAME}"
    try:
        fd = _open(path)
        try:
            os.write(fd, line.encode())
            if os.fstat(fd).st_size > _MOST:
                _turn(path, fd)
        finally:
            os.close(fd)
    except OSError:
        pass


def note_end(root: str, container_id: str, exit_code: int | None, *, oom_killed: bool) -> None:
    """The end of a run."""
    if oom_killed:
        note(root, "oom", container_id)
    note(root, "exited", container_id, exit_code=exit_code)


def _open(path: str) -> int:
    while True:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_SH)
        if is_at(path, fd):
            return fd
        os.close(fd)


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
