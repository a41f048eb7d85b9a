"""The collection `host.volumes`: making, finding and removing volumes."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from .errors import VolumeNotFoundError
from .machinery import Machinery
from .shown import Shown
from .specs import check_disk_size, parse_size
from .volume import Volume

if TYPE_CHECKING:
    from .display.blocks import Page

T = TypeVar("T")


class Volumes(Shown):
    """All named volumes of a host: a read-only mapping by name, that iterates over each `Volume`, the newest
    first. Nameless volumes of images are their containers' own, and not among them."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._store = machinery.volume_store

    def __getitem__(self, key: str | Volume) -> Volume:
        """Raises VolumeNotFoundError, a KeyError."""
        name = key.name if isinstance(key, Volume) else key
        return Volume(self._machinery, self._store.row(name)["name"])

    def get(self, key: str | Volume, default: T | None = None) -> Volume | T | None:
        """The volume of this name, or `default`."""
        try:
            return self[key]
        except VolumeNotFoundError:
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | Volume) and self.get(key) is not None

    def __iter__(self) -> Iterator[Volume]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self._store.names())

    def __repr__(self) -> str:
        return f"<Volumes: {len(self)}>"

    def _page(self) -> Page:
        from .display.stores import volumes

        return volumes(self._machinery)

    def list(self) -> builtins.list[Volume]:
        """All volumes, the newest first."""
        return [Volume(self._machinery, name) for name in self._store.names()]

    def create(
        self, name: str, *, size: int | str | None = None, labels: Mapping[str, str] | None = None
    ) -> Volume:
        """A new, empty volume, whose root directory belongs to root. size: how many bytes it may have, or
        text such as ``"1GiB"``; it can grow. None: as its disk has room.

        The limit is a project quota where the root directory's file system has them; else a file system of
        its own in a sparse file: XFS, or ext4 below 300 MiB.
        Raises InvalidSpecError, NameInUseError; UnsupportedError: this machine cannot limit it, with the
        package to install. Nothing is made then.
        """
        bytes_ = None if size is None else check_disk_size(parse_size(size))
        if labels is not None and not isinstance(labels, Mapping):
            raise TypeError(f"labels= takes a dict, not {labels!r}")
        self._store.create(name, bytes_, {str(key): str(value) for key, value in (labels or {}).items()})
        return Volume(self._machinery, name)

    def remove(self, key: str | Volume) -> None:
        """As `Volume.remove`."""
        self[key].remove()

    def prune(self) -> builtins.list[str]:
        """Remove, with their files, all volumes that no container has; their names."""
        return self._store.prune()
