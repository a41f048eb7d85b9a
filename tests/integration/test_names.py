"""Names on networks: asked of the real name server, by containers and by the host."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Network, UnsupportedError
from lxcwrap.net import dns
from tests.integration.networked import Make, launch, maker
from tests.polling import eventually

A, PTR, AAAA = 1, 12, 28
NO_SUCH_NAME, REFUSED = 3, 5
VISIBLE_S = 0.05


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def front(make: Make) -> Network:
    return make(ipv6=True)


def question(name: str, kind: int = A) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def answer_of(answer: bytes, name: str) -> tuple[int, list[bytes]]:
    """The answer's code, and the data of its records."""
    flags, count = answer[3] & 15, struct.unpack_from(">H", answer, 6)[0]
    rest, found = answer[len(question(name)) :], []
    for _ in range(count):
        (length,) = struct.unpack_from(">H", rest, 10)
        found.append(rest[12 : 12 + length])
        rest = rest[12 + length :]
    return flags, found


def query(server: str, name: str, kind: int = A) -> tuple[int, list[bytes]]:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.connect((server, 53))
        client.send(question(name, kind))
        return answer_of(client.recv(4096), name)


def addresses(network: Network, name: str) -> set[str]:
    """What the network's name server knows by this name."""
    found = {socket.inet_ntop(socket.AF_INET, data) for data in query(network.gateway, name)[1]}
    if network.gateway6:
        records = query(network.gateway6, name, AAAA)[1]
        found |= {socket.inet_ntop(socket.AF_INET6, data) for data in records}
    return found


def of(container: Container, network: Network) -> set[str]:
    endpoint = container.networks[network.name]
    return {address for address in (endpoint.ip, endpoint.ip6) if address}


def lookup(container: Container, name: str) -> str:
    return container.exec(["nslookup", name], check=False).stdout


def appears(network: Network, name: str, wanted: set[str]) -> None:
    """Within 50 ms, if the machine has nothing else to do: it has ten times as much."""
    eventually(lambda: addresses(network, name) == wanted, within_s=10 * VISIBLE_S)


def server_of(host: Host, network: Network) -> int:
    return dns.NameServers(host.root).pid(network.id)


def test_forward_and_reverse(host: Host, front: Network) -> None:
    """By name, host name and alias; with the network's name behind; IPv4, IPv6 and back; without nss."""
    with launch(host, network=front, name=f"web-{os.getpid()}", hostname="box") as web:
        front.disconnect(web)
        front.connect(web, aliases=["www", "Shop"])
        for name in (web.name, "box", "www", "shop", "SHOP"):
            for asked in (name, f"{name}.{front.name}"):
                assert addresses(front, asked) == of(web, front)
        with launch(host, network=front) as peer:
            for address in of(web, front):
                assert address in lookup(peer, "shop")
                assert f"name = {web.name}.{front.name}" in lookup(peer, address)


def test_other_names(host: Host, front: Network, make: Make) -> None:
    """What nobody has here is asked of the host's servers, but plain names, and the network's own addresses;
    an internal network has no way out by names."""
    inner, unused = make(internal=True), front.gateway.removesuffix("1") + "250"
    with launch(host, network=front), launch(host, network=inner):
        assert query(front.gateway, "nobody") == (NO_SUCH_NAME, [])
        reverse = ".".join(reversed(unused.split("."))) + ".in-addr.arpa"
        assert query(front.gateway, reverse, PTR) == (NO_SUCH_NAME, [])
        outside = "deb.debian.org"
        assert addresses_by_host(outside) & addresses(front, outside) or not addresses_by_host(outside)
        assert query(inner.gateway, outside) == (NO_SUCH_NAME, [])


