"""`Snapshot` and `Snapshots` for event loops."""

# Their methods are those of the classes they derive from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from .. import snapshot, snapshots
from . import threads
from .container import Container
from .containers import discard
from .driving import Twin, in_thread, making, method
from .image import Image

T = TypeVar("T")


class Snapshot(Twin, snapshot.Snapshot):
    """A `lxcwrap.Snapshot` whose methods are awaited; properties are read as there."""

    __slots__ = ()

    @classmethod
    def of(cls, found: snapshot.Snapshot) -> Self:
        """The same snapshot."""
        return cls(found._machinery, found._id)

    @property
    def _sync(self) -> snapshot.Snapshot:
        return snapshot.Snapshot(self._machinery, self._id)

    @property
    def image(self) -> Image:
        """What its containers are made from, and it alone."""
        return Image.of(super().image)

    launch = making(Container.of, snapshot.Snapshot.launch, lost=discard)
    create = making(Container.of, snapshot.Snapshot.create, lost=discard)
    run = method(snapshot.Snapshot.run)
    remove = method(snapshot.Snapshot.remove, long=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(threads.long(), partial(self._sync.__exit__, kind, error, trace))


def _all(found: list[snapshot.Snapshot]) -> list[Snapshot]:
    return [Snapshot.of(each) for each in found]


class Snapshots(Twin, snapshots.Snapshots):
    """`lxcwrap.Snapshots` whose methods are awaited; looking up, ``in``, ``len``, ``for`` are as there."""

    @property
    def _sync(self) -> snapshots.Snapshots:
        return snapshots.Snapshots(self._machinery)

    def __getitem__(self, key: str | snapshot.Snapshot) -> Snapshot:
        return Snapshot.of(super().__getitem__(key))

    def get(self, key: str | snapshot.Snapshot, default: T | None = None) -> Snapshot | T | None:
        found = self._sync.get(key)
        return default if found is None else Snapshot.of(found)

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(_all(self._sync.list()))

    list = making(_all, snapshots.Snapshots.list)
    prune = method(snapshots.Snapshots.prune, long=True)
