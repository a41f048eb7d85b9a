"""The images of one root directory: their records, their blobs and their unpacked layers, kept in step.

images/ is an OCI image layout that any tool can read: `index.json` is written anew, by rename, within every
transaction that changes a record. Content comes first and the record last: what a crash leaves is garbage,
never half an image.

Garbage is what no record names. Whoever adds content holds `run/images.lock` shared until the record is
made; a sweep needs it exclusively, so it only meets finished images. A sweep that finds the lock taken leaves
a mark instead, and whoever gives the lock back looks for the mark: the last one sweeps. Marks and intents are
files in run/, so that the next `clean` finds what a killed process has not done to its end.
"""

from __future__ import annotations

import fcntl
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn, cast

from ..errors import ImageNotFoundError, NotFoundError, StillUsedError
from ..oci import MAX_DOCUMENT, Digest, ImageConfig, Manifest, Reference, chain_ids
from .addition import Addition, NewImage
from .blobs import BlobStore
from .layers import LayerStore
from .layoutindex import write_index
from .outbox import tell
from .root import RootDir
from .state import State

_LAYERS_IN_USE = """
    SELECT chain_id, blob FROM image_layers
    UNION SELECT chain_id, blob FROM build_cache WHERE chain_id IS NOT NULL
"""
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


How = Literal["built", "committed", "imported", "loaded", "pulled"]  # images come in


class _Content(NamedTuple):
    """What an image id determines for ever."""

    config: ImageConfig
    lower: tuple[Path, ...]