def addresses_by_host(name: str) -> set[str]:
    try:
        return {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        return set()


def test_a_version_of_ip_that_is_missing_is_no_missing_name(host: Host, make: Make) -> None:
    """Resolvers give up a name that does not exist, though they have an address of it."""
    network = make()
    with launch(host, network=network, hostname="plain"):
        assert query(network.gateway, "plain", AAAA) == (0, [])
        assert query(network.gateway, "plain")[0] == 0


def test_changes_are_seen_at_once(host: Host, front: Network, make: Make) -> None:
    """Connecting, disconnecting, renaming, stopping, starting, removing."""
    other, name = make(), f"moving-{os.getpid()}"
    with launch(host, network=other), launch(host, network=front, name=name) as container:
        other.connect(container, aliases=["there"])
        appears(other, "there", of(container, other))
        other.disconnect(container)
        appears(other, "there", set())
        container.rename(f"{name}-2")
        appears(front, f"{name}-2", of(container, front))
        appears(front, name, set())
        container.stop(timeout_s=0)
        appears(front, f"{name}-2", set())
        container.start()
        appears(front, f"{name}-2", of(container, front))
        container.restart(timeout_s=0)
        appears(front, f"{name}-2", of(container, front))
        with launch(host, network=front, hostname="brief") as brief:
            assert addresses(front, "brief") == of(brief, front)
        appears(front, "brief", set())


def test_several_may_share_an_alias(host: Host, front: Network) -> None:
    """All are found by it; one that ends no more."""
    with launch(host, network=front, hostname="app") as one:
        with launch(host, network=front, hostname="app") as other:
            assert addresses(front, "app") == of(one, front) | of(other, front)
        appears(front, "app", of(one, front))


def test_names_are_of_one_network(host: Host, front: Network, make: Make) -> None:
    """Others do not know them."""
    other = make()
    with launch(host, network=front, hostname="secret"), launch(host, network=other) as stranger:
        assert "NXDOMAIN" in lookup(stranger, "secret")


def test_the_server_outlives_its_caller_and_is_replaced(host: Host, front: Network) -> None:
    """It has no parent of ours; killed, it is back with the next container on its network; then all are
    known again."""
    with launch(host, network=front, hostname="old") as old:
        first = server_of(host, front)
        assert first and os.getsid(first) != os.getsid(0)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not server_of(host, front))
        with launch(host, network=front):
            assert server_of(host, front) not in (0, first)
            appears(front, "old", of(old, front))
        front.disconnect(old)
        os.kill(server_of(host, front), signal.SIGKILL)
        eventually(lambda: not server_of(host, front))
        front.connect(old)
        appears(front, "old", of(old, front))


def test_the_log_of_a_server_is_bounded(host: Host, front: Network) -> None:
    """It begins anew with the next container, and the server goes on with it."""
    with launch(host, network=front):
        log = host.root / "cache/names" / front.id / "log"
        with open(log, "ab") as file:
            file.truncate(2 << 20)
        with launch(host, network=front) as other:
            pass
        eventually(lambda: f"{other.id} removed" in log.read_text())
        assert log.stat().st_size < 1 << 20


def test_nobody_else_is_taken_for_a_server(host: Host, front: Network) -> None:
    """Though users of the host may run what has its command line."""
    with launch(host, network=front):
        first = server_of(host, front)
        words = Path(f"/proc/{first}/cmdline").read_text().split("\0")
        command = ["/bin/sh", "-c", "read line", *words]
        with subprocess.Popen(command, stdin=subprocess.PIPE, user=12345, group=12345) as stranger:
            try:
                os.kill(first, signal.SIGKILL)
                eventually(lambda: not server_of(host, front))
                with launch(host, network=front):
                    assert server_of(host, front) not in (0, first, stranger.pid)
            finally:
                stranger.kill()


def test_it_is_there_for_its_network_alone(host: Host, front: Network, make: Make) -> None:
    """At the gateway's addresses, as an ordinary user; it ends with the network."""
    other = make(internal=True)
    with launch(host, network=front), launch(host, network=other) as stranger:
        pid = server_of(host, front)
        with open(f"/proc/{pid}/status") as file:
            assert "\nUid:\t0" not in file.read()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
            free.bind(("127.0.0.1", 53))
        asked = stranger.exec(["nslookup", "x", front.gateway], check=False, timeout_s=30).stdout
        assert "NXDOMAIN" not in asked
    front.remove()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_without_dnsmasq(host: Host, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network is refused, with the package to install; one without names is not."""
    monkeypatch.setattr(dns, "_PLACES", "/nowhere")
    with pytest.raises(UnsupportedError) as caught:
        make()
    assert "dnsmasq-base" in caught.value.remedy
    network = make(dns=False)
    with launch(host, network=network) as container:
        assert str(network.gateway) not in container.path("/etc/resolv.conf").read_text()
        assert not server_of(host, network)
