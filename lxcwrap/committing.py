"""An image of what a container has written; while that is read, nothing writes."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import evolve

from . import lifecycle
from .errors import FormatError
from .imagechanges import ImageChanges, changed
from .machinery import Machinery
from .oci import History, Reference
from .resting import at_rest
from .results import Change
from .specs import ContainerSpec
from .storage import commit as storage
from .storage import disks
from .storage.packing import parse_compression
from .storage.upperdiff import changes
from .supervisor.plan import mount_points


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
