"""What happens to containers, whoever does it: typed events, as `Host.events` gives them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from attrs import frozen

from .drivers.inotify import Watch
from .machinery import Machinery
from .supervisor.journal import NAME, is_at


@frozen(kw_only=True)
class Event:
    """Something that happened to a container; `name` is the one it had, empty if that is not known."""

    time: datetime
    container_id: str
    name: str


@frozen(kw_only=True)
class Created(Event):
    """It was made."""


@frozen(kw_only=True)
class Started(Event):
    """Its main process runs."""


@frozen(kw_only=True)
class Restarted(Event):
    """It was started by its restart policy, for the `count`-th time since a user did."""

    count: int


@frozen(kw_only=True)
class Exited(Event):
    """It ended. exit_code: None if nobody could see it."""

    exit_code: int | None


@frozen(kw_only=True)
class OutOfMemory(Event):
    """The kernel killed one of its processes for want of memory, in the run that ends with this."""


@frozen(kw_only=True)
class Paused(Event):
    """It was frozen."""


@frozen(kw_only=True)
class Unpaused(Event):
    """It goes on."""


@frozen(kw_only=True)
class HealthChanged(Event):
    """Its health check finds something else than before."""

    status: Literal["healthy", "unhealthy"]


@frozen(kw_only=True)
class Renamed(Event):
    """`name` is the new one."""


@frozen(kw_only=True)
class Updated(Event):
    """Its limits were changed."""


@frozen(kw_only=True)
class Removed(Event):
    """It is gone, with all it had written."""


_KINDS: dict[str, type[Event]] = {
    "created": Created,
    "started": Started,
    "restarted": Restarted,
    "exited": Exited,
    "oom": OutOfMemory,
    "paused": Paused,
    "unpaused": Unpaused,
    "health": HealthChanged,
    "renamed": Renamed,
    "updated": Updated,
    "removed": Removed,
}


def events(
    machinery: Machinery,
    *,
    container_id: str | None,
    since: datetime | None,
    follow: bool,
    timeout_s: float | None,
) -> Iterator[Event]:
    """See `Host.events`. What happens from this call on is not missed, whenever the first is asked for."""
    path = str(machinery.root.run / NAME)
    watch = Watch(str(machinery.root.run))
    try:
        lines = _Lines(path, from_start=since is not None)
        names = _Names(machinery)
    except BaseException:
        watch.close()
        raise
    return _generate(watch, lines, names, container_id, since, follow, timeout_s)


def _generate(
    watch: Watch,
    lines: _Lines,
    names: _Names,
    container_id: str | None,
    since: datetime | None,
    follow: bool,
    timeout_s: float | None,
) -> Iterator[Event]:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with watch, lines:
        while True:
            for line in lines.read():
                event = names.event(line)
                if event is None or (since is not None and event.time < since):
                    continue
                if container_id in (None, event.container_id):
                    yield event
            remaining_s = None if deadline is None else deadline - time.monotonic()
            if not follow or (remaining_s is not None and remaining_s <= 0):
                return
            watch.wait(remaining_s)


class _Names:
    """Makes events of lines, which name their container by its id."""

    def __init__(self, machinery: Machinery) -> None:
        rows = machinery.state.connection.execute("SELECT id, name FROM containers")
        self._names: dict[str, str] = {row["id"]: row["name"] for row in rows}

    def event(self, line: bytes) -> Event | None:
        """None: a full disk cut it off, or it is of a kind that a newer version knows."""
        try:
            facts: dict[str, Any] = json.loads(line)
        except ValueError:
            return None
        if facts["kind"] not in _KINDS:
            return None
        kind, container_id = facts.pop("kind"), facts.pop("id")
        moment = datetime.fromtimestamp(facts.pop("time"), UTC)
        if "name" in facts:
            self._names[container_id] = facts.pop("name")
        name = self._names.get(container_id, "")
        return _KINDS[kind](time=moment, container_id=container_id, name=name, **facts)


class _Lines:
    """Whole lines as they come, from one file of the log to the next."""

    def __init__(self, path: str, *, from_start: bool) -> None:
        self._path = path
        self._rest = b""
        self._fd = self._open(f"{path}.1" if from_start and os.path.exists(f"{path}.1") else path)
        if not from_start:
            os.lseek(self._fd, 0, os.SEEK_END)

    @staticmethod
    def _open(path: str) -> int:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> Iterator[bytes]:
        while True:
            is_last = is_at(self._path, self._fd)  # before reading: nothing is added to one that was renamed
            while data := os.read(self._fd, 1 << 16):
                *whole, self._rest = (self._rest + data).split(b"\n")
                yield from whole
            if is_last:
                return
            os.close(self._fd)
            self._fd, self._rest = self._open(self._path), b""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
