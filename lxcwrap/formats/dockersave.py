"""Archives made by ``docker save``, old and new, and by podman and skopeo in its manner.

manifest.json      [{"Config": name, "RepoTags": ["repo:tag"], "Layers": [name, ...]}]
old                <id>/layer.tar, a symbolic link where two images share one; <hex>.json
podman, skopeo     <hex of the diff_id>.tar; <hex>.json
new                blobs/sha256/<hex>, layers may be compressed
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Final

from ..checkedjson import MAX_DOCUMENT, JsonObject
from ..digests import Digest
from ..errors import FormatError, InvalidSpecError
from ..imageconfig import ImageConfig
from ..oci import OCI_LAYER, Descriptor
from ..platforms import Platform
from ..reference import Reference
from ..storage.addition import Addition, Origin, Phase
from ..storage.inflate import Compression
from ..storage.layers import IngestedLayer, ingest_layer
from .archive import Members, layers_at_a_time, read_member

MANIFEST: Final = "manifest.json"
_BLOB_NAME: Final = re.compile(r"blobs/sha256/([0-9a-f]{64})")


def add_docker_save(
    members: Members,
    addition: Addition,
    tell: Callable[[Descriptor, Phase, int], object],
    platform: Platform | None,
) -> list[str]:
    """Add all images of the archive; their ids. Raises FormatError; UnsupportedError: not for `platform`."""
    saved = _Saved(members, addition, tell, platform)
    manifest = read_member(members, MANIFEST, limit=MAX_DOCUMENT)
    ids = [saved.add(item) for item in JsonObject.parse_list(manifest, f"{members.what}: {MANIFEST}")]
    if not ids:
        raise FormatError(members.what, "holds no image")
    return list(dict.fromkeys(ids))


class _Saved:
    def __init__(
        self,
        members: Members,
        addition: Addition,
        tell: Callable[[Descriptor, Phase, int], object],
        platform: Platform | None,
    ) -> None:
        self._members = members
        self._addition = addition
        self._platform = platform
        self._origin = Origin(fetch=self._fetch, tell=tell, threads=layers_at_a_time())
        self._names: dict[str, str] = {}  # of the members that hold the blobs

    def add(self, item: JsonObject) -> str:
        what = self._members.what
        config = read_member(self._members, item.required("Config", item.text("Config")), limit=MAX_DOCUMENT)
        diff_ids, names = ImageConfig.parse(config, f"{what}: config").diff_ids, item.texts("Layers")
        if len(diff_ids) != len(names):
            raise FormatError(what, f"{MANIFEST} names {len(names)} layers, the config {len(diff_ids)}")
        return self._addition.add_built(
            config,
            [self._layer(*layer) for layer in zip(names, diff_ids, strict=True)],
            _references(item),
            origin=self._origin,
            platform=self._platform,
            what=what,
        )

    def _layer(self, name: str, diff_id: Digest) -> IngestedLayer:
        """What a descriptor says of a layer. It need not be true: that is seen when it is unpacked."""
        with closing(self._members.chunks(name)) as chunks:
            compression = Compression.of(next(chunks, b""), f"{self._members.what}: {name}")
        if compression is Compression.NONE:
            digest = diff_id
        elif compression is not Compression.XZ and (match := _BLOB_NAME.fullmatch(name)):
            digest = Digest(f"sha256:{match[1]}")
        else:  # its digest is not known, or it has to be compressed anew
            with closing(self._members.chunks(name)) as chunks:
                return ingest_layer(self._addition.blobs, chunks, what=self._members.what)
        self._names[digest] = name
        media_type = f"{OCI_LAYER}+{compression}" if compression else OCI_LAYER
        return IngestedLayer(digest, self._members.size(name), diff_id, media_type)

    def _fetch(self, descriptor: Descriptor) -> Generator[bytes, None, None]:
        return self._members.chunks(self._names[descriptor.digest])


def _references(item: JsonObject) -> list[Reference]:
    try:
        return [Reference.parse(tag) for tag in item.texts("RepoTags")]
    except InvalidSpecError as error:
        raise FormatError(item.what, str(error)) from None
