"""Images on their way into the store: their content goes in at once, their records follow all together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import DigestMismatchError, FormatError
from ..oci import (
    MAX_DOCUMENT,
    OCI_CONFIG,
    Descriptor,
    Digest,
    ImageConfig,
    Manifest,
    Reference,
    chain_ids,
    digest_of,
)
from .blobs import BlobStore
from .inflate import PlainStream
from .layers import MAX_LAYER_BYTES, IngestedLayer, LayerStore

MAX_LAYERS: Final = 500  # of one overlay (OVL_MAX_STACK in the kernel)


class NewImage(NamedTuple):
    """What the records will say. `stack`: chain id and blob of each layer, the lowest first."""

    id: str
    manifest: str
    stack: tuple[tuple[str, str], ...]
    references: tuple[Reference, ...]


class Addition:
    """
    What `ImageStore.adding` gives. `images` is what was added so far.

    is_known: whether a blob (second argument) was once unpacked as the layer of a chain id (first).
    """

    def __init__(self, blobs: BlobStore, layers: LayerStore, is_known: Callable[[str, str], bool]) -> None:
        self.blobs = blobs
        self.images: list[NewImage] = []
        self._layers = layers
        self._is_known = is_known

    def add(self, manifest_data: bytes, references: Sequence[Reference] = (), *, what: str = "image") -> str:
        """
        Add the image of a manifest whose config and layers are in the blob store; its id.

        Raises FormatError when manifest, config and layers do not fit together, DigestMismatchError when the
        content of a layer is not what the config says.
        """
        manifest = Manifest.parse(manifest_data, f"{what}: manifest")
        config = ImageConfig.parse(
            self.blobs.read(manifest.config.digest, limit=MAX_DOCUMENT), f"{what}: config"
        )
        _check(manifest, config, what)
        chains = chain_ids(config.diff_ids)
        for chain, diff_id, layer in zip(chains, config.diff_ids, manifest.layers, strict=True):
            self._add_layer(chain, diff_id, layer.digest)
        digest, _ = self.blobs.put_bytes(manifest_data)
        blobs = (str(layer.digest) for layer in manifest.layers)
        stack = tuple(zip(map(str, chains), blobs, strict=True))
        self.images.append(NewImage(manifest.config.digest, digest, stack, tuple(references)))
        return manifest.config.digest

    def add_built(
        self,
        config: bytes,
        layers: Sequence[IngestedLayer],
        references: Sequence[Reference] = (),
        *,
        what: str = "image",
    ) -> str:
        """Add the image of a config and its stored layers, lowest first; its id. Writes the manifest."""
        self.blobs.put_bytes(config)
        manifest = Manifest(
            config=Descriptor(media_type=OCI_CONFIG, digest=digest_of(config), size=len(config)),
            layers=tuple(
                Descriptor(media_type=layer.media_type, digest=Digest(layer.digest), size=layer.size)
                for layer in layers
            ),
        )
        return self.add(manifest.to_json(), references, what=what)

    def _add_layer(self, chain: str, diff_id: str, blob: str) -> None:
        """Unpack the blob, or make sure that it is what was unpacked as this layer before."""
        path = self.blobs.path(blob)
        if not self._layers.has(chain):
            self._layers.unpack(chain, path, diff_id=diff_id, blob_digest=blob)
        elif not self._is_known(chain, blob) and (actual := _plain_digest(path)) != diff_id:
            raise DigestMismatchError(f"layer {blob}, unpacked", diff_id, actual)


def _check(manifest: Manifest, config: ImageConfig, what: str) -> None:
    if config.os != "linux":
        raise FormatError(what, f"is made for {config.platform}, and only Linux runs here")
    if not config.diff_ids or len(config.diff_ids) != len(manifest.layers):
        counts = f"the manifest names {len(manifest.layers)} layers, the config {len(config.diff_ids)}"
        raise FormatError(what, f"{counts}: both must name the same, and at least one")
    if len(config.diff_ids) > MAX_LAYERS:
        raise FormatError(what, f"has {len(config.diff_ids)} layers; the kernel takes {MAX_LAYERS}")


def _plain_digest(path: Path) -> str:
    with closing(PlainStream(path, what=f"layer {path.name}", limit=MAX_LAYER_BYTES)) as stream:
        for _ in stream:
            pass
        return stream.diff_id
