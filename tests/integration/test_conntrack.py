"""Connections that are under way when a port is published, led elsewhere, or its container removed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from lxcwrap import Endpoint, Host, Port
from lxcwrap.drivers import netns
from lxcwrap.drivers.conntrack import Connections
from lxcwrap.net.ruleset import PublishedPort
from tests.integration.networked import launch, maker
from tests.netlab import HOST, HOST6, TIMEOUT_S, Container, Lab, Place, lab


class Streams:
    """Someone outside sends by UDP, from one port to port 8080 of the host; two containers listen."""

    def __init__(self, made: Lab, *, ipv6: bool) -> None:
        self.lab, self._ipv6 = made, ipv6
        network = made.network()
        self.first, self.second = made.container(network, 2), made.container(network, 3)
        self._sender = _bound(made.outside, "::" if ipv6 else "0.0.0.0", 5000)
        self._sender.connect((HOST6 if ipv6 else HOST, 8080))
        self._sockets = {place: _bound(place, self.address(place), 80) for place in (self.first, self.second)}

    def address(self, place: Container) -> str:
        return place.ip6 if self._ipv6 else place.ip

    def lead_to(self, place: Container) -> None:
        for other in self._sockets:
            self.lab.nft.run(self.lab.tables.delete(self._port(other)) if other is not place else "")
        self.lab.nft.run(self.lab.tables.add(self._port(place)))

    def _port(self, place: Container) -> PublishedPort:
        return PublishedPort("udp", 8080, self.address(place), 80)

    def arrives_at(self, place: Container, *, timeout_s: float = 3.0) -> bool:
        receiver = self._sockets[place]
        receiver.settimeout(timeout_s)
        try:
            self._sender.send(b"?")
            return receiver.recv(10) == b"?"
        except TimeoutError:
            return False
        except ConnectionRefusedError:  # the answer to what was sent before
            return self.arrives_at(place, timeout_s=timeout_s)

    def misses(self, place: Container) -> bool:
        return not self.arrives_at(place, timeout_s=TIMEOUT_S)

    def close(self) -> None:
        for opened in (self._sender, *self._sockets.values()):
            opened.close()


def _bound(place: Place, address: str, port: int) -> socket.socket:
    with netns.within(place.fd):
        opened = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((address, port))
    return opened


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def streams(request: pytest.FixtureRequest) -> Iterator[Streams]:
    with lab() as made:
        streams = Streams(made, ipv6=request.param)
        yield streams
        streams.close()


def test_a_stream_follows_its_port(streams: Streams) -> None:
    """When the container behind it is replaced: once its connections are forgotten."""
    streams.lead_to(streams.first)
    assert streams.arrives_at(streams.first)
    streams.lead_to(streams.second)
    assert streams.misses(streams.second)  # else there would be nothing to do
    with Connections(streams.lab.host.fd) as connections:
        connections.forget_address(streams.address(streams.second))
        assert streams.misses(streams.second)
        connections.forget_address(streams.address(streams.first))
    assert streams.arrives_at(streams.second)


def test_a_stream_from_before_finds_a_port_published_since(streams: Streams) -> None:
    """Those to other ports go on."""
    assert streams.misses(streams.first)
    streams.lead_to(streams.first)
    with Connections(streams.lab.host.fd) as connections:
        connections.forget_udp(8081)
        assert streams.misses(streams.first)
        connections.forget_udp(8080)
    assert streams.arrives_at(streams.first)


def _receiver(pid: int | None) -> socket.socket:
    """In the network of a process, of what is sent by UDP to port 80."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        with netns.within(fd):
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    finally:
        os.close(fd)
    opened.bind(("0.0.0.0", 80))
    return opened


def test_what_was_meant_for_one_that_is_gone_is_not_for_the_next(host: Host) -> None:
    """Which has its address, and has published nothing."""
    with maker(host) as make, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        network = make()
        first = launch(host, network=network, publish=[Port(80, protocol="udp")])
        address = first.ip
        sender.connect(("127.0.0.1", first.ports[0].host_port))
        with _receiver(first.init_pid) as receiver:
            receiver.settimeout(5)
            sender.send(b"one")
            assert receiver.recv(9) == b"one"
        first.remove(force=True)
        second = launch(host, network={network.name: Endpoint(ip=address)})
        with _receiver(second.init_pid) as receiver:
            receiver.settimeout(TIMEOUT_S)
            for _ in range(3):
                with suppress(ConnectionRefusedError):  # the answer to what was sent before
                    sender.send(b"two")
            with pytest.raises(TimeoutError):
                receiver.recv(9)
