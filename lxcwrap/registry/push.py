"""Pushing: an image from the store into a registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from attrs import evolve

from ..errors import InvalidSpecError
from ..oci import MAX_DOCUMENT, Descriptor, Digest, Manifest, Reference
from ..progress import Report, tell_transfers
from ..storage.images import ImageStore
from ..storage.parallel import Stop, side_by_side
from .client import Repository, connect
from .config import RegistryConfig
from .credentials import Credentials

_THREADS: Final = 3
_CHUNK: Final = 1 << 18
_MOST_MOUNTS: Final = 3  # tried for one blob


def push(
    store: ImageStore,
    image_id: str,
    reference: Reference,
    *,
    report: Report,
    credentials: Credentials | None = None,
) -> Digest:
    """
    Store an image at a registry under the tag `reference`; the digest of its manifest, sent as it is here.

    What the registry has already is not sent, in this repository or in one that an image with the same layer
    was pulled from or pushed to.

    Raises ImageNotFoundError; InvalidSpecError: `reference` has a digest; RegistryError, RegistryAuthError.
    """
    if reference.digest or not reference.tag:
        raise InvalidSpecError(f"push to {reference.familiar!r}: content has the digest it has; name a tag")
    digest = Digest(store.record(image_id)["manifest"])
    data = store.blobs.read(digest, limit=MAX_DOCUMENT)
    manifest = Manifest.parse(data)
    config = RegistryConfig.read(store.root.path)
    with connect(reference, config=config, actions="pull,push", credentials=credentials) as repository:
        _Push(store, repository, reference.registry, report).send(manifest)
        repository.put_manifest(reference.tag, data, manifest.media_type)
    store.tag(image_id, evolve(reference, tag=None, digest=digest))
    store.pushed(image_id, reference)
    return digest


class _Push:
    def __init__(self, store: ImageStore, repository: Repository, registry: str, report: Report) -> None:
        self._store = store
        self._repository = repository
        self._registry = registry
        self._tell = tell_transfers(report, "push")
        self._stop = Stop(repository.abort)

    def send(self, manifest: Manifest) -> None:
        """All blobs, the config last: some registries look into it for the layers."""
        layers = {layer.digest: layer for layer in manifest.layers}.values()
        largest_first = sorted(layers, key=lambda layer: layer.size, reverse=True)
        tasks = [partial(self._send, layer, self._elsewhere(layer)) for layer in largest_first]
        side_by_side(tasks, threads=_THREADS, stop=self._stop)
        self._send(manifest.config)

    def _elsewhere(self, item: Descriptor) -> list[str]:
        """Other repositories of the registry that probably have it."""
        names = self._store.repositories_with(item.digest, self._registry)
        return [name for name in names if name != self._repository.name][:_MOST_MOUNTS]

    def _send(self, item: Descriptor, elsewhere: Sequence[str] = ()) -> None:
        if self._repository.has_blob(item.digest):
            self._tell(item, "present", item.size)
        elif any(self._repository.mount(item.digest, name) for name in elsewhere):
            self._tell(item, "mounted", item.size)
        else:
            self._repository.upload(item.digest, item.size, partial(self._read, item))
            self._tell(item, "done", item.size)

    def _read(self, item: Descriptor, offset: int) -> Iterator[bytes]:
        with self._store.blobs.open(item.digest) as file:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                self._stop.check()
                offset += len(chunk)
                yield chunk
                self._tell(item, "transferring", offset)
