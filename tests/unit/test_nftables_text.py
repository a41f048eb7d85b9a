"""The firewall's rules as text: what is in it, and what never gets into it."""

from __future__ import annotations

import re
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.drivers.nftables import Nftables
from lxcwrap.errors import UnsupportedError
from lxcwrap.net.foreign import Obstacle, accept, obstacles, withdraw
from lxcwrap.net.ruleset import (
    NetworkRules,
    Part,
    PinnedPort,
    PublishedPort,
    SharedServer,
    Tables,
    link_local,
)

TABLES = Tables("a1")
ELEMENT = re.compile(r"(add|delete) element (inet|bridge) lxcwrap_a1 (\w+) \{ (.+) \}")

links = st.from_regex(r"[a-z][a-z0-9._-]{0,14}", fullmatch=True)
macs = st.binary(min_size=6, max_size=6).map(lambda value: value.hex(":"))
addresses = st.ip_addresses().map(str)
networks = st.builds(
    NetworkRules,
    links,
    st.lists(st.builds("{}/{}".format, addresses, st.integers(0, 32)), max_size=2),
    st.lists(addresses, max_size=2),
    st.booleans(),
    st.booleans(),
)
pins = st.builds(PinnedPort, links, macs, st.lists(addresses, max_size=3))
addresses4 = st.ip_addresses(v=4).map(str)
servers = st.builds(SharedServer, links, addresses4, addresses4, st.integers(1, 65535))


@st.composite
def ports(draw: st.DrawFn) -> PublishedPort:
    own = draw(st.sampled_from((st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str))))
    return PublishedPort(
        draw(st.sampled_from(("tcp", "udp", "sctp"))),
        draw(st.integers(1, 65000)),
        draw(own),
        draw(st.integers(1, 65000)),
        host_ip=draw(st.just("") | own),
        span=draw(st.integers(1, 20)),
    )


parts = st.lists(networks | ports() | pins | servers, max_size=5)


def elements(text: str) -> list[tuple[str, ...]]:
    lines = text.splitlines()
    found = [ELEMENT.fullmatch(line) for line in lines]
    assert all(found), lines
    return [match.groups() for match in found if match]


@given(parts)
def test_text_is_of_elements_of_our_tables_only(chosen: list[Part]) -> None:
    """One line a set: to delete is to add and then delete the same, in the table that defines the set."""
    added, deleted = elements(TABLES.add(*chosen)), elements(TABLES.delete(*chosen))
    assert deleted == added + [("delete", *line[1:]) for line in added]
    for _, family, where, _ in added:
        routed, _, sent = TABLES.create().partition("table bridge lxcwrap_a1 {")
        defined = sent if family == "bridge" else routed
        assert re.search(rf"(set|map) {where} ", defined)


@given(ports())
def test_each_port_of_a_range_is_one_element(port: PublishedPort) -> None:
    """Host port to container port, in step."""
    found = [element for _, element in port.elements()]
    assert len(set(found)) == port.span
    for step, element in enumerate(found):
        key, _, value = element.partition(" : ")
        assert key.endswith(f"{port.protocol} . {port.host_port + step}")
        address, _, number = value.partition(" . ")
        assert (ip_address(address), number) == (ip_address(port.address), str(port.port + step))


@given(pins)
def test_a_pinned_port_has_its_mac_and_all_its_addresses(pin: PinnedPort) -> None:
    """With IPv6, the link-local address that belongs to the MAC; without, no IPv6 at all."""
    found = pin.elements()
    six = {element for where, element in found if where == "sources6"}
    four = {element for where, element in found if where == "sources4"}
    given = [ip_address(address) for address in pin.addresses]
    assert len(four) == len({str(value) for value in given if value.version == 4})
    expected = {int(value) for value in given if value.version == 6}
    assert len(six) == len(expected | ({int(ip_address(link_local(pin.mac)))} if expected else set()))
    assert ("macs", f'"{pin.link}" . {pin.mac}') in found


BAD = ["", "a b", 'a"', "a;b", "a}", "a{", "a\n", "x" * 25, "a*", "@a", "a,b", "10.0.0.1;", "::1 }", "$x"]