class ImageStore:
    """Records, blobs and layers of images. Safe from any thread and any process."""

    def __init__(self, root: RootDir, state: State, blobs: BlobStore, layers: LayerStore) -> None:
        self.root = root
        self.state = state
        self.blobs = blobs
        self.layers = layers
        self._index = root.images / "index.json"
        self._lock = root.run / "images.lock"
        self._mark = root.run / "images.garbage"
        self._content: dict[str, _Content] = {}

    # --- reading ------------------------------------------------------------------------------------------

    def find(self, key: str) -> str:
        """
        The id of the image that `key` names: a reference, an id with or without ``sha256:``, a unique prefix.

        Raises ImageNotFoundError, with `candidates` if it begins several ids; InvalidSpecError: no name.
        """
        prefix = _ID_PREFIX.fullmatch(key)
        if not prefix or len(prefix[1]) < 64:
            found = self._find_reference(Reference.parse(key))
            if found or not prefix:
                return found or _not_found(key)
        low = f"sha256:{prefix[1]}"
        rows = self.state.connection.execute(
            "SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 5", (low, low + "g")
        ).fetchall()
        if len(rows) != 1:
            raise ImageNotFoundError(key, candidates=[row[0] for row in rows])
        return str(rows[0][0])

    def _find_reference(self, reference: Reference) -> str | None:
        if reference.digest:  # names the content: registry and tag no longer matter
            return next(iter(self.with_digest(reference.digest)), None)
        query = "SELECT image_id FROM tags WHERE reference = ?"
        row = self.state.connection.execute(query, (str(reference),)).fetchone()
        return row and str(row[0])

    def with_digest(self, digest: str) -> list[str]:
        """The images of a manifest or, one for each platform, of an index; the newest first."""
        query = (
            "SELECT id FROM images WHERE manifest = :digest"
            " OR id IN (SELECT image_id FROM sources WHERE digest = :digest) ORDER BY created_at DESC"
        )
        return [row[0] for row in self.state.connection.execute(query, {"digest": digest})]

    def repositories_with(self, blob: str, registry: str) -> list[str]:
        """Repositories of `registry` that had images with this layer, when these were pulled or pushed."""
        query = (
            "SELECT DISTINCT repository FROM sources JOIN image_layers USING (image_id) WHERE blob = ?"
            " ORDER BY repository"
        )
        rows = self.state.connection.execute(query, (blob,))
        return [row[0].removeprefix(f"{registry}/") for row in rows if row[0].startswith(f"{registry}/")]

    def ids(self) -> list[str]:
        """All images, the newest first."""
        return [
            row[0]
            for row in self.state.connection.execute("SELECT id FROM images ORDER BY created_at DESC, id")
        ]

    def count(self) -> int:
        return int(self.state.connection.execute("SELECT count(*) FROM images").fetchone()[0])

    def record(self, image_id: str) -> sqlite3.Row:
        """`id`, `manifest` and `created_at` (when it came here, Unix time). Raises ImageNotFoundError."""
        row = self.state.connection.execute("SELECT * FROM images WHERE id = ?", (image_id,)).fetchone()
        if row is None:
            _not_found(image_id)
        return cast(sqlite3.Row, row)

    def tags(self, image_id: str) -> tuple[Reference, ...]:
        rows = self.state.connection.execute(
            "SELECT reference FROM tags WHERE image_id = ? ORDER BY reference", (image_id,)
        )
        return tuple(Reference.parse(row[0]) for row in rows)

    def config(self, image_id: str) -> ImageConfig:
        return self._contents(image_id).config

    def lower_dirs(self, image_id: str) -> tuple[Path, ...]:
        """The unpacked layers, topmost first, as overlays take them. Unpacked again if lost in a crash."""
        lower = self._contents(image_id).lower
        if not all(path.is_dir() for path in lower):
            self._unpack_again(image_id)
        return lower

    def chain_ids(self, image_id: str) -> tuple[Digest, ...]:
        """Topmost first."""
        return tuple(reversed(chain_ids(self.config(image_id).diff_ids)))

    def manifest(self, image_id: str) -> Manifest:
        return Manifest.parse(self._read(image_id, self.record(image_id)["manifest"]))

    def _unpack_again(self, image_id: str) -> None:
        with self._content_kept():
            self.record(image_id)  # whether it is still there
            diff_ids = self.config(image_id).diff_ids
            for chain, diff_id, layer in zip(
                chain_ids(diff_ids), diff_ids, self.manifest(image_id).layers, strict=True
            ):
                self.layers.unpack(
                    chain, self.blobs.path(layer.digest), diff_id=diff_id, blob_digest=layer.digest
                )

    def _contents(self, image_id: str) -> _Content:
        # The id is the digest of the config: what was read once stays true.
        content = self._content.get(image_id)
        if content is None:
            config = ImageConfig.parse(self._read(image_id, image_id))
            lower = tuple(self.layers.path(chain) for chain in reversed(chain_ids(config.diff_ids)))
            content = self._content[image_id] = _Content(config, lower)
        return content

    def _read(self, image_id: str, digest: str) -> bytes:
        try:
            return self.blobs.read(digest, limit=MAX_DOCUMENT)
        except NotFoundError:
            self.record(image_id)  # says it better, if the image is gone
            raise

    # --- changing -----------------------------------------------------------------------------------------

    @contextmanager
    def adding(self, how: How = "built") -> Iterator[Addition]:
        """Images to add: all of them are recorded when the block ends, and nothing at all if it raises."""
        addition = Addition(self.blobs, self.layers, self._is_known)
        with self._content_kept():
            intent = self._begin("adding")
            all_recorded = False
            try:
                yield addition
                all_recorded = self._record(addition.images, how, addition.along)
            finally:
                if not all_recorded:
                    self._mark.touch(mode=0o600)
                intent.unlink(missing_ok=True)

    def _is_known(self, chain: str, blob: str) -> bool:
        query = f"SELECT 1 FROM ({_LAYERS_IN_USE}) WHERE chain_id = ? AND blob = ?"
        return self.state.connection.execute(query, (chain, blob)).fetchone() is not None

    def _record(
        self,
        images: Sequence[NewImage],
        how: How,
        along: Sequence[Callable[[sqlite3.Connection], object]],
    ) -> bool:
        """Make the records; whether they name all that came in."""
        if not images:
            return True
        complete = True
        with self._change() as connection:
            for image in images:
                stored = connection.execute(
                    "SELECT manifest FROM images WHERE id = ?", (image.id,)
                ).fetchone()
                if stored is None:
                    _insert(connection, image)
                    tell(connection, "image_added", image_id=image.id, how=how)
                # Else it is here, perhaps compressed in another way: the blobs it has serve.
                complete &= stored is None or stored[0] == image.manifest
                for reference in image.references:
                    _set_name(connection, image.id, reference)
            for record in along:
                record(connection)
        return complete

    def tag(self, image_id: str, *references: Reference) -> None:
        """
        Let each of `references` name this image, whatever they named before. Raises ImageNotFoundError.

        One with a digest becomes no tag: it is remembered as what the image is in a registry.
        """
        if all(self._is_named(image_id, reference) for reference in references):
            self.record(image_id)
            return
        with self._change() as connection:
            try:
                for reference in references:
                    _set_name(connection, image_id, reference)
            except sqlite3.IntegrityError:
                _not_found(image_id)

    def _is_named(self, image_id: str, reference: Reference) -> bool:
        query = "SELECT 1 FROM tags WHERE image_id = ? AND reference = ?"
        values: tuple[str, ...] = (image_id, str(reference))
        if reference.digest:
            query = "SELECT 1 FROM sources WHERE image_id = ? AND digest = ? AND repository = ?"
            values = (image_id, *_source(reference))
        return self.state.connection.execute(query, values).fetchone() is not None

    def untag(self, image_id: str, reference: Reference) -> None:
        """Raises ImageNotFoundError: the image does not have this name."""
        query = "DELETE FROM tags WHERE reference = ? AND image_id = ?"
        with self._change() as connection:
            if not connection.execute(query, (str(reference), image_id)).rowcount:
                _not_found(str(reference))
            tell(connection, "image_untagged", image_id=image_id, reference=str(reference))

    def pushed(self, image_id: str, reference: Reference) -> None:
        """Tell that a registry has it by this name."""
        with self.state.transaction() as change:
            tell(change, "image_pushed", image_id=image_id, reference=str(reference))

    def remove(self, image_id: str) -> None:
        """Raises ImageNotFoundError, or StillUsedError with the names of the containers made from it."""
        with self._change() as connection:
            users = connection.execute(
                "SELECT name FROM containers WHERE image_id = ? ORDER BY name", (image_id,)
            )
            if names := [row[0] for row in users]:
                raise StillUsedError("image", image_id, names)
            if not _delete(connection, image_id):
                _not_found(image_id)
            self._mark.touch(mode=0o600)
        self._sweep_if_marked()

    def prune(self, *, all: bool = False) -> list[str]:
        """Remove images that have no tag, container or snapshot, and all garbage. Returns the removed ids.

        all: those with tags, too.
        """
        unused = (
            "SELECT id FROM images WHERE id NOT IN (SELECT image_id FROM containers WHERE image_id NOTNULL)"
            " AND id NOT IN (SELECT image_id FROM snapshots)"
        )
        if not all:
            unused += " AND id NOT IN (SELECT image_id FROM tags)"
        with self._change() as connection:  # which also mends index.json
            removed = [row[0] for row in connection.execute(unused)]
            for image_id in removed:
                _delete(connection, image_id)
            self._mark.touch(mode=0o600)
        self.clean()
        self.layers.sweep()
        return removed

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction. It excludes all others, so index.json follows the order of the changes."""
        with self.state.transaction() as connection:
            yield connection
            intent = self._begin("changing")
            write_index(self._index, connection, self.blobs)
        intent.unlink(missing_ok=True)

    def _begin(self, what: str) -> Path:
        """A file that stays if we are killed before it is removed: `clean` finds it."""
        intent = self.root.run / f"images.{what}-{os.urandom(16).hex()}"
        intent.touch(mode=0o600)
        return intent

    # --- garbage ------------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Delete blobs and layers that no record names: now, or when those adding images have done so."""
        self._mark.touch(mode=0o600)
        self._sweep_if_marked()

    def clean(self) -> None:
        """Finish or undo what killed processes had begun. There being nothing, it only lists run/."""
        left = [path for path in self.root.run.glob("images.*") if path != self._lock]
        if not left:
            return
        if any(path.name.startswith("images.changing-") for path in left):
            with self._change():  # those who live end first; index.json may be ahead of the records
                pass
        with suppress(BlockingIOError), locked(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
            self._sweep_now()
            for path in left:
                path.unlink(missing_ok=True)

    def _sweep_if_marked(self) -> None:
        # Again and again, as the mark may be set anew by one who found us sweeping.
        while self._mark.exists():
            try:
                with locked(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                    self._sweep_now()
            except BlockingIOError:
                return  # whoever has the lock will see the mark after giving it back

    def _sweep_now(self) -> None:
        under_way = self._mark.with_name("images.sweeping")  # the mark may be set anew meanwhile
        with suppress(FileNotFoundError):
            self._mark.rename(under_way)
        self._collect()
        under_way.unlink(missing_ok=True)

    def _collect(self) -> None:
        connection = self.state.connection
        blobs = {digest for row in connection.execute("SELECT id, manifest FROM images") for digest in row}
        chains = set()
        for row in connection.execute(_LAYERS_IN_USE):
            chains.add(row["chain_id"])
            blobs.add(row["blob"])
        for digest in set(self.blobs.digests()) - blobs:
            self.blobs.remove(digest)
        for chain in set(self.layers.chain_ids()) - chains:
            self.layers.remove(chain)
        for image_id in set(self._content) - blobs:
            self._content.pop(image_id, None)

    @contextmanager
    def _content_kept(self) -> Iterator[None]:
        """No content is collected within."""
        try:
            with locked(self._lock, fcntl.LOCK_SH):
                yield
        finally:
            self._sweep_if_marked()


def _insert(connection: sqlite3.Connection, image: NewImage) -> None:
    connection.execute("INSERT INTO images VALUES (?, ?, ?)", (image.id, image.manifest, time.time()))
    connection.executemany(
        "INSERT INTO image_layers VALUES (?, ?, ?, ?)",
        [(image.id, position, chain, blob) for position, (chain, blob) in enumerate(image.stack)],
    )


def _delete(connection: sqlite3.Connection, image_id: str) -> bool:
    """With its names; whether it was there."""
    for row in connection.execute(
        "DELETE FROM tags WHERE image_id = ? RETURNING reference", (image_id,)
    ).fetchall():
        tell(connection, "image_untagged", image_id=image_id, reference=row["reference"])
    if not connection.execute("DELETE FROM images WHERE id = ?", (image_id,)).rowcount:
        return False
    tell(connection, "image_removed", image_id=image_id)
    return True


def _set_name(connection: sqlite3.Connection, image_id: str, reference: Reference) -> None:
    if reference.digest:
        query = "INSERT INTO sources VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        connection.execute(query, (*_source(reference), image_id))
        return
    row = connection.execute("SELECT image_id FROM tags WHERE reference = ?", (str(reference),)).fetchone()
    if row and row["image_id"] == image_id:
        return
    connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?)", (str(reference), image_id))
    if row:
        tell(connection, "image_untagged", image_id=row["image_id"], reference=str(reference))
    tell(connection, "image_tagged", image_id=image_id, reference=str(reference))


def _source(reference: Reference) -> tuple[str, str]:
    return str(reference.digest), f"{reference.registry}/{reference.repository}"


def _not_found(key: str) -> NoReturn:
    raise ImageNotFoundError(key)


@contextmanager
def locked(path: Path, operation: int) -> Iterator[None]:
    """Hold flock(2) on `path`, made if missing. Excludes threads, too. LOCK_NB: may raise BlockingIOError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, operation)
        try:
            yield
        finally:
            # Not by closing alone: a child forked meanwhile has the description, too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
