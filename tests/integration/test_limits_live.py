"""Limits that change while a container runs: what its processes notice of it, up and down."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Host, InvalidSpecError, KernelError, Limits, Mount
from tests.polling import eventually

_SEVERAL = "for i in $(seq 10); do sleep 0.1 & done; wait"


@pytest.fixture
def container(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        yield container


def _holds(container: Container, mebibytes: int) -> bool:
    """Whether its memory takes so many; they stay there, in the file system /dev/shm."""
    fill = ["dd", "if=/dev/zero", f"of=/dev/shm/{mebibytes}", "bs=1M", f"count={mebibytes}"]
    return container.exec(fill, check=False).exit_code == 0


def test_memory(container: Container) -> None:
    """More is taken at once; less only if it uses no more, else all is as before."""
    container.update(Limits(memory="16MiB", swap=0))
    assert not _holds(container, 24)
    container.exec(["rm", "/dev/shm/24"])
    container.update(Limits(memory="48MiB"))
    assert _holds(container, 24)
    with pytest.raises(KernelError):
        container.update(Limits(memory="16MiB", pids=30))
    assert container.spec.limits == Limits(memory="48MiB", swap=0)
    assert (container.stats().memory_limit, container.stats().pids_limit) == (48 << 20, None)
    container.exec(["rm", "/dev/shm/24"])
    container.update(Limits(memory="16MiB"))
    assert not _holds(container, 25)


def test_swap(container: Container) -> None:
    """As the kernel has it, beside the memory: this is what can be seen without a disk for it."""
    container.update(Limits(memory="32MiB", swap="32MiB"))
    for swap in (64, 0, 16):
        container.update(Limits(memory="32MiB", swap=f"{swap}MiB"))
        assert container.spec.limits.swap == swap << 20
        assert _swap(container) == swap << 20


def _swap(container: Container) -> int:
    cgroups = container._machinery.cgroups
    read = cgroups._read  # type: ignore[attr-defined]
    if cgroups.is_v2:  # type: ignore[attr-defined]
        return int(read(container.id, "memory", "memory.swap.max"))
    memory, both = (
        int(read(container.id, "memory", f"memory.{which}limit_in_bytes")) for which in ("", "memsw.")
    )
    return both - memory


def test_processors(container: Container) -> None:
    """One busy thread is held up by a tenth of a processor, and not at all by more than one."""
    with container.popen(["sh", "-c", "while true; do :; done"]) as busy:
        container.update(Limits(cpus=0.1))
        before = container.stats().throttled_s
        eventually(lambda: container.stats().throttled_s > before + 0.2, within_s=30)
        container.update(Limits(cpus=1.5))
        eventually(lambda: _is_free(container), within_s=30)
        container.update(Limits(cpus=0.1))
        before = container.stats().throttled_s
        eventually(lambda: container.stats().throttled_s > before + 0.2, within_s=30)
        busy.kill()


def _is_free(container: Container) -> bool:
    """Nothing was held up in a time in which a tenth of a processor would have been."""
    before = container.stats()
    eventually(lambda: container.stats().cpu_s > before.cpu_s + 0.05, within_s=30)
    return container.stats().throttled_s == before.throttled_s


def test_which_processors(container: Container) -> None:
    """Processes that run are moved, to fewer and to more."""
    usable = sorted(container.call(os.sched_getaffinity, 1))
    one, several = str(usable[0]), ",".join(map(str, usable))
    for cpuset in (one, several, one):
        container.update(Limits(cpuset=cpuset))
        expected = {int(each) for each in cpuset.split(",")}
        assert container.call(os.sched_getaffinity, 1) == container.call(os.sched_getaffinity, 0) == expected
    with pytest.raises(KernelError):
        container.update(Limits(cpuset="4000"))
    assert container.spec.limits.cpuset == one


def test_pids(container: Container) -> None:
    """Those that are there stay, also above the limit; only new ones are refused."""
    container.update(Limits(pids=20))
    assert container.exec(sh=_SEVERAL).exit_code == 0
    container.update(Limits(pids=6))
    assert container.exec(sh=_SEVERAL, check=False).exit_code != 0
    container.update(Limits(pids=20))
    with container.popen(["sh", "-c", "for i in $(seq 8); do sleep 99 & done; wait"]) as many:
        eventually(lambda: container.stats().pids >= 10)
        container.update(Limits(pids=5))
        assert container.stats().pids >= 10
        with pytest.raises(InvalidSpecError):
            container.update(Limits(pids=0))
        container.update(Limits(pids=30))
        assert container.exec(["true"]).exit_code == 0
        many.kill()


def test_disk_rates(host: Host) -> None:
    """Writing to a disk takes as long as it may, and no longer when it may do more."""
    directory = Path("/var/tmp") / f"lxcwrap-rates-{os.getpid()}"
    directory.mkdir()
    is_limited = _is_on_a_disk(directory)
    try:
        mounts = [Mount.bind(directory, "/disk")]
        with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:
            for rate, is_slow in ((1 << 20, is_limited), (1 << 30, False), (1 << 20, is_limited)):
                container.update(Limits(write_bps=rate, read_bps=rate))
                eventually(lambda s=is_slow: (container.call(_write_s, "/disk/file") > 1.0) == s, within_s=60)  # type: ignore[misc]
    finally:
        subprocess.run(["rm", "-r", directory], check=True)


def _is_on_a_disk(path: Path) -> bool:
    device = path.stat().st_dev
    return Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").exists()


def _write_s(path: str) -> float:
    """Seconds that 2 MiB take, past the cache."""
    data = mmap.mmap(-1, 1 << 20)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    began = time.monotonic()
    for _ in range(2):
        os.write(fd, data)
    os.close(fd)
    return time.monotonic() - began


def test_all_hold_after_a_restart(container: Container) -> None:
    """Those that were changed, and those that were not."""
    container.update(Limits(memory="64MiB", pids=20))
    container.update(Limits(pids=6, cpuset="0"))
    container.restart()
    assert container.exec(sh=_SEVERAL, check=False).exit_code != 0
    assert container.call(os.sched_getaffinity, 0) == {0}
    assert container.stats().memory_limit == 64 << 20


# --- pressure ---

_ON_V2 = """
import os, subprocess, sys
from lxcwrap import Host
if os.path.exists("/sys/fs/cgroup/unified"):
    for words in ("--make-rprivate /", "--bind /sys/fs/cgroup/unified /sys/fs/cgroup"):
        subprocess.run(["mount", *words.split()], check=True)
