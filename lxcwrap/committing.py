"""An image of what a container has written; while that is read, nothing writes."""

from __future__ import annotations

import os
import secrets
import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection

from attrs import evolve

from . import lifecycle
from .drivers.paths import open_in_root
from .errors import FormatError, SnapshotNotFoundError
from .imagechanges import ImageChanges, changed
from .machinery import Machinery
from .oci import History, Reference
from .resting import at_rest
from .results import Change
from .specjson import spec_to_json
from .specs import ContainerSpec, check_name
from .storage import commit as storage
from .storage import disks
from .storage.packing import parse_compression
from .storage.upperdiff import changes
from .supervisor.plan import mount_points
from .supervisor.volumes import is_named

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def commit(
    machinery: Machinery,
    container_id: str,
    wanted: ImageChanges,
    by: History,
    compression: str,
    pause: bool,
    references: Sequence[Reference],
) -> str:
    """The id of the new image; `by` is signed and commented already. See `Container.commit`."""
    record, spec = lifecycle.row(machinery, container_id), lifecycle.spec_of(machinery, container_id)
    config = changed(machinery.image_store.config(spec.image_id), wanted)
    kind = parse_compression(compression)
    with (
        at_rest(machinery, container_id, spec.name, "commit", pause=pause),
        _upper(machinery, container_id, spec) as upper,
    ):
        try:
            return storage.commit(
                machinery.image_store,
                spec.image_id,
                upper,
                config=evolve(config, author=by.author or config.author),
                history=evolve(by, created_by=shlex.join(spec.argv)),
                ids=machinery.idmap(record["slot"]),
                mount_points=_mount_points(machinery, container_id),
                compression=kind,
                references=references,
            )
        except (FileNotFoundError, FormatError):
            lifecycle.row(machinery, container_id)  # says it better, if it was removed meanwhile
            raise


def snapshot(machinery: Machinery, container_id: str, name: str | None, pause: bool) -> str:
    """The id of the snapshot. See `Container.snapshot`."""
    spec, snapshot_id = lifecycle.spec_of(machinery, container_id), secrets.token_hex(32)
    if name is not None:
        machinery.snapshot_store.check_free(check_name(name, "snapshot"))
    try:
        _take_snapshot(machinery, container_id, spec, snapshot_id, name, pause)
    except BaseException:  # interrupted when it was there already: nobody knows of it
        with suppress(SnapshotNotFoundError):
            machinery.snapshot_store.remove(snapshot_id)
        raise
    return snapshot_id


def _take_snapshot(
    machinery: Machinery,
    container_id: str,
    spec: ContainerSpec,
    snapshot_id: str,
    name: str | None,
    pause: bool,
) -> None:
    by = History(created_by=shlex.join(spec.argv), comment=f"snapshot {snapshot_id}")  # an id of its own
    with at_rest(machinery, container_id, spec.name, "take a snapshot of", pause=pause), ExitStack() as stack:
        record, spec = lifecycle.row(machinery, container_id), lifecycle.spec_of(machinery, container_id)
        volumes = dict(_own_volumes(stack, machinery, container_id))
        kept = tuple(mount for mount in spec.mounts if mount.target not in volumes)

        def along(change: Connection, image_id: str) -> None:
            text = spec_to_json(evolve(spec, image_id=image_id, mounts=kept))
            machinery.snapshot_store.add(change, snapshot_id, name, image_id, text)

        storage.commit(
            machinery.image_store,
            spec.image_id,
            stack.enter_context(_upper(machinery, container_id, spec)),
            config=evolve(machinery.image_store.config(spec.image_id), volumes=()),
            history=by,
            ids=machinery.idmap(record["slot"]),
            mount_points=_mount_points(machinery, container_id),
            compression=parse_compression("none"),
            volumes=volumes,
            along=along,
        )


def _own_volumes(stack: ExitStack, machinery: Machinery, container_id: str) -> Iterator[tuple[str, int]]:
    """The directories it can write to in volumes, open until `stack` ends, by target; parents first."""
    plan = machinery.records(container_id).read("plan") or {"mounts": ()}
    for mount in plan["mounts"]:
        if mount["kind"] != "volume" or mount["read_only"]:
            continue
        source = Path(mount["source"])
        if is_named(mount, plan):
            whole = stack.enter_context(machinery.volume_store.opened(source.parent.name))
        else:
            place = stack.enter_context(disks.opened(plan["disk"]))
            whole = os.open(f"volumes/{source.name}", _DIRECTORY, dir_fd=place)
            stack.callback(os.close, whole)
        with suppress(NotADirectoryError):  # of a volume's file it is given the volume
            fd = open_in_root(whole, mount["subpath"] or ".", _DIRECTORY)
            stack.callback(os.close, fd)
            yield mount["target"], fd


def diff(machinery: Machinery, container_id: str) -> tuple[Change, ...]:
    """What it has written, against its image."""
    record, spec = lifecycle.row(machinery, container_id), lifecycle.spec_of(machinery, container_id)
    with _upper(machinery, container_id, spec) as upper:
        return changes(
            upper,
            machinery.image_store.lower_dirs(record["image_id"]),
            ids=machinery.idmap(record["slot"]),
            ignore=_mount_points(machinery, container_id),
        )


@contextmanager
def _upper(machinery: Machinery, container_id: str, spec: ContainerSpec) -> Iterator[Path]:
    """What it has written."""
    bundle = machinery.bundle(container_id)
    if spec.limits.disk is None:
        yield bundle / "upper"
        return
    with disks.opened(str(bundle / "disk")) as fd:
        yield Path(f"/proc/self/fd/{fd}/upper")


def _mount_points(machinery: Machinery, container_id: str) -> Collection[str]:
    plan = machinery.records(container_id).read("plan")
    return mount_points(plan) if plan else ()
