"""The collection `host.snapshots`: finding and removing snapshots."""

from __future__ import annotations

import builtins
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from .errors import SnapshotNotFoundError, StillUsedError
from .machinery import Machinery
from .shown import Shown
from .snapshot import Snapshot

if TYPE_CHECKING:
    from .display.blocks import Page

T = TypeVar("T")


class Snapshots(Shown):
    """All snapshots of a host, from `Container.snapshot`: a read-only mapping by name or id, that iterates
    over each `Snapshot`, the newest first."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._store = machinery.snapshot_store

    def __getitem__(self, key: str | Snapshot) -> Snapshot:
        """Raises SnapshotNotFoundError, a KeyError."""
        return Snapshot(self._machinery, self._store.find(key.id if isinstance(key, Snapshot) else key))

    def get(self, key: str | Snapshot, default: T | None = None) -> Snapshot | T | None:
        """The snapshot of this name, or `default`."""
        try:
            return self[key]
        except SnapshotNotFoundError:
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | Snapshot) and self.get(key) is not None

    def __iter__(self) -> Iterator[Snapshot]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self._store.ids())

    def __repr__(self) -> str:
        return f"<Snapshots: {len(self)}>"

    def _page(self) -> Page:
        from .display.stores import snapshots

        return snapshots(self._machinery)

    def list(self) -> builtins.list[Snapshot]:
        """All snapshots, the newest first."""
        return [Snapshot(self._machinery, snapshot_id) for snapshot_id in self._store.ids()]

    def prune(self) -> builtins.list[str]:
        """Remove all that no container is made from; their names, or ids where they have none."""
        removed = []
        for snapshot in self.list():
            with suppress(StillUsedError, SnapshotNotFoundError):
                name = snapshot.name or snapshot.id
                snapshot.remove()
                removed.append(name)
        return removed
