"""The cgroup hierarchies of this host, opened. Imported by the fork-server: no heavy imports here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from . import cgroupfs

_V1 = ("cpuset", "cpu", "cpuacct", "memory", "devices", "freezer", "blkio", "pids")


def open_v1(base: str) -> dict[str, int]:
    """By controller; these may share a hierarchy (``cpu,cpuacct``), reached by symlinks of their names."""
    fds: dict[tuple[int, int], int] = {}
    found = {}
    for controller in _V1:
        directory = f"{base}/{controller}"
        if os.path.exists(f"{directory}/tasks"):
            status = os.stat(directory)
            key = (status.st_dev, status.st_ino)
            if key not in fds:
                fds[key] = cgroupfs.open_directory(directory)
            found[controller] = fds[key]
    return found


def open_v2(base: str) -> dict[str, int]:
    """The one hierarchy, by its controllers and as ``cgroup``."""
    fd = cgroupfs.open_directory(_init_directory(base))
    return dict.fromkeys((*cgroupfs.read(fd, "cgroup.controllers").split(), "cgroup"), fd)


def open_unified(base: str) -> int | None:
    """The hierarchy of v2 beside those of v1, on hybrid hosts."""
    for name in ("unified", "systemd"):
        if os.path.exists(f"{base}/{name}/cgroup.controllers"):
            return cgroupfs.open_directory(f"{base}/{name}")
    return None


def others(base: str, known: Iterable[int]) -> Iterator[int]:
    """All below `base` but those, each open as long as it is looked at."""
    devices = {os.fstat(fd).st_dev for fd in known}
    for name in sorted(os.listdir(base)):
        directory = f"{base}/{name}"
        if (
            os.path.exists(f"{directory}/cgroup.procs")
            and (device := os.stat(directory).st_dev) not in devices
        ):
            devices.add(device)
            fd = cgroupfs.open_directory(directory)
            try:
                yield fd
            finally:
                os.close(fd)


def _init_directory(base: str) -> str:
    """Where liblxc has its cgroups on v2: beside those of PID 1 (which is not in the root in a container)."""
    with open("/proc/1/cgroup", encoding="utf-8") as file:
        path = next((line[4:].rstrip("\n") for line in file if line.startswith("0::/")), "")
    directory = f"{base}/{path.removesuffix('init.scope')}".rstrip("/")
    return directory if os.path.exists(f"{directory}/cgroup.controllers") else base
