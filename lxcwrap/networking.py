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
    ContainerNotFoundError,
    InvalidSpecError,
    KernelError,
    LxcwrapError,
    NameInUseError,
    SupervisorError,
    WrongStateError,
)
from .machinery import Machinery
from .net import partition, plumbing, rates
from .net.dns import NameServers, has_names
from .net.ipam import Subnet, free_subnet, ula_pool
from .net.store import Owner
from .netspecs import DRIVERS, Driver, Endpoint, NetworkSpec, Port, PortBinding, Rate, RateOption, as_rate
from .options import DEFAULT_NETWORK
from .specs import ContainerSpec, Limits, State
from .storage.outbox import tell
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
    _check_rates(machinery, as_rate(rate))
    mtu = mtu or kernel.usual_mtu(parent)
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
    _check_rates(machinery, spec.limits.network_rate, *(each.rate for each in spec.networks.values()))
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
    _check_rates(machinery, endpoint.rate)
    with _changing(machinery, container_id):
        with machinery.port_store.following(container_id) as change:
            if lifecycle.look(machinery, container_id).state is State.CREATING:
                raise WrongStateError(spec.name, State.CREATING, "connect")
            if _wire(machinery, container_id, network_id):
                raise InvalidSpecError(f"{spec.name} is on network {name} already")
            store.lease(change, container_id, {name: endpoint}, _me())
        try:
            _settle(machinery, container_id, lambda fd: _plug(machinery, container_id, network_id, fd))
        except BaseException:
            machinery.take_off(container_id, network_id)
            raise
        with machinery.state.transaction() as change:
            store.connected(change, container_id, network_id)
        forwarder.look_again(str(machinery.bundle(container_id)))


def disconnect(machinery: Machinery, network_id: str, container_id: str) -> None:
    """Raises InvalidSpecError: it is not on this network; WrongStateError."""
    name, store = lifecycle.spec_of(machinery, container_id).name, machinery.network_store
    with _changing(machinery, container_id):
        with machinery.state.transaction() as change:
            if lifecycle.look(machinery, container_id).state is State.CREATING:
                raise WrongStateError(name, State.CREATING, "disconnect")
            if not _wire(machinery, container_id, network_id):
                raise InvalidSpecError(f"{name} is not on network {store.row(network_id)['name']}")
            store.own(change, container_id, network_id, _me())
        machinery.take_off(container_id, network_id)


@contextmanager
def _changing(machinery: Machinery, container_id: str) -> Iterator[None]:
    """One change of a container's endpoints after the other."""
    try:
        with wiring.marked(machinery.bundle(container_id)):
            yield
    except FileNotFoundError:
        lifecycle.row(machinery, container_id)  # it was removed meanwhile
        raise


def limit(machinery: Machinery, network_id: str, container_id: str | None, rate: RateOption | None) -> None:
    """See `Network.limit`."""
    network = machinery.network_store.row(network_id)
    if container_id and not _wire(machinery, container_id, network_id):
        name = lifecycle.spec_of(machinery, container_id).name
        raise InvalidSpecError(f"{name} is not on network {network['name']}")
    with _limited(machinery, network_id, container_id, as_rate(rate)):
        pass


def update(machinery: Machinery, container_id: str, limits: Limits) -> None:
    """See `Container.update`."""
    if not isinstance(limits, Limits) or limits.network_rate is None:
        return lifecycle.update(machinery, container_id, limits)
    spec = lifecycle.spec_of(machinery, container_id)
    evolve(spec, limits=limits)  # raises InvalidSpecError: it has no network of its own
    with _limited(machinery, None, container_id, limits.network_rate):
        lifecycle.update(machinery, container_id, limits)


@contextmanager
def _limited(
    machinery: Machinery, network_id: str | None, container_id: str | None, rate: Rate | None
) -> Iterator[None]:
    """With this rate, in the records and the kernel; with that of before if the block fails, or the kernel
    does. Of a network, a container, or a container on a network."""
    _check_rates(machinery, rate)
    before, concerned = _record_rate(machinery, network_id, container_id, rate)
    try:
        for each in concerned:
            _limit_links(machinery, each)
        yield
    except BaseException:
        with suppress(LookupError):
            _record_rate(machinery, network_id, container_id, before)
        for each in concerned:
            with suppress(LxcwrapError):
                _limit_links(machinery, each)
        raise


