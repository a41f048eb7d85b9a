"""The records of networks and endpoints. A lease is an endpoint's row: it ends with it, or its container's.

Nothing here touches the kernel: see plumbing.py.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import asdict

from ..drivers.pidfd import start_time
from ..errors import AddressInUseError, InvalidSpecError, NameInUseError, NetworkNotFoundError, StillUsedError
from ..netspecs import Endpoint, NetworkSpec, Rate, as_rate
from ..storage.outbox import tell
from ..storage.state import State
from .ipam import Subnet, check_mac, mac_of
from .names import bridge_name, check_alias, veth_name
from .plumbing import Network, Wire, wires

_BY_KEY = """
    SELECT * FROM networks WHERE name = :key OR (length(:key) > 1 AND id >= :key AND id < :key || 'g')
    ORDER BY name = :key DESC LIMIT 2
"""
_USERS = """
    SELECT containers.id, containers.name FROM endpoints JOIN containers ON containers.id = container_id
    WHERE network_id = ? AND phase != 'building' ORDER BY containers.created_at
"""
_HOLDER = """
    SELECT containers.name FROM endpoints JOIN containers ON containers.id = container_id
    WHERE network_id = ? AND {column} = ?
"""
_INSERT = "INSERT INTO endpoints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
Owner = tuple[int, int | None] | tuple[None, None]
NOBODY: Owner = (None, None)
# Where rates are: that of a network; of a container, on all its networks; of one on one.
_NETWORK_RATE = "networks", "spec", "$.rate", "id = :network"
_CONTAINER_RATE = "containers", "spec", "$.limits.network_rate", "id = :container"
_ENDPOINT_RATE = "endpoints", "rate", "$", "network_id = :network AND container_id = :container"


class NetworkStore:
    """The networks under one root directory. Safe from any thread and process."""

    def __init__(self, state: State) -> None:
        self._state = state

    # --- networks ---

    def find(self, key: str) -> str:
        """Id of the network with this name, id or unique prefix of one. Raises NetworkNotFoundError."""
        rows = self._state.connection.execute(_BY_KEY, {"key": key}).fetchall()
        if not rows or (len(rows) > 1 and rows[0]["name"] != key):
            raise NetworkNotFoundError(key)
        return str(rows[0]["id"])

    def row(self, network_id: str) -> Mapping[str, Any]:
        """Raises NetworkNotFoundError when it was removed."""
        query = "SELECT * FROM networks WHERE id = ?"
        found: Mapping[str, Any] | None = self._state.connection.execute(query, (network_id,)).fetchone()
        if found is None:
            raise NetworkNotFoundError(network_id[:12])
        return found

    def spec(self, network_id: str) -> NetworkSpec:
        return NetworkSpec(**json.loads(self.row(network_id)["spec"]))

    def network(self, network_id: str) -> Network:
        """As the kernel's side knows it."""
        row = self.row(network_id)
        return {**json.loads(row["spec"]), **{key: row[key] for key in ("id", "name", "bridge")}}

    def ids(self) -> list[str]:
        """The newest first."""
        query = "SELECT id FROM networks ORDER BY created_at DESC, id"
        return [row["id"] for row in self._state.connection.execute(query)]

    def users(self, network_id: str) -> list[tuple[str, str]]:
        """Id and name of the containers on it, also of those that do not run."""
        return [(row["id"], row["name"]) for row in self._state.connection.execute(_USERS, (network_id,))]

    def subnets(self) -> set[str]:
        """Of all networks."""
        found: set[str] = set()
        for row in self._state.connection.execute("SELECT spec FROM networks"):
            spec = json.loads(row["spec"])
            found |= {spec["subnet"], spec["subnet6"]} - {""}
        return found

    def add(self, change: sqlite3.Connection, name: str, spec: NetworkSpec) -> str:
        """Its id. Raises NameInUseError."""
        network_id = os.urandom(32).hex()
        values = (network_id, name, json.dumps(asdict(spec)), bridge_name(network_id), time.time(), "", "")
        try:
            change.execute("INSERT INTO networks VALUES (?, ?, ?, ?, ?, ?, ?)", values)
            tell(change, "network_created", network_id=network_id, network=name)
        except sqlite3.IntegrityError:
            raise NameInUseError("network", name) from None
        return network_id

    def delete(self, change: sqlite3.Connection, network_id: str) -> None:
        """Raises StillUsedError, NetworkNotFoundError."""
        name = self.row(network_id)["name"]
        try:
            change.execute("DELETE FROM networks WHERE id = ?", (network_id,))
        except sqlite3.IntegrityError:
            raise StillUsedError("network", name, [user for _, user in self.users(network_id)]) from None
        tell(change, "network_removed", network_id=network_id, network=name)

    # --- endpoints ---

    def wires(self, container_id: str) -> list[Wire]:
        return wires(self._state.connection, container_id)

    def lease(
        self,
        change: sqlite3.Connection,
        container_id: str,
        wanted: Mapping[str, Endpoint],
        owner: Owner = NOBODY,
    ) -> None:
        """Addresses for a container, by the names of networks.

        owner: process and its start time, that makes or removes the link just now. Raises AddressInUseError,
        ExhaustedError, InvalidSpecError, NetworkNotFoundError.
        """
        for name, endpoint in wanted.items():
            network_id = self.find(name)
            row, spec = self.row(network_id), self.spec(network_id)
            ip = self._address(change, row, Subnet(spec.subnet, spec.gateway), "ip", endpoint.ip)
            ip6 = None
            if spec.subnet6:
                subnet6 = Subnet(spec.subnet6, spec.gateway6)
                ip6 = self._address(change, row, subnet6, "ip6", endpoint.ip6)
            elif endpoint.ip6:
                raise InvalidSpecError(f"address {endpoint.ip6}: network {name} has no IPv6")
            mac = check_mac(endpoint.mac) if endpoint.mac else mac_of(ip)
            self._check_free(change, row, "mac", mac)
            names = self._interfaces(change, container_id)
            interface = endpoint.interface or next(each for each in _eths() if each not in names)
            if interface in names:
                raise InvalidSpecError(f"interface {interface!r}: each can be used once")
            aliases = json.dumps([check_alias(alias) for alias in endpoint.aliases])
            link = veth_name(os.urandom(6).hex())
            position = max(names.values(), default=-1) + 1
            leased = (position, interface, link, ip, ip6, mac, aliases, *owner, _rate_text(endpoint.rate))
            values = (container_id, network_id, *leased)
            change.execute(_INSERT, values)
            if owner == NOBODY:
                self._tell(change, "connected", container_id, network_id)

    def change_rate(
        self,
        change: sqlite3.Connection,
        network_id: str | None,
        container_id: str | None,
        rate: Rate | None,
    ) -> Rate | None:
        """That of a network, of a container, or of a container on a network; what it was. LookupError: there
        is no such thing."""
        table, column, path, which = _NETWORK_RATE
        if container_id:
            table, column, path, which = _ENDPOINT_RATE if network_id else _CONTAINER_RATE
        values = {"network": network_id, "container": container_id, "path": path, "rate": _rate_text(rate)}
        query = f"SELECT json_extract({column}, :path) FROM {table} WHERE {which}"
        found = change.execute(query, values).fetchone()
        if found is None:
            raise LookupError(network_id, container_id)
        written = "json(:rate)" if path == "$" else f"json_set({column}, :path, json(:rate))"
        change.execute(f"UPDATE {table} SET {column} = {written} WHERE {which}", values)
        return as_rate(json.loads(found[0])) if found[0] else None

    def release(self, change: sqlite3.Connection, container_id: str, network_id: str) -> None:
        query = "DELETE FROM endpoints WHERE container_id = ? AND network_id = ?"
        if change.execute(query, (container_id, network_id)).rowcount:
            self._tell(change, "disconnected", container_id, network_id)

    def connected(self, change: sqlite3.Connection, container_id: str, network_id: str) -> None:
        """Its link, which a process was making, is there."""
        self.own(change, container_id, network_id, NOBODY)
        self._tell(change, "connected", container_id, network_id)

    def own(self, change: sqlite3.Connection, container_id: str, network_id: str, owner: Owner) -> None:
        """Who is making or removing its link; `NOBODY`: that is done."""
        query = (
            "UPDATE endpoints SET owner_pid = ?, owner_start = ? WHERE container_id = ? AND network_id = ?"
        )
        change.execute(query, (*owner, container_id, network_id))

    def _tell(self, change: sqlite3.Connection, kind: str, container_id: str, network_id: str) -> None:
        name = self.row(network_id)["name"]
        tell(change, kind, id=container_id, network_id=network_id, network=name)

    def abandoned(self) -> list[tuple[str, str]]:
        """Container and network of endpoints whose owner was killed."""
        query = "SELECT * FROM endpoints WHERE owner_pid IS NOT NULL"
        return [
            (row["container_id"], row["network_id"])
            for row in self._state.connection.execute(query)
            if start_time(row["owner_pid"]) != row["owner_start"]
        ]

    def _address(
        self,
        change: sqlite3.Connection,
        row: Mapping[str, Any],
        subnet: Subnet,
        column: str,
        wanted: str | None,
    ) -> str:
        if wanted:
            address = subnet.check_address(wanted)
            self._check_free(change, row, column, address)
            return address
        # Mostly the next one is free: then nobody need read all that are not.
        address = subnet.free_address((), after=row[f"last_{column}"])
        query = f"SELECT {column} FROM endpoints WHERE network_id = ?"
        if change.execute(f"{query} AND {column} = ?", (row["id"], address)).fetchone():
            taken = [each[0] for each in change.execute(query, (row["id"],))]
            address = subnet.free_address(taken, after=address)
        change.execute(f"UPDATE networks SET last_{column} = ? WHERE id = ?", (address, row["id"]))
        return address

    def _check_free(
        self, change: sqlite3.Connection, row: Mapping[str, Any], column: str, value: str
    ) -> None:
        holder = change.execute(_HOLDER.format(column=column), (row["id"], value)).fetchone()
        if holder:
            raise AddressInUseError(value, holder["name"])

    def _interfaces(self, change: sqlite3.Connection, container_id: str) -> dict[str, int]:
        """With their positions."""
        query = "SELECT interface, position FROM endpoints WHERE container_id = ?"
        return dict(tuple(row) for row in change.execute(query, (container_id,)))


def _rate_text(rate: Rate | None) -> str | None:
    return None if rate is None else json.dumps(asdict(rate))


def _eths() -> Iterable[str]:
    return (f"eth{number}" for number in range(10_000))
