"""Whether records, blobs, unpacked layers and index.json under a root directory agree. Changes nothing."""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ..errors import ContentError, NotFoundError
from ..oci import MAX_DOCUMENT, ImageConfig, Manifest, chain_ids
from .blobs import BlobStore
from .images import locked
from .layers import LayerStore
from .layoutindex import make_index
from .root import RootDir


class Findings(NamedTuple):
    """damaged: what is wrong with an image, by its id, or with the build cache. garbage: how many blobs and
    layers no record names; index_differs: index.json is not as the records say: both if nobody is just
    changing that."""

    images: int
    damaged: dict[str, str]
    garbage: int
    index_differs: bool


def audit(root: RootDir) -> Findings | None:
    """None: there are no records yet. Raises sqlite3.Error, OSError: they cannot be read.

    Blobs of layers are not read: that they have their size is all that is looked at.
    """
    if not root.state_db.exists() or not root.state_db.stat().st_size:
        return None
    blobs = BlobStore(root.images)
    with (
        _kept(root.run / "images.lock") as is_quiet,
        closing(sqlite3.connect(f"{root.state_db.as_uri()}?mode=ro", uri=True)) as connection,
    ):
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")  # all is read as of one moment
        images = connection.execute("SELECT id, manifest FROM images").fetchall()
        damaged = {row["id"]: wrong for row in images if (wrong := _examine(row, connection, blobs))}
        steps = connection.execute("SELECT blob, size FROM build_cache WHERE blob NOTNULL")
        if lost := sum(_lacks(blobs, row["blob"], row["size"]) for row in steps):
            damaged["build cache"] = f"{lost} layers are missing or damaged"
        garbage = _garbage(connection, blobs, LayerStore(root.layers)) if is_quiet else 0
        differs = _read(root.images / "index.json") != make_index(connection, blobs)
        is_changing = any(root.run.glob("images.changing-*"))
        return Findings(len(images), damaged, garbage, bool(images) and differs and not is_changing)


@contextmanager
def _kept(lock: Path) -> Iterator[bool]:
    """No content is collected within; whether none is added, either."""
    try:
        with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield True
            return
    except BlockingIOError:
        pass
    with locked(lock, fcntl.LOCK_SH):
        yield False


def _examine(image: sqlite3.Row, connection: sqlite3.Connection, blobs: BlobStore) -> str:
    """What is wrong with it; nothing: an empty text."""
    try:
        manifest = Manifest.parse(blobs.read(image["manifest"], limit=MAX_DOCUMENT))
        config = ImageConfig.parse(blobs.read(image["id"], limit=MAX_DOCUMENT))
    except (ContentError, NotFoundError) as error:
        return str(error)
    query = "SELECT chain_id, blob FROM image_layers WHERE image_id = ? ORDER BY position"
    recorded = [tuple(row) for row in connection.execute(query, (image["id"],))]
    if recorded != list(
        zip(chain_ids(config.diff_ids), (each.digest for each in manifest.layers), strict=False)
    ):
        return "its layers are not those on record"
    for layer in manifest.layers:
        if _lacks(blobs, layer.digest, layer.size):
            return f"layer {layer.digest} is missing or damaged"
    return ""


def _lacks(blobs: BlobStore, digest: str, size: int) -> bool:
    return not blobs.has(digest) or blobs.size(digest) != size


def _garbage(connection: sqlite3.Connection, blobs: BlobStore, layers: LayerStore) -> int:
    named = {digest for row in connection.execute("SELECT id, manifest FROM images") for digest in row}
    chains = set()
    for table in ("image_layers", "build_cache"):
        for row in connection.execute(f"SELECT chain_id, blob FROM {table} WHERE chain_id NOTNULL"):
            named.add(row["blob"])
            chains.add(row["chain_id"])
    return len(set(blobs.digests()) - named) + len(set(layers.chain_ids()) - chains)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
