"""Pulling: an image from a registry into the store.

What is stored already is not asked for. Layers come side by side; each is stored, verified and unpacked in
one pass, while it arrives.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Final

from attrs import evolve

from ..errors import FormatError, ImageNotFoundError, NotFoundError
from ..oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_DOCUMENT,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    Reference,
)
from ..progress import Report, tell_transfers
from ..storage.addition import Origin
from ..storage.images import ImageStore
from .client import FetchedManifest, Repository, connect
from .config import RegistryConfig
from .credentials import Credentials

_MAX_DEPTH: Final = 4  # of indexes in indexes
_UNTELLING: Final = frozenset({"", "application/json", "application/octet-stream", "text/plain"})


def pull(
    store: ImageStore,
    reference: Reference,
    *,
    report: Report,
    platform: Platform | None = None,
    credentials: Credentials | None = None,
) -> str:
    """
    Bring in what `reference` names, unless it is here; its id. If it has a tag, that names the image then.

    platform: which one to take where several are offered; default: this machine's. credentials: None: those
    that Docker's and Podman's files and helpers have for the registry.

    Raises ImageNotFoundError: the registry does not have it. UnsupportedError: nothing in it is for the
    platform. RegistryError, RegistryAuthError: not reached, refused. FormatError, DigestMismatchError:
    malformed or hostile. Nothing is kept then.
    """
    if image_id := _find_digest(store, reference, platform or Platform.host()):
        return image_id
    config = RegistryConfig.read(store.root.path)
    with connect(reference, config=config, actions="pull", credentials=credentials) as repository:
        return _Pull(store, repository, reference, platform).run(report)


def _find_digest(store: ImageStore, reference: Reference, platform: Platform) -> str | None:
    """What a digest names never changes: a registry needs not be asked for what is here."""
    for image_id in store.with_digest(reference.digest) if reference.digest else ():
        with suppress(ImageNotFoundError):  # removed just now
            if platform.rank(store.config(image_id).platform):
                store.tag(image_id, *_tag(reference))
                return image_id
    return None


def _tag(reference: Reference) -> list[Reference]:
    return [evolve(reference, digest=None)] if reference.tag else []


class _Pull:
    def __init__(
        self, store: ImageStore, repository: Repository, reference: Reference, platform: Platform | None
    ) -> None:
        self._store = store
        self._repository = repository
        self._reference = reference
        self._platform = platform
        self._digests: list[Digest] = []  # of the indexes that led to the manifest, and its own
        self.what = reference.familiar

    def run(self, report: Report) -> str:
        data = self._find_manifest()
        names = _tag(self._reference)
        names += [evolve(self._reference, tag=None, digest=digest) for digest in self._digests]
        image_id = Manifest.parse(data, f"{self.what}: manifest").config.digest
        with suppress(ImageNotFoundError):  # it has to be brought in
            if self._platform:
                self._platform.require([self._store.config(image_id).platform], self.what)
            self._store.tag(image_id, *names)
            return image_id
        origin = Origin(
            fetch=self._blob,
            abort=self._repository.abort,
            tell=tell_transfers(report, "pull"),
        )
        with self._store.adding("pulled") as addition:
            return addition.add(data, names, origin=origin, platform=self._platform, what=self.what)

    def _find_manifest(self) -> bytes:
        fetched = self._get(self._reference.digest or self._reference.tag or "")
        while _is_index(fetched, self.what):
            if len(self._digests) > _MAX_DEPTH:
                raise FormatError(self.what, f"its indexes are nested more than {_MAX_DEPTH} deep")
            index = Index.parse(fetched.data, f"{self.what}: index {fetched.digest}")
            fetched = self._get(self._choose(index).digest)
        return fetched.data

    def _get(self, name: str | Digest) -> FetchedManifest:
        fetched = _stored(self._store, name) if isinstance(name, Digest) else None
        fetched = fetched or self._repository.manifest(name)
        self._digests.append(fetched.digest)
        return fetched

    def _blob(self, item: Descriptor) -> Generator[bytes, None, None]:
        yield from self._repository.blob(item.digest, size=item.size)

    def _choose(self, index: Index) -> Descriptor:
        images = index.images(self._platform, self.what)
        if not images:
            raise FormatError(self.what, "holds no image")
        if offered := images[0].platform:
            (self._platform or Platform.host()).require([offered], self.what)
        return images[0]


def _stored(store: ImageStore, digest: Digest) -> FetchedManifest | None:
    try:
        data = store.blobs.read(digest, limit=MAX_DOCUMENT)
    except NotFoundError:
        return None
    return FetchedManifest(data=data, media_type="", digest=digest)


def _is_index(fetched: FetchedManifest, what: str) -> bool:
    if fetched.media_type in _UNTELLING:
        return Index.is_one(fetched.data)
    if fetched.media_type not in INDEX_TYPES | MANIFEST_TYPES:
        raise FormatError(
            what,
            f"is of type {fetched.media_type!r}, not an OCI or Docker image (schema 2): "
            "push it again with a current tool",
        )
    return fetched.media_type in INDEX_TYPES
