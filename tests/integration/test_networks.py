"""Containers on networks: real links, addresses and packets."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lxcwrap import (
    AddressInUseError,
    Endpoint,
    ExhaustedError,
    Host,
    InvalidSpecError,
    NameInUseError,
    Network,
    NetworkNotFoundError,
    StartError,
    StillUsedError,
    UnsupportedError,
)
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


# --- what a container has -------------------------------------------------------------------------------


def test_containers_on_a_network_reach_each_other(host: Host, front: Network) -> None:
    """By IPv4 and IPv6, and the host reaches them."""
    with launch(host, network=front) as one, launch(host, network=front.name) as other:
        there = other.networks[front.name]
        assert other.ip == there.ip != one.ip
        assert reaches(one, there.ip) and reaches(one, there.ip6) and reaches(one, front.gateway)
        ping = ["busybox", "ping", "-c1", "-W1", str(there.ip)]
        assert subprocess.run(ping, stdout=subprocess.DEVNULL, check=False).returncode == 0
        assert set(front.containers) == {one, other}


def test_the_network_is_complete_at_the_first_instruction(host: Host, front: Network) -> None:
    """Addresses, routes, the length of packets; the container's own name leads to its address."""
    script = "ip -o addr show eth0; ip route; ip -6 route; cat /sys/class/net/eth0/mtu; cat /etc/hosts"
    said = host.containers.run("busybox", sh=script, network=front, hostname="me").stdout
    own = next(line.split()[0] for line in said.splitlines() if line.endswith("\tme"))
    assert f"inet {own}/24" in said and f"default via {front.gateway} " in said
    assert f"default via {front.gateway6} " in said and f"\n{front.spec.mtu}\n" in said


def test_isolation_by_ids_stays(host: Host, front: Network) -> None:
    """A container's root has no rights over its own network, nor others over its /sys."""
    with launch(host, network=front) as container:
        done = container.exec(["ip", "addr", "add", "10.9.9.9/24", "dev", "eth0"], check=False)
        assert done.exit_code != 0
    with launch(host, network=front, cap_add=["NET_ADMIN"]) as container:
        container.exec(["ip", "addr", "add", "10.9.9.9/24", "dev", "eth0"])


def test_static_addresses(host: Host, make: Make) -> None:
    """Of the network's subnets, as given, and refused where they are another's."""
    network = make(subnet="10.87.21.0/24", ipv6="fd00:87:21::/64", gateway="10.87.21.9")
    wanted = Endpoint(
        ip="10.87.21.77", ip6="fd00:87:21:0::77", mac="02:00:00:00:00:77", interface="net0", aliases=["www"]
    )
    with launch(host, name="holder", network={network: wanted}) as container:
        assert container.networks == {network.name: wanted} and wanted.ip6 == "fd00:87:21::77"
        facts = container.exec(["ip", "addr", "show", "net0"]).stdout
        assert "02:00:00:00:00:77" in facts and "10.87.21.77/24" in facts and "fd00:87:21::77/64" in facts
        for taken in (Endpoint(ip="10.87.21.77"), Endpoint(mac="02:00:00:00:00:77")):
            with pytest.raises(AddressInUseError) as caught:
                host.containers.create("busybox", name="late", network={network: taken})
            assert caught.value.user == "holder"
    for wrong in ("10.87.22.1", "10.87.21.9", "10.87.21.255"):
        with pytest.raises(InvalidSpecError):
            host.containers.create("busybox", name="late", network={network: Endpoint(ip=wrong)})
    assert "late" not in host.containers


def test_several_networks(host: Host, make: Make) -> None:
    """An interface on each; the default route is by the first that leads anywhere."""
    closed, one, other = make(internal=True), make(), make()
    with (
        launch(host, network=[closed, one, other]) as container,
        launch(host, network=other) as peer,
        launch(host, network=closed) as inner,
    ):
        assert list(container.networks) == [closed.name, one.name, other.name]
        assert interfaces(container) == {"lo", "eth0", "eth1", "eth2"}
        assert default_route(container) == [one.gateway, "dev", "eth1"]
        assert reaches(container, peer.ip) and reaches(container, inner.ip)
        assert default_route(inner) == []


