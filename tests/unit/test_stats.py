"""Statistics and the process table, over the processes of the test run itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import stats
from lxcwrap.drivers import procfs
from lxcwrap.drivers.cgroups import CgroupHost
from lxcwrap.ids import IDENTITY, OVERFLOW_ID, IdMap

RAW: dict[str, int | None] = {
    **{"cpu_ns": 5_000_000_000, "cpu_user_ns": 3_000_000_000, "cpu_system_ns": 2_000_000_000},
    **{"throttled_ns": 500_000_000, "memory_usage": 100, "memory_inactive_file": 30, "memory_peak": 120},
    **{"memory_limit": None, "swap_usage": 1, "oom_kills": 2, "pids": 3, "pids_limit": 9},
    **{"read_bytes": 7, "write_bytes": 8},
}
GONE = 1 << 22  # above pid_max


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CgroupHost:
    """A host whose one container is this process."""
    host = CgroupHost(tmp_path)
    monkeypatch.setattr(host, "read_stats", lambda _: dict(RAW))
    monkeypatch.setattr(host, "pids", lambda _: [GONE, os.getpid()])
    return host


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A child of ours, asleep, whose name has what could mislead a parser of /proc/pid/stat."""
    code = "open('/proc/self/comm', 'w').write('a) R (b'); print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.readline()
    yield process
    process.communicate()


def test_units(cgroups: CgroupHost) -> None:
    """Seconds and bytes; None where there is no limit; the working set is without what can be dropped."""
    found = stats.read(cgroups, "", GONE)
    assert (found.cpu_s, found.cpu_user_s, found.cpu_system_s, found.throttled_s) == (5.0, 3.0, 2.0, 0.5)
    assert (found.memory_usage, found.memory_working_set, found.memory_limit) == (100, 70, None)
    assert (found.pids, found.pids_limit, found.oom_kills, found.swap_usage) == (3, 9, 2, 1)
    assert (found.read_bytes, found.write_bytes, found.rx_bytes, found.tx_bytes) == (7, 8, 0, 0)
    assert found.time.tzinfo is not None


def test_processes_that_ended_are_left_out(cgroups: CgroupHost) -> None:
    """A process may end between the listing and the look at it."""
    (found,) = stats.processes(cgroups, "", IDENTITY)
    assert (found.host_pid, found.user) == (os.getpid(), os.geteuid())
    assert abs(found.started_at.timestamp() - time.time()) < 3600
    assert found.rss > 1 << 20


def test_users_outside_of_the_range(cgroups: CgroupHost) -> None:
    """Such as a host's process that came in by force: shown as the kernel shows it inside."""
    (found,) = stats.processes(cgroups, "", IdMap(0x40000000))
    assert found.user == OVERFLOW_ID


def test_a_name_cannot_mislead(child: subprocess.Popen[bytes]) -> None:
    """Whatever a process calls itself, its state and parent are its own."""
    listed = {process.host_pid: process for process in procfs.table([child.pid, os.getpid()])}
    found = listed[child.pid]
    assert found.state in ("sleeping", "running")
    assert found.ppid == listed[os.getpid()].pid
    assert found.argv[:2] == (sys.executable, "-S")
    assert found.cpu_s < 10


def test_a_parent_outside_is_0(child: subprocess.Popen[bytes]) -> None:
    """As those inside see it."""
    (found,) = procfs.table([child.pid])
    assert found.ppid == 0


def test_a_zombie_has_a_name() -> None:
    """Its command line is gone; what is left is its name, as ps shows it."""
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    (found,) = procfs.table([process.pid])
    process.wait()
    assert (found.state, found.argv, found.rss) == ("zombie", ("[true]",), 0)


def test_network_bytes_are_without_loopback() -> None:
    """What a container says to itself is no traffic."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    received = sum(int(line.split(":")[1].split()[0]) for line in lines if line.strip()[:3] != "lo:")
    assert procfs.network_bytes(os.getpid())[0] >= received
    assert procfs.network_bytes(GONE) == (0, 0)
