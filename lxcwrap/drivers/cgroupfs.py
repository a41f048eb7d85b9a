"""Files and directories of one cgroup hierarchy, named from a descriptor of its root.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable, Iterator


def open_directory(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def read(fd: int, path: str) -> str:
    """The whole text. Raises FileNotFoundError also when the cgroup is removed meanwhile."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=fd)
    try:
        chunks = []
        while chunk := os.read(file, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()
    except OSError as error:
        raise _gone(error, path) from None
    finally:
        os.close(file)


def write(fd: int, path: str, *values: str) -> None:
    """Each value by a write of its own, as the kernel wants it."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
    try:
        for value in values:
            os.write(file, value.encode() or b"\n")
    except OSError as error:
        raise _gone(error, path) from None
    finally:
        os.close(file)


def _gone(error: OSError, path: str) -> OSError:
    number = errno.ENOENT if error.errno == errno.ENODEV else error.errno or 0
    return OSError(number, os.strerror(number), path)


def open_entry(fd: int, cgroup: str) -> int:
    """Descriptor: a process of one thread that writes ``0`` to it is in `cgroup`."""
    try:
        return os.open(f"{cgroup}/tasks", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:  # v2
        return os.open(f"{cgroup}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC, dir_fd=fd)


def open_entries(cgroup: str, hierarchies: Iterable[int]) -> list[int]:
    """`open_entry` in each; none stays open if one cannot be."""
    fds: list[int] = []
    try:
        fds.extend(open_entry(fd, cgroup) for fd in hierarchies)
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def give(fd: int, path: str, owner: int) -> None:
    """Let `owner` divide the cgroup `path` of v2, and move processes in it (cgroup-v2.rst, "Delegation")."""
    for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
        os.chown(f"{path}/{name}", owner, owner, dir_fd=fd)


def move_self(fd: int, path: str) -> None:
    """Move the calling process, which has one thread, to the cgroup `path`."""
    try:
        write(fd, f"{path}/tasks", "0")
    except FileNotFoundError:  # v2
        write(fd, f"{path}/cgroup.procs", "0")


def children(fd: int, path: str) -> list[str]:
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    except FileNotFoundError:
        return []
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    finally:
        os.close(directory)


def processes(fd: int, path: str) -> Iterator[int]:
    """Pids of the cgroup and all below it."""
    try:
        yield from map(int, read(fd, f"{path}/cgroup.procs").split())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EOPNOTSUPP):  # the latter: a threaded cgroup of v2
            raise
    for name in children(fd, path):
        yield from processes(fd, f"{path}/{name}")


def remove(fd: int, path: str, deadline: float) -> bool:
    """Remove `path` with all in it, trying until `deadline` while processes vanish. Whether it is gone."""
    while True:
        try:
            os.rmdir(path, dir_fd=fd)
            return True
        except FileNotFoundError:
            return True
        except OSError:
            for name in children(fd, path):
                remove(fd, f"{path}/{name}", deadline)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.0005)
