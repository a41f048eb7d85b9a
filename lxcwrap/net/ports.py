"""Published ports: which of the host's lead to which container. The records, and the kernel alike.

A port belongs to its container as long as that exists, also while it does not run.
"""

from __future__ import annotations

import errno
import secrets
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from attrs import asdict

from ..errors import ExhaustedError, InvalidSpecError, PortInUseError, UnsupportedError
from ..netspecs import Port, PortBinding
from ..storage.outbox import tell
from ..storage.root import RootDir
from ..storage.state import State
from .firewall import LOOPBACK6, Firewall, covers, port_rows, published_addresses
from .plumbing import wires
from .store import NetworkStore

if TYPE_CHECKING:
    from .firewall import Forward, Recorded

_HOLDERS = """
    SELECT name, host_ip FROM ports JOIN containers ON containers.id = container_id
    WHERE protocol = ? AND host_port = ?
"""
_INSERT = """
    INSERT INTO ports (container_id, protocol, host_ip, host_port, container_port) VALUES (?, ?, ?, ?, ?)
"""
_DELETE = "DELETE FROM ports WHERE protocol = ? AND host_ip = ? AND host_port = ?"
_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}
_EPHEMERAL = "/proc/sys/net/ipv4/ip_local_port_range"
_LEAST_CHOICE = 1024


class PortStore:
    """The published ports under one root directory. Safe from any thread and process."""

    def __init__(self, root: RootDir, state: State) -> None:
        self._root, self._state = root, state
        self._firewall = Firewall(root.path)

    def bindings(self, container_id: str) -> tuple[PortBinding, ...]:
        rows = port_rows(self._state.connection, container_id)
        found = (PortBinding(**row) for row in rows)
        return tuple(sorted(found, key=lambda port: (port.container_port, port.protocol, port.host_port)))

    def claim(
        self, change: sqlite3.Connection, container_id: str, ports: Sequence[Port]
    ) -> tuple[PortBinding, ...]:
        """Record that they lead to a container, whose endpoints are recorded; free ones are chosen.

        Raises InvalidSpecError: none can lead there; PortInUseError, ExhaustedError; UnsupportedError: this
        kernel does not have the protocol.
        """
        targets = published_addresses(wires(change, container_id))
        claimed = []
        for port in ports:
            _check_protocol(port.protocol)
            _check_target(port, targets)
            wanted: Iterable[int | None] = port.host_ports or [None] * len(port.container_ports)
            for container_port, host_port in zip(port.container_ports, wanted, strict=True):
                if host_port:
                    _check_free(change, port.protocol, port.host_ip, host_port)
                binding = PortBinding(
                    container_port=container_port,
                    host_port=host_port or self._choose(change, port.protocol, port.host_ip),
                    host_ip=port.host_ip,
                    protocol=port.protocol,
                )
                values = (binding.protocol, binding.host_ip, binding.host_port, container_port)
                change.execute(_INSERT, (container_id, *values))
                tell(change, "published", id=container_id, port=asdict(binding))
                claimed.append(binding)
        return tuple(claimed)

    def check(self, container_id: str) -> None:
        """Before a start: that no process of the host has come to listen there. Raises PortInUseError."""
        for binding in self.bindings(container_id):
            _probe(binding.protocol, binding.host_ip, binding.host_port)

    def publish(self, container_id: str, ports: Sequence[Port]) -> tuple[PortBinding, ...]:
        """`claim`, at once if the container runs."""
        with self._firewall.recording(self._recorded), self._state.transaction() as change:
            claimed = self.claim(change, container_id, ports)
            self._lead(change, container_id)
        return claimed

    def forwards(self, container_id: str, bindings: Iterable[PortBinding]) -> list[Forward]:
        """Which of them a process is to serve at ::1 now."""
        exposed = self._firewall.exposed(container_id)
        wanted = {(binding.protocol, binding.host_port) for binding in bindings}
        found = exposed.forwards if exposed else ()
        return [each for each in found if (each.protocol, each.host_port) in wanted]

    def unpublish(self, container_id: str, ports: Sequence[Port | PortBinding]) -> list[Forward]:
        """All that lead to this port of the container, or those of them at the given port and address of the
        host; those of them that a process serves still. Connections that there are stay.

        Raises InvalidSpecError: there is none.
        """
        with self._firewall.recording(self._recorded), self._state.transaction() as change:
            there = self.bindings(container_id)
            leaving = {binding for which in ports for binding in _meant(which, there)}
            served = self.forwards(container_id, leaving)
            for binding in leaving:
                change.execute(_DELETE, (binding.protocol, binding.host_ip, binding.host_port))
                tell(change, "unpublished", id=container_id, port=asdict(binding))
            self._lead(change, container_id)
        return served

    @contextmanager
    def following(self, container_id: str) -> Iterator[sqlite3.Connection]:
        """A transaction that changes the endpoints of a container: the kernel follows."""
        with ExitStack() as stack:
            has_ports = bool(self.bindings(container_id))
            firewall = self._firewall
            stack.enter_context(firewall.recording(self._recorded) if has_ports else firewall.shared())
            change = stack.enter_context(self._state.transaction())
            yield change
            self._lead(change, container_id)

    def _lead(self, change: sqlite3.Connection, container_id: str) -> None:
        """Let the kernel do as the records say."""
        rows = port_rows(change, container_id)
        self._firewall.records_changed(container_id, wires(change, container_id), rows)

    def _recorded(self) -> Recorded:
        connection, store = self._state.connection, NetworkStore(self._state)
        ids = [row[0] for row in connection.execute("SELECT DISTINCT container_id FROM endpoints")]
        return (
            map(store.network, store.ids()),
            [(each, wires(connection, each), port_rows(connection, each)) for each in ids],
        )

    def clean(self) -> bool:
        """Put right what a killed process has begun; whether there was anything."""
        return self._firewall.clean(self._recorded)

    def _choose(self, change: sqlite3.Connection, protocol: str, host_ip: str) -> int:
        """One that the kernel gives to nobody by itself: of such a program must not find out only when nobody
        reaches it."""
        for host_port in _candidates():
            try:
                _check_free(change, protocol, host_ip, host_port)
            except PortInUseError:
                continue
            return host_port
        raise ExhaustedError("port", f"{host_ip or 'the host'}, {protocol}")