def test_addresses_stay_over_restarts(host: Host, front: Network) -> None:
    """And of the last run nothing is in the way of the next, however soon that comes."""
    with launch(host, network=front) as container, launch(host, network=front) as peer:
        before = container.networks
        for _ in range(5):
            container.restart(timeout_s=0)
            assert container.networks == before
            assert str(container.ip) in container.exec(["ip", "addr", "show", "eth0"]).stdout
        assert reaches(peer, container.ip)


def test_a_stopped_container_keeps_its_addresses(host: Host, front: Network) -> None:
    """Until it is removed."""
    container = launch(host, network={front: Endpoint(ip=None)})
    address = str(container.ip)
    container.stop(timeout_s=0)
    with pytest.raises(AddressInUseError):
        host.containers.create("busybox", network={front: Endpoint(ip=address)})
    container.remove()
    host.containers.run("busybox", ["true"], network={front: Endpoint(ip=address)})


def test_without_a_network_there_is_loopback_alone(host: Host) -> None:
    """As it is by default."""
    for options in ({}, {"network": "none"}):
        with launch(host, **options) as container:
            assert interfaces(container) == {"lo"} and container.ip is None and container.networks == {}


# --- networks that are not its own ----------------------------------------------------------------------


def test_the_network_of_the_host(host: Host) -> None:
    """Its links, addresses and names; no rights over them."""
    with launch(host, network="host") as container:
        assert interfaces(container) >= set(os.listdir("/sys/class/net")) - {""}
        hosts = container.path("/etc/hosts").read_text()
        assert hosts.startswith(Path("/etc/hosts").read_text())
        assert container.exec(["ip", "link", "set", "lo", "down"], check=False).exit_code != 0
        assert container.exec(["touch", "/sys/x"], check=False).exit_code != 0
        assert container.networks == {}


def test_the_network_of_another_container(host: Host, front: Network) -> None:
    """Loopback, addresses and names are those of the other, the ids are not."""
    with host.containers.launch("busybox", sh=SERVE, name="lender", network=front) as lender:
        with launch(host, network="container:lender") as container:
            assert interfaces(container) == {"lo", "eth0"}
            dial = ["nc", "127.0.0.1", "80"]
            eventually(lambda: container.exec(dial, check=False).stdout == "hello\n")
            assert container.path("/etc/hosts").read_text() == lender.path("/etc/hosts").read_text()
            maps = [each.exec(["cat", "/proc/self/uid_map"]).stdout for each in (lender, container)]
            assert maps[0] != maps[1]
            with pytest.raises(InvalidSpecError):
                front.connect(container)
        lender.stop(timeout_s=0)
        with pytest.raises(StartError):
            host.containers.run("busybox", ["true"], network="container:lender")


def test_settings_of_its_own_beside_a_borrowed_network(host: Host) -> None:
    """Those of IPC; those of the network would be another's."""
    script = "cat /proc/sys/kernel/shmmni"
    done = host.containers.run("busybox", sh=script, network="host", sysctls={"kernel.shmmni": 99})
    assert done.stdout == "99\n"
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", network="host", sysctls={"net.core.somaxconn": 99})


def test_a_macvlan(host: Host, make: Make) -> None:
    """Containers with MAC addresses of their own on a link of the host; live, too."""
    link = f"lxwt{os.getpid()}"
    subprocess.run(["ip", "link", "add", link, "type", "veth", "peer", f"{link}p"], check=True)
    try:
        for end in (link, f"{link}p"):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        network = make(driver="macvlan", parent=link, subnet="10.87.30.0/24")
        with launch(host, network=network) as one, launch(host) as other:
            network.connect(other)
            assert reaches(one, other.ip)
            network.disconnect(other)
            assert interfaces(other) == {"lo"}
            one.restart(timeout_s=0)
            assert interfaces(one) == {"lo", "eth0"}
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)


# --- networks -------------------------------------------------------------------------------------------


def test_a_network_the_kernel_lacks_is_refused(host: Host) -> None:
    """With the kernel's reason, and nothing is made."""
    from lxcwrap.drivers.link_probes import probe

    if not probe("ipvlan"):
        pytest.skip("this kernel has ipvlan")
    with pytest.raises(UnsupportedError):
        host.networks.create("refused", driver="ipvlan", parent="lo")
    assert "refused" not in host.networks


