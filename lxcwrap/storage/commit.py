"""New images of stored ones: an upper directory as one more layer, several layers as one.

Their layers are not unpacked at once, but when a container is made of them (`ImageStore.lower_dirs`).
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from attrs import evolve

from ..errors import InvalidSpecError
from ..ids import IdMap
from ..oci import Digest, History, ImageConfig, Reference
from .images import ImageStore
from .inflate import Compression
from .layers import IngestedLayer
from .layerwriter import Member, read_tree, source_date_epoch
from .overmounted import overmounted
from .packing import pack_layer
from .treediff import differences, tree
from .upperdiff import mount_remains

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_ROOT_MODE = 0o755  # of every upper directory that no container has changed


def commit(
    store: ImageStore,
    image_id: str,
    upper: Path,
    *,
    config: ImageConfig,
    history: History,
    ids: IdMap,
    mount_points: Collection[str] = (),
    compression: Compression = Compression.GZIP,
    references: Sequence[Reference] = (),
    volumes: Mapping[str, int] = MappingProxyType({}),
    along: Callable[[sqlite3.Connection, str], object] | None = None,
) -> str:
    """
    Add the image `image_id` with `upper`, written over it, as one more layer; its id.

    config: what the new image says, but for layers, history and time; history: of the new layer, but for
    time. ids: how those in `upper` are shifted. mount_points: what is in `upper` only because something was
    mounted there is left out. An upper that changes nothing becomes no layer. volumes: what is to be part of
    the layer, too: see `overmounted`. along: records its id, in the same transaction; then it is unpacked.

    Raises FormatError: `upper` cannot be a layer, or changed meanwhile; FileNotFoundError: it is gone.
    """
    epoch = source_date_epoch()
    created = datetime.fromtimestamp(int(time.time()) if epoch is None else epoch, UTC)
    with store.adding("committed") as addition:
        layers = _stored_layers(store, image_id)
        left_out = mount_remains(upper, store.lower_dirs(image_id), ids=ids, mount_points=mount_points)
        fd = os.open(upper, _DIRECTORY)
        try:
            if _is_unchanged(os.fstat(fd), ids):
                left_out |= {"/"}
            members = (
                overmounted(
                    upper, store.lower_dirs(image_id), volumes, ids=ids, newest_s=epoch, leave_out=left_out
                )
                if volumes
                else read_tree(fd, ids=ids, newest_s=epoch, leave_out=left_out)
            )
            if top := _packed(store, members, compression, "what the container has written"):
                layers.append(top)
            if not os.path.samestat(os.fstat(fd), upper.stat()):  # removed: it was read half deleted
                raise FileNotFoundError(os.fspath(upper))
        finally:
            os.close(fd)
        complete = evolve(
            config,
            diff_ids=tuple(Digest(layer.diff_id) for layer in layers),
            created=created,
            history=(*config.history, evolve(history, created=created, empty_layer=top is None)),
        )
        new_id = addition.add_built(complete.to_json(), layers, references, unpack=along is not None)
        if along:
            addition.along.append(lambda change: along(change, new_id))
        return new_id


def squash(
    store: ImageStore,
    image_id: str,
    base_id: str | None = None,
    *,
    compression: Compression = Compression.GZIP,
    references: Sequence[Reference] = (),
) -> str:
    """
    Add the image `image_id` with all its layers, or those above the layers of `base_id`, as one; its id.

    The same image always gives the same one: its time stays. One layer is as it should be: then it is the
    image itself that gets `references`. Raises InvalidSpecError: `base_id` is not what it begins with.
    """
    config = store.config(image_id)
    kept = _below(store, config, base_id)
    if len(config.diff_ids) - kept < 2:
        store.tag(image_id, *references)
        return image_id
    with store.adding() as addition:
        layers = _stored_layers(store, image_id)
        lowers = store.lower_dirs(image_id)
        what = "what its layers have changed"
        with tree(lowers) as new:
            if kept:
                with tree(lowers[-kept:]) as old:
                    kinds = differences(new, old)
                gone = {path for path, kind in kinds.items() if kind == "deleted"}
                members = read_tree(new, newest_s=source_date_epoch(), only=kinds.keys() - gone, gone=gone)
            else:
                members = read_tree(new, newest_s=source_date_epoch())
            squashed = pack_layer(store.blobs, members, compression=compression, what=what)
        new_layers = [*layers[:kept], squashed]
        complete = evolve(
            config,
            diff_ids=tuple(Digest(layer.diff_id) for layer in new_layers),
            history=_squashed_history(config, kept, image_id),
        )
        return addition.add_built(complete.to_json(), new_layers, references, unpack=False)


def _stored_layers(store: ImageStore, image_id: str) -> list[IngestedLayer]:
    """The layers of an image, the lowest first, as they are stored."""
    return [
        IngestedLayer(layer.digest, layer.size, diff_id, layer.media_type)
        for layer, diff_id in zip(
            store.manifest(image_id).layers, store.config(image_id).diff_ids, strict=True
        )
    ]


def _is_unchanged(root: os.stat_result, ids: IdMap) -> bool:
    """Whether the root of an upper is as it was made; it then says nothing of the image's."""
    owner = ids.to_inner(root.st_uid), ids.to_inner(root.st_gid)
    return (stat.S_IMODE(root.st_mode), owner) == (_NEW_ROOT_MODE, (0, 0))


def _packed(
    store: ImageStore, members: Iterable[Member], compression: Compression, what: str
) -> IngestedLayer | None:
    """None: there are no members."""
    remaining = iter(members)
    for first in remaining:
        return pack_layer(store.blobs, chain([first], remaining), compression=compression, what=what)
    return None


def _below(store: ImageStore, config: ImageConfig, base_id: str | None) -> int:
    """How many layers the base has."""
    base = store.config(base_id).diff_ids if base_id else ()
    if config.diff_ids[: len(base)] != base:
        raise InvalidSpecError(f"squash: the image does not begin with the layers of {base_id}")
    return len(base)


def _squashed_history(config: ImageConfig, kept: int, image_id: str) -> tuple[History, ...]:
    """The steps as they were, but that those above the first `kept` layers made none; and the squashing."""
    entries = []
    count = 0
    for entry in config.history:
        count += not entry.empty_layer
        entries.append(evolve(entry, empty_layer=entry.empty_layer or count > kept))
    merged = f"squash of the {len(config.diff_ids) - kept} upper layers of {image_id}"
    return (*entries, History(created=config.created, created_by=merged))
