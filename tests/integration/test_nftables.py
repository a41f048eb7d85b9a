"""The rules for networks and ports, between namespaces that play host, containers and a machine outside."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from lxcwrap.drivers import links, netns
from lxcwrap.net.ruleset import Part, PublishedPort
from tests.netlab import HOST, HOST6, OUTSIDE, OUTSIDE6, Container, Lab, lab

PORT = 8080


class World(SimpleNamespace):
    """Two networks, an internal and an isolated one; each container answers on port 80."""

    lab: Lab
    web: Container
    peer: Container
    other: Container
    inner: Container
    inner_peer: Container
    lone: Container
    lone_peer: Container


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with lab() as made:
        front, back = made.network(), made.network()
        internal, isolated = made.network(internal=True), made.network(isolated=True)
        world = World(
            lab=made,
            web=made.container(front, 2),
            peer=made.container(front, 3),
            other=made.container(back, 2),
            inner=made.container(internal, 2),
            inner_peer=made.container(internal, 3),
            lone=made.container(isolated, 2),
            lone_peer=made.container(isolated, 3),
        )
        for place in vars(world).values():
            if isinstance(place, Container):
                for address in (place.ip, place.ip6):
                    place.serve((address, 80))
                    place.serve((address, 80), udp=True)
                made.host.ask((place.ip6, 80))  # a bridge's first port may be a second late with IPv6
        for address in (OUTSIDE, OUTSIDE6):
            made.outside.serve((address, 80))
        made.host.serve(("127.0.0.1", 9999))
        made.host.serve(("10.88.2.1", 53), udp=True)
        yield world


@contextmanager
def added(lab: Lab, *parts: Part) -> Iterator[None]:
    lab.nft.run(lab.tables.add(*parts))
    try:
        yield
    finally:
        lab.nft.run(lab.tables.delete(*parts))


def everywhere(container: Container, *, host_port: int = PORT) -> tuple[PublishedPort, ...]:
    """Its port 80, by both protocols and IP versions."""
    return tuple(
        PublishedPort(protocol, host_port, address, 80)
        for protocol in ("tcp", "udp")
        for address in (container.ip, container.ip6)
    )


@pytest.mark.parametrize("udp", [False, True], ids=["tcp", "udp"])
def test_published_ports_are_reached_from_everywhere(world: World, udp: bool) -> None:
    """From other machines, seen with their own address; from the host by any of its addresses but ::1; from
    the container itself, its peers, and containers of other networks."""
    web, host = world.web, world.lab.host
    with added(world.lab, *everywhere(web)):
        assert world.lab.outside.ask((HOST, PORT), udp=udp) == OUTSIDE
        assert world.lab.outside.ask((HOST6, PORT), udp=udp) == OUTSIDE6
        for address in (HOST, HOST6, "127.0.0.1", "10.88.1.1", "fd88:1::1"):
            assert host.ask((address, PORT), udp=udp)
        for container in (web, world.peer, world.other, world.lone):
            for address in (HOST, HOST6):
                assert container.ask((address, PORT), udp=udp)


def test_ipv6_loopback_refuses_at_once(world: World) -> None:
    """So that clients go on to 127.0.0.1, instead of waiting."""
    with added(world.lab, *everywhere(world.web)), pytest.raises(ConnectionRefusedError):
        world.lab.host.ask(("::1", PORT))


def test_a_port_published_at_one_address_is_there_alone(world: World) -> None:
    """127.0.0.1 is for the host only; no container gets there by way of its gateway."""
    lab, web = world.lab, world.web
    with added(lab, PublishedPort("tcp", PORT, web.ip, 80, host_ip="127.0.0.1")):
        assert lab.host.ask(("127.0.0.1", PORT))
        for place in (lab.outside, lab.host, world.other):
            assert not place.reaches((HOST, PORT))
    with added(lab, PublishedPort("tcp", PORT, web.ip6, 80, host_ip=HOST6)):
        assert lab.outside.ask((HOST6, PORT)) == OUTSIDE6
        assert not lab.host.reaches(("fd88:1::1", PORT))


def test_the_hosts_loopback_stays_its_own(world: World) -> None:
    """Bridges route 127.0.0.0/8; a container that sends there gets no answer."""
    lab, web = world.lab, world.web
    assert lab.host.sysctl("ipv4/conf/lxct1/route_localnet") == "1"
    # As root of a container may do, whose kernel would else keep 127.0.0.0/8 to itself.
    web.net.apply(
        links.route("127.0.0.1/32", via="10.88.1.1", index=web.net.index("eth0")),
        links.delete_address(links.LOOPBACK, "127.0.0.1/8"),
    )
    with netns.within(web.fd):
        Path("/proc/sys/net/ipv4/conf/eth0/route_localnet").write_text("1")
    assert not web.reaches(("127.0.0.1", 9999))
    web.net.apply(
        links.delete_route("127.0.0.1/32", via="10.88.1.1"), links.address(links.LOOPBACK, "127.0.0.1/8")
    )


def test_ranges_keep_their_order(world: World) -> None:
    """Port 7001 of 7000..7002 leads to the second of the container's."""
    with added(world.lab, PublishedPort("tcp", 7000, world.web.ip, 79, span=3)):
        assert world.lab.outside.ask((HOST, 7001)) == OUTSIDE
        with pytest.raises(ConnectionRefusedError):
            world.lab.outside.ask((HOST, 7000))


