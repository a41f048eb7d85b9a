"""What is done to networks, and to containers on them, as functions. All take a `Machinery` and ids."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress

from attrs import evolve

from . import lifecycle
from .drivers.pidfd import start_time
from .errors import (
    InvalidSpecError,
    KernelError,
    NameInUseError,
    SupervisorError,
    WrongStateError,
)
from .machinery import Machinery
from .net import partition, plumbing
from .net.ipam import Subnet, free_subnet, ula_pool
from .net.store import Owner
from .netspecs import DRIVERS, Driver, Endpoint, NetworkSpec, Port, PortBinding, Rate, RateOption, as_rate
from .options import DEFAULT_NETWORK
from .specs import ContainerSpec, State
from .supervisor import forwarder, wiring

_IDLE_S = 10.0  # of waiting for a start or an end that is under way


# --- networks -------------------------------------------------------------------------------------------


def create(
    machinery: Machinery,
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
) -> str:
    """Its id. For the rest see `Networks.create`."""
    if driver not in DRIVERS:
        raise InvalidSpecError(f"driver={driver!r}: must be one of {', '.join(DRIVERS)}")
    if internal and driver != "bridge":
        raise InvalidSpecError(f"internal=True: what a {driver} leads to is not ours to close")
    store, kernel = machinery.network_store, machinery.kernel_networks
    dns = dns and driver == "bridge" and kernel.has_names
    kernel.check(driver, dns=dns)
    kernel.check_rates(as_rate(rate))
    mtu = kernel.usual_mtu(parent) if mtu is None else mtu
    with kernel.choosing():
        with machinery.state.transaction() as change:
            # The host's own subnet is what a macvlan is for.
            taken = store.subnets() | (kernel.in_use() if driver == "bridge" else set())
            own = _subnet(subnet, gateway, taken)
            own6 = _subnet6(machinery, ipv6, taken)
            spec = NetworkSpec(
                driver=driver,
                subnet=own.network,
                gateway=own.gateway,
                subnet6=own6.network if own6 else "",
                gateway6=own6.gateway if own6 else "",
                internal=internal,
                isolated=isolated,
                dns=dns,
                mtu=mtu,
                parent=parent or "",
                labels=dict(labels or {}),
                rate=rate,
            )
            network_id = store.add(change, name, spec)
        # With a row it is ours to clear, and others see its subnet.
        try:
            kernel.add(store.network(network_id))
        except BaseException as error:
            remove(machinery, network_id)
            if isinstance(error, OSError):
                raise KernelError(error.errno or 0, f"network {name}: {error.strerror}") from None
            raise
    return network_id


def _subnet(given: str | None, gateway: str | None, taken: Collection[str]) -> Subnet:
    if given is None:
        if gateway is not None:
            raise InvalidSpecError("gateway= needs subnet=")
        return Subnet(free_subnet(taken))
    subnet = Subnet(given, gateway or "")
    if subnet.version != 4:
        raise InvalidSpecError(f"subnet={given!r}: give that of IPv6 as ipv6=")
    subnet.check_unused(taken)
    return subnet


def _subnet6(machinery: Machinery, given: bool | str, taken: Collection[str]) -> Subnet | None:
    if given is False:
        return None
    if given is True:
        return Subnet(free_subnet(taken, (ula_pool(os.fsencode(machinery.root.path)),)))
    subnet = Subnet(given)
    if subnet.version != 6:
        raise InvalidSpecError(f"ipv6={given!r}: must be a subnet of IPv6")
    subnet.check_unused(taken)
    return subnet


def remove(machinery: Machinery, network_id: str) -> None:
    """Raises StillUsedError, NetworkNotFoundError."""
    with machinery.kernel_networks.removing(), machinery.state.transaction() as change:
        network = machinery.network_store.network(network_id)
        machinery.network_store.delete(change, network_id)
        # Within: if this is not committed the network is there still, and gets a bridge when it needs one.
        machinery.kernel_networks.remove(network, last=not machinery.network_store.ids())


# --- containers that are made ---------------------------------------------------------------------------


def resolve(machinery: Machinery, spec: ContainerSpec, find: Callable[[str], str]) -> ContainerSpec:
    """With ids in place of names that may change; the default network is made if it is wanted.

    find: gives a container's id by its name. Raises NetworkNotFoundError, ContainerNotFoundError.
    """
    rates = (each.rate for each in spec.networks.values())
    machinery.kernel_networks.check_rates(spec.limits.network_rate, *rates)
    kind, _, owner = spec.network_mode.partition(":")
    if kind == "container":
        return evolve(spec, network_mode=f"container:{find(owner)}")
    if DEFAULT_NETWORK in spec.networks and not _exists(machinery, DEFAULT_NETWORK):
        with suppress(NameInUseError):  # another was faster
            create(machinery, DEFAULT_NETWORK)
    return spec


def _exists(machinery: Machinery, name: str) -> bool:
    query = "SELECT 1 FROM networks WHERE name = ?"
    return machinery.state.connection.execute(query, (name,)).fetchone() is not None


# --- containers that are there --------------------------------------------------------------------------


def endpoints(machinery: Machinery, container_id: str) -> dict[str, Endpoint]:
    """By name of the network, the first that it is on first. Raises ContainerNotFoundError."""
    lifecycle.row(machinery, container_id)
    return {wire["network"]["name"]: _endpoint(wire) for wire in machinery.network_store.wires(container_id)}


def _endpoint(wire: plumbing.Wire) -> Endpoint:
    import json

    facts = {name: wire[name] for name in ("ip", "ip6", "mac", "interface")}
    rate = Rate(egress=wire["egress_bps"] or None, ingress=wire["ingress_bps"] or None)
    return Endpoint(aliases=json.loads(wire["aliases"]), rate=None if rate == Rate() else rate, **facts)


def connect(machinery: Machinery, network_id: str, container_id: str, endpoint: Endpoint) -> None:
    """Raises InvalidSpecError: it has no network of its own, or is there already; AddressInUseError,
    ExhaustedError, WrongStateError, KernelError; then nothing has changed."""
    spec, store = lifecycle.spec_of(machinery, container_id), machinery.network_store
    name = store.row(network_id)["name"]
    if spec.network_mode != "own":
        raise InvalidSpecError(f"{spec.name} has the network of another ({spec.network_mode})")
    machinery.kernel_networks.check_rates(endpoint.rate)
    with changing(machinery, container_id):
        with machinery.port_store.following(container_id) as change:
            if lifecycle.look(machinery, container_id).state is State.CREATING:
                raise WrongStateError(spec.name, State.CREATING, "connect")
            if wire_of(machinery, container_id, network_id):
                raise InvalidSpecError(f"{spec.name} is on network {name} already")
            store.lease(change, container_id, {name: endpoint}, _me())
        try:
            settle(machinery, container_id, lambda fd: _plug(machinery, container_id, network_id, fd))
        except BaseException:
            machinery.take_off(container_id, network_id)
            raise
        with machinery.state.transaction() as change:
            store.connected(change, container_id, network_id)
        forwarder.look_again(str(machinery.bundle(container_id)))


def disconnect(machinery: Machinery, network_id: str, container_id: str) -> None:
    """Raises InvalidSpecError: it is not on this network; WrongStateError."""
    name, store = lifecycle.spec_of(machinery, container_id).name, machinery.network_store
    with changing(machinery, container_id):
        with machinery.state.transaction() as change:
            if lifecycle.look(machinery, container_id).state is State.CREATING:
                raise WrongStateError(name, State.CREATING, "disconnect")
            if not wire_of(machinery, container_id, network_id):
                raise InvalidSpecError(f"{name} is not on network {store.row(network_id)['name']}")
            store.own(change, container_id, network_id, _me())
        machinery.take_off(container_id, network_id)


@contextmanager
def changing(machinery: Machinery, container_id: str) -> Iterator[None]:
    """One change of a container's endpoints after the other."""
    try:
        with wiring.marked(machinery.bundle(container_id)):
            yield
    except FileNotFoundError:
        record = lifecycle.row(machinery, container_id)  # it was removed meanwhile
        if record["phase"] == "creating":
            raise WrongStateError(record["name"], State.CREATING, "change the network of") from None
        raise


