"""Images on their way into the store: their content goes in at once, their records follow all together."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Final, Literal, NamedTuple

from ..errors import FormatError, NotFoundError
from ..oci import (
    MAX_DOCUMENT,
    OCI_CONFIG,
    Descriptor,
    Digest,
    ImageConfig,
    Manifest,
    Platform,
    Reference,
    chain_ids,
    digest_of,
    oci_layer_type,
)
from .blobs import BlobStore
from .layers import IngestedLayer, LayerStore
from .parallel import Stop, side_by_side

MAX_LAYERS: Final = 500  # of one overlay (OVL_MAX_STACK in the kernel)
_READ: Final = 1 << 18

Phase = Literal["transferring", "unpacking", "present", "done"]


def _nothing_more(descriptor: Descriptor) -> Generator[bytes, None, None]:
    raise NotFoundError(f"no blob {descriptor.digest}: load or pull its image again")


class Origin(NamedTuple):
    """
    Where content comes from that is not in the store.

    fetch: the content of a descriptor, which need not be right; called from several threads, each of which
    closes what it got. abort: makes those that wait in one raise; called from another thread.
    tell: how far a layer is, in bytes; called from any thread. threads: most layers at a time; by default as
    many that one may wait for the network.
    """

    fetch: Callable[[Descriptor], Generator[bytes, None, None]] = _nothing_more
    abort: Callable[[], object] = lambda: None
    tell: Callable[[Descriptor, Phase, int], object] = lambda descriptor, phase, done_bytes: None
    threads: int = 3


NOWHERE: Final = Origin()
"""For what is in the blob store already."""


class _Place(NamedTuple):
    """One layer of the stack: what a blob is to be unpacked as."""

    chain: str
    diff_id: str


class NewImage(NamedTuple):
    """What the records will say. `stack`: chain id and blob of each layer, the lowest first."""

    id: str
    manifest: str
    stack: tuple[tuple[str, str], ...]
    references: tuple[Reference, ...]


class Addition:
    """
    What `ImageStore.adding` gives. `images` is what was added so far; `along` makes more records with theirs.

    is_known: whether a blob (second argument) was once unpacked as the layer of a chain id (first).
    """

    def __init__(self, blobs: BlobStore, layers: LayerStore, is_known: Callable[[str, str], bool]) -> None:
        self.blobs = blobs
        self.images: list[NewImage] = []
        self.along: list[Callable[[sqlite3.Connection], object]] = []
        self._layers = layers
        self._is_known = is_known

    def add(
        self,
        manifest_data: bytes,
        references: Sequence[Reference] = (),
        *,
        origin: Origin = NOWHERE,
        platform: Platform | None = None,
        unpack: bool = True,
        what: str = "image",
    ) -> str:
        """
        Add the image of a manifest; its id. What of it is not stored yet comes from `origin`.

        unpack: if False, all layers must be stored, and the config known to be right about them: they are
        unpacked when they are wanted.

        Raises FormatError when manifest, config and layers do not fit together, DigestMismatchError when
        content is not what manifest or config say, UnsupportedError when it does not run on `platform`;
        and what `origin` raises.
        """
        manifest = Manifest.parse(manifest_data, f"{what}: manifest")
        config = self._config(manifest.config, origin, what)
        _check(manifest, config, what)
        if platform:
            platform.require([config.platform], what)
        chains = chain_ids(config.diff_ids)
        places = [_Place(*place) for place in zip(chains, config.diff_ids, strict=True)]
        if unpack:
            self._add_layers(manifest.layers, places, origin, what)
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
        origin: Origin = NOWHERE,
        platform: Platform | None = None,
        unpack: bool = True,
        what: str = "image",
    ) -> str:
        """As `add`, given a config and its layers, the lowest first. Writes the manifest."""
        self.blobs.put_bytes(config)
        manifest = Manifest(
            config=Descriptor(media_type=OCI_CONFIG, digest=digest_of(config), size=len(config)),
            layers=tuple(
                Descriptor(
                    media_type=oci_layer_type(layer.media_type),
                    digest=Digest(layer.digest),
                    size=layer.size,
                )
                for layer in layers
            ),
        )
        return self.add(
            manifest.to_json(), references, origin=origin, platform=platform, unpack=unpack, what=what
        )

    def _config(self, descriptor: Descriptor, origin: Origin, what: str) -> ImageConfig:
        if descriptor.size > MAX_DOCUMENT:
            raise FormatError(what, f"its config has more than {MAX_DOCUMENT} bytes")
        if not self._has(descriptor, what):
            with closing(origin.fetch(descriptor)) as chunks:
                self.blobs.put(chunks, expected=descriptor.digest, size=descriptor.size)
        return ImageConfig.parse(
            self.blobs.read(descriptor.digest, limit=MAX_DOCUMENT), f"{what}: config {descriptor.digest}"
        )

    def _has(self, descriptor: Descriptor, what: str) -> bool:
        if not self.blobs.has(descriptor.digest):
            return False
        if (size := self.blobs.size(descriptor.digest)) != descriptor.size:
            raise FormatError(
                what, f"says of {descriptor.digest} that it has {descriptor.size} bytes: it has {size}"
            )
        return True

    def _add_layers(
        self, layers: Sequence[Descriptor], places: Sequence[_Place], origin: Origin, what: str
    ) -> None:
        by_blob: dict[str, tuple[Descriptor, list[_Place]]] = {}  # one may be in several places
        for layer, place in zip(layers, places, strict=True):
            by_blob.setdefault(layer.digest, (layer, []))[1].append(place)
        stop = Stop(origin.abort)
        tasks = []
        # The largest first, so that no thread is left with it at the end.
        for layer, wanted in sorted(by_blob.values(), key=lambda item: item[0].size, reverse=True):
            is_here = self._has(layer, what)
            if missing := [place for place in wanted if not self._is_done(place, layer)]:
                tasks.append(partial(self._add_layer, layer, missing, is_here, origin, stop))
            elif is_here:
                origin.tell(layer, "present", layer.size)
            else:
                tasks.append(partial(self._add_layer, layer, wanted[:1], is_here, origin, stop))
        side_by_side(tasks, threads=origin.threads, stop=stop)

    def _is_done(self, place: _Place, layer: Descriptor) -> bool:
        if not self._layers.has(place.chain):
            return False
        added = any((place.chain, layer.digest) in image.stack for image in self.images)
        return added or self._is_known(place.chain, layer.digest)

    def _add_layer(
        self, layer: Descriptor, places: Sequence[_Place], is_here: bool, origin: Origin, stop: Stop
    ) -> None:
        if not is_here:  # stored in the same pass that unpacks it at its first place
            self._receive(layer, places[0], origin, stop)
            places = places[1:]
        for place in places:
            origin.tell(layer, "unpacking", 0)
            with self.blobs.open(layer.digest) as file:
                chunks = stop.watch(iter(partial(file.read, _READ), b""))
                self._layers.take(place.chain, chunks, diff_id=place.diff_id, blob_digest=layer.digest)
        origin.tell(layer, "done", layer.size)

    def _receive(self, layer: Descriptor, place: _Place, origin: Origin, stop: Stop) -> None:
        def chunks() -> Iterator[bytes]:
            for chunk in stop.watch(fetched):
                blob.write(chunk)
                origin.tell(layer, "transferring", blob.size)
                yield chunk

        what = f"blob {layer.digest}"
        with closing(origin.fetch(layer)) as fetched, self.blobs.writer(limit=layer.size, what=what) as blob:
            self._layers.take(place.chain, chunks(), diff_id=place.diff_id)
            if blob.size != layer.size:
                raise FormatError(what, f"has {blob.size} of the {layer.size} bytes it was announced with")
            blob.commit(expected=layer.digest)


def _check(manifest: Manifest, config: ImageConfig, what: str) -> None:
    if config.os != "linux":
        raise FormatError(what, f"is made for {config.platform}, and only Linux runs here")
    if not config.diff_ids or len(config.diff_ids) != len(manifest.layers):
        counts = f"the manifest names {len(manifest.layers)} layers, the config {len(config.diff_ids)}"
        raise FormatError(what, f"{counts}: both must name the same, and at least one")
    if len(config.diff_ids) > MAX_LAYERS:
        raise FormatError(what, f"has {len(config.diff_ids)} layers; the kernel takes {MAX_LAYERS}")
