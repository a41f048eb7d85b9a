"""cgroups on a tree of plain files that stands for the kernel's; new directories get their control files."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcwrap.drivers import cgroup_files, cgroup_limits, cgroupfs
from lxcwrap.drivers.cgroup_files import Write, plan_v1, plan_v2, previous, stats_v2
from lxcwrap.drivers.cgroups import CgroupHost, LimitError, MissingController

ID = "ab" * 32
OTHER = "cd" * 32
V1_FILES = {
    "cpuset": {"cpuset.cpus": "0-1\n", "cpuset.mems": "0\n", "cgroup.clone_children": "0\n"},
    "cpu": {"cpu.cfs_quota_us": "-1\n", "cpu.shares": "1024\n", "cpu.stat": "throttled_time 7000000\n"},
    "cpuacct": {"cpuacct.usage": "5000000000\n", "cpuacct.stat": "user 300\nsystem 200\n"},
    "memory": {
        "memory.limit_in_bytes": f"{(1 << 63) - 4096}\n",
        "memory.memsw.limit_in_bytes": f"{(1 << 63) - 4096}\n",
        "memory.usage_in_bytes": "10000000\n",
        "memory.max_usage_in_bytes": "20000000\n",
        "memory.stat": "cache 1\ntotal_inactive_file 4000000\ntotal_swap 3\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    },
    "devices": {"devices.allow": "", "devices.deny": ""},
    "freezer": {"freezer.state": "THAWED\n"},
    "blkio": {
        "blkio.throttle.read_bps_device": "",
        "blkio.throttle.write_bps_device": "",
        "blkio.throttle.io_service_bytes_recursive": "8:0 Read 100\n8:0 Write 7\n8:16 Read 11\nTotal 118\n",
    },
    "pids": {"pids.current": "3\n", "pids.max": "max\n"},
}
V2_FILES = {
    "cgroup.controllers": "cpuset cpu io memory pids\n",
    "cgroup.subtree_control": "\n",
    "cgroup.procs": "",
    "cgroup.events": "populated 1\nfrozen 0\n",
    "cgroup.freeze": "0\n",
    "cpu.max": "max 100000\n",
    "cpu.weight": "100\n",
    "cpu.stat": "usage_usec 5000000\nuser_usec 3000000\nsystem_usec 2000000\nthrottled_usec 7000\n",
    "cpuset.cpus": "\n",
    "io.max": "",
    "io.stat": "8:0 rbytes=100 wbytes=7 rios=1\n8:16 rbytes=11 wbytes=0 rios=1\n",
    "memory.max": "max\n",
    "memory.current": "10000000\n",
    "memory.peak": "20000000\n",
    "memory.swap.max": "max\n",
    "memory.swap.current": "3\n",
    "memory.stat": "anon 1\ninactive_file 4000000\n",
    "memory.events": "oom 1\noom_kill 2\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
}


class FakeKernel:
    """Fills directories made below `base`, lets them be removed unless `busy`, records what is written."""

    def __init__(self, base: Path, files: Callable[[str], dict[str, str]]) -> None:
        self.base, self.files = base, files
        self.refuse: dict[str, int] = {}  # "file value": errno
        self.writes: list[tuple[str, str]] = []
        self.busy = False

    def fill(self, directory: Path) -> None:
        hierarchy = directory.relative_to(self.base).parts[:1]
        for name, text in self.files(hierarchy[0] if hierarchy else "").items():
            (directory / name).write_text(text)

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        _mkdir(path, mode, dir_fd=dir_fd)
        if dir_fd is not None:
            self.fill(_directory(dir_fd) / path)

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        if dir_fd is None:
            return _rmdir(path)
        directory = _directory(dir_fd) / path
        if self.busy and directory.is_dir():
            raise OSError(errno.EBUSY, "busy", path)
        if directory.is_dir() and not any(entry.is_dir() for entry in directory.iterdir()):
            for file in directory.iterdir():
                file.unlink()
        _rmdir(path, dir_fd=dir_fd)

    def write(self, fd: int, path: str, *values: str) -> None:
        file = _directory(fd) / path
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        for value in values:
            if number := self.refuse.get(f"{file.name} {value}"):
                raise OSError(number, os.strerror(number), path)
            self.writes.append((path, value))
            file.write_text(f"{value}\n")


_mkdir, _rmdir = os.mkdir, os.rmdir


def _directory(fd: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{fd}"))


@pytest.fixture
def tree() -> Iterator[Path]:
    """A directory in memory, where there is one: a disk takes most of the time of these many small files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield Path(path)


