"""What is told of containers: frozen values, as results. Nothing here touches the machine."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from attrs import field, frozen

from .ids import IdMap
from .shown import Shown


def _shortened(data: bytes) -> str:
    return repr(data if len(data) <= 200 else data[:200] + b"...")


@frozen(kw_only=True)
class Completed(Shown):
    """How a command ended, as `subprocess.CompletedProcess`. `stdout` and `stderr` are the output as text
    (UTF-8, what is none is replaced); `stdout_bytes` and `stderr_bytes` are exactly what was written."""

    argv: tuple[str, ...]
    exit_code: int
    stdout_bytes: bytes = field(repr=_shortened)
    stderr_bytes: bytes = field(repr=_shortened)
    oom_killed: bool = False
    duration_s: float = 0.0

    @property
    def stdout(self) -> str:
        """Standard output as text; line ends are as they were written."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """The same of standard error."""
        return self.stderr_bytes.decode(errors="replace")


class LogLine(NamedTuple):
    """One line a container wrote: `text` without newline, `time` in UTC. A tuple, as logs have very many."""

    time: datetime
    stream: Literal["stdout", "stderr"]
    text: str


@frozen(kw_only=True)
class Pressure:
    """Share of the last ten seconds, 0 to 1, in which some of its processes waited for what is named."""

    cpu: float
    memory: float
    io: float


@frozen(kw_only=True)
class Stats(Shown):
    """What a container uses now. Sizes in bytes, times in seconds, counters since it started.

    memory_usage counts page cache too; memory_working_set is without the part the kernel can drop at once.
    rx_bytes, tx_bytes: of its network, without loopback. cpu_share: processors' worth of time since the value
    before, in a stream. pressure: None on hosts with cgroup v1.
    """

    time: datetime
    cpu_s: float
    cpu_user_s: float
    cpu_system_s: float
    throttled_s: float
    memory_usage: int
    memory_working_set: int
    memory_peak: int
    memory_limit: int | None
    swap_usage: int
    oom_kills: int
    pids: int
    pids_limit: int | None
    read_bytes: int
    write_bytes: int
    rx_bytes: int
    tx_bytes: int
    cpu_share: float | None = None
    pressure: Pressure | None = None


class HealthResult(NamedTuple):
    """One probe: `exit_code` 0 is success, None that it took too long; `output`: the beginning of what was
    said."""

    started_at: datetime
    ended_at: datetime
    exit_code: int | None
    output: str


@frozen(kw_only=True)
class Health(Shown):
    """How a container is, by its health check. failing_streak: failures since the last success. results: the
    last five at most, oldest first."""

    status: Literal["starting", "healthy", "unhealthy"]
    failing_streak: int = 0
    results: tuple[HealthResult, ...] = ()


@frozen(kw_only=True)
class Process:
    """A process of a container: `pid` inside, `host_pid` outside; `cpu_s` seconds, `rss` bytes used."""

    pid: int
    host_pid: int
    ppid: int
    user: int
    state: str
    cpu_s: float
    rss: int
    started_at: datetime
    argv: tuple[str, ...]


@frozen(kw_only=True)
class Change:
    """A difference to the image: `kind` is ``added``, ``modified`` or ``deleted``; `path` is absolute."""

    path: str
    kind: Literal["added", "modified", "deleted"]


@frozen(kw_only=True)
class FileStat:
    """What is known of a file. `uid` and `gid` are those inside; `size` in bytes; `mode` as
    `os.stat_result.st_mode`."""

    mode: int
    uid: int
    gid: int
    size: int
    mtime: datetime
    mtime_ns: int
    inode: int
    nlink: int

    @classmethod
    def of(cls, status: os.stat_result, idmap: IdMap) -> FileStat:
        """What the kernel says of a file, with the owners that the container sees."""
        return cls(
            mode=status.st_mode,
            uid=idmap.to_inner(status.st_uid),
            gid=idmap.to_inner(status.st_gid),
            size=status.st_size,
            mtime=datetime.fromtimestamp(status.st_mtime, UTC),
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            nlink=status.st_nlink,
        )


@frozen(kw_only=True)
class ImageUsage:
    """What an image takes up, in bytes on disk, without unpacked layers. unique: of that, what no other image
    has; containers: how many are made from it."""

    id: str
    tags: tuple[str, ...]
    blobs: int
    unique: int
    containers: int


@frozen(kw_only=True)
class DiskUsage(Shown):
    """
    What lies under a root directory, in bytes on disk: blocks, not lengths; what has several names once.

    blobs, layers: of images, as stored and as unpacked. containers: what they wrote, without logs. volumes:
    also nameless ones. build_cache: what no image needs, of builds. trash: what will be deleted by itself, or
    by `Host.prune`. other: records, programs and filters.
    """

    images: tuple[ImageUsage, ...]
    blobs: int
    layers: int
    containers: int
    volumes: int
    logs: int
    build_cache: int
    trash: int
    other: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return sum(size for _, size in self._rows())

    def _rows(self) -> list[tuple[str, int]]:
        names = ("blobs", "layers", "containers", "volumes", "logs", "build_cache", "trash", "other")
        return [(name, getattr(self, name)) for name in names]

    def __str__(self) -> str:
        rows = [*self._rows(), ("total", self.total)]
        return "\n".join(f"{name.replace('_', ' '):12}{size / (1 << 20):12.1f} MiB" for name, size in rows)


@frozen(kw_only=True)
class Pruned(Shown):
    """What `Host.prune` took away: ids of images, how many build steps, and the bytes that are free now."""

    images: tuple[str, ...]
    build_steps: int
    freed: int
