"""What a container may send: with its own addresses only, whatever it is root of in its namespace."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from lxcwrap import Host
from lxcwrap.drivers import netns
from lxcwrap.net.firewall import Firewall
from lxcwrap.net.ruleset import link_local
from tests.integration.networked import launch, maker
from tests.netlab import Container, Lab, lab
from tests.polling import eventually

IPV4, ARP, IPV6, VLAN, IPX = 0x0800, 0x0806, 0x86DD, 0x8100, 0x8137
EVERY = 3
TO_ALL = b"\xff" * 6
MARK = b"lxcwrap trial"
END = b"lxcwrap at end"
ADVERTISEMENT, ROUTER, REDIRECT, SOLICITATION = 136, 134, 137, 135


class Wire:
    """An attacker, its victim and a witness on one bridge, by raw frames."""

    def __init__(self, made: Lab) -> None:
        network = made.network()
        self.attacker, self.victim = made.container(network, 2), made.container(network, 3)
        self.witness = made.container(network, 4)
        self._sender, self._receiver = _raw(self.attacker), _raw(self.witness)
        self.mac, self.victim_mac = _mac(self.attacker), _mac(self.victim)

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()

    def passes(self, payload: bytes, kind: int, *, mac: bytes = b"") -> bool:
        """Whether a frame arrives at the witness: before a last one that always does."""
        source = mac or self.mac
        self._sender.send(TO_ALL + source + struct.pack(">H", kind) + payload)
        self._sender.send(TO_ALL + self.mac + struct.pack(">H", IPV4) + ipv4(self.attacker.ip, END))
        seen = False
        while END not in (frame := self._receiver.recv(2000)):
            seen |= MARK in frame
        return seen

    def pretend(self, group: bytes) -> None:
        """A frame to `group` as if of the victim."""
        self._sender.send(group + self.victim_mac + struct.pack(">H", IPV4) + ipv4(self.attacker.ip))

    def reaches_victim(self) -> bool:
        """Whether what the witness sends to the victim's MAC address arrives there."""
        with _raw(self.victim) as victim:
            frame = self.victim_mac + _mac(self.witness) + struct.pack(">H", IPV4)
            self._receiver.send(frame + ipv4(self.witness.ip))
            try:
                while MARK not in victim.recv(2000):
                    pass
            except TimeoutError:
                return False
            return True


def _raw(place: Container) -> socket.socket:
    return _raw_in(place.fd)


def _raw_of(pid: int | None) -> socket.socket:
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        return _raw_in(fd)
    finally:
        os.close(fd)


def _raw_in(netns_fd: int) -> socket.socket:
    with netns.within(netns_fd):
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY))
        opened.bind(("eth0", EVERY))
    opened.settimeout(5)
    return opened


def _mac(place: Container) -> bytes:
    return bytes.fromhex(place.mac.replace(":", ""))


def ipv4(source: str, payload: bytes = MARK) -> bytes:
    addresses = socket.inet_aton(source) + b"\xff" * 4
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, 253, 0)
    total = sum(struct.unpack(">10H", header + addresses))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    return header[:10] + struct.pack(">H", checksum) + addresses + payload


def arp(mac: bytes, source: str, *, reply: bool) -> bytes:
    head = struct.pack(">HHBBH", 1, IPV4, 6, 4, 2 if reply else 1)
    return head + mac + socket.inet_aton(source) + TO_ALL + bytes(4) + MARK


def ipv6(source: str, payload: bytes = MARK, next_header: int = 253) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "ff02::1")
    return struct.pack(">IHBB", 6 << 28, len(payload), next_header, 255) + addresses + payload


def icmpv6(source: str, kind: int, target: str) -> bytes:
    return ipv6(source, struct.pack(">BBHI", kind, 0, 0, 0) + socket.inet_pton(10, target) + MARK, 58)


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with lab() as made:
        wire = Wire(made)
        yield wire
        wire.close()


def test_its_own_addresses_pass(wire: Wire) -> None:
    """IPv4, ARP, IPv6, and neighbour discovery from the link-local address too."""
    me, own = wire.attacker, link_local(wire.attacker.mac)
    assert wire.passes(ipv4(me.ip), IPV4)
    assert wire.passes(arp(wire.mac, me.ip, reply=True), ARP)
    assert wire.passes(ipv6(me.ip6), IPV6)
    assert wire.passes(icmpv6(own, ADVERTISEMENT, me.ip6), IPV6)
    assert wire.passes(icmpv6(me.ip6, ADVERTISEMENT, own), IPV6)
    assert wire.passes(icmpv6(own, SOLICITATION, wire.victim.ip6), IPV6)


def test_no_other_mac_passes(wire: Wire) -> None:
    """Not even with its own IP address."""
    assert not wire.passes(ipv4(wire.attacker.ip), IPV4, mac=wire.victim_mac)
    assert not wire.passes(arp(wire.mac, wire.attacker.ip, reply=True), ARP, mac=wire.victim_mac)


