"""`Containers` for event loops."""

# Its methods are those of the class it derives from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from .. import container, containers, lifecycle
from .container import Container
from .driving import Twin, at_once, making, method
from .popen import popening

T = TypeVar("T")


def _all(found: list[container.Container]) -> list[Container]:
    return [Container.of(each) for each in found]


def discard(found: container.Container) -> None:
    lifecycle.discard(found._machinery, found.id)


class Containers(Twin, containers.Containers):
    """`lxcwrap.Containers` whose methods are awaited; looking up, ``in``, ``len``, ``for`` are as there."""

    @property
    def _sync(self) -> containers.Containers:
        return containers.Containers(self._machinery)

    def __getitem__(self, key: str | container.Container) -> Container:
        return Container.of(super().__getitem__(key))

    def get(self, key: str | container.Container, default: T | None = None) -> Container | T | None:
        found = self._sync.get(key)  # type: ignore[arg-type]  # it takes both
        return default if found is None else Container.of(found)

    def __iter__(self) -> Iterator[Container]:
        return iter(_all(self._sync.list()))

    list = making(_all, containers.Containers.list)
    live_stats = at_once(containers.Containers.live_stats)
    create = making(Container.of, containers.Containers.create, lost=discard)
    launch = making(Container.of, containers.Containers.launch, lost=discard)
    run = method(containers.Containers.run)
    popen = popening(containers.Containers.popen)
    prune = method(containers.Containers.prune, long=True)
