"""Published ports of SCTP: packets are led as the rules say, also by a kernel that has no sockets of it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest

from lxcwrap import Host, InvalidSpecError, Port, UnsupportedError
from lxcwrap.drivers import netns
from lxcwrap.net.ruleset import PublishedPort
from tests.integration.networked import Make, launch, maker
from tests.netlab import HOST, HOST6, OUTSIDE, OUTSIDE6, Lab, Place, lab


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


def has_sctp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        return False
    return True


def crc32c(data: bytes) -> int:
    """RFC 9260, appendix A: bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def init_packet(source: int, to: int) -> bytes:
    """Which asks for an association (RFC 9260, 3.3.2)."""
    chunk = struct.pack(">BBHIIHHI", 1, 0, 20, 7, 1 << 16, 1, 1, 1)
    blank = struct.pack(">HHII", source, to, 0, 0) + chunk
    return blank[:8] + struct.pack("<I", crc32c(blank)) + chunk


def raw(place: Place, address: str) -> socket.socket:
    with netns.within(place.fd):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP)
    opened.bind((address, 0))
    opened.settimeout(3)
    return opened


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_packets_from_outside_arrive_at_the_container(ipv6: bool) -> None:
    """At its port, from who has sent them, with a checksum that is right."""
    with lab() as made:
        container = made.container(made.network(), 2)
        own, theirs, here = (container.ip6, OUTSIDE6, HOST6) if ipv6 else (container.ip, OUTSIDE, HOST)
        made.add(PublishedPort("sctp", 8080, own, 80))
        data, sender = _sent(made, container, own, theirs, here)
    packet = data if ipv6 else data[(data[0] & 15) * 4 :]
    assert sender == theirs and struct.unpack_from(">HH", packet) == (5000, 80)
    assert struct.unpack_from("<I", packet, 8)[0] == crc32c(packet[:8] + bytes(4) + packet[12:])


def _sent(made: Lab, container: Place, own: str, theirs: str, here: str) -> tuple[bytes, str]:
    with raw(container, own) as receiver, raw(made.outside, theirs) as sender:
        sender.sendto(init_packet(5000, 8080), (here, 0))
        data, peer = receiver.recvfrom(100)
    return data, str(peer[0])


def test_published_where_the_kernel_has_it(host: Host, make: Make) -> None:
    """Elsewhere it is refused before anything is made, or changed."""
    network, port = make(), Port(80, protocol="sctp")
    if has_sctp():
        with launch(host, network=network, publish=[port]) as container:
            (binding,) = container.ports
            assert binding.protocol == "sctp"
        return
    count = len(host.containers)
    with pytest.raises(UnsupportedError) as caught:
        launch(host, network=network, publish=[Port(81), port])
    assert "SCTP" in caught.value.what and "modprobe sctp" in caught.value.remedy
    assert len(host.containers) == count
    with launch(host, network=network) as container:
        with pytest.raises(UnsupportedError):
            container.publish(Port(81), port)
        assert container.ports == ()
        with pytest.raises(InvalidSpecError):
            container.unpublish(port)
