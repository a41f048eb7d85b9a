"""What the machine holds on behalf of a test run, and what a test left behind.

All root directories of a run lie in one directory, `base`. A trace is one line of text that names the thing
well enough to find it by hand. Traces of other runs are not counted, so tests may run side by side.
"""

from __future__ import annotations

import gc
import os
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lxcwrap.drivers.nftables import Nftables
from lxcwrap.net.firewall import Firewall
from tests import faults

CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
PREFIX = "lxcwrap-test-"
MARKED = re.compile(r"fa00[0-9a-f]{6}$")  # the id of a container made by any run of the tests


def snapshot(base: Path) -> frozenset[str]:
    """All traces of the root directories in `base`, and of this process."""
    traces = []
    for root in base.iterdir():
        traces += [f"file {root}", *_files(root), *_rows(root)]
    traces += _mounts(base)
    traces += _links(base)
    traces += cgroups(base)
    traces += _processes(base)
    traces += _loop_devices(base)
    traces += _network_namespaces()
    traces += _rules(base)
    traces += _descriptors()  # after _rows: SQLite may keep what it opened there for the next time
    traces += (f"thread {thread.name}" for thread in threading.enumerate())
    return frozenset(traces)


def assert_same(before: frozenset[str], base: Path, *, grace_s: float = 3.0) -> None:
    """Fails and names what is there and was not `before`; the kernel has `grace_s` to end things."""
    deadline = time.monotonic() + grace_s
    left = snapshot(base) - before
    while left and time.monotonic() < deadline:
        gc.collect()  # a file held by garbage alone is not a leak
        time.sleep(0.02)
        left &= snapshot(base)
    if left:
        raise AssertionError("left behind:\n  " + "\n  ".join(sorted(left)))


def _mounts(base: Path) -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(base) in line or ("lxcwrap" in line and PREFIX not in line):
            yield f"mount {line.split()[4]} ({line.partition(' - ')[2]})"


def _links(base: Path) -> Iterator[str]:
    """All but bridges that say whose they are, which is another run's, and their ports."""
    for link in Path("/sys/class/net").iterdir():
        owner = read(link / "ifalias").strip() or read(link / "master/ifalias").strip()
        if not owner.startswith("/") or owner.startswith(str(base)):
            yield f"link {link.name}"


def cgroups(base: Path) -> Iterator[str]:
    """Cgroups of this run's containers. Those above them are shared by all root directories."""
    for directory, _, _ in os.walk(CGROUPS):
        if (found := re.search(r"/lxcwrap/([0-9a-f]{64})", directory)) and _is_ours(
            found[1], directory, base
        ):
            yield f"cgroup {directory}"


def _is_ours(container_id: str, cgroup: str, base: Path) -> bool:
    """By the mark of who made it; those that other programs of a test have made bear none."""
    if container_id.endswith(faults.ID_MARK):
        return True
    return not MARKED.search(container_id) and not _is_foreign(cgroup, base)


def _is_foreign(cgroup: str, base: Path) -> bool:
    """Whether a supervisor of another run lives in this cgroup or below it."""
    for directory, _, _ in os.walk(cgroup):
        commands = map(_cmdline, read(Path(directory, "cgroup.procs")).split())
        if any("lxcwrap" in command and str(base) not in command for command in commands):
            return True
    return False


def _processes(base: Path) -> Iterator[str]:
    """Our own descendants, and the supervisors of root directories in `base`. These are only counted: a
    fork-server and the monitor it keeps ready may be replaced, but there must not be more of them."""
    parents = {int(entry.name): _parent(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()}
    supervisors = Counter[str]()
    for pid in parents:
        command = _cmdline(str(pid))
        name = read(PROC / str(pid) / "comm").strip()
        if name == "lxcwrap-waiting":  # made ahead, for whatever comes next: they end with their fork-server
            continue
        if str(base) in command and "lxcwrap.supervisor" in command:
            supervisors[name + command] += 1
            yield f"supervisor {name}, number {supervisors[name + command]} ({command})"
        elif "multiprocessing" in command:  # its tracker lives as long as the interpreter
            continue
        elif name and (str(base) in command or _descends(pid, parents)):
            yield f"process {pid} {name} ({command})"


def _descends(pid: int, parents: dict[int, int]) -> bool:
    while pid := parents.get(pid, 0):
        if pid == os.getpid():
            return True
    return False


def _parent(pid: str) -> int:
    stat = read(PROC / pid / "stat")
    return int(stat.rpartition(")")[2].split()[1]) if stat else 0


def _cmdline(pid: str) -> str:
    return read(PROC / pid / "cmdline").replace("\0", " ").strip()


def _loop_devices(base: Path) -> Iterator[str]:
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        if base.name in (path := read(backing)):  # from another namespace it is told without its mount
            yield f"loop device {backing.parts[3]} ({path.strip()})"


def _network_namespaces() -> Iterator[str]:
    return (f"network namespace {path}" for path in Path("/run/netns").glob("*"))


def _rules(base: Path) -> Iterator[str]:
    """Tables of the firewall, and what is in their sets and maps."""
    names = {Firewall(root).tables.name: root for root in base.iterdir()}
    for family, name in tables():
        if root := names.get(name):
            where = f"{family} {name}"
            yield f"firewall table {where} of {root}"
            for item in _nftables().query(f"list table {where}"):
                found = item.get("set") or item.get("map") or {}
                yield from (
                    f"firewall element {where} {found['name']} {each}" for each in found.get("elem", ())
                )


def tables() -> set[tuple[str, str]]:
    """Families and names. By their chains: in a list of tables the JSON of nft 1.0.6 ends at one that has an
    owner."""
    chains = [item["chain"] for item in _nftables().query("list chains") if "chain" in item]
    return {(chain["family"], chain["table"]) for chain in chains}


@cache
def _nftables() -> Nftables:
    return Nftables()


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
        tables = {"containers": "id, name, phase", "images": "id", "tags": "reference", "volumes": "name"}
        tables |= {"networks": "id, name", "endpoints": "container_id, network_id, ip"}
        for table, columns in tables.items():
            for row in state.execute(f"SELECT {columns} FROM {table}"):
                yield f"row in {table}: {' '.join(row)}"
    finally:
        state.close()


def _files(root: Path) -> Iterator[str]:
    for directory in ("containers", "layers", "images/blobs/sha256", "trash", "volumes", "run"):
        yield from (f"file {path}" for path in (root / directory).glob("*"))


def read(path: Path) -> str:
    """The text of a file of the kernel; empty when its process or cgroup has just gone."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
