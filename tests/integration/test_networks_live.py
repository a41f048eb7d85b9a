"""Networks connected to containers that run, and taken from them; many at once; dialling into them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from lxcwrap import Host, InvalidSpecError, Network, State, WrongStateError
from tests.integration.networked import SERVE, Make, default_route, interfaces, launch, maker, reaches
from tests.polling import eventually

THREADS = 16


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def front(make: Make) -> Network:
    return make(ipv6=True)


# --- connecting -----------------------------------------------------------------------------------------


def test_connect_and_disconnect_while_it_runs(host: Host, front: Network, make: Make) -> None:
    """Links, addresses and routes come and go; the rest stays as it is."""
    other = make()
    with launch(host, network=front) as peer, launch(host) as container, launch(host, network=other) as far:
        endpoint = front.connect(container, aliases=["www"])
        assert container.networks == {front.name: endpoint} and endpoint.aliases == ("www",)
        assert reaches(container, peer.ip) and reaches(peer, endpoint.ip6)
        other.connect(container, ip=None)
        assert interfaces(container) == {"lo", "eth0", "eth1"} and reaches(container, far.ip)
        front.disconnect(container)
        assert interfaces(container) == {"lo", "eth1"} and list(container.networks) == [other.name]
        assert default_route(container)[0] == other.gateway
        assert reaches(container, far.ip)
        front.connect(container)
        assert interfaces(container) == {"lo", "eth0", "eth1"}
        for network in (front, other):
            with pytest.raises(InvalidSpecError):
                network.connect(container)
            network.disconnect(container)
            with pytest.raises(InvalidSpecError):
                network.disconnect(container)
        assert interfaces(container) == {"lo"}


def test_connect_and_disconnect_while_it_does_not_run(host: Host, front: Network) -> None:
    """For the next start."""
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        endpoint = front.connect(container)
        container.start()
        assert str(endpoint.ip) in container.exec(["ip", "addr", "show", "eth0"]).stdout
        container.stop(timeout_s=0)
        front.disconnect(container)
        container.start()
        assert interfaces(container) == {"lo"}


def test_connect_meets_a_start(host: Host, front: Network) -> None:
    """Whichever is first, the container that runs then is on the network."""
    for _ in range(5):
        with host.containers.create("busybox", ["sleep", "1000"]) as container:
            starting = threading.Thread(target=container.start)
            starting.start()
            endpoint = front.connect(container)
            starting.join()
            assert str(endpoint.ip) in container.exec(["ip", "addr", "show", "eth0"]).stdout


def test_connects_at_once(host: Host, make: Make) -> None:
    """Of one container: each has an interface of its own, and of two to one network one is refused."""
    networks = [make() for _ in range(4)]

    def connect(network: Network) -> bool:
        try:
            network.connect(container)
            return True
        except InvalidSpecError:
            return False

    with launch(host) as container, ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(connect, networks * 2)) == 4
        assert interfaces(container) == {"lo", "eth0", "eth1", "eth2", "eth3"}
        assert {endpoint.interface for endpoint in container.networks.values()} == interfaces(container) - {
            "lo"
        }
        list(pool.map(lambda network: network.disconnect(container), networks))
        assert interfaces(container) == {"lo"}


# --- many at once ---------------------------------------------------------------------------------------


def test_no_address_is_leased_twice(host: Host, make: Make) -> None:
    """Sixteen threads at once, over a subnet that is nearly full."""
    network = make(subnet="10.87.50.0/27", ipv6=True)
    with ExitStack() as stack, ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(launch, host, network=network) for _ in range(THREADS)]
        containers = [stack.enter_context(future.result()) for future in futures]
        addresses = {endpoint.ip for each in containers for endpoint in each.networks.values()}
        assert len(addresses) == THREADS
        assert reaches(containers[0], containers[-1].ip)


def test_freed_addresses_are_given_out_again_late(host: Host, front: Network) -> None:
    """Neighbours may still remember who had them."""
    seen = set()
    for _ in range(5):
        with host.containers.create("busybox", network=front) as container:
            seen.add(container.ip)
    assert len(seen) == 5


# --- dialling -------------------------------------------------------------------------------------------


def test_a_socket_to_a_port_inside(host: Host) -> None:
    """No network, and no published port is needed; this thread is where it was."""
    before = os.stat("/proc/thread-self/ns/net").st_ino
    with host.containers.launch("busybox", sh=SERVE) as container:

        def answer() -> bytes:
            try:
                with container.socket(80, timeout_s=5) as sock:
                    return sock.recv(100)
            except ConnectionRefusedError:
                return b""

        eventually(lambda: answer() == b"hello\n")
        with pytest.raises(ConnectionRefusedError):
            container.socket(81)
        container.stop(timeout_s=0)
        with pytest.raises(WrongStateError) as caught:
            container.socket(80)
        assert caught.value.state == State.STOPPED
    assert os.stat("/proc/thread-self/ns/net").st_ino == before


def test_a_socket_by_way_of_a_container(host: Host, front: Network) -> None:
    """To what that one reaches."""
    with (
        host.containers.launch("busybox", sh=SERVE, network=front) as server,
        launch(host, network=front) as container,
    ):

        def answer() -> bytes:
            try:
                with container.socket(80, host=str(server.networks[front.name].ip6), timeout_s=5) as sock:
                    assert sock.family == socket.AF_INET6
                    return sock.recv(100)
            except ConnectionRefusedError:
                return b""

        eventually(lambda: answer() == b"hello\n")