@pytest.fixture
def block(tree: Path) -> Path:
    """A /sys/block with one disk and a loop device."""
    for name, number in (("sda", "8:0"), ("loop0", "7:0")):
        (tree / "block" / name).mkdir(parents=True)
        (tree / "block" / name / "dev").write_text(f"{number}\n")
    return tree / "block"


def _fake(base: Path, files: Callable[[str], dict[str, str]], patch: pytest.MonkeyPatch) -> FakeKernel:
    kernel = FakeKernel(base, files)
    patch.setattr(os, "mkdir", kernel.mkdir)
    patch.setattr(os, "rmdir", kernel.rmdir)
    patch.setattr(cgroupfs, "write", kernel.write)
    return kernel


@pytest.fixture
def v1(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """A v1 host on which cpu and cpuacct share a hierarchy, as systemd mounts them."""
    base = tree / "cgroup"
    shared = {"cpu,cpuacct": {**V1_FILES["cpu"], **V1_FILES["cpuacct"]}}
    contents = {**{name: files for name, files in V1_FILES.items() if not name.startswith("cpu")}, **shared}
    contents["cpuset"] = V1_FILES["cpuset"]

    def files(hierarchy: str) -> dict[str, str]:
        return {**contents[hierarchy], "tasks": "", "cgroup.procs": ""}

    for name in contents:
        (base / name).mkdir(parents=True)
    for name in ("cpu", "cpuacct"):
        (base / name).symlink_to("cpu,cpuacct")
    with monkeypatch.context() as patch:
        kernel = _fake(base, files, patch)
        for name in contents:
            kernel.fill(base / name)
        yield kernel


@pytest.fixture
def v2(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKernel]:
    """A pure v2 host."""
    base = tree / "cgroup"
    base.mkdir()
    with monkeypatch.context() as patch:
        kernel = _fake(base, lambda _: V2_FILES, patch)
        kernel.fill(base)
        yield kernel


@pytest.fixture(params=["v1", "v2"])
def kernel(request: pytest.FixtureRequest) -> FakeKernel:
    """Both kinds of host."""
    fake: FakeKernel = request.getfixturevalue(request.param)
    return fake


@pytest.fixture
def host(kernel: FakeKernel, block: Path) -> Iterator[CgroupHost]:
    host = CgroupHost(kernel.base, block=block)
    yield host
    host.close()


@pytest.fixture
def read(host: CgroupHost) -> Callable[[str, str], str]:
    """(controller, file) of the container ID."""
    return lambda controller, file: host._read(ID, controller, file).strip()


Read = Callable[[str, str], str]


def _tree(base: Path) -> set[str]:
    return {
        str(path.relative_to(base)) for path in base.rglob("*") if path.is_dir() and "lxcwrap" in str(path)
    }


# --- layout ---


def test_controllers_may_share_a_hierarchy(v1: FakeKernel, block: Path) -> None:
    """cpu and cpuacct are two controllers and one directory to enter."""
    host = CgroupHost(v1.base, block=block)
    host.prepare(ID, {})
    fds = host.entry_fds(ID)
    assert (host.layout, host.controllers, len(fds)) == ("v1", frozenset(V1_FILES), 7)
    for fd in fds:
        os.close(fd)
    host.close()


def test_a_v2_mount_beside_v1_is_hybrid(v1: FakeKernel, block: Path) -> None:
    """The controllers decide: an empty v2 mount does not make a v2 host."""
    (v1.base / "unified").mkdir()
    (v1.base / "unified" / "cgroup.controllers").write_text("")
    host = CgroupHost(v1.base, block=block)
    assert (host.layout, host.is_v2) == ("hybrid", False)
    host.close()


def test_a_system_divides_its_part_of_the_unified_hierarchy(v1: FakeKernel, block: Path) -> None:
    """On a hybrid host: bounded above, its own below, entered like the others, and gone at its end."""
    unified = v1.base / "unified"
    unified.mkdir()
    files = dict.fromkeys(("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"), "")
    kinds = v1.files
    more = {"cgroup.controllers": "", "cgroup.max.depth": "max\n", "cgroup.max.descendants": "max\n"}
    v1.files = lambda hierarchy: {**files, **more} if hierarchy == "unified" else kinds(hierarchy)
    v1.fill(unified)
    host = CgroupHost(v1.base, block=block)
    host.prepare(OTHER, {})
    plain = host.entry_fds(OTHER)
    host.prepare(ID, {}, owner=os.getuid())
    entries = host.entry_fds(ID)
    assert len(entries) == len(plain) + 1 and not (unified / "lxcwrap" / OTHER).exists()
    assert (unified / "lxcwrap" / ID / "cgroup.max.depth").read_text() == "14\n"
    assert (unified / "lxcwrap" / ID / "c" / "cgroup.max.depth").read_text() == "max\n"
    (unified / "lxcwrap" / ID / "c" / "cgroup.procs").write_text("")
    assert host.remove(ID) and not (unified / "lxcwrap" / ID).exists()
    for fd in (*plain, *entries):
        os.close(fd)
    host.close()


def test_a_system_needs_cgroup_v2(v1: FakeKernel, block: Path) -> None:
    """On a host with nothing but v1 it is refused, and nothing is left."""
    host = CgroupHost(v1.base, block=block)
    with pytest.raises(OSError, match="cgroup v2"):
        host.prepare(ID, {}, owner=os.getuid())
    assert not host.exists(ID) and not host.leftovers()
    host.close()


def test_pure_v2(v2: FakeKernel, block: Path) -> None:
    """A host with cgroup.controllers at the top is v2."""
    host = CgroupHost(v2.base, block=block)
    assert (host.layout, host.controllers) == ("v2", frozenset({"cpuset", "cpu", "io", "memory", "pids"}))
    host.close()


def test_no_cgroups(tree: Path) -> None:
    """Without any hierarchy containers can be placed nowhere, and every limit is refused."""
    host = CgroupHost(tree)
    assert (host.layout, len(host.controllers), host.pids(ID), len(host.leftovers())) == ("none", 0, [], 0)
    with pytest.raises(MissingController) as caught:
        host.prepare(ID, {"memory": 1 << 30})
    assert (caught.value.limit, caught.value.controller) == ("memory", "memory")


def test_liblxc_places_on_v2_only(kernel: FakeKernel, host: CgroupHost) -> None:
    """On v1 liblxc is told nothing; on v2 where to put the container, and its devices."""
    items = host.config_items(ID, ["c 10:229 rwm"])
    if not host.is_v2:
        assert items == []
        return
    assert ("lxc.cgroup.dir.container", f"lxcwrap/{ID}/c") in items
    assert items.index(("lxc.cgroup2.devices.deny", "a")) < items.index(
        ("lxc.cgroup2.devices.allow", "c 10:229 rwm")
    )
    assert not [item for item in host.config_items(ID, None) if "devices" in item[0]]


# --- a container's life ---


def test_remove_leaves_only_what_is_shared(kernel: FakeKernel, host: CgroupHost) -> None:
    """prepare and remove are each other's inverse."""
    host.prepare(OTHER, {})
    before = _tree(kernel.base)
    host.prepare(ID, {"memory": 1 << 30, "pids": 5})
    assert host.leftovers() == {ID, OTHER}
    assert host.remove(ID)
    assert (_tree(kernel.base), host.leftovers()) == (before, {OTHER})
    assert host.remove(ID)  # again: nothing to do


def test_prepare_sweeps_a_crashed_start(kernel: FakeKernel, host: CgroupHost) -> None:
    """Left-overs, also with cgroups made inside, do not hinder the next start."""
    host.prepare(ID, {"pids": 5})
    top = kernel.base if host.is_v2 else kernel.base / "pids"
    directory = top / "lxcwrap" / ID / "c"
    if host.is_v2:
        directory.mkdir()
    (directory / "made-inside").mkdir()
    host.prepare(ID, {})
    assert not (directory / "made-inside").exists()
    assert host.read_stats(ID)["pids_limit"] is None


def test_a_refused_limit_leaves_nothing(kernel: FakeKernel, host: CgroupHost) -> None:
    """A failed prepare removes what it has made."""
    kernel.refuse["pids.max 5"] = errno.EINVAL
    with pytest.raises(LimitError):
        host.prepare(ID, {"memory": 1 << 30, "pids": 5})
    assert host.leftovers() == set()


def test_remove_says_when_it_cannot(kernel: FakeKernel, host: CgroupHost) -> None:
    """A cgroup that stays in use is reported after the time given, not waited for."""
    host.prepare(ID, {})
    kernel.busy = True
    assert not host.remove(ID, wait_s=0.01)
    with pytest.raises(OSError, match="earlier run") as caught:
        host.prepare(ID, {})
    assert caught.value.errno == errno.EBUSY
    kernel.busy = False
    assert host.remove(ID)


def test_base_is_made_once_by_many(kernel: FakeKernel, host: CgroupHost, block: Path) -> None:
    """Another process may make the shared base first."""
    other = CgroupHost(kernel.base, block=block)
    other.prepare(OTHER, {})
    for fd in host._hierarchies:
        host._make_base(fd)
    host.prepare(ID, {})
    assert host.leftovers() == {ID, OTHER}
    assert not [name for name in _tree(kernel.base) if "new" in name]
    other.close()


def test_base_may_vanish_at_any_time(
    kernel: FakeKernel, host: CgroupHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process, whose last container ends, removes the base that we have just made."""
    make_base, times = host._make_base, iter(range(3))

    def make_and_lose(fd: int) -> None:
        make_base(fd)
        if next(times, None) is not None:
            host.tidy()

    monkeypatch.setattr(host, "_make_base", make_and_lose)
    host.prepare(ID, {"pids": 5})
    assert host.read_stats(ID)["pids_limit"] == 5


def test_cpuset_base_appears_filled(v1: FakeKernel, block: Path) -> None:
    """No process can enter a cpuset without processors and memory; children copy them from the base."""
    host = CgroupHost(v1.base, block=block)
    host.prepare(ID, {})
    base = v1.base / "cpuset" / "lxcwrap"
    assert (base / "cgroup.clone_children").read_text() == "1\n"
    assert [path for path, _ in v1.writes[:3]] == [
        f"lxcwrap-new-{os.getpid()}/{name}"
        for name in ("cpuset.cpus", "cpuset.mems", "cgroup.clone_children")
    ]
    host.close()


def test_killed_while_making_the_base(v1: FakeKernel, block: Path) -> None:
    """Neither the next process with that pid stumbles over the remains, nor do they stay."""
    host = CgroupHost(v1.base, block=block)
    cpuset = v1.base / "cpuset"
    for pid in (os.getpid(), 1 << 22):  # the latter is above pid_max
        os.mkdir(f"lxcwrap-new-{pid}", dir_fd=host._by_controller["cpuset"])
    host.prepare(ID, {})
    assert host.remove(ID)
    host.tidy()
    assert [path for path in cpuset.iterdir() if path.is_dir()] == []
    host.close()


def test_v2_controllers_are_passed_down(v2: FakeKernel, block: Path) -> None:
    """Limits exist in a cgroup only when all above it pass the controller down."""
    host = CgroupHost(v2.base, block=block)
    host.prepare(ID, {})
    for path in ("cgroup.subtree_control", "lxcwrap/cgroup.subtree_control"):
        assert [value for name, value in v2.writes if name == path] == [
            "+cpu",
            "+cpuset",
            "+io",
            "+memory",
            "+pids",
        ]
    host.close()


def test_devices_are_denied_before_some_are_allowed(v1: FakeKernel, block: Path) -> None:
    """The default list, then the container's own; None leaves all allowed."""
    host = CgroupHost(v1.base, block=block)
    host.prepare(ID, {}, ["c 10:229 rwm"])
    rules = [value for path, value in v1.writes if "/devices." in path]
    assert (rules[0], rules[-1]) == ("a", "c 10:229 rwm")
    assert set(cgroup_files.DEFAULT_DEVICES) < set(rules)
    v1.writes.clear()
    host.prepare(OTHER, {}, None)
    assert v1.writes == []
    host.close()


def test_entering_needs_the_cgroup(kernel: FakeKernel, host: CgroupHost) -> None:
    """There is no way into a container that is gone, and no descriptor is lost in trying."""
    before = os.listdir("/proc/self/fd")
    if host.is_v2:
        assert host.entry_fds(ID) == []
    else:
        with pytest.raises(FileNotFoundError):
            host.entry_fds(ID)
    assert os.listdir("/proc/self/fd") == before


# --- limits ---

ALL_LIMITS: cgroup_files.Limits = {
    **{"memory": 1 << 30, "swap": 1 << 20, "cpus": 0.5, "cpu_weight": 200, "cpuset": "0", "pids": 20},
    **{"read_bps": 1000, "write_bps": 2000},
}
V1_RESULT = {
    "memory": {"memory.limit_in_bytes": "1073741824", "memory.memsw.limit_in_bytes": "1074790400"},
    "cpu": {"cpu.cfs_quota_us": "50000", "cpu.shares": "2048"},
    "cpuset": {"cpuset.cpus": "0"},
    "pids": {"pids.max": "20"},
    "blkio": {"blkio.throttle.read_bps_device": "8:0 1000", "blkio.throttle.write_bps_device": "8:0 2000"},
}
V2_RESULT = {
    "memory": {"memory.max": "1073741824", "memory.swap.max": "1048576"},
    "cpu": {"cpu.max": "50000 100000", "cpu.weight": "200"},
    "cpuset": {"cpuset.cpus": "0"},
    "pids": {"pids.max": "20"},
    "io": {"io.max": "8:0 wbps=2000"},  # the fake keeps the last line, the kernel both
}


def test_limits_are_written(kernel: FakeKernel, host: CgroupHost, read: Read) -> None:
    """Each limit ends in the file that has it."""
    host.prepare(ID, ALL_LIMITS)
    expected = V2_RESULT if host.is_v2 else V1_RESULT
    found = {
        controller: {file: read(controller, file) for file in files} for controller, files in expected.items()
    }
    assert found == expected


def test_none_takes_limits_away(kernel: FakeKernel, host: CgroupHost, read: Read) -> None:
    """None is no limit, and a limit that is not named stays."""
    host.prepare(ID, ALL_LIMITS)
    host.apply_limits(ID, {**dict.fromkeys(ALL_LIMITS), "pids": 7})
    assert read("pids", "pids.max") == "7"
    if host.is_v2:
        assert (read("memory", "memory.max"), read("cpu", "cpu.max"), read("cpuset", "cpuset.cpus")) == (
            "max",
            "max 100000",
            "",
        )
    else:
        assert (read("memory", "memory.memsw.limit_in_bytes"), read("cpu", "cpu.cfs_quota_us")) == (
            "-1",
            "-1",
        )
        assert read("cpuset", "cpuset.cpus") == "0-1"
    host.apply_limits(ID, {"cpus": 2})
    assert read("pids", "pids.max") == "7"


def test_all_limits_or_none(kernel: FakeKernel, host: CgroupHost, read: Read) -> None:
    """When one limit is refused, those before it are put back."""
    host.prepare(ID, {"memory": 1 << 30, "pids": 20})
    memory = "memory.max" if host.is_v2 else "memory.limit_in_bytes"
    kernel.refuse["cpuset.cpus 99"] = errno.ERANGE
    with pytest.raises(LimitError, match="not all of these processors") as caught:
        host.apply_limits(ID, {"memory": 1 << 28, "pids": 9, "cpuset": "99"})
    assert caught.value.errno == errno.ERANGE
    assert (read("memory", memory), read("pids", "pids.max")) == (str(1 << 30), "20")


def test_a_missing_controller_is_named(v1: FakeKernel, block: Path) -> None:
    """A limit that this host cannot keep is refused; taking it away is no error."""
    host = CgroupHost(v1.base, block=block)
    os.close(host._by_controller.pop("pids"))
    host._hierarchies = tuple(dict.fromkeys(host._by_controller.values()))
    host.prepare(ID, {})
    with pytest.raises(MissingController) as caught:
        host.apply_limits(ID, {"pids": 5})
    assert (caught.value.limit, caught.value.controller) == ("pids", "pids")
    host.apply_limits(ID, {"pids": None})
    host.close()


def test_limits_of_a_container_that_is_gone(kernel: FakeKernel, host: CgroupHost) -> None:
    """That is not taken for a missing controller."""
    with pytest.raises(FileNotFoundError):
        host.apply_limits(ID, {"pids": None})
    with pytest.raises(FileNotFoundError):
        host.read_stats(ID)


def test_v2_memory_is_not_cut_below_use(v2: FakeKernel, block: Path) -> None:
    """The kernel would kill; we ask it to reclaim, and refuse if that does not do."""
    host = CgroupHost(v2.base, block=block)
    host.prepare(ID, {"memory": 1 << 30})
    with pytest.raises(LimitError, match="uses more than that now") as caught:
        host.apply_limits(ID, {"memory": 1 << 20})
    assert caught.value.errno == errno.EBUSY
    assert host.read_stats(ID)["memory_limit"] == 1 << 30
    host.close()


@pytest.mark.parametrize(
    ("now", "limits", "files"),
    [
        ((0, 1 << 62), {"memory": 100, "swap": 0}, ["limit 100", "memsw 100"]),
        ((100, 100), {"memory": 200, "swap": 0}, ["memsw 200", "limit 200"]),
        ((100, 150), {"memory": 50, "swap": 10}, ["limit 50", "memsw 60"]),
        ((100, 150), {"memory": 120}, ["memsw 170", "limit 120"]),
        ((100, 150), {"swap": 60}, ["memsw 160", "limit 100"]),
        ((100, 150), {"memory": None, "swap": None}, ["memsw -1", "limit -1"]),
        ((100, 1 << 62), {"memory": 120}, ["memsw -1", "limit 120"]),
    ],
)
def test_v1_memory_is_never_above_memory_and_swap(
    now: tuple[int, int], limits: cgroup_files.Limits, files: list[str]
) -> None:
    """The kernel refuses the other order; a limit of one alone keeps the other."""
    writes = plan_v1(limits, memory_now=now[0], memsw_now=now[1], all_cpus="", disks=())
    assert [f"{'memsw' if 'memsw' in write.file else 'limit'} {write.value}" for write in writes] == files


@pytest.mark.parametrize(("weight", "shares"), [(1, "10"), (100, "1024"), (10000, "102400")])
def test_cpu_weight_is_the_kernels_own_conversion(weight: int, shares: str) -> None:
    """Weight 100 is the default of both."""
    (write,) = plan_v1({"cpu_weight": weight}, memory_now=0, memsw_now=0, all_cpus="", disks=())
    assert write.value == shares


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("20", "max\n", "max"),
        ("8:0 1000", "", "8:0 0"),
        ("8:0 1000", "7:0 1\n8:0 500\n", "8:0 500"),
        ("8:0 rbps=9", "8:0 rbps=5 wbps=max riops=max wiops=max\n", "8:0 rbps=5"),
        ("8:0 rbps=9", "", "8:0 rbps=max"),
        ("50000 100000", "max 100000\n", "max 100000"),
    ],
)
def test_previous_value(value: str, text: str, expected: str) -> None:
    """What undoes a write: the file's text, or the device's line in it."""
    assert previous(Write("io", "io.max", value, "read_bps", resets=False), text) == expected