def test_subnets_that_are_in_use_are_refused(host: Host, front: Network) -> None:
    """Of other networks, also of those without a link, and what the host routes."""
    assert front.subnet6
    for options in ({"subnet": front.subnet}, {"subnet": "10.0.0.0/8"}, {"ipv6": front.subnet6}):
        with pytest.raises(AddressInUseError):
            host.networks.create("refused", **options)  # type: ignore[arg-type]
    with pytest.raises(NameInUseError):
        host.networks.create(front.name)
    for wrong in ({"driver": "macvlan"}, {"parent": "lo"}, {"mtu": 10}, {"gateway": "10.0.0.1"}):
        with pytest.raises(InvalidSpecError):
            host.networks.create("refused", **wrong)
    assert "refused" not in host.networks


def test_a_network_in_use_stays(host: Host, make: Make) -> None:
    """Also by what does not run."""
    network = make()
    container = host.containers.create("busybox", network=network)
    with pytest.raises(StillUsedError) as caught:
        network.remove()
    assert caught.value.users == [container.name]
    container.remove()
    bridge = str(network.bridge)
    assert Path("/sys/class/net", bridge).exists()
    network.remove()
    assert not Path("/sys/class/net", bridge).exists() and network not in host.networks
    with pytest.raises(NetworkNotFoundError):
        network.subnet  # noqa: B018
    with pytest.raises(NetworkNotFoundError):
        host.containers.create("busybox", network=network.id)


def test_networks_are_found(host: Host, make: Make) -> None:
    """By name, id, unique prefix, or the object."""
    network = make(labels={"tier": "front"})
    for key in (network.name, network.id, network.id[:12], network):
        assert host.networks[key] == network and key in host.networks
    assert network in list(host.networks) and len(host.networks) >= 1
    assert network.labels == {"tier": "front"} and not network.internal


def test_the_default_network_is_made_when_it_is_used(fresh_host: Host) -> None:
    """Once, and cleared by prune when nobody uses it."""
    with ThreadPoolExecutor(4) as pool:
        done = [
            pool.submit(fresh_host.containers.run, "busybox", ["true"], network="default") for _ in range(4)
        ]
        assert [each.result().exit_code for each in done] == [0] * 4
    assert [network.name for network in fresh_host.networks] == ["default"]
    assert fresh_host.networks.prune() == ["default"]


def test_a_bridge_that_was_lost_is_made_again(host: Host, front: Network) -> None:
    """As after a boot of the machine."""
    subprocess.run(["ip", "link", "delete", str(front.bridge)], check=True)
    with launch(host, network=front) as container:
        assert reaches(container, front.gateway)


def test_isolated_containers_do_not_reach_each_other(host: Host, make: Make) -> None:
    """But their gateway."""
    network = make(isolated=True)
    with launch(host, network=network) as one, launch(host, network=network) as other:
        assert reaches(one, network.gateway) and not reaches(one, other.ip)


def test_a_full_network(host: Host, make: Make) -> None:
    """Has no address for one more, and has one when another goes."""
    network = make(subnet="10.87.40.0/30")
    with launch(host, network=network) as container:
        assert container.ip == "10.87.40.2"
        with pytest.raises(ExhaustedError):
            host.containers.run("busybox", ["true"], network=network)
    host.containers.run("busybox", ["true"], network=network)


def test_a_subnet_that_another_has_taken_meanwhile(host: Host, make: Make) -> None:
    """While the network had no bridge: it is not used a second time."""
    network, link = make(subnet="10.87.60.0/24"), f"lxwt{os.getpid()}"
    subprocess.run(["ip", "link", "delete", str(network.bridge)], check=True)
    subprocess.run(["ip", "link", "add", link, "type", "bridge"], check=True)
    try:
        subprocess.run(["ip", "addr", "add", "10.87.60.128/25", "dev", link], check=True)
        with pytest.raises(StartError):
            host.containers.run("busybox", ["true"], network=network)
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)
    host.containers.run("busybox", ["true"], network=network)


def test_root_directories_choose_different_subnets(host: Host, fresh_host: Host) -> None:
    """Also at once."""
    hosts, made = (host, fresh_host), list[Network]()
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(hosts[n % 2].networks.create, f"many-{os.getpid()}-{n}") for n in range(8)]
        made += [task.result() for task in tasks]
    try:
        assert len({network.subnet for network in made}) == len(made)
    finally:
        for network in made:
            network.remove()
