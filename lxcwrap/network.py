"""The noun `Network`: one network, known by its id. Properties read what is true now; none is cached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from . import faults, limiting, networking
from .container import Container
from .containers import Containers
from .errors import NetworkNotFoundError
from .machinery import Machinery
from .netspecs import Driver, Endpoint, NetworkSpec, Rate, RateOption
from .shown import Shown

if TYPE_CHECKING:
    from .display.blocks import Page


class Network(Shown):
    """One network of containers. Obtained from `host.networks`; equal when it is the same network."""

    __slots__ = ("_id", "_machinery")

    def __init__(self, machinery: Machinery, network_id: str) -> None:
        self._machinery = machinery
        self._id = network_id

    # --- what it is ---

    @property
    def id(self) -> str:
        """64 hex digits; never changes."""
        return self._id

    @property
    def name(self) -> str:
        """Unique under its host. Raises NetworkNotFoundError when it was removed, as all that follow."""
        return str(self._machinery.network_store.row(self._id)["name"])

    @property
    def spec(self) -> NetworkSpec:
        """All about it."""
        return self._machinery.network_store.spec(self._id)

    @property
    def driver(self) -> Driver:
        """``"bridge"``, ``"macvlan"`` or ``"ipvlan"``."""
        return self.spec.driver

    @property
    def subnet(self) -> str:
        """Of IPv4, such as ``"10.88.1.0/24"``."""
        return self.spec.subnet

    @property
    def gateway(self) -> str:
        """The host's own address on it; on a macvlan that of the router."""
        return self.spec.gateway

    @property
    def subnet6(self) -> str | None:
        """Of IPv6; None: it has none."""
        return self.spec.subnet6 or None

    @property
    def gateway6(self) -> str | None:
        """The same of IPv6; None: it has none."""
        return self.spec.gateway6 or None

    @property
    def internal(self) -> bool:
        """Whether it leads nowhere else."""
        return self.spec.internal

    @property
    def rate(self) -> Rate | None:
        """Of each container on it that has none of its own; None: no limit."""
        return self.spec.rate

    @property
    def labels(self) -> Mapping[str, str]:
        """Those it was made with."""
        return self.spec.labels

    @property
    def bridge(self) -> str | None:
        """Name of its link on the host; None: it is no bridge."""
        row = self._machinery.network_store.row(self._id)
        return row["bridge"] if self.spec.driver == "bridge" else None

    @property
    def created_at(self) -> datetime:
        """When it was made, in UTC."""
        return datetime.fromtimestamp(self._machinery.network_store.row(self._id)["created_at"], UTC)

    @property
    def containers(self) -> tuple[Container, ...]:
        """All that are on it, also those that do not run; the oldest first."""
        self._machinery.network_store.row(self._id)
        users = self._machinery.network_store.users(self._id)
        return tuple(Container(self._machinery, container_id) for container_id, _ in users)

    # --- what is done to it ---

    def connect(
        self,
        container: str | Container,
        *,
        aliases: Sequence[str] = (),
        ip: str | None = None,
        ip6: str | None = None,
        mac: str | None = None,
        interface: str | None = None,
        rate: RateOption | None = None,
    ) -> Endpoint:
        """Let a container be on it too: at once if it runs, and at its next starts; where it is now.

        What is None is chosen; for the rest see `Endpoint`. Raises InvalidSpecError: it is there already, or
        has no network of its own; AddressInUseError, ExhaustedError; then nothing has changed.
        """
        found = Containers(self._machinery)[container]
        endpoint = Endpoint(ip=ip, ip6=ip6, mac=mac, aliases=aliases, interface=interface, rate=rate)
        networking.connect(self._machinery, self._id, found.id, endpoint)
        return networking.endpoints(self._machinery, found.id)[self.name]

    def disconnect(self, container: str | Container) -> None:
        """Take a container off it, running or not; its addresses are free again.

        Raises InvalidSpecError: it is not there.
        """
        networking.disconnect(self._machinery, self._id, Containers(self._machinery)[container].id)

    def limit(self, rate: RateOption | None, *, container: str | Container | None = None) -> None:
        """Let each container on it send and receive no faster than that, at once and from now on, or that one
        `container`. For `rate` see `Rate`.

        None: no limit; for one container: no rate of its own here. What is nearer goes before: that of a
        container on this network, on all of its networks (`Limits`), of all on this network. Raises
        InvalidSpecError: the container is not on it; UnsupportedError, KernelError; then nothing has changed.
        """
        container_id = None if container is None else Containers(self._machinery)[container].id
        limiting.limit(self._machinery, self._id, container_id, rate)

    def partition(self, *parts: Iterable[str | Container]) -> AbstractContextManager[None]:
        """In a ``with`` block containers of different `parts` do not reach each other by this network: what
        they send is lost, as if a cable were cut. A single part is cut off from all others on it.

        Those in no part reach all, and so does the host; who joins later is in none. It is over when this
        process ends, however that does. Raises InvalidSpecError: the network is no bridge, a container is not
        on it, or is in two parts, or nobody is on the other side.
        """
        found = [[Containers(self._machinery)[each].id for each in part] for part in parts]
        return networking.partitioned(self._machinery, self._id, found)

    def delay(
        self,
        containers: Iterable[str | Container] | None = None,
        *,
        delay_s: float = 0.0,
        jitter_s: float = 0.0,
        loss: float = 0.0,
    ) -> AbstractContextManager[None]:
        """In a ``with`` block what `containers` receive by this network comes `delay_s` seconds later, give
        or take `jitter_s`, which may change the order; a share `loss` of it, from 0 to 1, never comes.

        containers: by default all that run; from each to each and back then takes twice the delay. One that
        is started anew within the block is not delayed any more. It is over when this process ends, however
        that does. Raises UnsupportedError: the kernel lacks netem; InvalidSpecError: the network is no
        bridge, a container is not on it; WrongStateError: it does not run; ConflictError: it is delayed
        already.
        """
        ids = None if containers is None else [Containers(self._machinery)[each].id for each in containers]
        return faults.delayed(self._machinery, self._id, ids, delay_s=delay_s, jitter_s=jitter_s, loss=loss)

    def remove(self) -> None:
        """Raises StillUsedError when containers are on it, running or not."""
        networking.remove(self._machinery, self._id)

    def _page(self) -> Page:
        from .display.stores import network

        return network(self._machinery, self._id)

    # --- as a value ---

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str]:
        return self._id, str(self._machinery.root.path)

    def __repr__(self) -> str:
        try:
            return f"<Network {self.name} ({self._id[:12]}): {self.subnet}>"
        except NetworkNotFoundError:
            return f"<Network {self._id[:12]}: removed>"
