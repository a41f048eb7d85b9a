"""Pulling: an image from a registry into the store.

What is stored already is not asked for. Layers come side by side; each is stored, verified and unpacked while it
arrives.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from attrs import evolve

from ..errors import FormatError, ImageNotFoundError
from ..oci import INDEX_TYPES, MANIFEST_TYPES, Digest, Index, Manifest, Platform, Reference
from ..progress import Report, tell_transfers
from ..storage.addition import Origin
from ..storage.images import ImageStore
from .client import FetchedManifest, Repository, connect
from .config import RegistryConfig
from .credentials import Credentials

_MAX_DEPTH: Final = 4
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

    platform: which one to take where several are offered; default: this machine's.
    credentials: None: those that Docker's and Podman's files and helpers have for the registry.

    Raises ImageNotFoundError: the registry does not have it. UnsupportedError: nothing in it is for the platform.
    RegistryError, RegistryAuthError; FormatError, DigestMismatchError: malformed or hostile. Nothing is kept then.
    """
    if reference.digest and (
        image_id := _stored(store, [reference.digest], reference, platform or Platform.host())
    ):
        return image_id  # what a digest names never changes
    config = RegistryConfig.read(store.root.path)
    with connect(reference, config=config, actions="pull", credentials=credentials) as repository:
        found = _resolve(store, repository, reference, platform)
        if image_id := _stored(store, found.digests, reference, platform):
            return image_id
        assert found.manifest is not None
        ...