def _record_rate(
    machinery: Machinery, network_id: str | None, container_id: str | None, rate: Rate | None
) -> tuple[Rate | None, list[str]]:
    """What it was, and the containers that are concerned: all that have read it before."""
    store = machinery.network_store
    with machinery.state.transaction() as change:
        before = store.change_rate(change, network_id, container_id, rate)
        concerned = [each for each, _ in store.users(network_id)] if network_id else []
        if container_id:
            concerned = [container_id]
        for each in concerned:
            rates.begin_change(str(machinery.bundle(each)))
            if network_id:  # else that is told of all its limits
                tell(change, "updated", id=each)
    return before, concerned


def _limit_links(machinery: Machinery, container_id: str) -> None:
    def act(netns_fd: int) -> None:
        machinery.kernel_networks.limit(netns_fd, machinery.network_store.wires(container_id))

    with suppress(ContainerNotFoundError, FileNotFoundError):  # it has gone, or is not quite there
        if machinery.network_store.wires(container_id):
            with _changing(machinery, container_id):
                _settle(machinery, container_id, act)
        rates.end_change(str(machinery.bundle(container_id)))


def _check_rates(machinery: Machinery, *wanted: Rate | None) -> None:
    """Raises UnsupportedError: there are limits among them, and the kernel has none."""
    if any(rate not in (None, Rate()) for rate in wanted):
        machinery.kernel_networks.check_rates()


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
    wires = [[_wire(machinery, each, network_id) for each in part] for part in parts]
    return partition.partitioned([[wire["link"] for wire in part if wire] for part in wires])


def _plug(machinery: Machinery, container_id: str, network_id: str, netns_fd: int) -> None:
    wire = _wire(machinery, container_id, network_id)
    if wire:
        machinery.kernel_networks.plug(netns_fd, wire, machinery.network_store.wires(container_id))
        _serve_names(machinery, wire)
        wiring.announce(machinery.state.connection, machinery.root, container_id)


def _serve_names(machinery: Machinery, wire: plumbing.Wire) -> None:
    """By a process of the fork-server's: what stays must not be in our session and cgroups."""
    network = wire["network"]
    if has_names(network) and not NameServers(machinery.root.path).pid(network["id"]):
        message = {"op": "names", "root": str(machinery.root.path), "network": network}
        with machinery.supervisor.ask(message, what=f"name server of {network['name']}") as conversation:
            answer, _ = conversation.receive()
        if error := answer.get("error"):
            raise SupervisorError(error)


def _wire(machinery: Machinery, container_id: str, network_id: str) -> plumbing.Wire | None:
    found = machinery.network_store.wires(container_id)
    return next((wire for wire in found if wire["network_id"] == network_id), None)


def _me() -> Owner:
    return os.getpid(), start_time(os.getpid())


def _settle(machinery: Machinery, container_id: str, act: Callable[[int], None]) -> None:
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
            with suppress(BlockingIOError), machinery.records(container_id).held(0.1):
                return  # whoever starts it from now on reads the records
        if time.monotonic() > deadline:
            raise SupervisorError("its start or end does not come to an end", "try again")


def publish(machinery: Machinery, container_id: str, ports: Sequence[Port]) -> tuple[PortBinding, ...]:
    """See `Container.publish`."""
    lifecycle.row(machinery, container_id)
    with _changing(machinery, container_id):
        bindings = machinery.port_store.publish(container_id, ports)
        try:
            machinery.forward(container_id, machinery.port_store.forwards(container_id, bindings))
        except BaseException:
            _unpublish(machinery, container_id, bindings)
            raise
    return bindings


def unpublish(machinery: Machinery, container_id: str, ports: Sequence[Port | PortBinding]) -> None:
    """See `Container.unpublish`."""
    lifecycle.row(machinery, container_id)
    with _changing(machinery, container_id):
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
