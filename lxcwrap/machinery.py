"""What the nouns work with: state, images, supervisor and cgroups of one root directory, and the cleaning of remains."""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from .drivers.cgroups import CgroupHost
from .drivers.pidfd import start_time
from .drivers.protocols import Cgroups
from .errors import UnsupportedError
from .ids import FIRST_BASE, IDENTITY, LAST_BASE, RANGE_SIZE, IdMap
from .storage.blobs import BlobStore
from .storage.images import ImageStore
from .storage.layers import LayerStore
from .storage.root import RootDir
from .storage.state import State
from .supervisor.client import Supervisor
from .supervisor.records import Records
from .supervisor.undertaker import bury, is_settled

_RANGES = (LAST_BASE - FIRST_BASE) // RANGE_SIZE


def _make_passable(root: Path) -> None:
    """The containers' root is an ordinary user of this host, and must get through to its own files."""
    if not root.stat().st_mode & 0o001:
        root.chmod(root.stat().st_mode & 0o777 | 0o011)
    for parent in root.parents:
        if not parent.stat().st_mode & 0o001:
            remedy = f"chmod o+x {parent}, or take another root directory"
            raise UnsupportedError(f"containers cannot reach {root}: {parent} lets its owner alone through", remedy)


class Machinery:
    """Everything under one root directory. Holds no state of its own: any number may exist, in any process.

    supervisor, cgroups: in place of the real ones.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        supervisor: Supervisor | None = None,
        cgroups: Cgroups | None = None,
    ) -> None:
        self.root = RootDir(root)
        self.root.prepare()
        _make_passable(self.root.path)
        self.state = State(self.root.state_db)
        self.layers = LayerStore(self.root.layers)
        self.image_store = ImageStore(self.root, self.state, BlobStore(self.root.images), self.layers)
        self.supervisor = supervisor or Supervisor(self.root.path)
        self.cgroups: Cgroups = cgroups or CgroupHost()
        # Each root directory begins elsewhere in the ids that containers may have, so that two rarely meet.
        self._first_range = int.from_bytes(sha256(os.fsencode(self.root.path)).digest()[:4]) % _RANGES

    def idmap(self, slot: int | None) -> IdMap:
        """The id range of a container with this slot; None: privileged, no range."""
        if slot is None:
            return IDENTITY
        return IdMap(FIRST_BASE + (self._first_range + slot) % _RANGES * RANGE_SIZE)

    def chown(self, path: Path, user: int, group: int) -> None:
        """As `os.chown`."""
        os.chown(path, user, group)

    def bundle(self, container_id: str) -> Path:
        return self.root.containers / container_id

    def records(self, container_id: str) -> Records:
        return Records(self.bundle(container_id))

    # --- cleaning ---

    def clean(self) -> None:
        """Find and clear what killed processes left: half-made and half-removed containers, runs without an end."""
        rows = self.state.connection.execute(
            "SELECT id, phase, owner_pid, owner_start FROM containers"
        ).fetchall()
        known = set()
        for row in rows:
            known.add(row["id"])
            if row["phase"] != "created" and start_time(row["owner_pid"]) != row["owner_start"]:
                self.forget(row["id"])
            elif row["phase"] == "created":
                self._close_run(row["id"])
        for name in os.listdir(self.root.containers):
            if (
                name not in known
                and not Records(self.root.containers / name).is_held()
                and not self._has_row(name)
            ):
                self._discard(name)
        self.root.empty_trash()

    def _has_row(self, container_id: str) -> bool:
        query = "SELECT 1 FROM containers WHERE id = ?"
        return self.state.connection.execute(query, (container_id,)).fetchone() is not None

    def _close_run(self, container_id: str) -> None:
        """A run whose monitor was killed has no end on record: give it one, and clear its remains."""
        plan = self.records(container_id).read("plan")
        if plan and not is_settled(plan, self.cgroups):
            with suppress(BlockingIOError, FileNotFoundError):  # it runs, or was removed just now
                bury(plan, self.cgroups, None, timeout_s=0)

    def forget(self, container_id: str) -> None:
        """Remove a container that does not run, whatever is left of it; the record goes last."""
        self._discard(container_id)
        with self.state.transaction() as change:
            change.execute("DELETE FROM containers WHERE id = ?", (container_id,))

    def _discard(self, container_id: str) -> None:
        self.cgroups.kill_all(container_id)
        self.cgroups.remove(container_id)
        self.root.discard(self.bundle(container_id))

    def close(self) -> None:
        self.state.close()
        self.cgroups.close()