def test_every_disk_is_limited() -> None:
    """A rate is per device, so each gets it."""
    writes = plan_v2({"read_bps": 5, "write_bps": None}, disks=["8:0", "8:16"])
    assert [write.value for write in writes] == ["8:0 rbps=5", "8:0 wbps=max", "8:16 rbps=5", "8:16 wbps=max"]


def test_loop_and_memory_disks_are_no_disks(block: Path) -> None:
    """Those are backed by others, or by memory."""
    assert cgroup_limits.disks(os.fspath(block)) == ["8:0"]


# --- statistics and states ---


def test_pressure_is_read_where_the_kernel_counts_it() -> None:
    """The average of ten seconds, of "some", as ten thousandths."""
    text = "some avg10=12.34 avg60=1.00 avg300=0.00 total=5\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=1\n"
    files = {"cpu.pressure": text, "memory.pressure": text.replace("12.34", "0.00")}
    found = stats_v2(lambda _, file: files.get(file, ""))
    assert [found[f"{what}_pressure"] for what in ("cpu", "memory", "io")] == [1234, 0, None]


def test_statistics_are_the_same_on_both(kernel: FakeKernel, host: CgroupHost) -> None:
    """v1 and v2 say the same in other units and words."""
    host.prepare(ID, {"memory": 1 << 30})
    found = host.read_stats(ID)
    for what in ("cpu", "memory", "io"):  # of v2 alone
        assert found.pop(f"{what}_pressure", None) is None
    assert found == {
        **{"cpu_ns": 5_000_000_000, "cpu_user_ns": 3_000_000_000, "cpu_system_ns": 2_000_000_000},
        **{"throttled_ns": 7_000_000, "memory_usage": 10_000_000, "memory_inactive_file": 4_000_000},
        **{"memory_peak": 20_000_000, "memory_limit": 1 << 30, "swap_usage": 3, "oom_kills": 2},
        **{"pids": 3, "pids_limit": None, "read_bytes": 111, "write_bytes": 7},
    }
    assert host.oom_kills(ID) == 2
    assert host.oom_kills(OTHER) == 0