with Host(sys.argv[1]) as host:
    busy = f"for i in $(seq {4 * os.cpu_count()}); do while true; do :; done & done; wait"
    with host.containers.launch("busybox", sh=busy) as container:
        for stats in container.stats_stream(interval_s=0.2):
            if stats.pressure is None or stats.pressure.cpu > 0:
                break
        print(stats.pressure is not None and 0 < stats.pressure.cpu <= 1 and stats.pressure.memory < 1)
        container.kill()
    host.close(stop_server=True)
"""


def test_pressure(fresh_root: Path) -> None:
    """Of many busy processes, in a host that has cgroup v2 alone, if the kernel counts it."""
    command = ["unshare", "--mount", sys.executable, "-W", "error", "-c", _ON_V2, str(fresh_root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (f"{Path('/proc/pressure/cpu').exists()}\n", "")


def test_of_cgroup_v1_there_is_no_pressure(container: Container) -> None:
    """Nobody counts it there."""
    is_v2 = container._machinery.cgroups.is_v2  # type: ignore[attr-defined]
    assert is_v2 or container.stats().pressure is None


def test_a_change_that_was_cut_off_is_as_recorded(fresh_host: Host) -> None:
    """By the next Host, in the kernel and for the next start: `update` changes the kernel first."""
    limits = Limits(pids=60)
    with fresh_host.containers.launch("busybox", ["sleep", "1000"], limits=limits) as container:
        machinery, records = fresh_host._machinery, fresh_host._machinery.records(container.id)
        records.write("limits", {"changing": ["pids", "memory"]})
        machinery.cgroups.apply_limits(container.id, {"pids": 40, "memory": 50 << 20})
        records.write("plan", {**(records.read("plan") or {}), "limits": {"pids": 40}})
        with Host(fresh_host.root):
            pass
        stats = container.stats()
        assert (stats.pids_limit, stats.memory_limit) == (60, None)
        assert not records.has("limits") and (records.read("plan") or {})["limits"] == {"pids": 60}
        container.update(Limits(pids=50))
        assert container.stats().pids_limit == 50 and not records.has("limits")
