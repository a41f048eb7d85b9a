"""Beside the rules of others: as Docker, ufw and firewalld write them, in a namespace that plays the host."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap.drivers import netns
from lxcwrap.drivers.nftables import Nftables
from lxcwrap.net import firewall
from lxcwrap.net.foreign import Obstacle, accept, has_zone, obstacles, withdraw
from lxcwrap.net.names import bridge_name
from lxcwrap.net.ruleset import PublishedPort
from tests.netlab import HOST, HOST6, OUTSIDE, OUTSIDE6, TIMEOUT_S, Container, Lab, Place, lab

DOCKER = """
*filter
:FORWARD DROP
:DOCKER-USER -
-A FORWARD -j DOCKER-USER
-A FORWARD -m conntrack --ctstate ESTABLISHED -o docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""
# As firewalld 1.3.3 (Debian 12) makes them: as it is installed, and with our bridges in its trusted zone.
FIREWALLD = Path(__file__).with_name("firewalld")


class Scene:
    """A container `web` that publishes port 8080, and `peer`, on `bridge`."""

    def __init__(self, made: Lab) -> None:
        network = made.network()
        self.lab, self.bridge = made, network.bridge
        self.web, self.peer = made.container(network, 2), made.container(network, 3)
        for address in (self.web.ip, self.web.ip6):
            self.web.serve((address, 80))
            made.add(PublishedPort("tcp", 8080, address, 80))
        for address in (OUTSIDE, OUTSIDE6):
            made.outside.serve((address, 80))
        made.host.ask((self.web.ip6, 80))

    def works(self, *, ipv6: bool, timeout_s: float = TIMEOUT_S) -> set[bool]:
        """Of a published port, of the way out, and among containers: which work."""
        web = self.web.ip6 if ipv6 else self.web.ip
        tries: list[tuple[Place, str, int]] = [
            (self.lab.outside, HOST6 if ipv6 else HOST, 8080),
            (self.web, OUTSIDE6 if ipv6 else OUTSIDE, 80),
            (self.peer, web, 80),
        ]
        return {place.reaches((address, port), timeout_s=timeout_s) for place, address, port in tries}

    def found(self) -> list[Obstacle]:
        return obstacles(self.lab.nft.query("list chains"))

    def mend(self, obstacle: Obstacle) -> None:
        self.lab.nft.run(self.withdrawn(obstacle) + accept(obstacle, self.bridge, self.lab.tables.name))

    def withdrawn(self, obstacle: Obstacle) -> str:
        chain = f"list chain {obstacle.family} {obstacle.table} {obstacle.mends_in}"
        return withdraw(self.lab.nft.query(chain), self.bridge, self.lab.tables.name)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with lab() as made:
        yield Scene(made)


def restore(place: Place, rules: str, *, ipv6: bool) -> None:
    """By iptables itself, as Docker does."""
    command = ["ip6tables-restore" if ipv6 else "iptables-restore"]
    with netns.within(place.fd):
        subprocess.run(command, input=rules, text=True, check=True)


