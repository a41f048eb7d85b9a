"""What /proc says of processes: who they are, what they use, what they run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

# "State" of /proc/<pid>/status, as the kernel's documentation calls it (filesystems/proc.rst).
_STATES = {
    **{"R": "running", "S": "sleeping", "D": "uninterruptible", "T": "stopped", "t": "traced"},
    **{"Z": "zombie", "X": "dead", "I": "idle", "P": "parked"},
}


class RawProcess(NamedTuple):
    """One process: ids as on the host but for `pid` and `ppid`, which are those of its own pid namespace."""

    host_pid: int
    pid: int
    ppid: int
    uid: int
    state: str
    cpu_s: float
    rss: int
    started_at: float  # seconds since the epoch
    argv: tuple[str, ...]


def table(pids: Iterable[int]) -> list[RawProcess]:
    """The processes of one pid namespace, by their pids inside. Those that end meanwhile are left out."""
    found = {process.host_pid: process for process in _all(pids)}
    inner = {process.host_pid: process.pid for process in found.values()}
    # A parent outside of the container is 0 to those inside (pid_namespaces(7)).
    listed = (process._replace(ppid=inner.get(process.ppid, 0)) for process in found.values())
    return sorted(listed, key=lambda process: process.pid)


def _all(pids: Iterable[int]) -> Iterator[RawProcess]:
    for pid in pids:
        try:
            yield _read(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue


def _read(pid: int) -> RawProcess:
    """`ppid` is still the host's."""
    status = dict(line.split(":", 1) for line in _text(pid, "status").splitlines())
    # The name in parentheses is the process' to choose, and may hold anything.
    name, _, rest = _text(pid, "stat").partition("(")[2].rpartition(")")
    fields = rest.split()
    argv = tuple(_text(pid, "cmdline").rstrip("\0").split("\0"))
    return RawProcess(
        host_pid=pid,
        pid=int(status["NSpid"].split()[-1]),
        ppid=int(fields[1]),
        uid=int(status["Uid"].split()[1]),
        state=_STATES.get(fields[0], fields[0]),
        cpu_s=(int(fields[11]) + int(fields[12])) / _clock_ticks(),
        rss=int(status.get("VmRSS", "0 kB").split()[0]) * 1024,
        started_at=time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / _clock_ticks(),
        argv=argv if argv != ("",) else (f"[{name}]",),  # as ps shows a zombie
    )


def _text(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb") as file:
        return file.read().decode(errors="replace")


@cache
def _clock_ticks() -> int:
    return os.sysconf("SC_CLK_TCK")


def network_bytes(pid: int) -> tuple[int, int]:
    """Bytes received and sent in the network namespace of `pid`, without loopback; 0 when it has ended."""
    received = sent = 0
    try:
        lines = _text(pid, "net/dev").splitlines()[2:]
    except OSError:
        return 0, 0
    for line in lines:
        name, _, figures = line.partition(":")
        if name.strip() != "lo":
            words = figures.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent
