"""What the machine holds on behalf of one root directory, and what a test left behind.

A trace is one line of text that names the thing well enough to find it by hand. Traces of other root directories
are not counted, so tests may run side by side.
"""

from __future__ import annotations

import gc
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def snapshot(root: Path) -> frozenset[str]:
    """All traces of `root` and of this process."""
    processes = dict(_own_processes(root))
    return frozenset(
        [
            *processes.values(),
            *_mounts(root),
            *_links(),
            *_cgroups(root),
            *_loop_devices(root),
            *_network_namespaces(),
            *_descriptors(),
            *(f"thread {thread.name}" for thread in threading.enumerate()),
            *_rows(root),
            *_files(root),
        ]
    )


def assert_same(before: frozenset[str], root: Path, *, grace_s: float = 3.0) -> None:
    """Fails and names what is there and was not `before`. `grace_s`: for what the kernel ends a little later."""
    deadline = time.monotonic() + grace_s
    left = snapshot(root) - before
    while left and time.monotonic() < deadline:
        gc.collect()  # a file held by garbage alone is not a leak
        time.sleep(0.02)
        left &= snapshot(root)
    assert not left, "left behind:\n  " + "\n  ".join(sorted(left))


def _mounts(root: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(root) in line or "lxcwrap" in line:
            yield f"mount {line.split()[4]} ({line.partition(' - ')[2]})"


def _links() -> Iterator[str]:
    return (f"link {link.name}" for link in Path("/sys/class/net").iterdir())


def _cgroups(root: Path) -> Iterator[str]:
    for directory, _, _ in os.walk(CGROUPS):
        if "lxcwrap" in directory and not _is_foreign(Path(directory), root):
            yield f"cgroup {directory}"


def _is_foreign(cgroup: Path, root: Path) -> bool:
    """Whether a supervisor of another root directory lives in this cgroup or below it."""
    lines = [_cmdline(pid) for procs in cgroup.rglob("cgroup.procs") for pid in _read(procs).split()]
    return any("lxcwrap" in line and str(root) not in line for line in lines)


def _own_processes(root: Path) -> Iterator[tuple[int, str]]:
    parents = {int(entry.name): _parent(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()}
    for pid in parents:
        cmdline = _cmdline(str(pid))
        if "multiprocessing" in cmdline:  # its resource tracker stays until the interpreter ends
            continue
        if str(root) in cmdline or _descends(pid, os.getpid(), parents):
            yield pid, f"process {pid} ({cmdline or _read(PROC / str(pid) / 'comm').strip()})"


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid := parents.get(pid, 0):
        if pid == ancestor:
            return True
    return False


def _parent(pid: str) -> int:
    stat = _read(PROC / pid / "stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else 0


def _cmdline(pid: str) -> str:
    return _read(PROC / pid / "cmdline").replace("\0", " ").strip()


def _loop_devices(root: Path) -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if str(root) in (path := _read(backing)):
            yield f"loop device {backing.parts[3]} ({path.strip()})"


def _network_namespaces() -> Iterator[str]:
    return (f"network namespace {path}" for path in Path("/run/netns").glob("*"))


def _descriptors() -> Iterator[str]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield f"descriptor {name} -> {os.readlink(f'/proc/self/fd/{name}')}"
        except FileNotFoundError:
            continue  # the one that listed the directory


def _rows(root: Path) -> Iterator[str]:
    if not (root / "state.db").exists():
        return
    state = sqlite3.connect(f"file:{root}/state.db?mode=ro", uri=True)
    try:
        for table, columns in (("containers", "id, name, phase"), ("images", "id"), ("tags", "reference")):
            yield from (
                f"row in {table}: {' '.join(row)}" for row in state.execute(f"SELECT {columns} FROM {table}")
            )
    finally:
        state.close()


def _files(root: Path) -> Iterator[str]:
    for directory in ("containers", "layers", "images/blobs/sha256", "trash", "volumes", "run"):
        yield from (f"file {path}" for path in (root / directory).glob("*"))


def _read(path: Path) -> str:
    """The text of a file of the kernel; empty when its process or cgroup has just gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
