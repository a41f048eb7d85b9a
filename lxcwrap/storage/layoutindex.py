"""The `index.json` of the image layout: what other tools see of the records."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from ..errors import ContentError, NotFoundError
from ..oci import MAX_DOCUMENT, REF_NAME, Descriptor, Digest, Index, Manifest
from .blobs import BlobStore

_log = logging.getLogger(__name__)


def write_index(path: Path, connection: sqlite3.Connection, blobs: BlobStore) -> None:
    """Write it anew, by rename, as the records say within a transaction."""
    draft = path.with_name(".index.json.new")
    draft.write_bytes(make_index(connection, blobs))
    draft.replace(path)


def make_index(connection: sqlite3.Connection, blobs: BlobStore) -> bytes:
    """What it should be."""
    rows = connection.execute(
        "SELECT id, manifest, reference FROM images LEFT JOIN tags ON image_id = id ORDER BY reference, id"
    )
    return Index(manifests=tuple(entry for row in rows if (entry := _entry(row, blobs)))).to_json()


def _entry(row: sqlite3.Row, blobs: BlobStore) -> Descriptor | None:
    try:
        data = blobs.read(row["manifest"], limit=MAX_DOCUMENT)
        media_type = Manifest.parse(data).media_type
    except (ContentError, NotFoundError) as damage:
        # One image damaged on disk must not keep the others from being changed.
        _log.warning("image %s is left out of index.json: %s", row["id"], damage)
        return None
    annotations = {REF_NAME: row["reference"]} if row["reference"] else {}
    return Descriptor(
        media_type=media_type, digest=Digest(row["manifest"]), size=len(data), annotations=annotations
    )