def partitioned(
    machinery: Machinery, network_id: str, parts: Sequence[Collection[str]]
) -> AbstractContextManager[None]:
    """See `Network.partition`; `parts` are of containers' ids."""
    network = machinery.network_store.network(network_id)
    if network["driver"] != "bridge":
        raise InvalidSpecError(f"{network['name']} is a {network['driver']}: only a bridge can be parted")
    members = {container_id for container_id, _ in machinery.network_store.users(network_id)}
    named = [each for part in parts for each in part]
    if strangers := [each for each in named if each not in members]:
        name = lifecycle.spec_of(machinery, strangers[0]).name
        raise InvalidSpecError(f"{name} is not on network {network['name']}")
    if len(parts) == 1:
        parts = [*parts, members - set(named)]
    if len(parts) < 2 or not all(parts) or len(set(named)) < len(named):
        raise InvalidSpecError("parts= takes containers on both sides, and each in one part only")
    wires = [[wire_of(machinery, each, network_id) for each in part] for part in parts]
    return partition.partitioned([[wire["link"] for wire in part if wire] for part in wires])


def _plug(machinery: Machinery, container_id: str, network_id: str, netns_fd: int) -> None:
    wire = wire_of(machinery, container_id, network_id)
    if wire:
        connected = machinery.network_store.wires(container_id)
        machinery.kernel_networks.plug(netns_fd, wire, connected)
        wiring.announce(machinery.state.connection, machinery.root, container_id)
        before = [each for each in connected if each["network_id"] != network_id]
        machinery.names_changed(container_id, before, connected)


