"""The index of an image server, in the simplestreams format of LXC, Incus and LXD.

    streams/v1/index.json      which documents there are
    streams/v1/images.json     {"products": {"alpine:3.20:amd64:default": {"os", "release", "arch", "variant",
                                "aliases", "versions": {"20240805_13:00": {"items": {name: {"ftype", "path",
                                "size", "sha256"}}}}}}}

A version has its root file system in several forms, of which the tar is taken, and a small tar with
`metadata.yaml`. The names of versions sort by age. Sources: the project simplestreams, and what Incus reads.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Final, NamedTuple

from attrs import frozen

from ..checkedjson import JsonObject
from ..digests import Digest
from ..errors import FormatError, InvalidSpecError, UnsupportedError
from ..platforms import Platform
from ..storage.inflate import PlainStream

INDEX: Final = "streams/v1/index.json"
MAX_INDEX: Final = 32 << 20
"""Bytes of a document; those of large servers have 8 MiB."""
MAX_METADATA: Final = 1 << 20
_MAX_PLAIN_METADATA: Final = 8 << 20
_MAX_YAML: Final = 256 << 10
_ROOTFS: Final = re.compile(r"root\.tar(\.[a-z]+)?")
_METADATA: Final = ("incus.tar.xz", "lxd.tar.xz")
_PATH: Final = re.compile(r"[A-Za-z0-9_+~:@.-]+(/[A-Za-z0-9_+~:@.-]+)*")
# As Debian calls them, and the servers too.
_ARCHITECTURES: Final = {"386": "i386", "arm": "armhf", "arm/v6": "armel", "ppc64le": "ppc64el"}


@frozen
class RemoteFile:
    """A file of a server: its path there, size in bytes and digest."""

    path: str
    size: int
    digest: Digest


@frozen(kw_only=True)
class RemoteImage:
    """The newest version of an image on a server. properties: such as ``os``, ``release``, ``serial``."""

    rootfs: RemoteFile
    metadata: RemoteFile | None
    properties: Mapping[str, str]


class Wanted(NamedTuple):
    """What is asked for: ``alpine``, ``3.20``, and which of it."""

    distribution: str
    release: str
    platform: Platform
    variant: str = "default"

    @property
    def architecture(self) -> str:
        """As servers call it."""
        name = self.platform.architecture
        return _ARCHITECTURES.get(f"{name}/{self.platform.variant}") or _ARCHITECTURES.get(name, name)

    def __str__(self) -> str:
        return "/".join((self.distribution, self.release, self.architecture, self.variant))


def document_paths(index: bytes, what: str) -> tuple[str, ...]:
    """Where `INDEX` says that images are listed. Raises FormatError."""
    top = JsonObject.parse(index, what, limit=MAX_INDEX)
    entries = [top.member("index").member(name) for name in top.names("index")]
    return tuple(_path(entry) for entry in entries if entry.text("datatype") == "image-downloads")


def find_image(documents: Iterable[bytes], wanted: Wanted, what: str) -> RemoteImage:
    """
    The newest version of what is wanted. `documents`: lists of images, looked at one after the other.

    Raises InvalidSpecError: there is none; it names what there is. UnsupportedError: only in a form that is
    not read. FormatError: malformed.
    """
    offered = []
    for document in documents:
        top = JsonObject.parse(document, what, limit=MAX_INDEX)
        for name in top.names("products"):
            product = _Product(name, top.member("products").member(name))
            if product.is_wanted(wanted):
                return product.newest()
            offered.append(product)
    raise InvalidSpecError(f"{what} has no {wanted}; {_instead(offered, wanted)}")


class _Product:
    """One image in all its versions."""

    def __init__(self, name: str, members: JsonObject) -> None:
        self.name, self.members = name, members
        self.distribution = (members.text("os") or name.partition(":")[0]).lower()
        self.release = members.text("release") or ""
        self.architecture = members.text("arch") or ""
        self.variant = members.text("variant") or "default"

    @property
    def releases(self) -> set[str]:
        """All names of its release: ``noble``, ``24.04``; some in aliases only: ``ubuntu/24.04/default``."""
        aliases = [alias.split("/") for alias in (self.members.text("aliases") or "").split(",")]
        titles = (self.members.text(key) or "" for key in ("release_title", "version"))
        return {self.release, *titles, *(parts[1] if len(parts) > 1 else parts[0] for parts in aliases)}

    def is_wanted(self, wanted: Wanted) -> bool:
        own = (self.distribution, self.architecture, self.variant)
        asked = (wanted.distribution.lower(), wanted.architecture, wanted.variant)
        return own == asked and wanted.release in self.releases

    def newest(self) -> RemoteImage:
        forms: set[str] = set()
        for serial in reversed(self.members.names("versions")):
            version = self.members.member("versions").member(serial)
            items = map(version.member("items").member, version.names("items"))
            files = {item.text("ftype") or "": item for item in items}
            rootfs = next((item for ftype, item in files.items() if _ROOTFS.fullmatch(ftype)), None)
            if rootfs is not None:
                metadata = next((files[ftype] for ftype in _METADATA if ftype in files), None)
                properties = {
                    "os": self.members.text("os") or self.distribution,
                    "release": self.release,
                    "architecture": self.architecture,
                    "variant": self.variant,
                    "serial": serial,
                }
                return RemoteImage(
                    rootfs=_file(rootfs),
                    metadata=None if metadata is None else _file(metadata, limit=MAX_METADATA),
                    properties=properties,
                )
            forms |= files.keys()
        raise UnsupportedError(
            f"{self.name} has no root file system as a tar, only {', '.join(sorted(forms)) or 'nothing'}",
            "convert it to a tar for import_rootfs()",
        )


def _instead(offered: Iterable[_Product], wanted: Wanted) -> str:
    same = [product for product in offered if product.distribution == wanted.distribution.lower()]
    names = sorted(
        {f"{each.distribution}/{each.release}/{each.architecture}/{each.variant}" for each in same}
        or {each.distribution for each in offered}
    )
    return f"it has {', '.join(names[:30]) or 'no image'}{', ...' if len(names) > 30 else ''}"


def _file(item: JsonObject, limit: int | None = None) -> RemoteFile:
    size, text = item.required("size", item.integer("size")), item.required("sha256", item.text("sha256"))
    if not size or (limit and size > limit):
        raise item.error("size", f"a number within 1..{limit}" if limit else "more than 0")
    try:
        digest = Digest(f"sha256:{text}")
    except FormatError:
        raise item.error("sha256", "64 hex digits") from None
    return RemoteFile(_path(item), size, digest)


def _path(item: JsonObject) -> str:
    """It becomes part of an address: nothing in it leads elsewhere."""
    path = item.required("path", item.text("path"))
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise item.error("path", "a plain path")
    return path


def read_properties(metadata: bytes, what: str) -> dict[str, str]:
    """The properties in the `metadata.yaml` of a metadata tar, compressed or not. Raises FormatError."""
    import yaml

    with closing(PlainStream(io.BytesIO(metadata), what=what, limit=_MAX_PLAIN_METADATA)) as stream:
        plain = b"".join(stream)
    try:
        with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
            member = tar.extractfile("metadata.yaml")
            text = member.read(_MAX_YAML) if member else b""
        document = yaml.load(text, yaml.BaseLoader)  # which makes nothing but text of what is written
    except (tarfile.TarError, KeyError, yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise FormatError(what, f"no metadata.yaml that can be read: {str(error)[:200]}") from None
    properties = document.get("properties") if isinstance(document, dict) else None
    if not isinstance(properties, dict):
        raise FormatError(what, "metadata.yaml has no properties")
    return dict(_texts(properties))


def _texts(properties: Mapping[object, object]) -> Iterator[tuple[str, str]]:
    """What is text: labels are."""
    for name, value in properties.items():
        if isinstance(name, str) and isinstance(value, str) and "\0" not in name + value:
            yield name, value
