"""What keeps networks apart, with real containers and the tables of a real root directory."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Network, Port
from lxcwrap.drivers.nftables import Nftables
from lxcwrap.net.firewall import Firewall
from tests import leaks
from tests.integration.networked import Make, launch, maker, reaches
from tests.integration.outside import HOST, HOST6, ITS, ITS6, outside
from tests.polling import eventually


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def front(make: Make) -> Network:
    return make(ipv6=True)


def tables(root: Path) -> set[str]:
    """Those of this root directory that the kernel has, by family."""
    name = Firewall(root).tables.name
    return {family for family, table in leaks.tables() if table == name}


def listed(root: Path) -> str:
    """All rules and elements of this root directory."""
    name = Firewall(root).tables.name
    with Nftables() as nft:
        return str([nft.query(f"list table {family} {name}") for family in ("inet", "bridge")])


def test_networks_do_not_reach_each_other(host: Host, front: Network, make: Make) -> None:
    """Neither by IPv4 nor by IPv6; nor does another machine reach them."""
    back = make(ipv6=True)
    with launch(host, network=front) as one, launch(host, network=back) as other, outside() as machine:
        for address in (other.ip, other.networks[back.name].ip6):
            assert not reaches(one, address)
        with socket.create_server((str(front.gateway), 0)):
            assert not machine.connects((str(one.ip), 80))
        both = launch(host, network=[front, back])
        with both:
            assert reaches(both, one.ip) and reaches(both, other.ip)


def test_the_way_out(host: Host, front: Network, make: Make) -> None:
    """Others see the host's address; internal networks have no way, and none to published ports."""
    inner = make(internal=True, ipv6=True)
    with (
        outside() as machine,
        launch(host, network=front) as container,
        launch(host, network=inner) as closed,
    ):
        machine.serve((ITS, 80))
        machine.serve((ITS6, 80))
        for address, seen in ((ITS, HOST), (ITS6, HOST6)):
            eventually(partial(is_told, container, address, seen))
            assert not said(closed, address)
        (published,) = container.publish(Port(80))
        with pytest.raises(OSError):
            closed.socket(published.host_port, host=HOST, timeout_s=0.5)


def is_told(container: Container, address: str, seen: str) -> bool:
    return said(container, address) == seen


def said(container: Container, address: str) -> str:
    """By the server there, of who asks."""
    try:
        with container.socket(80, host=address, timeout_s=0.5) as connection:
            return connection.recv(100).decode()
    except OSError:
        return ""


def test_addresses_cannot_be_forged(host: Host, front: Network) -> None:
    """Even by one who may change them: what has another's MAC or IP address does not leave the container."""
    with launch(host, network=front) as victim, launch(host, network=front, cap_add=["NET_ADMIN"]) as bad:
        assert reaches(bad, victim.ip)
        taken = str(victim.ip).rpartition(".")[0] + ".200"
        bad.exec(["ip", "addr", "add", f"{taken}/24", "dev", "eth0"])
        assert bad.exec(["ping", "-c1", "-W1", "-I", taken, str(victim.ip)], check=False).exit_code != 0
        assert reaches(bad, victim.ip)
        bad.exec(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:99"])
        assert not reaches(bad, victim.ip)


def test_a_network_that_is_connected_later_is_no_way_around(host: Host, front: Network, make: Make) -> None:
    """What is plugged while it runs is pinned as well."""
    back = make()
    with launch(host, network=back) as victim, launch(host, network=front, cap_add=["NET_ADMIN"]) as bad:
        back.connect(bad)
        assert reaches(bad, victim.ip)
        bad.exec(["ip", "link", "set", "eth1", "address", "02:00:00:00:00:98"])
        assert not reaches(bad, victim.ip)


def test_tables_come_and_go_with_the_networks(fresh_host: Host) -> None:
    """Nothing is left of containers that ended, nor anything at all of the last network."""
    root = fresh_host.root
    assert tables(root) == set()
    fresh_host.containers.run("busybox", ["true"])
    assert tables(root) == set()
    network = fresh_host.networks.create("one")
    assert tables(root) == {"inet", "bridge"}
    empty = listed(root)
    with launch(fresh_host, network=network, publish=[Port(80)]) as container:
        assert str(container.ip) in listed(root)
    eventually(lambda: without_handles(listed(root)) == without_handles(empty))
    fresh_host.networks.create("two").remove()
    assert tables(root) == {"inet", "bridge"}
    network.remove()
    assert tables(root) == set()


def without_handles(text: str) -> str:
    return re.sub(r"'handle': \d+", "", text)


def test_rules_that_were_flushed_come_back(fresh_host: Host) -> None:
    """With the next start, those of its networks; with the next port, all there are."""
    root = fresh_host.root
    network = fresh_host.networks.create("one")
    with launch(fresh_host, network=network, publish=[Port(80)]) as first:
        whole = without_handles(listed(root))
        flush(root)
        with launch(fresh_host, network=network):
            assert tables(root) == {"inet", "bridge"}
            assert network.bridge is not None and network.bridge in listed(root)
        flush(root)
        first.unpublish(*first.publish(Port(81)))
        assert sorted(without_handles(listed(root))) == sorted(whole)
    network.remove()


def flush(root: Path) -> None:
    with Nftables() as nft:
        nft.run(Firewall(root).tables.remove())


def test_what_a_killed_process_had_begun_is_put_right(fresh_host: Host) -> None:
    """By the next Host: what is not on record goes, what is comes back."""
    root = fresh_host.root
    network = fresh_host.networks.create("one")
    with launch(fresh_host, network=network, publish=[Port(80)]) as container:
        whole = without_handles(listed(root))
        child = os.fork()
        if child == 0:
            firewall = Firewall(root)
            store = fresh_host._machinery.port_store
            with firewall.recording(store._recorded):
                flush(root)
                os._exit(0)
        os.waitpid(child, 0)
        assert tables(root) == set()
        with Host(root):
            assert sorted(without_handles(listed(root))) == sorted(whole)
        assert container.state.is_alive
    network.remove()


def test_the_host_forwards(host: Host, front: Network) -> None:
    """It is a router from the first network on."""
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == "1\n"
    assert front.bridge is not None
    assert Path(f"/proc/sys/net/ipv4/conf/{front.bridge}/route_localnet").read_text() == "1\n"


def test_many_come_and_go_at_once(fresh_host: Host) -> None:
    """None of their rules is lost, and none is left."""
    root, network = fresh_host.root, fresh_host.networks.create("one")
    empty = without_handles(listed(root))

    def one(_: int) -> None:
        container: Container = launch(fresh_host, network=network, publish=[Port(80)])
        (port,) = container.ports
        text = listed(root)
        assert str(port.host_port) in text and str(container.ip) in text
        container.remove(force=True)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(16)))
    eventually(lambda: sorted(without_handles(listed(root))) == sorted(empty))
    network.remove()
