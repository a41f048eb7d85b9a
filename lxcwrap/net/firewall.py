"""The firewall of a root directory: what its networks, containers and published ports have in the kernel.

Of a network something is there as long as its bridge, of a container as long as it runs; in its
directory ``exposed`` says what. All may be added and removed again and again: nobody need know what
is there. What another program has flushed comes back with the next network, start or port.

Who puts there what the records say holds the lock ``run/firewall.lock`` shared. Who changes the records of
published ports holds it alone (`recording`), and leaves a mark, if killed, for whoever comes next: then all
is made anew from the records.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from _thread import allocate_lock
from contextlib import contextmanager, suppress
from hashlib import blake2s
from typing import NamedTuple

from ..drivers.conntrack import Connections
from ..drivers.forwarding import enable_forwarding
from ..drivers.nftables import Nftables
from .foreign import FIREWALLD, Obstacle, accept, has_zone, obstacles, withdraw
from .names import has_names, server_of, shared_address, shared_zone
from .ruleset import NetworkRules, Part, PinnedPort, PublishedPort, SharedServer, Tables

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import Any

    Network = Mapping[str, Any]  # id, name, bridge, and the fields of its NetworkSpec
    Wire = Mapping[str, Any]  # the columns of an endpoint, and `network`: its Network
    PortRow = Mapping[str, Any]  # protocol, host_ip, host_port, container_port
    # Networks; and containers on them, by id.
    Recorded = tuple[Iterable[Network], Iterable[tuple[str, Sequence[Wire], Iterable[PortRow]]]]

MARK = "exposed"
_PORTS = "SELECT protocol, host_ip, host_port, container_port FROM ports WHERE container_id = ?"
_ALL_IPV4, _ALL_IPV6, LOOPBACK6 = "0.0.0.0", "::", "::1"
_loading = allocate_lock()
_loaded: Nftables | None = None


def warm() -> None:
    """Load what the first change needs, for this process and all it forks: 4 ms, and 1.5 MB of memory."""
    _kernel()


def _kernel() -> Nftables:
    global _loaded
    with _loading:
        if _loaded is None:
            _loaded = Nftables()
        return _loaded


class Forward(NamedTuple):
    """A port at ::1, to which the kernel can lead nothing: see supervisor/forwarder.py."""

    protocol: str
    host_port: int
    address: str
    port: int


class Exposed(NamedTuple):
    """What the kernel has of a container that runs, and what a forwarder serves."""

    pins: tuple[PinnedPort, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    forwards: tuple[Forward, ...] = ()
    servers: tuple[SharedServer, ...] = ()

    @classmethod
    def of(cls, wires: Sequence[Wire], ports: Iterable[PortRow]) -> Exposed:
        ports = list(ports)
        return cls(
            tuple(pinned(wires)),
            tuple(published(wires, ports)),
            tuple(forwarded(wires, ports)),
            tuple(asked(wires)),
        )

    @classmethod
    def from_json(cls, text: bytes) -> Exposed:
        """Raises ValueError, TypeError or the like: it is damaged, or of another version."""
        pins, ports, forwards, servers = json.loads(text)
        found = cls(
            tuple(PinnedPort(*pin) for pin in pins),
            tuple(PublishedPort(*port) for port in ports),
            tuple(Forward(*forward) for forward in forwards),
            tuple(SharedServer(*server) for server in servers),
        )
        for part in (*found.parts, *found.servers):
            part.elements()
        return found

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.pins, *self.ports)


class Firewall:
    """Of the root directory `root`. Its methods raise UnsupportedError: this machine has no libnftables."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        self.tables = Tables(blake2s(os.fsencode(self._root), digest_size=6).hexdigest())

    @contextmanager
    def _locked(self, how: int = fcntl.LOCK_SH) -> Iterator[None]:
        fd = os.open(f"{self._root}/run/firewall.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, how)
            yield
        finally:
            os.close(fd)

    def alone(self) -> AbstractContextManager[None]:
        """Within, the rules are nobody else's to change. Held before a transaction of the records begins, as
        `recording` is, never within: else two would wait for each other."""
        return self._locked(fcntl.LOCK_EX)

    def shared(self) -> AbstractContextManager[None]:
        """Within, nobody is `recording`; the same holds for it."""
        return self._locked()

    @contextmanager
    def recording(self, recorded: Callable[[], Recorded]) -> Iterator[None]:
        """Records and kernel change alike in this block. recorded: reads all that the records say."""
        with self._locked(fcntl.LOCK_EX):
            if os.path.exists(self._unsure):
                self._replace(recorded())
            self._be_unsure()
            try:
                yield
            except Exception:
                self._replace(recorded())
                os.unlink(self._unsure)
                raise
            if os.stat(self._unsure).st_size:
                self._replace(recorded())
            os.unlink(self._unsure)

    def _be_unsure(self, why: bytes = b"") -> None:
        fd = os.open(self._unsure, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        os.write(fd, why)
        os.close(fd)

    @property
    def _unsure(self) -> str:
        return f"{self._root}/run/firewall.unsure"

    def clean(self, recorded: Callable[[], Recorded]) -> bool:
        """Make all anew, if who was `recording` was killed, or a mark could not be read; whether so."""
        was_unsure = os.path.exists(self._unsure)
        if was_unsure:
            with self.recording(recorded):
                pass
        return was_unsure

    # --- networks ---

    def network_added(self, network: Network) -> None:
        """Its rules: to be called before it has a bridge. The host becomes a router, if the network has a way
        out; what Docker's or ufw's policy would drop of its packets is let through."""
        rules = network_rules(network)
        with self._locked():
            _kernel().run(self.tables.create() + self.tables.add(rules))
        if not rules.internal:
            enable_forwarding(ipv6=bool(network["subnet6"]))
        for obstacle in _obstacles():
            if obstacle.mends_in:
                withdrawn = self._withdrawn(obstacle, rules.bridge)
                _kernel().run(withdrawn + accept(obstacle, rules.bridge, self.tables.name))

    def network_removed(self, network: Network, *, last: bool) -> None:
        """When its bridge has gone; we are `alone`. last: there is no other network: the tables go."""
        for obstacle in _obstacles():
            if obstacle.mends_in:
                _kernel().run(self._withdrawn(obstacle, network["bridge"]))
        if last:
            _kernel().run(self.tables.remove())
        else:
            self.remove([network_rules(network)])

    def _withdrawn(self, obstacle: Obstacle, bridge: str) -> str:
        chain = f"list chain {obstacle.family} {obstacle.table} {obstacle.mends_in}"
        return withdraw(_kernel().query(chain), bridge, self.tables.name)

    # --- containers ---

    def container_added(
        self, container_id: str, wires: Sequence[Wire], ports: Callable[[], Iterable[PortRow]]
    ) -> None:
        """At its start, before it has links: all, or nothing. The container's lock is held. ports: reads its
        records. FileExistsError: one of its ports leads elsewhere."""
        with self._locked():
            exposed = Exposed.of(wires, ports())
            networks = [network_rules(wire["network"]) for wire in wires if _has_bridge(wire)]
            self._mark(container_id, exposed)
            self.add([*networks, *exposed.parts])
            self._ask_servers((), exposed.servers)
        _lead_anew(exposed.ports)

    def container_removed(self, container_id: str) -> None:
        """At its end. The container's lock is held, or it will not be started again."""
        with self._locked():
            exposed = self.exposed(container_id)
            if exposed is None:
                return
            try:
                self.remove(exposed.parts)
            except FileExistsError:  # one of the ports leads to another container by now
                for part in exposed.parts:
                    with suppress(FileExistsError):
                        self.remove([part])
            self._ask_servers(exposed.servers, ())
            with suppress(FileNotFoundError):
                os.unlink(self._mark_of(container_id))
        _forget_all({port.address for port in exposed.ports})

    def endpoint_added(self, wire: Wire) -> None:
        """To one that runs; to be called before its link is made: so it never can send what it must not."""
        with self._locked():
            exposed = self.exposed(wire["container_id"]) or Exposed()
            pins = [pin for pin in pinned([wire]) if pin not in exposed.pins]
            self._mark(wire["container_id"], exposed._replace(pins=(*exposed.pins, *pins)))
            self.add(pins)

    def names_changed(self, container_id: str, wires: Sequence[Wire]) -> None:
        """Hereafter a container that runs, with these endpoints, asks for the names on all of them alone."""
        with self._locked():
            exposed = self.exposed(container_id)
            coming = tuple(asked(wires))
            if exposed is None or exposed.servers == coming:
                return
            self._mark(container_id, exposed._replace(servers=(*exposed.servers, *coming)))
            self._ask_servers(exposed.servers, coming)
            self._mark(container_id, exposed._replace(servers=coming))

    def records_changed(self, container_id: str, wires: Sequence[Wire], ports: Iterable[PortRow]) -> None:
        """Hereafter these ports lead to it, if it runs, and it has no more endpoints than these: those that
        come have been, or will be, added. While `recording`, or `shared` if there are no ports.
        FileExistsError: as above."""
        exposed = self.exposed(container_id)
        if exposed:
            wanted = Exposed.of(wires, ports)
            pins = tuple(pin for pin in exposed.pins if pin in wanted.pins)
            leaving = [port for port in exposed.ports if port not in wanted.ports]
            coming = [port for port in wanted.ports if port not in exposed.ports]
            self.remove([*leaving, *(pin for pin in exposed.pins if pin not in pins)])
            kept = wanted._replace(pins=pins, servers=exposed.servers)
            self._mark(container_id, kept)  # which has all that the kernel may have
            self.add(coming)
            _lead_anew((*leaving, *coming))

    def exposed(self, container_id: str) -> Exposed | None:
        """What the kernel may have of it; None: nothing. Where that cannot be read, all is made anew from the
        records by whoever comes next."""
        try:
            with open(self._mark_of(container_id), "rb") as file:
                return Exposed.from_json(file.read())
        except FileNotFoundError:
            return None
        except Exception:  # whatever is wrong with it
            self._be_unsure(b"unreadable")
            return Exposed()

    def _mark(self, container_id: str, exposed: Exposed) -> None:
        path = self._mark_of(container_id)
        with open(f"{path}.{os.getpid()}", "w") as file:
            json.dump(exposed, file)
        os.rename(file.name, path)

    def _mark_of(self, container_id: str) -> str:
        return f"{self._root}/containers/{container_id}/{MARK}"

    # --- both; one of the locks is held ---

    def add(self, parts: Sequence[Part]) -> None:
        if not parts:
            return
        text = self.tables.add(*parts)
        try:
            _kernel().run(text)
        except FileNotFoundError:  # the host has booted, or another program has flushed all rules
            _kernel().run(self.tables.create() + text)
            self._be_unsure(b"flushed")  # what others need is missing still

    def remove(self, parts: Sequence[Part]) -> None:
        if parts:
            with suppress(FileNotFoundError):  # no tables
                _kernel().run(self.tables.delete(*parts))

    def _ask_servers(self, leaving: Sequence[SharedServer], coming: Sequence[SharedServer]) -> None:
        """Whatever was there of them: who is killed may leave either."""
        if not leaving and not coming:
            return
        try:
            _kernel().run(self.tables.delete_asked(*leaving) + self.tables.add(*coming))
        except (FileExistsError, FileNotFoundError):
            for each in {*leaving, *coming}:
                with suppress(FileNotFoundError):
                    _kernel().run(self.tables.delete_asked(each))
            self.add(coming)

    def _replace(self, recorded: Recorded) -> None:
        networks, containers = recorded
        parts: list[Part] = [network_rules(network) for network in networks if network["driver"] == "bridge"]
        for container_id, wires, ports in containers:
            if os.path.exists(self._mark_of(container_id)):
                exposed = Exposed.of(wires, ports)
                self._mark(container_id, exposed)
                parts += [*exposed.parts, *exposed.servers]
        _kernel().run(self.tables.replace(*parts) if parts else self.tables.remove())


def _lead_anew(ports: Iterable[PublishedPort]) -> None:
    """What somebody has been sending by UDP, the kernel would lead on as before for ever."""
    numbers = {port.host_port + i for port in ports if port.protocol == "udp" for i in range(port.span)}
    if numbers:
        with Connections() as connections:
            for number in numbers:
                connections.forget_udp(number)


def _forget_all(addresses: Collection[str]) -> None:
    """What somebody has been sending to these is not for the next container that has one of them."""
    if not addresses:
        return
    try:
        with Connections() as connections:
            for address in addresses:
                connections.forget_address(address)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a kernel without ctnetlink: nobody's end must fail for that
            raise


def remedies() -> list[str]:
    """What an administrator must do, as others' rules drop packets of containers and ours cannot mend it."""
    found = [obstacle for obstacle in _obstacles() if not obstacle.mends_in]
    tables = {(obstacle.family, obstacle.table) for obstacle in found if obstacle.table == FIREWALLD}
    zoned = {table for table in tables if has_zone(_kernel().query("list table {} {}".format(*table)))}
    return list(dict.fromkeys(each.remedy for each in found if (each.family, each.table) not in zoned))


def _obstacles() -> list[Obstacle]:
    return obstacles(_kernel().query("list chains"))


# --- from records to rules: pure ------------------------------------------------------------------------


def port_rows(connection: sqlite3.Connection, container_id: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(_PORTS, (container_id,))]


def network_rules(network: Network) -> NetworkRules:
    subnets = [network[key] for key in ("subnet", "subnet6") if network[key]]
    gateways = [network[key] for key in ("gateway", "gateway6") if network[key]]
    return NetworkRules(network["bridge"], subnets, gateways, network["internal"], network["isolated"])


def pinned(wires: Iterable[Wire]) -> list[PinnedPort]:
    return [
        PinnedPort(wire["link"], wire["mac"], [address for address in (wire["ip"], wire["ip6"]) if address])
        for wire in wires
        if _has_bridge(wire)
    ]


def asked(wires: Sequence[Wire]) -> list[SharedServer]:
    """Where a container on several networks with name servers asks, by whichever of them."""
    named = [wire for wire in wires if has_names(wire["network"])]
    if len(named) < 2:
        return []
    server = server_of(wire["network"]["id"] for wire in named)
    where = shared_address(server), shared_zone(server)
    return [SharedServer(wire["network"]["bridge"], wire["ip"], *where) for wire in named]


def published(wires: Sequence[Wire], ports: Iterable[PortRow]) -> list[PublishedPort]:
    """All that lead to a container with these endpoints. To ::1 the kernel can lead nothing."""
    targets = published_addresses(wires)
    found = []
    for port in ports:
        host_ip = port["host_ip"]
        for version, address in targets.items():
            if host_ip != LOOPBACK6 and covers(host_ip, version):
                at = "" if host_ip in (_ALL_IPV4, _ALL_IPV6) else host_ip
                numbers = port["host_port"], address, port["container_port"]
                found.append(PublishedPort(port["protocol"], *numbers, at))
    return found


def forwarded(wires: Sequence[Wire], ports: Iterable[PortRow]) -> list[Forward]:
    """Those at ::1. They lead to any address of the container's; while it has none, nowhere: ``""``."""
    address = next(iter(published_addresses(wires).values()), "")
    return [
        Forward(port["protocol"], port["host_port"], address, port["container_port"])
        for port in ports
        if port["host_ip"] in ("", _ALL_IPV6, LOOPBACK6) and port["protocol"] in ("tcp", "udp")
    ]


def published_addresses(wires: Sequence[Wire]) -> dict[int, str]:
    """The addresses of a container that its published ports lead to, by version of IP: those on the first
    network that others may reach."""
    found: dict[int, str] = {}
    for wire in wires:
        if _has_bridge(wire) and not wire["network"]["internal"]:
            for version, key in ((4, "ip"), (6, "ip6")):
                if wire[key]:
                    found.setdefault(version, wire[key])
    return found


def covers(host_ip: str, version: int) -> bool:
    """Whether a port that is published at `host_ip` is one of this version of IP."""
    return not host_ip or (":" in host_ip) == (version == 6)


def _has_bridge(wire: Wire) -> bool:
    return bool(wire["network"]["driver"] == "bridge")