def _candidates() -> Iterator[int]:
    """From anywhere on, as who has just lost a port may still be asked for."""
    with open(_EPHEMERAL) as file:
        first, last = map(int, file.read().split())
    above, below = range(last + 1, 65536), range(1024, first)
    found = above if len(above) >= _LEAST_CHOICE else below or range(1024, 65536)
    start = secrets.randbelow(len(found))
    yield from found[start:]
    yield from found[:start]


def _check_protocol(protocol: str) -> None:
    """The kernel would lead packets of SCTP also without having it, to containers that cannot take them."""
    try:
        socket.socket(socket.AF_INET, *_KINDS[protocol]).close()
    except OSError as error:
        if error.errno != errno.EPROTONOSUPPORT:
            raise
        what = f"this kernel has no {protocol.upper()} ({error.strerror})"
        raise UnsupportedError(what, f"modprobe {protocol}, or take another kernel") from None


def _check_target(port: Port, targets: dict[int, str]) -> None:
    if not targets:
        raise InvalidSpecError(
            f"{port}: it is on no bridge network that leads outside: put it on one by network= or connect()"
        )
    if port.host_ip != LOOPBACK6 and not any(covers(port.host_ip, version) for version in targets):
        raise InvalidSpecError(f"{port}: its network has no IPv6")


def _check_free(change: sqlite3.Connection, protocol: str, host_ip: str, host_port: int) -> None:
    for row in change.execute(_HOLDERS, (protocol, host_port)):
        if _overlap(row["host_ip"], host_ip):
            raise PortInUseError(protocol, row["host_ip"], host_port, row["name"])
    _probe(protocol, host_ip, host_port)


def _overlap(one: str, other: str) -> bool:
    """Whether a connection may be meant for both of these addresses of the host."""
    if one == other or not one or not other:
        return True
    return (":" in one) == (":" in other) and ({one, other} & {"0.0.0.0", "::"} != set())


def _probe(protocol: str, host_ip: str, host_port: int) -> None:
    """That no process listens there. Raises PortInUseError; InvalidSpecError: not an address of the host."""
    for address in [host_ip] if host_ip else ["0.0.0.0", "::"]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, *_KINDS[protocol]) as probe:
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                if protocol != "udp":  # where two that listen could share it
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections may linger
                probe.bind((address, host_port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(protocol, host_ip, host_port) from None
            if error.errno == errno.EADDRNOTAVAIL and host_ip:
                raise InvalidSpecError(f"host_ip={host_ip!r}: not an address of this host") from None
            if error.errno not in (errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise


def _taken(protocol: str, host_ip: str, host_port: int) -> PortInUseError:
    from ..drivers.listeners import holder

    found = holder(protocol, host_ip, host_port)
    if found is None:
        return PortInUseError(protocol, host_ip, host_port, "a process of the host that listens there")
    return PortInUseError(protocol, host_ip, host_port, f"process {found.pid} ({found.command})", *found)


def _meant(which: Port | PortBinding, there: Iterable[PortBinding]) -> list[PortBinding]:
    found = [binding for binding in there if _is_meant(which, binding)]
    if not found:
        raise InvalidSpecError(f"{which}: no such port is published")
    return found


def _is_meant(which: Port | PortBinding, binding: PortBinding) -> bool:
    if isinstance(which, PortBinding):
        return which == binding
    return (
        which.protocol == binding.protocol
        and binding.container_port in which.container_ports
        and (which.host_ports is None or binding.host_port in which.host_ports)
        and which.host_ip in ("", binding.host_ip)
    )
