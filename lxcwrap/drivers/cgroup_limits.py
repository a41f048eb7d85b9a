"""Writing limits to a cgroup: all or none, with errors that say which limit and why.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from . import cgroupfs
from .cgroup_files import Write, previous

# Not whole disks of their own, or in memory.
_NO_DISK = ("loop", "ram", "zram", "sr", "fd")


class LimitError(OSError):
    """The kernel refused a limit; the others are as before."""


class MissingController(LimitError):
    """This host does not offer the cgroup controller a limit needs."""

    def __init__(self, limit: str, controller: str) -> None:
        super().__init__(
            errno.ENOTSUP, f"limit {limit}: this host's cgroups lack the {controller} controller for it"
        )
        self.limit, self.controller = limit, controller


def apply(hierarchies: Mapping[str, int], directory: str, writes: Sequence[Write]) -> None:
    """Do `writes` in the cgroup `directory`. LimitError, MissingController: then all is as before."""
    done: list[Write] = []
    try:
        for write in writes:
            before = _write_limit(hierarchies, directory, write)
            if before is not None:
                done.append(write._replace(value=before))
    except OSError:
        for write in reversed(done):
            with suppress(OSError):
                _write_limit(hierarchies, directory, write)
        raise


def _write_limit(hierarchies: Mapping[str, int], directory: str, write: Write) -> str | None:
    """What to write to undo it; None when there was nothing to do."""
    path = f"{directory}/{write.file}"
    try:
        fd = hierarchies[write.controller]
        before = previous(write, cgroupfs.read(fd, path))
    except (KeyError, FileNotFoundError):
        if write.resets:
            return None
        raise MissingController(write.limit, write.controller) from None
    if before == write.value:
        return None
    try:
        if write.file == "memory.max" and write.value != "max":
            _make_room(fd, directory, int(write.value))
        cgroupfs.write(fd, path, write.value)
    except OSError as error:
        raise LimitError(error.errno, _why(write, error)) from None
    return before


def _make_room(fd: int, directory: str, limit: int) -> None:
    """v2 kills processes when memory.max is set below what is in use; v1 says EBUSY, and so do we."""
    for may_reclaim in (True, False):
        excess = int(cgroupfs.read(fd, f"{directory}/memory.current")) - limit
        if excess <= 0:
            return
        if may_reclaim:
            with suppress(OSError):
                cgroupfs.write(fd, f"{directory}/memory.reclaim", str(excess))
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _why(write: Write, error: OSError) -> str:
    what = f"limit {write.limit}={write.value or None}"
    if error.errno == errno.EBUSY and write.controller == "memory":
        return f"{what}: the container uses more than that now; stop something in it first"
    if write.limit == "cpuset":
        return f"{what}: not all of these processors are available"
    return f"{what}: {os.strerror(error.errno or 0)}"


def disks(block: str) -> list[str]:
    """``major:minor`` of all whole disks below /sys/block."""
    found = []
    for name in sorted(os.listdir(block)):
        if not name.startswith(_NO_DISK):
            with open(f"{block}/{name}/dev", encoding="ascii") as file:
                found.append(file.read().strip())
    return found
