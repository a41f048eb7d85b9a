"""Archives made by ``docker save``, old and new, and by podman and skopeo in its manner.

manifest.json      [{"Config": name, "RepoTags": ["repo:tag"], "Layers": [name, ...]}]
old                <id>/layer.tar, a symbolic link where two images share one; <hex>.json
new                blobs/sha256/<hex>
"""

from __future__ import annotations

from typing import Final

from ..checkedjson import MAX_DOCUMENT, JsonObject
from ..errors import FormatError, InvalidSpecError
from ..imageconfig import ImageConfig
from ..platforms import Platform
from ..reference import Reference
from ..storage.addition import Addition
from ..storage.layers import IngestedLayer, ingest_layer
from .archive import Members, read_member

_MANIFEST: Final = "manifest.json"


def add_docker_save(members: Members, addition: Addition, platform: Platform | None) -> list[str]:
    """Add all images of the archive; their ids. Raises FormatError; UnsupportedError: not for `platform`."""
    stored: dict[str, IngestedLayer] = {}

    def layer(name: str) -> IngestedLayer:
        if name not in stored:
            stored[name] = ingest_layer(addition.blobs, members.chunks(name))
        return stored[name]

    ids = []
    manifest = read_member(members, _MANIFEST, limit=MAX_DOCUMENT)
    for item in JsonObject.parse_list(manifest, f"{members.what}: {_MANIFEST}"):
        data = read_member(members, item.required("Config", item.text("Config")), limit=MAX_DOCUMENT)
        if platform:
            platform.require([ImageConfig.parse(data, f"{members.what}: config").platform], members.what)
        layers = [layer(name) for name in item.texts("Layers")]
        ids.append(addition.add_built(data, layers, _references(item), what=members.what))
    if not ids:
        raise FormatError(members.what, "holds no image")
    return ids


def _references(item: JsonObject) -> list[Reference]:
    try:
        return [Reference.parse(tag) for tag in item.texts("RepoTags")]
    except InvalidSpecError as error:
        raise FormatError(item.what, str(error)) from None
