"""What the OCI specifications define, as frozen values.

Parsing is lenient where real images are (no mediaType, null for an empty list, Docker's media types) and strict
in type: what does not fit raises FormatError, so a value that exists is right. Writing is canonical: the same
value gives the same bytes. Source: OCI image-spec 1.1.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Final

from attrs import field, frozen

from .checkedjson import MAX_DOCUMENT, JsonObject, canonical_json, sparse
from .errors import FormatError, InvalidSpecError
from .reference import Digest, Reference

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
    "choose_platform",
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

REF_NAME: Final = "org.opencontainers.image.ref.name"


def _text_map() -> Mapping[str, str]:
    """A field whose value nobody can change: configs are cached and shared."""
    empty: Mapping[str, str] = {}
    return field(default=empty, converter=_frozen_map, hash=False)


def _frozen_map(members: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(members))


# --- digests ------------------------------------------------------------------------------------------------


def digest_of(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def chain_id(diff_ids: Sequence[str]) -> Digest:
    """
    Identity of a stack of layers, lowest first.

    Raises InvalidSpecError when the stack is empty. Source: OCI image-spec, config.md, "Layer ChainID".
    """
    return chain_ids(diff_ids)[-1]


def chain_ids(diff_ids: Sequence[str]) -> tuple[Digest, ...]:
    """The chain id of each layer of a stack, lowest first. Raises InvalidSpecError for an empty stack."""
    if not diff_ids:
        raise InvalidSpecError("a stack of no layers has no chain id")
    chain = [Digest(diff_ids[0])]
    for diff_id in diff_ids[1:]:
        chain.append(digest_of(f"{chain[-1]} {Digest(diff_id)}".encode()))
    return tuple(chain)


# --- platforms ----------------------------------------------------------------------------------------------

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""), "i386": ("386", ""), "i686": ("386", ""), "aarch64": ("arm64", ""),
    "armv6l": ("arm", "v6"), "armv7l": ("arm", "v7"), "armv8l": ("arm", "v8"), "armhf": ("arm", "v7"),
    "loongarch64": ("loong64", ""),
}  # fmt: skip


@frozen
class Platform:
    """What an image runs on, in Go's words: ``linux``, ``amd64``, and for ARM a variant such as ``v7``."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``linux/arm/v7``, ``linux/amd64`` or the kernel's ``x86_64``. Raises InvalidSpecError."""
        parts = text.split("/") if "/" in text else ["linux", text]
        if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts):
            raise InvalidSpecError(f"platform {text!r}: write it as 'linux/amd64' or 'linux/arm/v7'")
        architecture, variant = _ARCHITECTURES.get(parts[1].lower(), (parts[1].lower(), ""))
        return cls(parts[0].lower(), architecture, parts[2].lower() if len(parts) == 3 else variant)

    @classmethod
    def host(cls) -> Platform:
        return cls.parse(f"linux/{os.uname().machine}")

    def rank(self, candidate: Platform) -> int:
        """How well `candidate` serves who wants this platform; 0: it does not run there."""
        if (candidate.os, candidate.architecture) != (self.os, self.architecture):
            return 0
        offered, wanted = candidate._level, self._level
        # A variant is a level of the instruction set: lower ones run too.
        return 1 + offered if offered <= wanted else 0

    @property
    def _level(self) -> int:
        default = {"arm64": "v8", "arm": "v7", "amd64": "v1"}.get(self.architecture, "v0")
        match = re.fullmatch(r"v(\d{1,2})", self.variant or default)
        return int(match[1]) if match else 99

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


# --- descriptors, manifests, indexes ------------------------------------------------------------------------


@frozen(kw_only=True)
class Descriptor:
    """What names content: its type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = _text_map()
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


