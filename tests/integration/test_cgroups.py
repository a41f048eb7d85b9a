"""The real cgroups of this machine: processes enter, limits bite, and nothing is left. No liblxc needed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path

import pytest

from lxcwrap import stats
from lxcwrap.drivers import mounts
from lxcwrap.drivers.cgroup_files import Limits
from lxcwrap.drivers.cgroups import CgroupHost, LimitError
from lxcwrap.ids import IDENTITY

MIB = 1 << 20
# Joins by the descriptors in its arguments, as our init does, and says so.
JOIN = """
import os, sys, time
for fd in sys.argv[1:]:
    os.write(int(fd), b"0")
    os.close(int(fd))
print("in", flush=True)
"""
TRY_DEVICES = """
for path in ("/dev/null", "/dev/loop-control", "/dev/kmsg"):
    try:
        os.open(path, os.O_RDONLY)
        print("yes", end=" ")
    except PermissionError:
        print("no", end=" ")
"""

Enter = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def host() -> Iterator[CgroupHost]:
    host = CgroupHost()
    if host.is_v2:
        pytest.skip("on v2 liblxc places processes")
    yield host
    host.tidy()
    host.close()


@pytest.fixture
def container(host: CgroupHost) -> Iterator[str]:
    """The id of a container with cgroups."""
    container_id = _new_id()
    host.prepare(container_id, {})
    yield container_id
    assert host.sweep(container_id)
    assert container_id not in host.leftovers()


@pytest.fixture
def enter(host: CgroupHost, container: str) -> Iterator[Enter]:
    """Runs Python code in the container's cgroups."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        fds = host.entry_fds(container)
        command = [sys.executable, "-I", "-S", "-c", JOIN + code, *map(str, fds)]
        process = subprocess.Popen(
            command, pass_fds=fds, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
        )
        for fd in fds:
            os.close(fd)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "in\n"
        return process

    yield run
    host.kill_all(container)
    for process in started:
        process.communicate()


