"""A layer store that unpacks nothing, so that image stores can be tested without root."""

from __future__ import annotations

import shutil
import types
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from lxcwrap.errors import DigestMismatchError, FormatError
from lxcwrap.formats import layout
from lxcwrap.oci import Platform
from lxcwrap.storage.blobs import BlobStore
from lxcwrap.storage.images import ImageStore
from lxcwrap.storage.inflate import PlainStream, Source
from lxcwrap.storage.root import RootDir
from lxcwrap.storage.state import State


class FakeLayers:
    """As `LayerStore`, but a layer's directory holds only its plain archive, verified."""

    def __init__(self, layers_dir: Path) -> None:
        self._dir = layers_dir

    def path(self, chain_id: str) -> Path:
        return self._dir / chain_id.removeprefix("sha256:")

    def has(self, chain_id: str) -> bool:
        return self.path(chain_id).is_dir()

    def unpack(self, chain_id: str, source: Source, *, diff_id: str, blob_digest: str | None = None) -> Path:
        with closing(PlainStream(source, what="layer", limit=1 << 30)) as stream:
            plain = b"".join(stream)
        if b"HOSTILE ENTRY" in plain:
            raise FormatError("layer", "hostile")
        for expected, actual in ((diff_id, stream.diff_id), (blob_digest, stream.digest)):
            if expected not in (None, actual):
                raise DigestMismatchError("layer", str(expected), actual)
        self.path(chain_id).mkdir(exist_ok=True)
        (self.path(chain_id) / "archive").write_bytes(plain)
        return self.path(chain_id)

    def take(self, chain_id: str, source: Source, *, diff_id: str, blob_digest: str | None = None) -> None:
        self.unpack(chain_id, source, diff_id=diff_id, blob_digest=blob_digest)

    def remove(self, chain_id: str) -> None:
        shutil.rmtree(self.path(chain_id), ignore_errors=True)

    def chain_ids(self) -> Iterator[str]:
        return (f"sha256:{path.name}" for path in list(self._dir.iterdir()))

    def sweep(self) -> None:
        pass


def image_store(path: Path) -> ImageStore:
    root = RootDir(path)
    root.prepare()
    layers = FakeLayers(root.layers)
    return ImageStore(root, State(root.state_db), BlobStore(root.images), layers)  # type: ignore[arg-type]


def load(store: ImageStore, path: Path, *, platform: Platform | None = None) -> list[str]:
    """As `layout.load`, silently."""
    return layout.load(store, path, platform=platform, report=lambda event: None)


def image_host(path: Path) -> types.SimpleNamespace:
    """What `Images` needs of a host."""
    return types.SimpleNamespace(image_store=image_store(path))


def contents(store: ImageStore) -> dict[str, list[str]]:
    """All that is stored: equal contents, nothing was kept and nothing lost."""
    connection = store.state.connection
    return {
        "blobs": sorted(store.blobs.digests()),
        "layers": sorted(store.layers.chain_ids()),
        "images": [str(tuple(row)) for row in connection.execute("SELECT * FROM images ORDER BY id")],
        "tags": [str(tuple(row)) for row in connection.execute("SELECT * FROM tags ORDER BY reference")],
        "index": sorted(path.read_text() for path in store.root.images.glob("index.json*")),
        "cache": sorted(path.name for path in store.root.cache.iterdir()),
    }
