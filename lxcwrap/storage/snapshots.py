"""Records of snapshots: an image each, which is theirs alone, and what the container was made with.

A snapshot and its image are recorded, and removed, in one transaction. One without a name ends with the
process that took it: `clean` removes it then.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ..drivers.pidfd import start_time
from ..errors import NameInUseError, SnapshotNotFoundError, StillUsedError
from .images import ImageStore
from .state import State


class SnapshotStore:
    """The snapshots under one root directory. Safe from any thread and process."""

    def __init__(self, state: State, images: ImageStore) -> None:
        self._state = state
        self._images = images

    def check_free(self, name: str) -> None:
        """Raises NameInUseError."""
        if self._state.connection.execute("SELECT 1 FROM snapshots WHERE name = ?", (name,)).fetchone():
            raise NameInUseError("snapshot", name)

    def add(
        self, change: sqlite3.Connection, snapshot_id: str, name: str | None, image_id: str, spec: str
    ) -> None:
        """Record one, within a transaction. Raises NameInUseError."""
        me = os.getpid()
        values = (snapshot_id, name, image_id, spec, time.time(), me, start_time(me))
        try:
            change.execute("INSERT INTO snapshots VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError:
            raise NameInUseError("snapshot", name or snapshot_id) from None

    def row(self, snapshot_id: str) -> Mapping[str, Any]:
        """Raises SnapshotNotFoundError."""
        query = "SELECT * FROM snapshots WHERE id = ?"
        found: Mapping[str, Any] | None = self._state.connection.execute(query, (snapshot_id,)).fetchone()
        if found is None:
            raise SnapshotNotFoundError(snapshot_id)
        return found

    def find(self, key: str) -> str:
        """The id of the one with this name or id. Raises SnapshotNotFoundError."""
        query = "SELECT id FROM snapshots WHERE name = :key OR id = :key"
        found = self._state.connection.execute(query, {"key": key}).fetchone()
        if found is None:
            raise SnapshotNotFoundError(key)
        return str(found["id"])

    def ids(self) -> list[str]:
        """The newest first."""
        query = "SELECT id FROM snapshots ORDER BY created_at DESC, id"
        return [row["id"] for row in self._state.connection.execute(query)]

    def remove(self, snapshot_id: str) -> None:
        """With its image, unless that was given a tag. Raises SnapshotNotFoundError, StillUsedError."""
        image_id = self.row(snapshot_id)["image_id"]
        if self._images.tags(image_id):
            with self._state.transaction() as change:
                change.execute("DELETE FROM snapshots WHERE id = ?", (snapshot_id,))
            return
        try:
            self._images.remove(image_id)
        except StillUsedError as error:
            raise StillUsedError(
                "snapshot", self.row(snapshot_id)["name"] or snapshot_id[:12], error.users
            ) from None

    def clean(self) -> None:
        """Remove those whose owner has ended, and that no container uses."""
        query = "SELECT id, owner_pid, owner_start FROM snapshots WHERE name IS NULL"
        for row in self._state.connection.execute(query).fetchall():
            if start_time(row["owner_pid"]) != row["owner_start"]:
                with suppress(SnapshotNotFoundError, StillUsedError):
                    self.remove(row["id"])
