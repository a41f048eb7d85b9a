"""A container's row and directory: the intent first, then all that its start needs."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from attrs import asdict

from .drivers.pidfd import start_time
from .drivers.seccomp import ensure_profile, init_dir
from .errors import ImageNotFoundError, NameInUseError
from .ids import IdMap
from .machinery import Machinery
from .specjson import spec_to_json
from .specs import ContainerSpec, Mount
from .storage import disks, sized
from .storage.outbox import tell
from .storage.volumes import make_nameless
from .supervisor.entry import exec_order
from .supervisor.plan import Plan, capabilities, environment, make_plan, plan_order, uses_own_filter
from .supervisor.wiring import MARK

_FREE_SLOT = """
    SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM containers WHERE slot = 0) THEN 0 ELSE (
        SELECT min(slot) + 1 FROM containers AS used WHERE slot IS NOT NULL
        AND NOT EXISTS (SELECT 1 FROM containers WHERE slot = used.slot + 1)) END
"""


def record(
    machinery: Machinery,
    container_id: str,
    spec: ContainerSpec,
    phase: Literal["creating", "building"] = "creating",
) -> int | None:
    """The intent: a row that tells the next `Host` what to clear, should we die. The slot of its ids.

    Raises NameInUseError, ImageNotFoundError, VolumeNotFoundError, NetworkNotFoundError, AddressInUseError,
    PortInUseError.
    """
    with machinery.state.transaction() as change:
        if change.execute("SELECT 1 FROM containers WHERE name = ?", (spec.name,)).fetchone():
            raise NameInUseError("container", spec.name)
        slot: int | None = None if spec.security.privileged else change.execute(_FREE_SLOT).fetchone()[0]
        me = os.getpid()
        values = (
            container_id,
            spec.name,
            spec.image_id or None,
            phase,
            slot,
            spec_to_json(spec),
            time.time(),
            me,
            start_time(me),
        )
        try:
            change.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError:
            raise ImageNotFoundError(spec.image_id) from None  # removed since we looked
        if phase == "creating":
            tell(change, "created", id=container_id, name=spec.name)
        machinery.volume_store.use(change, container_id, spec.volumes)
        machinery.network_store.lease(change, container_id, spec.networks)
        machinery.port_store.claim(change, container_id, spec.publish)
    return slot


def furnish(
    machinery: Machinery,
    container_id: str,
    spec: ContainerSpec,
    idmap: IdMap,
    lowers: Sequence[Path],
    complete: Callable[[Plan], Plan] = lambda plan: plan,
) -> Plan:
    """Its directory, with a plan over `lowers`, topmost first. complete: gives the plan its last form."""
    security = spec.security
    kept, cache = capabilities(security), machinery.root.cache
    by_liblxc = security.seccomp and not security.privileged and not security.no_new_privs
    bundle = machinery.bundle(container_id)
    bundle.mkdir(mode=0o700)
    machinery.chown(bundle, -1, idmap.base)
    bundle.chmod(0o710)  # its own root must pass through, nobody else
    (bundle / "rootfs").mkdir(mode=0o755)
    if spec.networks:
        (bundle / MARK).touch(mode=0o600)
    with _disk(bundle, spec) as disk:
        for name in ("upper", "work"):
            directory = disk / name
            directory.mkdir(mode=0o755)
            directory.chmod(0o755)  # whatever the caller's umask is
            machinery.chown(directory, idmap.base, idmap.base)
        _fill_volumes(machinery, spec, disk, lowers)
    plan = make_plan(
        spec,
        container_id=container_id,
        root=machinery.root.path,
        idmap=idmap,
        lowers=lowers,
        init_dir=init_dir(cache, kept, uses_own_filter(security)),
        profile=ensure_profile(cache, kept) if by_liblxc else None,
    )
    if spec.health is not None:
        env = environment(spec.env)
        order = exec_order(machinery.root.path, container_id, spec, spec.health.argv, env)
        plan["health"] = {**asdict(spec.health), "order": order}
    plan = complete(plan)
    machinery.records(container_id).write("plan", plan)
    return plan


@contextmanager
def _disk(bundle: Path, spec: ContainerSpec) -> Iterator[Path]:
    """Where what it writes is to lie."""
    if spec.limits.disk is None:
        yield bundle
        return
    disk = bundle / "disk"
    disk.mkdir(mode=0o700)
    sized.limit(disk, spec.limits.disk, f"the disk of {spec.name}")
    with disks.opened(str(disk)) as fd:
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")


def _fill_volumes(machinery: Machinery, spec: ContainerSpec, disk: Path, lowers: Sequence[Path]) -> None:
    """Nameless volumes, and named ones that are empty, begin with what the image has there."""
    store = machinery.volume_store

    def is_fresh(mount: Mount) -> bool:
        return not mount.source or (mount.copy and not mount.subpath and store.is_fresh(mount.source))

    fresh = [mount for mount in plan_order(spec.mounts) if mount.kind == "volume" and is_fresh(mount)]
    if not fresh:
        return
    number = 0
    with machinery.image_tree(lowers) as root:
        for mount in fresh:
            if mount.source:
                store.fill(mount.source, root, mount.target)
            else:
                make_nameless(disk / "volumes" / str(number), root, mount.target)
                number += 1