def _new_id() -> str:
    return uuid.uuid4().hex * 2


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def _memberships(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {
        name: path for _, names, path in (line.split(":", 2) for line in lines) for name in names.split(",")
    }


def test_joining_by_descriptors(host: CgroupHost, container: str, enter: Enter) -> None:
    """A process that writes to the descriptors is in every cgroup of the container, and counted."""
    process = enter("sys.stdin.read()")
    found = _memberships(process.pid)
    assert {found[controller] for controller in host.controllers} == {f"/lxcwrap/{container}/c"}
    assert host.pids(container) == [process.pid]
    assert host.read_stats(container)["pids"] == 1


def test_the_runner_is_beside_the_container(host: CgroupHost, container: str) -> None:
    """liblxc's process is above what is limited, counted and frozen."""
    pid = os.fork()
    if pid == 0:
        _enter_as_runner(host, container)
        os._exit(0 if set(_memberships(os.getpid()).values()) >= {f"/lxcwrap/{container}"} else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert host.pids(container) == []


def test_pids_limit(host: CgroupHost, container: str, enter: Enter) -> None:
    """The limit is exact: nothing of ours is counted."""
    host.apply_limits(container, {"pids": 2})
    process = enter("print(sum(os.fork() == 0 or 1 for _ in range(1)), flush=True); sys.stdin.read()")
    assert _line(process) == "1"
    code = "import errno\ntry: os.fork()\nexcept OSError as error: print(error.errno, flush=True)"
    assert _line(enter(code)) == str(errno.EAGAIN)


def test_cpuset_is_live(host: CgroupHost, container: str, enter: Enter) -> None:
    """A new cpuset moves what runs; None gives all processors back."""
    process = enter("sys.stdin.read()")
    everywhere = os.sched_getaffinity(process.pid)
    host.apply_limits(container, {"cpuset": "0"})
    assert os.sched_getaffinity(process.pid) == {0}
    host.apply_limits(container, {"cpuset": None})
    assert os.sched_getaffinity(process.pid) == everywhere


def test_processors_that_are_not_there(host: CgroupHost, container: str) -> None:
    """A bad cpuset is refused, and the limits beside it are not set."""
    with pytest.raises(LimitError, match="cpuset=4000"):
        host.apply_limits(container, {"memory": 64 * MIB, "cpuset": "4000"})
    assert host.read_stats(container)["memory_limit"] is None


def test_cpus_throttle(host: CgroupHost, container: str, enter: Enter) -> None:
    """A tenth of a processor is what it gets."""
    host.apply_limits(container, {"cpus": 0.1})
    enter("end = time.monotonic() + 0.5\nwhile time.monotonic() < end: pass").wait()
    found = host.read_stats(container)
    assert (found["throttled_ns"] or 0) > 0
    assert (found["cpu_ns"] or 0) < 300_000_000


def test_out_of_memory_is_counted(host: CgroupHost, container: str, enter: Enter) -> None:
    """The count says it after the process is gone, until the cgroups are removed."""
    host.apply_limits(container, {"memory": 16 * MIB, "swap": 0})
    process = enter("data = bytearray(64 << 20)\nprint('survived')")
    assert process.wait() == -9
    assert host.oom_kills(container) == 1
    assert (host.read_stats(container)["memory_peak"] or 0) <= 16 * MIB


def test_memory_cannot_be_cut_below_use(host: CgroupHost, container: str, enter: Enter) -> None:
    """It is refused with a clear error, nothing is killed, and nothing is changed."""
    host.apply_limits(container, {"memory": 256 * MIB, "swap": 0})
    process = enter(
        "data = bytearray(os.urandom(1)) * (64 << 20)\nprint('has it', flush=True); sys.stdin.read()"
    )
    assert _line(process) == "has it"
    with pytest.raises(LimitError) as caught:
        host.apply_limits(container, {"pids": 5, "memory": 8 * MIB, "swap": 0})
    assert caught.value.errno == errno.EBUSY
    found = host.read_stats(container)
    assert (found["memory_limit"], found["pids_limit"], process.poll()) == (256 * MIB, None, None)


def test_memory_and_swap_up_and_down(host: CgroupHost, container: str) -> None:
    """Whatever comes after whatever, the kernel takes it; one alone keeps the other."""
    steps: Sequence[tuple[Limits, tuple[int | None, int | None]]] = (
        ({"memory": 64 * MIB, "swap": 0}, (64, 64)),
        ({"memory": 128 * MIB, "swap": 64 * MIB}, (128, 192)),
        ({"memory": 32 * MIB}, (32, 96)),
        ({"memory": 256 * MIB}, (256, 320)),
        ({"swap": 0}, (256, 256)),
        ({"memory": 16 * MIB, "swap": 1024 * MIB}, (16, 1040)),
        ({"memory": 64 * MIB, "swap": None}, (64, None)),
        ({"memory": None, "swap": None}, (None, None)),
    )
    for limits, expected in steps:
        host.apply_limits(container, limits)
        files = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        found = [int(host._read(container, "memory", file)) for file in files]
        assert tuple(None if size >= 1 << 62 else size // MIB for size in found) == expected, limits


def test_devices(host: CgroupHost) -> None:
    """Only the usual devices open, even for the host's root; a device given opens too; None opens all."""
    device = os.stat("/dev/loop-control").st_rdev
    rule = f"c {os.major(device)}:{os.minor(device)} rw"
    for devices, expected in (((), "yes no no"), ([rule], "yes yes no"), (None, "yes yes yes")):
        container_id = _new_id()
        host.prepare(container_id, {}, devices)
        fds = host.entry_fds(container_id)
        command = [sys.executable, "-I", "-S", "-c", JOIN + TRY_DEVICES, *map(str, fds)]
        done = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, check=True)
        for fd in fds:
            os.close(fd)
        assert host.remove(container_id)
        assert done.stdout.split("\n")[1].strip() == expected


def test_frozen(host: CgroupHost, container: str, enter: Enter) -> None:
    """Frozen processes do nothing until they are thawed."""
    code = "while True:\n  time.sleep(0.01)\n  print('tick', flush=True)"
    process = enter(code)
    assert _line(process) == "tick"
    host.set_frozen(container, True)
    assert host.is_frozen(container)
    before = host.read_stats(container)["cpu_ns"]
    time.sleep(0.1)
    assert host.read_stats(container)["cpu_ns"] == before
    host.set_frozen(container, False)
    assert not host.is_frozen(container)
    while host.read_stats(container)["cpu_ns"] == before:
        time.sleep(0.01)


def test_a_crashed_run_is_swept(host: CgroupHost, container: str, enter: Enter) -> None:
    """Its processes are killed, frozen ones too, and the next start gets clean cgroups."""
    process = enter("sys.stdin.read()")
    host.apply_limits(container, {"pids": 7})
    host.set_frozen(container, True)
    host.prepare(container, {"memory": 64 * MIB})
    assert process.wait() == -9
    assert not host.is_frozen(container)
    found = host.read_stats(container)
    assert (found["pids_limit"], found["memory_limit"]) == (None, 64 * MIB)


def _enter_as_runner(host: CgroupHost, container_id: str) -> None:
    for fd in host.runner_fds(container_id):
        os.write(fd, b"0")
        os.close(fd)


def _live(count: int) -> None:
    host = CgroupHost()
    for _ in range(count):
        container_id = _new_id()
        host.prepare(container_id, {"pids": 3})
        _enter_as_runner(host, container_id)
        for fd in host._hierarchies:
            os.write(os.open("tasks", os.O_WRONLY, dir_fd=fd), b"0")
        assert host.remove(container_id)
        host.tidy()


def test_many_at_once_share_the_base(host: CgroupHost) -> None:
    """Processes that make and remove the shared directories at the same time do not meet."""
    context = get_context("fork")
    workers = [context.Process(target=_live, args=(15,)) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 6


def test_hidden_from_liblxc(host: CgroupHost, container: str) -> None:
    """In a mount namespace of its own a process sees no cgroups, and its descriptors still work."""
    pid = os.fork()
    if pid == 0:
        try:
            mounts.private_mount_namespace()
            host.hide_from_liblxc()
            hidden = os.listdir(host.base) == []
            host.apply_limits(container, {"pids": 9})
            os._exit(0 if hidden else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert host.read_stats(container)["pids_limit"] == 9
    assert os.listdir(host.base) != []


def test_the_supervisor_leaves_its_callers_cgroups(host: CgroupHost) -> None:
    """It moves in all hierarchies, those of session managers too, and leaves none behind."""
    pid = os.fork()
    if pid == 0:
        try:
            host.settle()
            inside = set(_memberships(os.getpid()).values())
            host.settle()  # again: nothing changes
            host.unsettle()
            os._exit(0 if inside == {"/lxcwrap/supervisor"} else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_processes_and_statistics(host: CgroupHost, container: str, enter: Enter) -> None:
    """What runs is listed with what it uses."""
    process = enter("data = bytearray(20 << 20)\nprint('has it', flush=True)\nsys.stdin.read()")
    assert _line(process) == "has it"
    (listed,) = stats.processes(host, container, IDENTITY)
    assert (listed.host_pid, listed.user) == (process.pid, 0)
    assert listed.state in ("sleeping", "running")
    assert listed.argv[:2] == (sys.executable, "-I")
    assert listed.rss > 20 * MIB
    assert abs(listed.started_at.timestamp() - time.time()) < 30
    found = stats.read(host, container, process.pid)
    assert 20 * MIB < found.memory_working_set <= found.memory_usage
    assert (found.pids, found.memory_limit, found.oom_kills) == (1, None, 0)
    assert 0 < found.cpu_s < 10
