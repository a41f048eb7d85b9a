"""`Network` and `Networks` for event loops."""

# Their methods are those of the classes they derive from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, TypeVar

from .. import network, networks
from .container import Container
from .driving import Twin, held, making, method

T = TypeVar("T")


class Network(Twin, network.Network):
    """A `lxcwrap.Network` whose methods are awaited; properties are read as there."""

    __slots__ = ()

    @classmethod
    def of(cls, found: network.Network) -> Self:
        """The same network."""
        return cls(found._machinery, found._id)

    @property
    def _sync(self) -> network.Network:
        return network.Network(self._machinery, self._id)

    @property
    def containers(self) -> tuple[Container, ...]:
        """All that are on it, also those that do not run; the oldest first."""
        return tuple(map(Container.of, super().containers))

    connect = method(network.Network.connect)
    disconnect = method(network.Network.disconnect)
    limit = method(network.Network.limit)
    partition = held(network.Network.partition)
    delay = held(network.Network.delay)
    remove = method(network.Network.remove)


def _all(found: list[network.Network]) -> list[Network]:
    return [Network.of(each) for each in found]


class Networks(Twin, networks.Networks):
    """`lxcwrap.Networks` whose methods are awaited; looking up, ``in``, ``len``, ``for`` are as there."""

    @property
    def _sync(self) -> networks.Networks:
        return networks.Networks(self._machinery)

    def __getitem__(self, key: str | network.Network) -> Network:
        return Network.of(super().__getitem__(key))

    def get(self, key: str | network.Network, default: T | None = None) -> Network | T | None:
        found = self._sync.get(key)
        return default if found is None else Network.of(found)

    def __iter__(self) -> Iterator[Network]:
        return iter(_all(self._sync.list()))

    list = making(_all, networks.Networks.list)
    create = making(Network.of, networks.Networks.create)
    prune = method(networks.Networks.prune)