@pytest.mark.parametrize("text", BAD)
def test_nothing_but_names_and_addresses_gets_into_text(text: str) -> None:
    """No quote, brace, wildcard or line can be smuggled in by a value."""
    wrong: list[Part] = [
        NetworkRules(text, (), ()),
        NetworkRules("b", (text,), ()),
        NetworkRules("b", (), (text,) if text else ("-",)),
        PublishedPort("tcp", 80, text, 80),
        PublishedPort("tcp", 80, "10.0.0.1", 80, host_ip=text or "-"),
        PublishedPort(text, 80, "10.0.0.1", 80),
        PinnedPort(text, "02:00:00:00:00:01", ()),
        PinnedPort("v", text, ()),
        PinnedPort("v", "02:00:00:00:00:01", (text,)),
    ]
    for part in wrong:
        with pytest.raises(ValueError):
            TABLES.add(part)
    with pytest.raises(ValueError):
        Tables(text)


@pytest.mark.parametrize(
    "port",
    [
        PublishedPort("icmp", 80, "10.0.0.1", 80),
        PublishedPort("tcp", 0, "10.0.0.1", 80),
        PublishedPort("tcp", 80, "10.0.0.1", 65536),
        PublishedPort("tcp", 65535, "10.0.0.1", 80, span=2),
        PublishedPort("tcp", 80, "10.0.0.1", 80, span=0),
        PublishedPort("tcp", 80, "10.0.0.1", 80, host_ip="::"),
    ],
)
def test_ports_that_cannot_be_are_refused(port: PublishedPort) -> None:
    """Protocols, numbers, ranges, addresses of two versions."""
    with pytest.raises(ValueError):
        port.elements()


def test_who_asks_a_server_is_deleted_wherever_it_leads() -> None:
    """By its key alone."""
    server = SharedServer("lxb1", "10.88.1.2", "127.1.2.3", 7)
    assert elements(TABLES.delete_asked(server)) == [
        ("delete", "inet", "names", '"lxb1" . 10.88.1.2'),
        ("delete", "inet", "zones", '"lxb1" . 10.88.1.2'),
    ]


def test_without_the_library_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was tried before."""

    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", absent)
    with pytest.raises(UnsupportedError) as caught:
        Nftables()
    assert "libnftables1" in caught.value.remedy


def test_tables_are_per_tag() -> None:
    """So that root directories on one machine have nothing to do with each other."""
    one, other = Tables("a"), Tables("b")
    for text in (one.create(), one.remove(), one.add(NetworkRules("x", (), ()))):
        assert other.name not in text
        assert one.name in text


def test_link_local_addresses_are_the_kernels() -> None:
    """RFC 4291, appendix A: the universal bit is turned, ff:fe comes between."""
    assert link_local("02:00:00:00:01:02") == "fe80::ff:fe00:102"
    assert link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"


def chain(family: str, table: str, name: str, **facts: object) -> dict[str, object]:
    return {"chain": {"family": family, "table": table, "name": name, **facts}}


DROPS = {"hook": "forward", "policy": "drop"}


def test_obstacles_are_chains_that_drop() -> None:
    """Not those that accept, those of other hooks, or our own. DOCKER-USER counts in its own family only."""
    assert obstacles(
        [
            {"metainfo": {}},
            chain("ip", "filter", "DOCKER-USER"),
            chain("ip", "filter", "FORWARD", **DROPS),
            chain("ip6", "filter", "FORWARD", **DROPS),
            chain("ip", "filter", "INPUT", hook="input", policy="accept"),
            chain("inet", "filter", "output", hook="output", policy="drop"),
            chain("inet", "lxcwrap_x", "routed", **DROPS),
            chain("inet", "filter", "forward", **DROPS),
        ]
    ) == [
        Obstacle("ip", "filter", "FORWARD", "forward", "DOCKER-USER"),
        Obstacle("ip6", "filter", "FORWARD", "forward", "FORWARD"),
        Obstacle("inet", "filter", "forward", "forward"),
    ]


def test_only_rules_of_ours_are_withdrawn() -> None:
    """By their mark: of this bridge, and these tables."""
    where = {"family": "ip", "table": "filter", "chain": "DOCKER-USER"}
    marks = ["lxcwrap_a1 front", "lxcwrap_a1 front2", "lxcwrap_b front", None]
    rules = [{"rule": {**where, "handle": at, "comment": mark}} for at, mark in enumerate(marks)]
    assert withdraw(rules, "front", "lxcwrap_a1") == "delete rule ip filter DOCKER-USER handle 0\n"
    added = accept(Obstacle("ip", "filter", "FORWARD", "forward", "DOCKER-USER"), "front", "lxcwrap_a1")
    assert added.count('comment "lxcwrap_a1 front"') == len(added.splitlines())
