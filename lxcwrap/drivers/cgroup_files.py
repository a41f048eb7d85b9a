"""What limits, statistics and device rules are called in the files of cgroup v1 and v2. It touches no file.

Sources: Linux admin-guide/cgroup-v1/*, admin-guide/cgroup-v2.rst.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

# Keys and meaning as in `specs.Limits`. None takes a limit away; an absent key leaves it alone.
Limits = Mapping[str, int | float | str | None]

CPU_PERIOD_US = 100_000
# What every program may count on. Making nodes (m) is harmless where they cannot be opened.
DEFAULT_DEVICES = (
    *("c *:* m", "b *:* m"),
    *("c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm"),  # null zero full random urandom
    *("c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm"),  # tty console ptmx pts
)
# v1 reports "no limit" as the largest multiple of the page size.
_V1_UNLIMITED = 1 << 62


class Write(NamedTuple):
    """One line to write to `file`, for the limit `limit`. `resets`: it takes the limit away."""

    controller: str
    file: str
    value: str
    limit: str
    resets: bool


def plan_v1(
    limits: Limits, *, memory_now: int, memsw_now: int, all_cpus: str, disks: Sequence[str]
) -> list[Write]:
    """What to write, in an order the kernel takes; `memory_now`, `memsw_now`: both limits as they are."""
    writes: list[Write] = []
    add = _adder(writes, limits)
    if "memory" in limits or "swap" in limits:
        # v1 limits the sum of both, so a new memory limit alone must keep the old swap limit, and vice versa.
        memory = _number(limits.get("memory", _limited(memory_now)))
        swap = _number(limits.get("swap", memsw_now - memory_now if _limited(memsw_now) else None))
        memsw = memory + swap if memory is not None and swap is not None else None
        pair = [
            Write("memory", "memory.limit_in_bytes", _or(memory, "-1"), "memory", memory is None),
            Write("memory", "memory.memsw.limit_in_bytes", _or(memsw, "-1"), "swap", memsw is None),
        ]
        # The kernel never lets memory be above memory + swap: the latter goes first when it is raised.
        writes += reversed(pair) if memsw is None or memsw > memsw_now else pair
    add("cpus", "cpu", "cpu.cfs_quota_us", lambda cpus: str(round(float(cpus) * CPU_PERIOD_US)), "-1")
    # The kernel's own conversion: weight 100 is 1024 shares.
    add(
        "cpu_weight", "cpu", "cpu.shares", lambda weight: str(max(2, round(int(weight) * 1024 / 100))), "1024"
    )
    add("cpuset", "cpuset", "cpuset.cpus", str, all_cpus)
    add("pids", "pids", "pids.max", str, "max")
    for disk in disks:
        for limit, name in (("read_bps", "read"), ("write_bps", "write")):
            file = f"blkio.throttle.{name}_bps_device"
            add(limit, "blkio", file, lambda rate, disk=disk: f"{disk} {rate}", f"{disk} 0")
    return writes


def plan_v2(limits: Limits, *, disks: Sequence[str]) -> list[Write]:
    """What to write for cgroup v2."""
    writes: list[Write] = []
    add = _adder(writes, limits)
    add("memory", "memory", "memory.max", str, "max")
    add("swap", "memory", "memory.swap.max", str, "max")
    quota = f" {CPU_PERIOD_US}"
    add("cpus", "cpu", "cpu.max", lambda cpus: f"{round(float(cpus) * CPU_PERIOD_US)}{quota}", f"max{quota}")
    add("cpu_weight", "cpu", "cpu.weight", str, "100")
    add("cpuset", "cpuset", "cpuset.cpus", str, "")
    add("pids", "pids", "pids.max", str, "max")
    for disk in disks:
        for limit, key in (("read_bps", "rbps"), ("write_bps", "wbps")):
            convert = lambda rate, disk=disk, key=key: f"{disk} {key}={rate}"  # noqa: E731
            add(limit, "io", "io.max", convert, f"{disk} {key}=max")
    return writes


def _adder(writes: list[Write], limits: Limits) -> Callable[..., None]:
    def add(limit: str, controller: str, file: str, convert: Callable[..., str], none: str) -> None:
        if limit in limits:
            value = limits[limit]
            writes.append(
                Write(controller, file, none if value is None else convert(value), limit, value is None)
            )

    return add


def previous(write: Write, text: str) -> str:
    """The line that would undo `write` on a file that holds `text` now."""
    device, _, setting = write.value.partition(" ")
    if ":" not in device:
        return text.strip()
    key = f"{setting.partition('=')[0]}=" if "=" in setting else ""
    lines = (line.split() for line in text.splitlines())
    settings = (
        word for words in lines if words[:1] == [device] for word in words[1:] if word.startswith(key)
    )
    return f"{device} {next(settings, f'{key}max' if key else '0')}"


def _number(value: int | float | str | None) -> int | None:
    return None if value is None else int(value)


def _limited(size: int) -> int | None:
    return size if 0 < size < _V1_UNLIMITED else None


def _or(value: int | None, none: str) -> str:
    return none if value is None else str(value)


# --- statistics ---

PRESSURES = ("cpu", "memory", "io")

Read = Callable[[str, str], str]
"""(controller, file) -> the text, empty where the machine has no such file."""


def stats_v1(read: Read) -> dict[str, int | None]:
    """Raw figures: sizes in bytes, times in nanoseconds (`*_ns`)."""
    ticks = pairs(read("cpuacct", "cpuacct.stat"))  # USER_HZ, which Linux shows as 100 everywhere
    memory = pairs(read("memory", "memory.stat"))
    usage = integer(read("memory", "memory.usage_in_bytes"))
    received, sent = _blkio(read("blkio", "blkio.throttle.io_service_bytes_recursive"))
    return {
        "cpu_ns": integer(read("cpuacct", "cpuacct.usage")),
        "cpu_user_ns": ticks.get("user", 0) * 10_000_000,
        "cpu_system_ns": ticks.get("system", 0) * 10_000_000,
        "throttled_ns": pairs(read("cpu", "cpu.stat")).get("throttled_time", 0),
        "memory_usage": usage,
        "memory_inactive_file": memory.get("total_inactive_file", 0),
        "memory_peak": integer(read("memory", "memory.max_usage_in_bytes")),
        "memory_limit": _limited(integer(read("memory", "memory.limit_in_bytes"))),
        "swap_usage": memory.get("total_swap", 0),
        "oom_kills": pairs(read("memory", "memory.oom_control")).get("oom_kill", 0),
        "pids": integer(read("pids", "pids.current")),
        "pids_limit": _limit(read("pids", "pids.max")),
        "read_bytes": received,
        "write_bytes": sent,
    }


def stats_v2(read: Read) -> dict[str, int | None]:
    """The same for cgroup v2."""
    cpu = pairs(read("cpu", "cpu.stat"))
    words = [word.partition("=") for word in read("io", "io.stat").split()]
    return {
        "cpu_ns": cpu.get("usage_usec", 0) * 1000,
        "cpu_user_ns": cpu.get("user_usec", 0) * 1000,
        "cpu_system_ns": cpu.get("system_usec", 0) * 1000,
        "throttled_ns": cpu.get("throttled_usec", 0) * 1000,
        "memory_usage": integer(read("memory", "memory.current")),
        "memory_inactive_file": pairs(read("memory", "memory.stat")).get("inactive_file", 0),
        "memory_peak": integer(read("memory", "memory.peak")),
        "memory_limit": _limit(read("memory", "memory.max")),
        "swap_usage": integer(read("memory", "memory.swap.current")),
        "oom_kills": pairs(read("memory", "memory.events")).get("oom_kill", 0),
        "pids": integer(read("pids", "pids.current")),
        "pids_limit": _limit(read("pids", "pids.max")),
        "read_bytes": sum(int(value) for key, _, value in words if key == "rbytes"),
        "write_bytes": sum(int(value) for key, _, value in words if key == "wbytes"),
        # Of every cgroup, whichever controllers it has.
        **{f"{what}_pressure": _pressure(read("cgroup", f"{what}.pressure")) for what in PRESSURES},
    }


def _pressure(text: str) -> int | None:
    """Ten thousandths of the last ten seconds in which some process waited; None where the kernel does not
    count (Linux: accounting/psi.rst)."""
    average = text.partition("some avg10=")[2].partition(" ")[0]
    return round(float(average) * 100) if average else None


def pairs(text: str) -> dict[str, int]:
    """``key number`` lines."""
    return {key: int(value) for key, _, value in (line.partition(" ") for line in text.splitlines()) if value}


def integer(text: str) -> int:
    return int(text or 0)


def _limit(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _blkio(text: str) -> tuple[int, int]:
    """Bytes read and written; lines are ``8:0 Read 4096``, and a last ``Total n``."""
    totals = {"Read": 0, "Write": 0}
    for words in map(str.split, text.splitlines()):
        if len(words) == 3 and words[1] in totals:
            totals[words[1]] += int(words[2])
    return totals["Read"], totals["Write"]