def wire_of(machinery: Machinery, container_id: str, network_id: str) -> plumbing.Wire | None:
    found = machinery.network_store.wires(container_id)
    return next((wire for wire in found if wire["network_id"] == network_id), None)


def _me() -> Owner:
    return os.getpid(), start_time(os.getpid())


def settle(machinery: Machinery, container_id: str, act: Callable[[int], None]) -> None:
    """Do it in the container's namespace if it runs, or will without having seen the present records."""
    deadline = time.monotonic() + _IDLE_S
    while True:
        if lifecycle.look(machinery, container_id).state.is_alive:
            try:
                with wiring.network_of(machinery.bundle(container_id)) as netns_fd:
                    return act(netns_fd)
            except wiring.NotRunning:
                pass
            except OSError as error:
                if lifecycle.look(machinery, container_id).state.is_alive:
                    raise KernelError(error.errno or 0, str(error.strerror)) from None
        else:
            with suppress(BlockingIOError), lifecycle.held(machinery, container_id, 0.1):
                return  # whoever starts it from now on reads the records
        if time.monotonic() > deadline:
            raise SupervisorError("its start or end does not come to an end", "try again")


def publish(machinery: Machinery, container_id: str, ports: Sequence[Port]) -> tuple[PortBinding, ...]:
    """See `Container.publish`."""
    lifecycle.row(machinery, container_id)
    with changing(machinery, container_id):
        bindings = machinery.port_store.publish(container_id, ports)
        try:
            wanted = machinery.port_store.forwards(container_id, bindings)
            lost = machinery.lost_forwards(container_id)
            machinery.forward(container_id, [*wanted, *(each for each in lost if each not in wanted)])
        except BaseException:
            _unpublish(machinery, container_id, bindings)
            raise
    return bindings


def unpublish(machinery: Machinery, container_id: str, ports: Sequence[Port | PortBinding]) -> None:
    """See `Container.unpublish`."""
    lifecycle.row(machinery, container_id)
    with changing(machinery, container_id):
        _unpublish(machinery, container_id, ports)


def _unpublish(machinery: Machinery, container_id: str, ports: Sequence[Port | PortBinding]) -> None:
    leaving = machinery.port_store.unpublish(container_id, ports)
    forwarder.look_again(str(machinery.bundle(container_id)), leaving)


def dial(
    machinery: Machinery, container_id: str, name: str, port: int, host: str, timeout_s: float
) -> socket.socket:
    """See `Container.socket`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with wiring.network_of(machinery.bundle(container_id)) as fd:
            sock = machinery.kernel_networks.make_socket(fd, family)
    except wiring.NotRunning:
        state = lifecycle.look(machinery, container_id).state
        raise WrongStateError(name, state, "dial into") from None
    try:
        sock.settimeout(timeout_s)
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
