"""The collection `host.networks`: making, finding and removing networks."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from . import networking
from .errors import NetworkNotFoundError, StillUsedError
from .machinery import Machinery
from .netspecs import Driver, RateOption
from .network import Network
from .options import check_network_name
from .shown import Shown

if TYPE_CHECKING:
    from .display.blocks import Page

T = TypeVar("T")


class Networks(Shown):
    """All networks of a host: a read-only mapping by name, id or unique id prefix, that iterates over each
    `Network`, the newest first."""

    def __init__(self, machinery: Machinery) -> None:
        self._machinery = machinery
        self._store = machinery.network_store

    def __getitem__(self, key: str | Network) -> Network:
        """Raises NetworkNotFoundError, a KeyError."""
        return Network(self._machinery, self._store.find(key.id if isinstance(key, Network) else key))

    def get(self, key: str | Network, default: T | None = None) -> Network | T | None:
        """The network of this name, or `default`."""
        try:
            return self[key]
        except NetworkNotFoundError:
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | Network) and self.get(key) is not None

    def __iter__(self) -> Iterator[Network]:
        return iter(self.list())

    def __len__(self) -> int:
        return len(self._store.ids())

    def __repr__(self) -> str:
        return f"<Networks: {len(self)}>"

    def _page(self) -> Page:
        from .display.stores import networks

        return networks(self._machinery)

    def list(self) -> builtins.list[Network]:
        """All networks, the newest first."""
        return [Network(self._machinery, network_id) for network_id in self._store.ids()]

    def create(
        self,
        name: str,
        *,
        subnet: str | None = None,
        gateway: str | None = None,
        ipv6: bool | str = False,
        internal: bool = False,
        driver: Driver = "bridge",
        mtu: int | None = None,
        isolated: bool = False,
        dns: bool = True,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        rate: RateOption | None = None,
    ) -> Network:
        """A new network, of nobody yet.

        subnet: as ``"10.88.1.0/24"``; None: one that neither the host nor another network uses.  gateway: the
        host's own address on it; None: the first.  ipv6: True: with a unique local subnet too; or a subnet.
        internal: no way out, and none in.  isolated: its containers do not reach each other.
        dns: containers find each other by name, alias and host name; of a bridge only.
        driver: ``"bridge"``, of the host; ``"macvlan"``: containers are on the network of the host's link
        `parent`, each with a MAC address of its own, and do not reach the host by it; ``"ipvlan"``: the same
        with that of `parent`.  mtu: longest packet; None: that of the link by which the host sends.
        rate: how fast each container may send and receive by it, such as ``"100Mbit"`` for each, or a `Rate`.

        Raises InvalidSpecError, NameInUseError; AddressInUseError: the subnet is another's, or routed by the
        host; ExhaustedError; UnsupportedError: this kernel lacks it. Nothing is made then.
        """
        network_id = networking.create(
            self._machinery,
            check_network_name(name),
            subnet=subnet,
            gateway=gateway,
            ipv6=ipv6,
            internal=internal,
            driver=driver,
            mtu=mtu,
            isolated=isolated,
            dns=dns,
            parent=parent,
            labels=labels,
            rate=rate,
        )
        return Network(self._machinery, network_id)

    def prune(self) -> builtins.list[str]:
        """Remove all that no container is on; their names."""
        removed = []
        for network in self.list():
            with suppress(StillUsedError, NetworkNotFoundError):
                name = network.name
                network.remove()
                removed.append(name)
        return removed