def test_freezing_waits_and_gives_up(v1: FakeKernel, block: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FREEZING is not frozen."""
    host = CgroupHost(v1.base, block=block)
    host.prepare(ID, {})
    host.set_frozen(ID, True)
    assert host.is_frozen(ID)
    host.set_frozen(ID, False)
    assert not host.is_frozen(ID)
    monkeypatch.setattr(cgroupfs, "write", lambda *_: None)
    with pytest.raises(TimeoutError):
        host.set_frozen(ID, True, timeout_s=0.01)
    host.close()


def test_pids_of_all_cgroups_inside(kernel: FakeKernel, host: CgroupHost) -> None:
    """Also of those that were made inside the container."""
    host.prepare(ID, {})
    directory = (kernel.base if host.is_v2 else kernel.base / "freezer") / "lxcwrap" / ID / "c"
    if host.is_v2:
        directory.mkdir()
    (directory / "cgroup.procs").write_text("10\n11\n")
    (directory / "inner").mkdir()
    (directory / "inner" / "cgroup.procs").write_text("12\n")
    assert host.pids(ID) == [10, 11, 12]
    assert host.pids(OTHER) == []


def test_hiding_from_the_whole_host_is_refused(v1: FakeKernel, block: Path) -> None:
    """It would take the host's cgroups away from everybody."""
    host = CgroupHost(v1.base, block=block)
    with pytest.raises(RuntimeError):
        host.hide_from_liblxc()
    host.close()