@frozen(kw_only=True)
class Manifest:
    """One image: its config and its layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = OCI_MANIFEST
    annotations: Mapping[str, str] = _text_map()

    @classmethod
    def parse(cls, data: bytes, what: str = "manifest") -> Manifest:
        """Raises FormatError: not a manifest, or one of something that is not a container image."""
        members = JsonObject.parse(data, what)
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
    annotations: Mapping[str, str] = _text_map()

    @classmethod
    def parse(cls, data: bytes, what: str = "index") -> Index:
        members = JsonObject.parse(data, what)
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


def choose_platform(candidates: Iterable[Descriptor], wanted: Platform) -> Descriptor | None:
    """The candidate that serves `wanted` best, the first among equals; None when none runs there."""
    ranked = [(wanted.rank(item.platform), item) for item in candidates if item.platform]
    best = max(ranked, key=lambda pair: pair[0], default=None)
    return best[1] if best and best[0] else None


# --- the config of an image ---------------------------------------------------------------------------------

_SECOND: Final = 1_000_000_000


@frozen(kw_only=True)
class Healthcheck:
    """How an image wants to be probed; None: not said.

    `test` is as Docker writes it: ``("CMD", ...)``, ``("CMD-SHELL", line)`` or ``("NONE",)``.
    """

    test: tuple[str, ...] = ()
    interval_s: float | None = None
    timeout_s: float | None = None
    start_period_s: float | None = None
    start_interval_s: float | None = None
    retries: int | None = None

    @classmethod
    def _parse(cls, members: JsonObject) -> Healthcheck:
        def seconds(key: str) -> float | None:
            nanoseconds = members.integer(key)
            return nanoseconds / _SECOND if nanoseconds else None

        return cls(
            test=members.texts("Test"),
            interval_s=seconds("Interval"),
            timeout_s=seconds("Timeout"),
            start_period_s=seconds("StartPeriod"),
            start_interval_s=seconds("StartInterval"),
            retries=members.integer("Retries") or None,
        )

    def document(self) -> dict[str, object]:
        def nanoseconds(value: float | None) -> int | None:
            return None if value is None else round(value * _SECOND)

        return sparse(
            Test=list(self.test),
            Interval=nanoseconds(self.interval_s),
            Timeout=nanoseconds(self.timeout_s),
            StartPeriod=nanoseconds(self.start_period_s),
            StartInterval=nanoseconds(self.start_interval_s),
            Retries=self.retries,
        )


@frozen(kw_only=True)
class History:
    """How one layer came to be; `empty_layer`: the step changed no file."""

    created: datetime | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False

    @classmethod
    def _parse(cls, members: JsonObject) -> History:
        return cls(
            created=members.time("created"),
            created_by=members.text("created_by") or "",
            author=members.text("author") or "",
            comment=members.text("comment") or "",
            empty_layer=members.boolean("empty_layer"),
        )

    def document(self) -> dict[str, object]:
        return sparse(
            created=_rfc3339(self.created),
            created_by=self.created_by,
            author=self.author,
            comment=self.comment,
            empty_layer=self.empty_layer,
        )


def _rfc3339(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _parse_env(lines: Iterable[str]) -> dict[str, str]:
    # An entry without a name and '=' is no variable for getenv(3) either.
    pairs = (line.partition("=") for line in lines)
    return {name: value for name, equals, value in pairs if name and equals}


@frozen(kw_only=True)
class ImageConfig:
    """What an image says of itself and of the process it is made for. `diff_ids`: the lowest layer first."""

    diff_ids: tuple[Digest, ...]
    architecture: str = "amd64"
    os: str = "linux"
    variant: str = ""
    created: datetime | None = None
    author: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: Mapping[str, str] = _text_map()
    working_dir: str = ""
    user: str = ""
    labels: Mapping[str, str] = _text_map()
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    history: tuple[History, ...] = ()

    @classmethod
    def parse(cls, data: bytes, what: str = "image config") -> ImageConfig:
        """Raises FormatError. Old images may lack `os` and `architecture`, which count as linux and amd64."""
        members = JsonObject.parse(data, what)
        rootfs, process = members.member("rootfs"), members.member("config")
        if rootfs.text("type") not in (None, "layers"):
            raise rootfs.error("type", "'layers'")
        return cls(
            diff_ids=tuple(Digest(item) for item in rootfs.texts("diff_ids")),
            architecture=members.text("architecture") or "amd64",
            os=members.text("os") or "linux",
            variant=members.text("variant") or "",
            created=members.time("created"),
            author=members.text("author") or "",
            entrypoint=_words(process, "Entrypoint"),
            cmd=_words(process, "Cmd"),
            env=_parse_env(process.texts("Env")),
            working_dir=process.text("WorkingDir") or "",
            user=process.text("User") or "",
            labels=process.text_map("Labels"),
            volumes=process.names("Volumes"),
            exposed_ports=process.names("ExposedPorts"),
            stop_signal=process.text("StopSignal") or "",
            shell=process.texts("Shell"),
            healthcheck=Healthcheck._parse(health) if (health := process.member("Healthcheck")) else None,
            history=tuple(History._parse(item) for item in members.members("history")),
        )

    @property
    def platform(self) -> Platform:
        return Platform(self.os, self.architecture, self.variant)

    def to_json(self) -> bytes:
        process = sparse(
            Entrypoint=list(self.entrypoint),
            Cmd=list(self.cmd),
            Env=[f"{name}={value}" for name, value in self.env.items()],
            WorkingDir=self.working_dir,
            User=self.user,
            Labels=dict(self.labels),
            Volumes={path: {} for path in self.volumes},
            ExposedPorts={port: {} for port in self.exposed_ports},
            StopSignal=self.stop_signal,
            Shell=list(self.shell),
            Healthcheck=self.healthcheck and self.healthcheck.document(),
        )
        optional = sparse(
            variant=self.variant,
            created=_rfc3339(self.created),
            author=self.author,
            config=process,
            history=[entry.document() for entry in self.history],
        )
        return canonical_json(
            {
                **optional,
                "architecture": self.architecture,
                "os": self.os,
                "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids)},
            }
        )


def _words(process: JsonObject, key: str) -> tuple[str, ...]:
    # Images made by very old Dockers hold a plain text here.
    return (process.text(key) or "",) if process.is_text(key) else process.texts(key)