def test_a_port_is_published_once(world: World) -> None:
    """To publish it elsewhere is refused, with all that goes along; to unpublish what is another's, too."""
    lab, taken = world.lab, PublishedPort("tcp", PORT, world.web.ip, 80)
    another = taken._replace(address=world.other.ip)
    with added(lab, taken):
        lab.nft.run(lab.tables.add(taken))
        for commands in (lab.tables.add(taken._replace(host_port=7000), another), lab.tables.delete(another)):
            with pytest.raises(FileExistsError):
                lab.nft.run(commands)
        assert lab.outside.ask((HOST, PORT)) == OUTSIDE
        assert not lab.outside.reaches((HOST, 7000))
    lab.nft.run(lab.tables.delete(taken))
    assert not lab.outside.reaches((HOST, PORT))


def test_questions_to_the_name_server_are_its_own(world: World) -> None:
    """A container that publishes port 53 does not get what others ask their gateway."""
    lab, web = world.lab, world.web
    published = PublishedPort("udp", 53, web.ip, 80), PublishedPort("tcp", 53, web.ip, 80)
    with added(lab, *published):
        assert world.other.ask(("10.88.2.1", 53), udp=True) == world.other.ip
        assert lab.outside.ask((HOST, 53), udp=True) == OUTSIDE


def test_networks_are_apart(world: World) -> None:
    """Containers reach their own network; no other, nor does another machine that knows the way."""
    web = world.web
    for address in ("ip", "ip6"):
        assert world.peer.ask((getattr(web, address), 80)) == getattr(world.peer, address)
        for place in (world.other, world.inner, world.lone, world.lab.outside):
            assert not place.reaches((getattr(web, address), 80))


def test_containers_reach_out_with_the_hosts_address(world: World) -> None:
    """Masqueraded, IPv4 and IPv6."""
    assert world.web.ask((OUTSIDE, 80)) == HOST
    assert world.web.ask((OUTSIDE6, 80)) == HOST6


def test_internal_networks_have_no_way_out_or_in(world: World) -> None:
    """Not by published ports either, neither their own nor another's; among themselves they talk."""
    inner = world.inner
    assert world.inner_peer.ask((inner.ip, 80)) == world.inner_peer.ip
    assert world.inner_peer.ask((inner.ip6, 80)) == world.inner_peer.ip6
    for address in (OUTSIDE, OUTSIDE6):
        assert not inner.reaches((address, 80))
    with added(world.lab, *everywhere(inner), *everywhere(world.web, host_port=7000)):
        assert not world.lab.outside.reaches((HOST, PORT))
        assert not world.other.reaches((HOST6, PORT))
        assert not inner.reaches((HOST, 7000))
        assert world.lab.host.ask(("127.0.0.1", PORT))