def saved(place: Place) -> str:
    with netns.within(place.fd):
        done = subprocess.run(["iptables", "-S"], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("user_chain", [True, False], ids=["docker", "ufw"])
def test_a_policy_to_drop_is_mended(scene: Scene, user_chain: bool, ipv6: bool) -> None:
    """In DOCKER-USER where there is one, else in FORWARD; and taken back without trace."""
    rules = DOCKER if user_chain else "*filter\n:FORWARD DROP\nCOMMIT\n"
    restore(scene.lab.host, rules, ipv6=ipv6)
    before = scene.lab.rules()
    assert scene.works(ipv6=ipv6) == {False}
    (obstacle,) = scene.found()
    assert obstacle.mends_in == ("DOCKER-USER" if user_chain else "FORWARD")
    for _ in range(2):  # which makes it no more rules
        scene.mend(obstacle)
    # A neighbour that did not answer is asked again after a second.
    assert scene.works(ipv6=ipv6, timeout_s=3) == {True}
    scene.lab.nft.run(scene.withdrawn(obstacle))
    assert scene.lab.rules() == before


def test_iptables_reads_our_rules(scene: Scene) -> None:
    """As its own, so that it can list and keep them. Packets to Docker's bridges go on through its rules."""
    restore(scene.lab.host, DOCKER, ipv6=False)
    scene.mend(scene.found()[0])
    lines = [line.replace(scene.bridge, "B") for line in saved(scene.lab.host).splitlines()]
    kept = [line.split(" -m ")[0] + " -j" + line.split("-j")[1] for line in lines if " B " in line]
    assert kept == [
        "-A DOCKER-USER -i B -o br-+ -j RETURN",
        "-A DOCKER-USER -i B -o docker+ -j RETURN",
        "-A DOCKER-USER -i B -j ACCEPT",
        "-A DOCKER-USER -o B -j ACCEPT",
    ]


def test_ours_still_hold_where_others_accept(scene: Scene) -> None:
    """What Docker's chain lets pass, our own table still drops: containers of other networks."""
    restore(scene.lab.host, DOCKER, ipv6=False)
    other: Container = scene.lab.container(scene.lab.network(), 2)
    scene.mend(scene.found()[0])
    assert not other.reaches((scene.web.ip, 80))
    assert not scene.lab.outside.reaches((scene.web.ip, 80))


def load_firewalld(scene: Scene, name: str) -> None:
    """The bridges here have other names than those of networks."""
    scene.lab.nft.run((FIREWALLD / f"{name}.nft").read_text().replace("lxb*", f"{scene.bridge[:4]}*"))


def asks_the_host(scene: Scene) -> bool:
    """As containers ask their name server."""
    gateway = scene.web.ip.rpartition(".")[0] + ".1"
    return scene.peer.reaches((gateway, 53), udp=True)


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_firewalld_needs_the_bridges_in_a_zone(scene: Scene, ipv6: bool) -> None:
    """As it is installed, published ports work and the way out does not; in its trusted zone all does, and
    networks are kept apart as before."""
    gateway = scene.web.ip.rpartition(".")[0] + ".1"
    scene.lab.host.serve((gateway, 53), udp=True)
    load_firewalld(scene, "default")
    assert not asks_the_host(scene)
    web = scene.web.ip6 if ipv6 else scene.web.ip
    assert scene.lab.outside.reaches((HOST6 if ipv6 else HOST, 8080))
    assert not scene.web.reaches((OUTSIDE6 if ipv6 else OUTSIDE, 80))
    scene.lab.nft.run("delete table inet firewalld")
    load_firewalld(scene, "trusted")
    assert scene.works(ipv6=ipv6, timeout_s=3) == {True} and asks_the_host(scene)
    stranger: Container = scene.lab.container(scene.lab.network(), 2)
    assert not stranger.reaches((web, 80)) and not scene.lab.outside.reaches((web, 80))


def test_a_zone_of_our_bridges_is_seen(scene: Scene) -> None:
    """Then there is nothing to do any more."""
    for name, is_there in (("default", False), ("trusted", True)):
        scene.lab.nft.run((FIREWALLD / f"{name}.nft").read_text())
        assert has_zone(scene.lab.nft.query("list table inet firewalld")) == is_there
        with netns.within(scene.lab.host.fd), Nftables() as nft, pytest.MonkeyPatch.context() as patch:
            patch.setattr(firewall, "_loaded", nft)
            assert any("firewall-cmd" in remedy for remedy in firewall.remedies()) == (not is_there)
        scene.lab.nft.run("delete table inet firewalld")


def test_what_only_an_administrator_can_mend_is_named(scene: Scene) -> None:
    """firewalld, a chain of somebody's own, and one that keeps containers from their name server: what is to
    be done, for the bridges of all networks at once."""
    assert scene.found() == []
    load_firewalld(scene, "default")
    scene.lab.nft.run("table inet own { chain gate { type filter hook forward priority 5; policy drop; }\n }")
    scene.lab.nft.run("table inet own { chain door { type filter hook input priority 5; policy drop; }\n }")
    assert scene.works(ipv6=False) == {False}
    found = scene.found()
    assert not any(item.mends_in for item in found)
    assert {(item.table, item.hook) for item in found} == {
        ("firewalld", "forward"),
        ("firewalld", "input"),
        ("own", "forward"),
        ("own", "input"),
    }
    assert all(bridge_name("") in item.remedy for item in found)
