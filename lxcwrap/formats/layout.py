"""Images from outside: OCI archives and layout directories, and which of all formats a file is.

oci-layout  index.json                    -> manifests, or indexes of manifests for several platforms
blobs/sha256/<hex>                        manifests, configs, layers
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from ..errors import DigestMismatchError, FormatError, InvalidSpecError
from ..oci import INDEX_TYPES, MAX_DOCUMENT, REF_NAME, Descriptor, Index, Platform, Reference, digest_of
from ..progress import Report, tell_transfers
from ..storage.addition import Addition, Origin
from ..storage.images import ImageStore
from .archive import Members, layers_at_a_time, open_members, read_member
from .dockersave import add_docker_save

_log = logging.getLogger(__name__)
INDEX: Final = "index.json"
CONTAINERD_NAME: Final = "io.containerd.image.name"
_MAX_DEPTH: Final = 4


def load(store: ImageStore, path: Path, *, report: Report, platform: Platform | None = None) -> list[str]:
    """
    Add the images of an OCI archive, an OCI layout directory or a ``docker save`` archive; their ids.

    platform: which one to take where several are offered; default: this machine's.
    Raises InvalidSpecError: no such file. FormatError, DigestMismatchError: malformed or hostile.
    UnsupportedError: nothing in it is for the platform. Nothing is kept then.
    """
    with open_members(path, scratch=store.root.cache) as members, store.adding("loaded") as addition:
        tell = tell_transfers(report, "load")
        if INDEX in members:
            origin = Origin(
                fetch=lambda item: members.chunks(blob_name(item)), tell=tell, threads=layers_at_a_time()
            )
            return _Layout(members, addition, origin, platform).add()
        if "manifest.json" in members:
            return add_docker_save(members, addition, tell, platform)
        if "repositories" in members:
            raise FormatError(
                members.what, "was saved by a Docker before 1.10: load it with a newer one and save it again"
            )
        raise FormatError(
            members.what,
            "holds neither index.json (OCI) nor manifest.json (docker save); "
            "if it is a root file system, use import_rootfs()",
        )


class _Layout:
    """An OCI layout being read into a store."""

    def __init__(
        self, members: Members, addition: Addition, origin: Origin, platform: Platform | None
    ) -> None:
        self._members = members
        self._addition = addition
        self._origin = origin
        self._platform = platform
        self.what = members.what

    def add(self) -> list[str]:
        data = read_member(self._members, INDEX, limit=MAX_DOCUMENT)
        index = Index.parse(data, f"{self.what}: {INDEX}")
        ids = [
            self._add_image(manifest, name)
            for name, offered in _by_name(index.manifests)
            for manifest in self._choose(Index(manifests=tuple(offered)), depth=0)
        ]
        if not ids:
            raise FormatError(self.what, "holds no image")
        return list(dict.fromkeys(ids))  # one image may go by several names

    def _choose(self, offered: Index, *, depth: int) -> list[Descriptor]:
        """The manifests to take of what goes by one name."""
        if depth > _MAX_DEPTH:
            raise FormatError(self.what, f"its indexes are nested more than {_MAX_DEPTH} deep")
        chosen = []
        for item in offered.images(self._platform, self.what):
            if self._is_index(item):
                nested = Index.parse(self._read(item), f"{self.what}: index {item.digest}")
                chosen += self._choose(nested, depth=depth + 1)[:1]
            else:
                chosen.append(item)
        return chosen

    def _is_index(self, item: Descriptor) -> bool:
        return item.media_type in INDEX_TYPES or (not item.media_type and Index.is_one(self._read(item)))

    def _add_image(self, item: Descriptor, name: str) -> str:
        return self._addition.add(
            self._read(item),
            self._references(name),
            origin=self._origin,
            platform=self._platform,
            what=self.what,
        )

    def _references(self, name: str) -> list[Reference]:
        """A layout may use names that no reference can have: such an image comes in without a tag."""
        try:
            reference = Reference.parse(name) if name else None
        except InvalidSpecError as error:
            _log.warning("%s: loaded without a tag: %s", self.what, error)
            return []
        return [reference] if reference and reference.tag and not reference.digest else []

    def _read(self, descriptor: Descriptor) -> bytes:
        """A manifest or index, verified."""
        limit = min(descriptor.size, MAX_DOCUMENT)
        data = read_member(self._members, blob_name(descriptor), limit=limit)
        if len(data) != descriptor.size or digest_of(data) != descriptor.digest:
            raise DigestMismatchError(f"{self.what}: blob", descriptor.digest, digest_of(data))
        return data


def blob_name(descriptor: Descriptor) -> str:
    return f"blobs/sha256/{descriptor.digest.hex}"


def _by_name(manifests: Sequence[Descriptor]) -> Iterator[tuple[str, list[Descriptor]]]:
    for key, group in groupby(sorted(manifests, key=_name), key=_name):
        yield key, list(group)


def _name(item: Descriptor) -> str:
    """What containerd and Docker call it, with ``ref.name`` the whole or the tag of that; else ``ref.name``:
    umoci sets only this for a new tag, and leaves the other as it was.
    """
    complete, name = item.annotations.get(CONTAINERD_NAME, ""), item.annotations.get(REF_NAME, "")
    return complete if complete.endswith(name) else name
