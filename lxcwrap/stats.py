"""What a running container uses: `Stats` and `Process` values, read from its cgroups and /proc."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from attrs import evolve

from .drivers import procfs
from .drivers.cgroup_files import PRESSURES
from .drivers.protocols import Cgroups
from .errors import ContainerNotFoundError, InvalidSpecError, WrongStateError
from .ids import IdMap
from .results import Pressure, Process, Stats
from .waiting import Flow, Wait


def read(cgroups: Cgroups, container_id: str, init_pid: int) -> Stats:
    """What the container uses now; `init_pid` names its network. FileNotFoundError: it has no cgroups."""
    raw = cgroups.read_stats(container_id)
    figure = {key: value or 0 for key, value in raw.items()}
    received, sent = procfs.network_bytes(init_pid)
    return Stats(
        time=datetime.now(UTC),
        cpu_s=figure["cpu_ns"] / 1e9,
        cpu_user_s=figure["cpu_user_ns"] / 1e9,
        cpu_system_s=figure["cpu_system_ns"] / 1e9,
        throttled_s=figure["throttled_ns"] / 1e9,
        memory_usage=figure["memory_usage"],
        memory_working_set=max(0, figure["memory_usage"] - figure["memory_inactive_file"]),
        memory_peak=figure["memory_peak"],
        memory_limit=raw["memory_limit"],
        swap_usage=figure["swap_usage"],
        oom_kills=figure["oom_kills"],
        pids=figure["pids"],
        pids_limit=raw["pids_limit"],
        read_bytes=figure["read_bytes"],
        write_bytes=figure["write_bytes"],
        rx_bytes=received,
        tx_bytes=sent,
        pressure=_pressure(raw),
    )


def _pressure(raw: Mapping[str, int | None]) -> Pressure | None:
    shares = {name: raw.get(f"{name}_pressure") for name in PRESSURES}
    found = {name: share / 1e4 for name, share in shares.items() if share is not None}
    return Pressure(**found) if len(found) == len(PRESSURES) else None


def stream(look: Callable[[], Stats], interval_s: float) -> Flow[Stats]:
    """A value now and after each interval, until it does not run any more: then `look` says so."""
    if not interval_s > 0:
        raise InvalidSpecError(f"interval_s={interval_s!r}: must be greater than zero")

    def generate(before: Stats) -> Flow[Stats]:
        yield before
        while True:
            yield Wait(None, interval_s)
            try:
                now = look()
            except (FileNotFoundError, ContainerNotFoundError, WrongStateError):
                return
            passed_s = (now.time - before.time).total_seconds()
            share = (now.cpu_s - before.cpu_s) / passed_s if passed_s > 0 else 0.0
            # Less than before: it was started anew.
            yield evolve(now, cpu_share=max(0.0, share))
            before = now

    return generate(look())


def oom_kills(cgroups: Cgroups, container_id: str) -> int:
    """How many of its processes the kernel has killed for want of memory; 0 when it has no cgroups."""
    return cgroups.oom_kills(container_id)


def processes(cgroups: Cgroups, container_id: str, idmap: IdMap) -> tuple[Process, ...]:
    """The container's processes, its init first. `user` is the id inside; 65534 where it is not mapped."""
    return tuple(
        Process(
            pid=process.pid,
            host_pid=process.host_pid,
            ppid=process.ppid,
            user=idmap.to_inner(process.uid),
            state=process.state,
            cpu_s=process.cpu_s,
            rss=process.rss,
            started_at=datetime.fromtimestamp(process.started_at, UTC),
            argv=process.argv,
        )
        for process in procfs.table(cgroups.pids(container_id))
    )