@pytest.mark.parametrize("source", ["10.88.1.3", "10.88.1.1", "0.0.0.0", "127.0.0.1", "192.0.2.2"])
def test_no_other_ipv4_address_passes(wire: Wire, source: str) -> None:
    """A neighbour's, the gateway's, none, loopback, one outside; nor may it be claimed by ARP."""
    assert not wire.passes(ipv4(source), IPV4)
    for reply in (False, True):
        assert not wire.passes(arp(wire.mac, source, reply=reply), ARP)


def test_arp_for_another_mac_does_not_pass(wire: Wire) -> None:
    """The sender within must be that of the frame."""
    assert not wire.passes(arp(wire.victim_mac, wire.attacker.ip, reply=True), ARP)


@pytest.mark.parametrize("source", ["fd88:1::3", "fd88:1::1", "::", "fe80::1"])
def test_no_other_ipv6_address_passes(wire: Wire, source: str) -> None:
    """As a source, and as what a neighbour advertisement speaks of."""
    assert not wire.passes(ipv6(source), IPV6)
    assert not wire.passes(icmpv6(wire.attacker.ip6, ADVERTISEMENT, source), IPV6)


def test_a_container_is_no_router(wire: Wire) -> None:
    """Its router advertisements and redirects do not arrive, behind other headers neither."""
    own = link_local(wire.attacker.mac)
    for kind in (ROUTER, REDIRECT):
        assert not wire.passes(icmpv6(own, kind, "::"), IPV6)
    hidden = struct.pack(">BB6x", 58, 0) + struct.pack(">BBHI", ROUTER, 0, 0, 0) + bytes(16) + MARK
    assert not wire.passes(ipv6(own, hidden, 60), IPV6)  # 60: destination options


def test_nothing_else_passes(wire: Wire) -> None:
    """Frames with a VLAN tag, whatever is in them, and other protocols."""
    tag = struct.pack(">HH", 5, IPV4)
    for payload, kind in (
        (tag + ipv4("10.88.1.3"), VLAN),
        (tag + ipv4(wire.attacker.ip), VLAN),
        (struct.pack(">HHHH", 5, VLAN, 6, IPV4) + ipv4("10.88.1.3"), 0x88A8),
        (ipv4("10.88.1.3"), IPX),
        (MARK * 3, 60),
    ):
        assert not wire.passes(payload, kind)


def test_a_bridge_does_not_take_it_for_another(wire: Wire) -> None:
    """Frames to the bridge itself (IEEE 802.1D, table 7-10) are seen by no rule, and teach it nothing: what
    is sent to its neighbour comes to that."""
    for last in range(16):
        wire.pretend(b"\x01\x80\xc2\0\0" + bytes([last]))
    assert wire.passes(ipv4(wire.attacker.ip), IPV4)  # all has come
    assert wire.reaches_victim()


def test_nothing_passes_of_one_that_has_ended(host: Host) -> None:
    """Its network lives on with a socket, which it may have given to another container."""
    with maker(host) as make:
        network = make()
        ending, witness = launch(host, network=network), launch(host, network=network)
        address, mac = str(ending.ip), ending.exec(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
        own = bytes.fromhex(mac.replace(":", ""))
        frames = [
            TO_ALL + own + struct.pack(">H", kind) + payload
            for kind, payload in (
                (IPV4, ipv4(address)),
                (IPV4, ipv4(str(network.gateway))),
                (ARP, arp(own, str(network.gateway), reply=True)),
            )
        ]
        with _raw_of(ending.init_pid) as kept, _raw_of(witness.init_pid) as receiver:
            kept.send(frames[0])
            while MARK not in receiver.recv(2000):
                pass
            ending.stop(timeout_s=0)
            eventually(lambda: not Firewall(host.root).exposed(ending.id))
            for frame in frames:
                kept.send(frame)
            receiver.settimeout(0.3)
            with pytest.raises(TimeoutError):
                while MARK not in receiver.recv(2000):
                    pass


def test_without_rules_all_of_this_passes() -> None:
    """So that what was seen above is theirs."""
    with lab() as made:
        wire = Wire(made)
        made.nft.run(made.tables.delete(*made.parts))
        try:
            assert wire.passes(ipv4("10.88.1.3"), IPV4, mac=wire.victim_mac)
            assert wire.passes(arp(wire.victim_mac, "10.88.1.1", reply=True), ARP)
            assert wire.passes(icmpv6("fe80::1", ROUTER, "::"), IPV6)
            assert wire.passes(struct.pack(">HH", 5, IPV4) + ipv4("10.88.1.3"), VLAN)
            assert wire.passes(MARK * 3, IPX)
        finally:
            wire.close()
