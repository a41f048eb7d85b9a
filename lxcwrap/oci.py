"""What the OCI specifications define, as frozen values.

Parsing is lenient where real images are (no mediaType, null for an empty list, Docker's media types), strict
in type: what does not fit raises FormatError, so a value that exists is right. Writing is canonical: the same
value gives the same bytes. Source: OCI image-spec 1.1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from .checkedjson import MAX_DOCUMENT, JsonObject, canonical_json, frozen_text_map, sparse
from .digests import Digest, chain_id, chain_ids, digest_of
from .errors import FormatError
from .imageconfig import Healthcheck, History, ImageConfig
from .platforms import Platform
from .reference import Reference

__all__ = [
    "MAX_DOCUMENT",
    "Descriptor",
    "Digest",
    "Healthcheck",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "Platform",
    "Reference",
    "chain_id",
    "chain_ids",
    "digest_of",
]

OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG: Final = "application/vnd.oci.image.config.v1+json"
OCI_LAYER: Final = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG: Final = "application/vnd.docker.container.image.v1+json"

INDEX_TYPES: Final = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES: Final = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIG_TYPES: Final = frozenset({OCI_CONFIG, DOCKER_CONFIG})
_LAYER_TYPE: Final = re.compile(
    r"application/vnd\.oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?"
    r"|application/vnd\.docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd|\+gzip|\+zstd)?"
)


def oci_layer_type(media_type: str) -> str:
    """The OCI name of a layer type; Docker's own does not belong into an OCI manifest.

    >>> oci_layer_type("application/vnd.docker.image.rootfs.diff.tar.gzip")
    'application/vnd.oci.image.layer.v1.tar+gzip'
    """
    for compression in ("gzip", "zstd"):
        if media_type.endswith(compression):
            return f"{OCI_LAYER}+{compression}"
    return OCI_LAYER


REF_NAME: Final = "org.opencontainers.image.ref.name"


@frozen(kw_only=True)
class Descriptor:
    """What names content: its type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = frozen_text_map()
    platform: Platform | None = None

    @classmethod
    def _parse(cls, members: JsonObject) -> Descriptor:
        return cls(
            media_type=members.text("mediaType") or "",
            digest=Digest(members.required("digest", members.text("digest"))),
            size=members.required("size", members.integer("size")),
            annotations=members.text_map("annotations"),
            platform=_parse_platform(members.member("platform")),
        )

    def document(self) -> dict[str, object]:
        platform = self.platform and sparse(
            os=self.platform.os, architecture=self.platform.architecture, variant=self.platform.variant
        )
        return {
            **sparse(mediaType=self.media_type, annotations=dict(self.annotations), platform=platform),
            "digest": str(self.digest),
            "size": self.size,
        }


def _parse_platform(members: JsonObject) -> Platform | None:
    os_name, architecture = members.text("os"), members.text("architecture")
    return (
        Platform(os_name, architecture, members.text("variant") or "") if os_name and architecture else None
    )


def _check_schema(members: JsonObject, allowed: frozenset[str]) -> str:
    version = members.integer("schemaVersion")
    if version not in (None, 2):
        raise FormatError(members.what, f"schemaVersion {version} is not supported; only 2 is")
    media_type = members.text("mediaType") or ""
    if media_type and media_type not in allowed:
        raise FormatError(members.what, f"mediaType {media_type!r} is not what was expected here")
    return media_type


def _check_only(members: JsonObject, kind: str, others: tuple[str, ...]) -> None:
    # Who reads it as the one must not see other content than who reads it as the other (CVE-2021-41190).
    if found := [key for key in others if key in members]:
        raise FormatError(members.what, f"has {', '.join(found)}, as no {kind} has")


@frozen(kw_only=True)
class Manifest:
    """One image: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    annotations: Mapping[str, str] = frozen_text_map()

    @classmethod
    def parse(cls, data: bytes, what: str = "manifest") -> Manifest:
        """Raises FormatError: not a manifest, or one of something that is not a container image."""
        members = JsonObject.parse(data, what)
        _check_only(members, "manifest", ("manifests",))
        config = Descriptor._parse(members.member("config"))
        media_type = _check_schema(members, MANIFEST_TYPES) or (
            DOCKER_MANIFEST if config.media_type == DOCKER_CONFIG else OCI_MANIFEST
        )
        if config.media_type and config.media_type not in CONFIG_TYPES:
            raise FormatError(what, f"holds {config.media_type!r}, not a container image")
        layers = tuple(Descriptor._parse(item) for item in members.members("layers"))
        for layer in layers:
            if layer.media_type and not _LAYER_TYPE.fullmatch(layer.media_type):
                raise FormatError(what, f"layers of type {layer.media_type!r} are not supported")
        annotations = members.text_map("annotations")
        return cls(config=config, layers=layers, media_type=media_type, annotations=annotations)

    def to_json(self) -> bytes:
        return canonical_json(
            {
                **sparse(mediaType=self.media_type, annotations=dict(self.annotations)),
                "schemaVersion": 2,
                "config": self.config.document(),
                "layers": [layer.document() for layer in self.layers],
            }
        )


@frozen(kw_only=True)
class Index:
    """Several manifests: the platforms of one image, or the images of one layout."""

    manifests: tuple[Descriptor, ...]
    media_type: str = OCI_INDEX
    annotations: Mapping[str, str] = frozen_text_map()

    @staticmethod
    def is_one(data: bytes) -> bool:
        """Whether a document of unknown type is an index: it has `manifests`, and no `config`."""
        members = JsonObject.parse(data, "document")
        return "manifests" in members and "config" not in members

    @classmethod
    def parse(cls, data: bytes, what: str = "index") -> Index:
        members = JsonObject.parse(data, what)
        _check_only(members, "index", ("config", "layers"))
        return cls(
            media_type=_check_schema(members, INDEX_TYPES) or OCI_INDEX,
            manifests=tuple(Descriptor._parse(item) for item in members.members("manifests")),
            annotations=members.text_map("annotations"),
        )

    def to_json(self) -> bytes:
        return canonical_json(
            {
                **sparse(mediaType=self.media_type, annotations=dict(self.annotations)),
                "schemaVersion": 2,
                "manifests": [manifest.document() for manifest in self.manifests],
            }
        )

    def images(self, platform: Platform | None, what: str) -> list[Descriptor]:
        """
        Those of the manifests that are images for `platform`, by default this machine's; all images, if they
        are not told apart by platform. Raises UnsupportedError: none is for it.
        """
        images = [item for item in self.manifests if _is_image(item)]
        platforms = [item.platform for item in images if item.platform]
        if len(set(platforms)) < 2:
            return images
        wanted = platform or Platform.host()
        wanted.require(platforms, what)
        best = max(platforms, key=wanted.rank)
        return [item for item in images if item.platform == best]


def _is_image(item: Descriptor) -> bool:
    """Not a signature, nor one of BuildKit's attestations, whose platform is unknown/unknown."""
    unknown = item.platform is not None and item.platform.os == "unknown"
    return not unknown and item.media_type in (*INDEX_TYPES, *MANIFEST_TYPES, "")
