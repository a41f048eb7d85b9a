"""The records of networks and endpoints: a lease is a row, and goes with its container's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.drivers.pidfd import start_time
from lxcwrap.errors import (
    AddressInUseError,
    ExhaustedError,
    InvalidSpecError,
    NameInUseError,
    NetworkNotFoundError,
    StillUsedError,
)
from lxcwrap.net.store import NetworkStore, Owner
from lxcwrap.netspecs import Endpoint, NetworkSpec
from lxcwrap.storage.state import State

SPEC = NetworkSpec(
    subnet="10.0.0.0/29", gateway="10.0.0.1", subnet6="fd00::/64", gateway6="fd00::1", mtu=1500
)


class Records:
    def __init__(self, path: Path) -> None:
        self.state = State(path)
        self.store = NetworkStore(self.state)
        with self.state.transaction() as change:
            self.front = self.store.add(change, "front", SPEC)

    def container(self, name: str) -> str:
        values = (name * 8, name, None, "created", None, "{}", 0.0, 1, 1)
        with self.state.transaction() as change:
            change.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
        return name * 8

    def lease(self, container_id: str, endpoint: Endpoint = Endpoint(), **more: Any) -> dict[str, Any]:  # noqa: B008  # frozen
        with self.state.transaction() as change:
            self.store.lease(change, container_id, {"front": endpoint}, **more)
        return self.store.wires(container_id)[-1]

    def forget(self, container_id: str) -> None:
        with self.state.transaction() as change:
            change.execute("DELETE FROM containers WHERE id = ?", (container_id,))


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path / "state.db")


def test_addresses_are_free_again_with_the_container(records: Records) -> None:
    """Five fit; the sixth waits for one to go."""
    made = [records.container(f"c{number}") for number in range(6)]
    ips = [records.lease(each)["ip"] for each in made[:5]]
    assert ips == [f"10.0.0.{number}" for number in range(2, 7)]
    with pytest.raises(ExhaustedError):
        records.lease(made[5])
    assert records.store.wires(made[5]) == []
    records.forget(made[2])
    assert records.lease(made[5])["ip"] == "10.0.0.4"


def test_a_lease_is_complete(records: Records) -> None:
    """Addresses of both versions, a MAC, an interface, and the name of a link that is nobody else's."""
    one, other = records.lease(records.container("a")), records.lease(records.container("b"))
    assert (one["ip"], one["ip6"], one["interface"]) == ("10.0.0.2", "fd00::2", "eth0")
    assert one["mac"] != other["mac"] and one["link"] != other["link"] and len(one["link"]) == 15
    assert one["network"]["name"] == "front" and one["network"]["subnet"] == SPEC.subnet


def test_what_is_asked_for(records: Records) -> None:
    """Is had, or refused with who has it."""
    wanted = Endpoint(
        ip="10.0.0.5", ip6="fd00::5", mac="02:AA:00:00:00:05", aliases=["WWW"], interface="net0"
    )
    wire = records.lease(records.container("a"), wanted)
    assert (wire["ip"], wire["ip6"], wire["mac"]) == ("10.0.0.5", "fd00::5", "02:aa:00:00:00:05")
    assert (wire["interface"], wire["aliases"]) == ("net0", '["www"]')
    late = records.container("b")
    for taken in ({"ip": "10.0.0.5"}, {"ip6": "fd00::5"}, {"mac": "02:aa:00:00:00:05"}):
        with pytest.raises(AddressInUseError) as caught:
            records.lease(late, Endpoint(**taken))
        assert caught.value.user == "a"
    for wrong in ({"ip": "10.0.1.5"}, {"ip": "10.0.0.1"}, {"mac": "01:00:00:00:00:01"}, {"aliases": ["a b"]}):
        with pytest.raises(InvalidSpecError):
            records.lease(late, Endpoint(**wrong))
    assert records.store.wires(late) == []


def test_a_network_in_use_is_not_removed(records: Records) -> None:
    """Its users are told."""
    container = records.container("a")
    records.lease(container)
    with pytest.raises(StillUsedError) as caught, records.state.transaction() as change:
        records.store.delete(change, records.front)
    assert caught.value.users == ["a"]
    records.forget(container)
    with records.state.transaction() as change:
        records.store.delete(change, records.front)
    with pytest.raises(NetworkNotFoundError):
        records.store.row(records.front)


def test_networks_are_found(records: Records) -> None:
    """By name, id and prefix; names are unique."""
    for key in ("front", records.front, records.front[:8]):
        assert records.store.find(key) == records.front
    for key in ("fron", records.front[:1], "", "back"):
        with pytest.raises(NetworkNotFoundError):
            records.store.find(key)
    with pytest.raises(NameInUseError), records.state.transaction() as change:
        records.store.add(change, "front", SPEC)
    assert records.store.subnets() == {"10.0.0.0/29", "fd00::/64"}
    assert records.store.spec(records.front) == SPEC


def test_what_a_dead_owner_began_is_abandoned(records: Records) -> None:
    """What a living one does is not, nor what is done."""
    me: Owner = (os.getpid(), start_time(os.getpid()))
    owners: dict[str, Owner] = {"a": me, "b": (os.getpid(), 1), "c": (None, None)}
    made = {name: records.container(name) for name in owners}
    for name, owner in owners.items():
        records.lease(made[name], owner=owner)
    assert records.store.abandoned() == [(made["b"], records.front)]
    with records.state.transaction() as change:
        records.store.release(change, made["b"], records.front)
    assert records.store.abandoned() == []
