"""`Volume` and `Volumes` for event loops."""

# Their methods are those of the classes they derive from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, TypeVar

from .. import volume, volumes
from .container import Container
from .driving import Twin, making, method
from .paths import VolumePath, as_path

T = TypeVar("T")


class Volume(Twin, volume.Volume):
    """A `lxcwrap.Volume` whose methods are awaited; properties are read as there."""

    __slots__ = ()

    @classmethod
    def of(cls, found: volume.Volume) -> Self:
        """The same volume."""
        return cls(found._machinery, found._name)

    @property
    def _sync(self) -> volume.Volume:
        return volume.Volume(self._machinery, self._name)

    @property
    def containers(self) -> tuple[Container, ...]:
        """Those that have it, also while they do not run."""
        return tuple(map(Container.of, super().containers))

    @property
    def files(self) -> VolumePath:
        """Its root directory, whose methods are awaited."""
        return as_path(VolumePath, super().files)

    attach = method(volume.Volume.attach)
    detach = method(volume.Volume.detach)
    resize = method(volume.Volume.resize, long=True)
    backup = method(volume.Volume.backup, long=True)
    restore = method(volume.Volume.restore, long=True)
    remove = method(volume.Volume.remove, long=True)


def _all(found: list[volume.Volume]) -> list[Volume]:
    return [Volume.of(each) for each in found]


class Volumes(Twin, volumes.Volumes):
    """`lxcwrap.Volumes` whose methods are awaited; looking up, ``in``, ``len``, ``for`` are as there."""

    @property
    def _sync(self) -> volumes.Volumes:
        return volumes.Volumes(self._machinery)

    def __getitem__(self, key: str | volume.Volume) -> Volume:
        return Volume.of(super().__getitem__(key))

    def get(self, key: str | volume.Volume, default: T | None = None) -> Volume | T | None:
        found = self._sync.get(key)
        return default if found is None else Volume.of(found)

    def __iter__(self) -> Iterator[Volume]:
        return iter(_all(self._sync.list()))

    list = making(_all, volumes.Volumes.list)
    create = making(Volume.of, volumes.Volumes.create, long=True)
    remove = method(volumes.Volumes.remove, long=True)
    prune = method(volumes.Volumes.prune, long=True)
