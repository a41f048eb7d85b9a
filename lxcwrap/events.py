"""What happens to containers, images, networks and volumes, whoever does it: typed events, as `Host.events`
gives them.

An event is a value of one of the classes below, whose bases say what it happened to: `Connected` happens to a
container and to a network. Those of changes of the records come if, and only if, the change was made, whoever
is killed when; after that one may be told twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

from attrs import fields_dict, frozen

from .drivers.inotify import Watch
from .machinery import Machinery
from .netspecs import PortBinding
from .shown import Shown
from .storage.eventlog import NAME, is_at
from .storage.images import How
from .waiting import Flow, Wait


@frozen(kw_only=True, slots=False)
class Event(Shown):
    """Something that happened, and when."""

    time: datetime


# --- containers -----------------------------------------------------------------------------------------


@frozen(kw_only=True, slots=False)
class ContainerEvent(Event):
    """It happened to a container; `name` is the one it had, empty if that is not known."""

    container_id: str
    name: str


@frozen(kw_only=True, slots=False)
class Created(ContainerEvent):
    """It is on record. What else it gets from the start, such as a network, is told next."""


@frozen(kw_only=True, slots=False)
class Started(ContainerEvent):
    """Its main process runs."""


@frozen(kw_only=True, slots=False)
class Restarted(ContainerEvent):
    """It was started by its restart policy, for the `count`-th time since a user did."""

    count: int


@frozen(kw_only=True, slots=False)
class Exited(ContainerEvent):
    """It ended. exit_code: None if nobody could see it."""

    exit_code: int | None


@frozen(kw_only=True, slots=False)
class OutOfMemory(ContainerEvent):
    """The kernel has killed processes of it for want of memory; at most once a second."""


@frozen(kw_only=True, slots=False)
class Paused(ContainerEvent):
    """It was frozen."""


@frozen(kw_only=True, slots=False)
class Unpaused(ContainerEvent):
    """It goes on."""


@frozen(kw_only=True, slots=False)
class HealthChanged(ContainerEvent):
    """Its health check finds something else than before."""

    status: Literal["healthy", "unhealthy"]


@frozen(kw_only=True, slots=False)
class Renamed(ContainerEvent):
    """`name` is the new one."""


@frozen(kw_only=True, slots=False)
class Updated(ContainerEvent):
    """Its limits were changed."""


@frozen(kw_only=True, slots=False)
class Published(ContainerEvent):
    """A port of the host leads to it."""

    port: PortBinding


@frozen(kw_only=True, slots=False)
class Unpublished(ContainerEvent):
    """That port is free again."""

    port: PortBinding


@frozen(kw_only=True, slots=False)
class Removed(ContainerEvent):
    """It is gone, with all it had written. What it had besides, such as a network, was told before."""


# --- networks -------------------------------------------------------------------------------------------


@frozen(kw_only=True, slots=False)
class NetworkEvent(Event):
    """It happened to a network; `network` is its name."""

    network_id: str
    network: str


@frozen(kw_only=True, slots=False)
class NetworkCreated(NetworkEvent):
    """It is on record; its bridge follows."""


@frozen(kw_only=True, slots=False)
class NetworkRemoved(NetworkEvent):
    """It is gone."""


@frozen(kw_only=True, slots=False)
class Connected(ContainerEvent, NetworkEvent):
    """The container is on the network."""


@frozen(kw_only=True, slots=False)
class Disconnected(ContainerEvent, NetworkEvent):
    """The container is off the network, or could not be put on it."""


# --- volumes --------------------------------------------------------------------------------------------


@frozen(kw_only=True, slots=False)
class VolumeEvent(Event):
    """It happened to a named volume."""

    volume: str


@frozen(kw_only=True, slots=False)
class VolumeCreated(VolumeEvent):
    """It is there."""


@frozen(kw_only=True, slots=False)
class VolumeResized(VolumeEvent):
    """size: bytes that it may have now."""

    size: int


@frozen(kw_only=True, slots=False)
class VolumeBackedUp(VolumeEvent):
    """An archive has all its files."""


@frozen(kw_only=True, slots=False)
class VolumeRestored(VolumeEvent):
    """It has the files of an archive."""


@frozen(kw_only=True, slots=False)
class VolumeRemoved(VolumeEvent):
    """It is gone, with its files."""


@frozen(kw_only=True, slots=False)
class Attached(ContainerEvent, VolumeEvent):
    """The container has the volume, running or not."""


@frozen(kw_only=True, slots=False)
class Detached(ContainerEvent, VolumeEvent):
    """The container does not have it any more."""


# --- images ---------------------------------------------------------------------------------------------


@frozen(kw_only=True, slots=False)
class ImageEvent(Event):
    """It happened to an image."""

    image_id: str


@frozen(kw_only=True, slots=False)
class ImageAdded(ImageEvent):
    """It is here, and was not before. how: from where; its names are told next."""

    how: How


@frozen(kw_only=True, slots=False)
class ImageTagged(ImageEvent):
    """It is called `reference`, in full."""

    reference: str


@frozen(kw_only=True, slots=False)
class ImageUntagged(ImageEvent):
    """It is not called `reference` any more."""

    reference: str


@frozen(kw_only=True, slots=False)
class ImagePushed(ImageEvent):
    """A registry has it, by this name."""

    reference: str


@frozen(kw_only=True, slots=False)
class ImageRemoved(ImageEvent):
    """It is gone."""


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
    "published": Published,
    "unpublished": Unpublished,
    "removed": Removed,
    "network_created": NetworkCreated,
    "network_removed": NetworkRemoved,
    "connected": Connected,
    "disconnected": Disconnected,
    "volume_created": VolumeCreated,
    "volume_resized": VolumeResized,
    "volume_backed_up": VolumeBackedUp,
    "volume_restored": VolumeRestored,
    "volume_removed": VolumeRemoved,
    "attached": Attached,
    "detached": Detached,
    "image_added": ImageAdded,
    "image_tagged": ImageTagged,
    "image_untagged": ImageUntagged,
    "image_pushed": ImagePushed,
    "image_removed": ImageRemoved,
}
Kinds = type[Event] | tuple[type[Event], ...]


def events(
    machinery: Machinery,
    *,
    kinds: Kinds,
    container_id: str | None,
    since: datetime | None,
    follow: bool,
    timeout_s: float | None,
) -> Flow[Event]:
    """See `Host.events`. What happens from this call on is not missed, whenever the first is asked for."""
    begin = None if since is None else since.astimezone()  # one without a zone is local, as in logs
    path = str(machinery.root.run / NAME)
    watch = Watch(str(machinery.root.run))
    try:
        lines = _Lines(path, from_start=begin is not None)
        names = _Names(machinery)
    except BaseException:
        watch.close()
        raise

    def is_wanted(event: Event) -> bool:
        return (
            isinstance(event, kinds)
            and (begin is None or event.time >= begin)
            and (
                container_id is None
                or (isinstance(event, ContainerEvent) and event.container_id == container_id)
            )
        )

    return _generate(watch, lines, names, is_wanted, follow, timeout_s)


def _generate(
    watch: Watch,
    lines: _Lines,
    names: _Names,
    is_wanted: Callable[[Event], bool],
    follow: bool,
    timeout_s: float | None,
) -> Flow[Event]:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with watch, lines:
        while True:
            for line in lines.read():
                if (event := names.event(line)) is not None and is_wanted(event):
                    yield event
            remaining_s = None if deadline is None else deadline - time.monotonic()
            if not follow or (remaining_s is not None and remaining_s <= 0):
                return
            yield Wait(watch.fileno(), remaining_s)
            watch.clear()


class _Names:
    """Makes events of lines, which name their container by its id."""

    def __init__(self, machinery: Machinery) -> None:
        rows = machinery.state.connection.execute("SELECT id, name FROM containers")
        self._names: dict[str, str] = {row["id"]: row["name"] for row in rows}

    def event(self, line: bytes) -> Event | None:
        """None: a full disk cut it off, or it is of a kind that a newer version knows."""
        try:
            facts = json.loads(line)
        except ValueError:
            return None
        kind = _KINDS.get(facts["kind"])
        if kind is None:
            return None
        facts["time"] = datetime.fromtimestamp(facts["time"], UTC)
        if "port" in facts:
            facts["port"] = PortBinding(**facts["port"])
        if issubclass(kind, ContainerEvent):
            facts = self._of_container(facts)
        return kind(**{name: facts[name] for name in fields_dict(kind)})

    def _of_container(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        container_id = facts["id"]
        if "name" in facts:
            self._names[container_id] = facts["name"]
        return {**facts, "container_id": container_id, "name": self._names.get(container_id, "")}


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