def test_containers_of_an_isolated_network_do_not_see_each_other(world: World) -> None:
    """Neither directly nor by way of their gateway; outside they get, and their published ports work."""
    lone, peer = world.lone, world.lone_peer
    assert not peer.reaches((lone.ip, 80))
    route = {"via": "10.88.4.1", "index": peer.net.index("eth0")}
    peer.net.apply(links.route(f"{lone.ip}/32", **route))  # type: ignore[arg-type]
    assert not peer.reaches((lone.ip, 80))
    assert lone.ask((OUTSIDE, 80)) == HOST
    with added(world.lab, *everywhere(lone)):
        assert world.lab.outside.ask((HOST, PORT)) == OUTSIDE
        assert world.lab.host.ask(("127.0.0.1", PORT))


def test_replacing_leaves_exactly_what_is_named(world: World) -> None:
    """As after a crash."""
    lab = world.lab
    before = lab.rules()
    lab.nft.run(lab.tables.add(PublishedPort("tcp", 7000, world.other.ip, 80)))
    lab.nft.run(lab.tables.replace(*lab.parts, *everywhere(world.web)))
    assert lab.outside.ask((HOST, PORT)) == OUTSIDE
    assert not lab.outside.reaches((HOST, 7000))
    lab.nft.run(lab.tables.replace(*lab.parts))
    assert lab.rules() == before


def test_creating_again_changes_nothing(world: World) -> None:
    """The rules are there once, the elements stay."""
    before = world.lab.rules()
    world.lab.nft.run(world.lab.tables.create())
    assert world.lab.rules() == before


def test_adding_and_deleting_twice_is_once() -> None:
    """And what is removed leaves no trace, of elements and of tables."""
    with lab() as made:
        empty = made.rules()
        web = made.container(made.network(), 2)
        parts = (*made.parts, *everywhere(web))
        for commands in (made.tables.add(*parts), made.tables.delete(*parts), made.tables.delete(*parts)):
            made.nft.run(commands)
        assert made.rules() == empty
        for _ in range(2):
            made.nft.run(made.tables.remove())
        assert made.rules() == []


def test_root_directories_share_a_machine(world: World) -> None:
    """Each has tables of its own; their containers are apart, reach each other's published ports, and what
    one removes concerns no other."""
    lab = world.lab
    before = lab.rules()
    with lab.another_root("second") as second:
        web = second.container(second.network(), 2)
        web.serve((web.ip, 80))
        for place in (world.web, lab.outside):
            assert not place.reaches((web.ip, 80))
        assert not web.reaches((world.web.ip, 80))
        with (
            added(second, PublishedPort("tcp", PORT, web.ip, 80)),
            added(lab, *everywhere(world.web, host_port=7000)),
        ):
            assert lab.outside.ask((HOST, PORT)) == OUTSIDE
            assert world.web.ask((HOST, PORT))
            assert web.ask((HOST, 7000))
            assert web.ask((OUTSIDE, 80)) == HOST
    assert lab.rules() == before


def test_any_thread_and_a_forked_child_may_change_rules(world: World) -> None:
    """A child does not take the answers meant for its parent."""
    lab = world.lab
    before = lab.rules()
    ports = [PublishedPort("tcp", 20000 + number, world.web.ip, 80) for number in range(64)]
    with netns.within(lab.host.fd):  # of a fork, the child's thread is where this one is
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda port: lab.nft.run(lab.tables.add(port)), ports))
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                for port in ports[::2]:
                    lab.nft.run(lab.tables.delete(port))
                os._exit(0)
            os._exit(1)
        for port in ports[1::2]:
            lab.nft.run(lab.tables.delete(port))
        assert os.waitpid(child, 0)[1] == 0
    assert lab.rules() == before


def test_what_nft_does_not_know_is_said(world: World) -> None:
    """With errno, and in its own words."""
    for commands, number in (
        ("no such command", errno.EINVAL),
        ("add element inet lxcwrap_none bridges { x }", errno.ENOENT),
        ("delete table inet lxcwrap_none", errno.ENOENT),
    ):
        with pytest.raises(OSError) as caught:
            world.lab.nft.run(commands)
        assert caught.value.errno == number
        assert commands in str(caught.value)
