"""What is damaged or killed of ports and names is put right: files of state, and who serves ::1."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Port, PortInUseError
from lxcwrap.drivers.nftables import Nftables
from lxcwrap.drivers.pidfd import start_time
from lxcwrap.net.firewall import Exposed, Firewall, port_rows
from lxcwrap.net.names import server_of
from tests.integration.networked import Make, launch, maker
from tests.polling import eventually

GARBAGE = (
    b"",
    b"\xff\xfe\0",
    b"[[], [], []]",  # as older versions wrote it
    b'[[["lxv0", 1, 2]], [], [], []]',
    b'[[], [["tcp", "a", "b", "c"]], [], []]',
    b'{"a": null}',
    b"17",
)


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def container(host: Host, make: Make) -> Iterator[Container]:
    with launch(host, network=[make(ipv6=True), make()], publish=[Port(80), Port(81)]) as container:
        yield container


def bundle(container: Container) -> Path:
    return container._machinery.bundle(container.id)


def wanted(host: Host, container: Container) -> Exposed:
    """By the records."""
    connection = host._machinery.state.connection
    return Exposed.of(host._machinery.network_store.wires(container.id), port_rows(connection, container.id))


def is_complete(host: Host, container: Container) -> bool:
    """Its mark says what the records say, and the kernel has just that of it."""
    firewall, exposed = Firewall(host.root), wanted(host, container)
    with Nftables() as nft:
        tables = [nft.query(f"list table {family} {firewall.tables.name}") for family in ("inet", "bridge")]
    text = json.dumps(tables)
    names = [pin.link for pin in exposed.pins] + [server.server for server in exposed.servers]
    is_there = all(name in text for name in names) and text.count(f'"{container.ip}", 80]') == 1
    return firewall.exposed(container.id) == exposed and is_there


def serves(container: Container) -> bool:
    """At ::1, each of its ports."""
    try:
        for port in container.ports:
            socket.create_connection(("::1", port.host_port)).close()
    except ConnectionRefusedError:
        return False
    return True


def kill_forwarders(container: Container) -> None:
    for line in (bundle(container) / "forwarders").read_text().splitlines():
        pid, start = map(int, line.split())
        if start_time(pid) == start:
            os.kill(pid, signal.SIGKILL)
    eventually(lambda: not serves(container))


def test_a_damaged_mark_is_made_anew(host: Host, container: Container) -> None:
    """By the next Host; and nothing that is done to the container meanwhile fails."""
    for number, garbage in enumerate(GARBAGE):
        (bundle(container) / "exposed").write_bytes(garbage)
        if number % 2:
            (added,) = container.publish(Port(82))
            container.unpublish(added)
        with Host(host.root):
            assert is_complete(host, container)
    assert serves(container)


def test_a_damaged_mark_keeps_no_container_from_ending(host: Host, container: Container, make: Make) -> None:
    """Nor from being connected; what the kernel has still of it goes with the next Host."""
    (bundle(container) / "exposed").write_bytes(b"[")
    last = make()
    last.connect(container)
    last.disconnect(container)
    (bundle(container) / "exposed").write_bytes(b"[")
    servers = wanted(host, container).servers
    container.stop(timeout_s=0)
    container.start()
    with Host(host.root):
        assert is_complete(host, container)
    assert wanted(host, container).servers == servers


@pytest.mark.parametrize("garbage", GARBAGE[1::4])
def test_damaged_lists_of_processes_cost_nothing(host: Host, container: Container, garbage: bytes) -> None:
    """Of those that serve ::1, and of name servers."""
    networks = [host.networks[name] for name in container.networks]
    names = host.root / "cache/names"
    servers = [*(network.id for network in networks), server_of(network.id for network in networks)]
    for each in servers:
        (names / each / "pid").write_bytes(garbage)
    (bundle(container) / "forwarders").write_bytes(garbage)
    with Host(host.root), launch(host, network=networks, hostname="late"):
        assert serves(container)
        found = container.exec(["nslookup", "late"], check=False).stdout
        assert "NXDOMAIN" not in found and "Name:\tlate" in found
    pids = [int((names / each / "pid").read_text()) for each in servers]
    container.remove(force=True)
    for network in networks:
        network.remove()
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids))


def test_a_killed_forwarder_is_replaced(host: Host, container: Container) -> None:
    """By the next Host, by the next port that is published, and by a start."""
    kill_forwarders(container)
    with Host(host.root):
        assert serves(container)
    kill_forwarders(container)
    container.publish(Port(82))
    assert serves(container)
    kill_forwarders(container)
    container.restart(timeout_s=0)
    assert serves(container)


def test_who_listens_is_named(host: Host, container: Container) -> None:
    """By its process id and command line."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(PortInUseError) as caught:
        container.publish(Port(83, host_port=server.getsockname()[1]))
    assert caught.value.pid == os.getpid()
    assert caught.value.command and caught.value.command in caught.value.user
