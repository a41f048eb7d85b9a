"""Networks of a fake host: names, addresses and refusals, without links."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import AddressInUseError, Endpoint, Host, InvalidSpecError, StillUsedError, WrongStateError
from lxcwrap.testing import fake_host
from tests.polling import eventually

SERVE = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True: server.accept()[0].sendall(b"hello")
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with fake_host(tmp_path, programs={"serve": SERVE}) as host:
        yield host


def test_containers_have_addresses(host: Host) -> None:
    """Given out, asked for, kept over restarts, and free again with the container."""
    front = host.networks.create("front", subnet="10.5.0.0/24", ipv6="fd05::/64", labels={"tier": "1"})
    assert (front.gateway, front.gateway6, front.labels) == ("10.5.0.1", "fd05::1", {"tier": "1"})
    with host.containers.launch("busybox", ["sleep", "60"], name="web", network=front) as web:
        assert web.ip == "10.5.0.2" and web.networks["front"].ip6 == "fd05::2"
        web.restart(timeout_s=0)
        assert web.ip == "10.5.0.2" and front.containers == (web,)
        with pytest.raises(AddressInUseError) as caught:
            host.containers.create("busybox", ["true"], network={front: Endpoint(ip="10.5.0.2")})
        assert caught.value.user == "web"
        with pytest.raises(StillUsedError):
            front.remove()
    host.containers.create("busybox", ["true"], network={front: Endpoint(ip="10.5.0.2")}).remove()
    front.remove()
    assert list(host.networks) == []


@pytest.mark.parametrize("runs", [True, False])
def test_connect_and_disconnect(host: Host, runs: bool) -> None:
    """Whether it runs or not."""
    front, back = host.networks.create("front"), host.networks.create("back")
    with host.containers.create("busybox", ["sleep", "60"], network=front) as web:
        if runs:
            web.start()
        endpoint = back.connect(web, aliases=["www"])
        assert (endpoint.interface, endpoint.aliases) == ("eth1", ("www",))
        assert list(web.networks) == ["front", "back"]
        with pytest.raises(InvalidSpecError):
            back.connect(web)
        front.disconnect(web)
        assert web.ip == endpoint.ip
        with pytest.raises(InvalidSpecError):
            front.disconnect(web)


def test_the_default_network(host: Host) -> None:
    """Is made when it is first used, and removed when nobody uses it."""
    host.containers.create("busybox", ["true"], network="default", name="one")
    assert [network.name for network in host.networks] == ["default"]
    assert host.networks.prune() == []
    host.containers["one"].remove()
    assert host.networks.prune() == ["default"]


def test_subnets_do_not_overlap(host: Host) -> None:
    """Those that are chosen, nor those that are given."""
    subnets = {host.networks.create(f"net{number}").subnet for number in range(5)}
    assert len(subnets) == 5
    with pytest.raises(AddressInUseError):
        host.networks.create("late", subnet=min(subnets))
    assert len(host.networks) == 5


def test_a_socket_to_what_it_serves(host: Host) -> None:
    """A fake container is on the host's network."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with host.containers.launch("busybox", ["serve", str(port)]) as container:

        def answer() -> bytes:
            try:
                with container.socket(port) as sock:
                    return sock.recv(10)
            except ConnectionRefusedError:
                return b""

        eventually(lambda: answer() == b"hello")
        container.stop(timeout_s=0)
        with pytest.raises(WrongStateError):
            container.socket(port)
