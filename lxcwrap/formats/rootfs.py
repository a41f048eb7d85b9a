"""Images of one layer, from a root file system."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from attrs import evolve

from ..digests import Digest
from ..errors import InvalidSpecError
from ..imageconfig import History, ImageConfig
from ..reference import Reference
from ..storage.addition import Addition
from ..storage.images import ImageStore
from ..storage.inflate import Source
from ..storage.layers import ingest_layer
from .archive import open_regular


def import_rootfs(
    store: ImageStore, source: Path | BinaryIO, config: ImageConfig, references: Sequence[Reference]
) -> str:
    """
    Add an image whose only layer is a tar (plain, gzip, xz, zstd); its id. `config` lacks layers and history.

    Raises InvalidSpecError: no such file. FormatError: malformed or hostile; nothing is kept.
    """
    if not isinstance(source, Path):
        return _import_file(store, source, config, references, what="rootfs")
    try:
        file = open_regular(source)
    except FileNotFoundError:
        raise InvalidSpecError(f"{source}: there is no such file") from None
    if file is None:
        raise InvalidSpecError(
            f"{source}: give a tar archive; of a directory make one by `tar -C {source} -c .`"
        )
    with file:
        return _import_file(store, file, config, references, what=source.name)


def _import_file(
    store: ImageStore, file: BinaryIO, config: ImageConfig, references: Sequence[Reference], *, what: str
) -> str:
    with store.adding("imported") as addition:
        return add_rootfs(addition, file, config, references, what=what, created_by=f"import of {what}")


def add_rootfs(
    addition: Addition,
    source: Source,
    config: ImageConfig,
    references: Sequence[Reference],
    *,
    what: str,
    created_by: str,
    compress: bool = False,
) -> str:
    """Add the image of `config` with the tar `source` as its layer; its id. compress: a plain one, too."""
    layer = ingest_layer(addition.blobs, source, what=what, compress=compress)
    created = build_time()
    complete = evolve(
        config,
        diff_ids=(Digest(layer.diff_id),),
        created=created,
        history=(History(created=created, created_by=created_by),),
    )
    return addition.add_built(complete.to_json(), [layer], references, what=what)


def build_time() -> datetime:
    """Now; or what SOURCE_DATE_EPOCH says, for images that can be made again bit by bit."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is not None and not epoch.isdecimal():
        raise InvalidSpecError(f"SOURCE_DATE_EPOCH={epoch!r}: must be seconds since 1970")
    return datetime.fromtimestamp(int(epoch or time.time()), UTC)
