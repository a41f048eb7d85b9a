"""What the nouns work with: state, images, supervisor, cgroups of one root directory; cleaning up."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from hashlib import sha256
from pathlib import Path

from .drivers.cgroups import CgroupHost
from .drivers.pidfd import start_time
from .drivers.protocols import Cgroups
from .errors import DriverError, KernelError, SupervisorError, UnsupportedError
from .ids import FIRST_BASE, IDENTITY, LAST_BASE, RANGE_SIZE, IdMap
from .net import rates
from .net.dns import NameServers
from .net.firewall import Firewall, Forward
from .net.kernel import KernelNetworks
from .net.plumbing import Wire
from .net.ports import PortStore
from .net.store import NetworkStore
from .specjson import spec_from_json
from .storage.blobs import BlobStore
from .storage.images import ImageStore
from .storage.layers import LayerStore
from .storage.root import RootDir
from .storage.snapshots import SnapshotStore
from .storage.state import State
from .storage.volumes import VolumeStore
from .supervisor import forwarder, hostfiles, wiring
from .supervisor.client import Supervisor
from .supervisor.plan import plan_limits
from .supervisor.records import Records
from .supervisor.undertaker import bury, forget_record, is_settled

_ID = re.compile(r"[0-9a-f]{64}")
# How long the fork-server may take to record how the container of a killed monitor ended.
_BURIAL_S = 3.0
_RANGES = (LAST_BASE - FIRST_BASE) // RANGE_SIZE


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
        self.make_passable()
        self.state = State(self.root.state_db)
        self.layers = LayerStore(self.root.layers)
        self.image_store = ImageStore(self.root, self.state, BlobStore(self.root.images), self.layers)
        self.snapshot_store = SnapshotStore(self.state, self.image_store)
        self.volume_store = VolumeStore(self.root, self.state)
        self.network_store = NetworkStore(self.state)
        self.kernel_networks = KernelNetworks(self.root)
        self.port_store = PortStore(self.root, self.state)
        self.supervisor = supervisor or Supervisor(self.root.path)
        self.cgroups: Cgroups = cgroups or CgroupHost()
        # Each root directory begins elsewhere in the ids that containers may have, so that two rarely meet.
        self._first_range = int.from_bytes(sha256(os.fsencode(self.root.path)).digest()[:4]) % _RANGES

    def make_passable(self) -> None:
        """The containers' root is an ordinary user of this host, and must get through to its own files."""
        root = self.root.path
        if not root.stat().st_mode & 0o001:
            root.chmod(root.stat().st_mode & 0o777 | 0o011)
        for parent in root.parents:
            if not parent.stat().st_mode & 0o001:
                what = f"containers cannot reach {root}: {parent} lets its owner alone through"
                raise UnsupportedError(what, f"chmod o+x {parent}, or take another root directory")

    def idmap(self, slot: int | None) -> IdMap:
        """The id range of a container with this slot; None: privileged, no range."""
        if slot is None:
            return IDENTITY
        if slot >= _RANGES:  # two with the same ids would be no strangers to each other
            raise UnsupportedError(f"more than {_RANGES} containers under one root directory", "remove some")
        return IdMap(FIRST_BASE + (self._first_range + slot) % _RANGES * RANGE_SIZE)

    def chown(self, path: Path, user: int, group: int) -> None:
        """As `os.chown`."""
        os.chown(path, user, group)

    def image_tree(self, lowers: Sequence[Path]) -> AbstractContextManager[int]:
        """A descriptor of the root of an image with these layers, topmost first."""
        from .storage.merged import merged

        return merged(lowers)

    def bundle(self, container_id: str) -> Path:
        return self.root.containers / container_id

    def records(self, container_id: str) -> Records:
        return Records(self.bundle(container_id))

    # --- cleaning ---

    def clean(self) -> None:
        """Clear what killed processes left: half-made and half-removed containers, runs without an end."""
        names = [name for name in os.listdir(self.root.containers) if _ID.fullmatch(name)]
        query = "SELECT id, phase, owner_pid, owner_start FROM containers"
        rows = {row["id"]: row for row in self.state.connection.execute(query)}
        for row in rows.values():
            if row["phase"] == "created":
                self.settle(row["id"])
                with suppress(FileNotFoundError):  # removed meanwhile
                    self.records(row["id"]).sweep()
                    self.settle_limits(row["id"])
            elif start_time(row["owner_pid"]) != row["owner_start"]:
                if row["phase"] == "building":  # what its command makes is of use to nobody now
                    self.cgroups.kill_all(row["id"])
                self._reclaim(row["id"])
        for name in names:
            if name not in rows:  # which were read later: its record is gone
                self._reclaim(name)
        for container_id, network_id in self.network_store.abandoned():
            with suppress(FileNotFoundError), wiring.marked(self.bundle(container_id)):
                self.take_off(container_id, network_id)
        for container_id in rows:
            if rates.is_changing(str(self.bundle(container_id))):
                with suppress(FileNotFoundError), wiring.marked(self.bundle(container_id)):
                    self.limit_rates(container_id)
        NameServers(self.root.path).remove_others(self.network_store.ids)
        self.state.deliver()
        self.port_store.clean()
        self._lead_to_all(rows)
        if self.port_store.clean():  # somebody's mark was damaged: by now it is made anew
            self._lead_to_all(rows)
        self.snapshot_store.clean()
        self.image_store.clean()
        self.layers.clean()
        self.volume_store.clean()
        self.root.empty_trash()
        self.cgroups.tidy()

    def settle_limits(self, container_id: str) -> None:
        """Those that were being changed by somebody who was killed are what the record says."""
        records = self.records(container_id)
        if not records.has("limits"):
            return
        with self.state.transaction() as change:  # who changes them now has ended
            row = change.execute("SELECT spec FROM containers WHERE id = ?", (container_id,)).fetchone()
            changing, plan = records.read("limits"), records.read("plan")
            if row and changing and plan:
                recorded = plan_limits(spec_from_json(row["spec"]).limits)
                records.write("plan", {**plan, "limits": recorded})
                with suppress(OSError):  # it does not run
                    changed = {key: recorded.get(key) for key in changing["changing"]}
                    self.cgroups.apply_limits(container_id, changed)
            records.remove("limits")

    def _lead_to_all(self, container_ids: Iterable[str]) -> None:
        for container_id in container_ids:
            self._lead_to(container_id)

    def _lead_to(self, container_id: str) -> None:
        """It is found by its present name, and at ::1 its ports are served as the records say."""
        bundle = str(self.bundle(container_id))
        if wiring.is_renamed(bundle):
            wiring.announce(self.state.connection, self.root, container_id)
        forwarder.look_again(bundle)
        if self.lost_forwards(container_id):
            with suppress(FileNotFoundError, DriverError), wiring.marked(bundle):
                self.forward(container_id, self.lost_forwards(container_id))

    def lost_forwards(self, container_id: str) -> list[Forward]:
        """Who served them was killed; or who published them, before they were served."""
        exposed = Firewall(self.root.path).exposed(container_id)
        if not exposed or not exposed.forwards or not self.records(container_id).monitor_lives():
            return []
        return [each for each in exposed.forwards if forwarder.is_lost(each)]

    def forward(self, container_id: str, forwards: Sequence[Forward]) -> None:
        """Let a process of the fork-server's serve them at ::1, if the container runs; for the one who
        changes its endpoints. Raises KernelError."""
        run = self.records(container_id).read("run")
        if not forwards or run is None:
            return
        message = {
            "op": "forward",
            "root": str(self.root.path),
            "id": container_id,
            "forwards": forwards,
            "monitor": run["monitor"],
        }
        with self.supervisor.ask(message, what="forwarding from ::1") as conversation:
            answer, _ = conversation.receive()
        if number := answer.get("errno"):
            raise KernelError(number, answer["error"])

    def take_off(self, container_id: str, network_id: str) -> None:
        """Disconnect a container from a network, for the one who owns the endpoint; running or not."""
        wires = self.network_store.wires(container_id)
        connected = [wire for wire in wires if wire["network_id"] != network_id]
        leaving = [wire for wire in wires if wire["network_id"] == network_id]
        with suppress(wiring.NotRunning), wiring.network_of(self.bundle(container_id)) as netns_fd:
            for wire in leaving:
                self.kernel_networks.unplug(netns_fd, wire, connected)
        if wiring.is_exposed(self.bundle(container_id)):
            wiring.withdraw(self.root, container_id, network_id)
            self.names_changed(container_id, wires, connected)
        with self.port_store.following(container_id) as change:
            self.network_store.release(change, container_id, network_id)
        forwarder.look_again(str(self.bundle(container_id)))

    def limit_rates(self, container_id: str) -> None:
        """As the records say, if it runs; for the one who changes its endpoints."""
        with suppress(wiring.NotRunning), wiring.network_of(self.bundle(container_id)) as netns_fd:
            self.kernel_networks.limit(netns_fd, self.network_store.wires(container_id))
        rates.end_change(str(self.bundle(container_id)))

    def names_changed(self, container_id: str, before: Sequence[Wire], after: Sequence[Wire]) -> None:
        """A container that runs finds the names on the networks that it is on by now, and no others."""
        networks = [wire["network"] for wire in after]
        if NameServers(self.root.path).missing(networks):
            # By a process of the fork-server's: what stays must not be in our session and cgroups.
            message = {"op": "names", "root": str(self.root.path), "networks": networks}
            with self.supervisor.ask(message, what="name servers") as conversation:
                answer, _ = conversation.receive()
            if error := answer.get("error"):
                raise SupervisorError(error)
        Firewall(self.root.path).names_changed(container_id, after)
        query = "SELECT id FROM containers WHERE json_extract(spec, '$.network_mode') = ?"
        rows = self.state.connection.execute(query, (f"container:{container_id}",))
        sharers = [str(self.bundle(row["id"])) for row in rows]
        hostfiles.rewrite(str(self.bundle(container_id)), sharers, before, after)

    def settle(self, container_id: str) -> None:
        """Put an end on record to a run whose monitor was killed, and clear its remains. The fork-server does
        so, too, and may know the exit code; where that was killed as well, or started later, we do."""
        records = self.records(container_id)
        plan = records.read("plan")
        if plan is None or is_settled(plan, self.cgroups):
            return
        patience = 0.0
        if records.monitor_lives() is False:
            patience = _BURIAL_S
            deadline = time.monotonic() + (patience if self.supervisor.pid() else 0.0)
            while records.monitor_lives() is False and time.monotonic() < deadline:
                time.sleep(0.002)
        bury(plan, self.cgroups, None, timeout_s=patience)

    def _reclaim(self, container_id: str) -> None:
        """Remove what a killed process was making or removing; but what runs is not its own any more. It
        waits for who may just be recording an end, or removing it as well."""
        try:
            with ExitStack() as stack:
                with suppress(FileNotFoundError):
                    stack.enter_context(self.records(container_id).held(_BURIAL_S))
                self.forget(container_id)
        except BlockingIOError:
            if self.records(container_id).monitor_lives():
                self.publish(container_id)

    def publish(self, container_id: str) -> bool:
        """Its maker no longer answers for it; whether it is still there."""
        with self.state.transaction() as change:
            query = "UPDATE containers SET phase = 'created' WHERE id = ?"
            return change.execute(query, (container_id,)).rowcount > 0

    def forget(self, container_id: str) -> None:
        """Remove a container that does not run, whatever is left of it. The record goes first: `clean` finds
        a directory without one."""
        if wiring.is_exposed(self.bundle(container_id)):
            wiring.conceal(self.root, container_id)
        forget_record(self.state, self.root, container_id)
        if not self.cgroups.exists(container_id) or self.cgroups.sweep(container_id):
            self.root.discard(self.bundle(container_id))

    def close(self) -> None:
        self.state.close()
        self.cgroups.close()
