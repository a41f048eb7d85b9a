"""kill -9 of any process of ours between any two lines leaves no link, lease or bridge without an owner."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Limits, LxcwrapError, Network, Rate
from lxcwrap.drivers.netlink_dumps import read_addresses, read_links
from lxcwrap.drivers.rtnetlink import Rtnetlink
from lxcwrap.net.firewall import Firewall, asked
from lxcwrap.net.names import detour_name
from lxcwrap.supervisor import wiring
from tests import faults
from tests.faults import assert_clean
from tests.integration.networked import interfaces
from tests.integration.rated import detours, in_force
from tests.polling import eventually
from tests.walk import kernel

# Every how many lines one is struck. 1 tries them all, in half an hour.
STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "89"))
NAME, OTHER_NAME = "victim", "another"
FRONT, BACK = f"front-{os.getpid()}", f"back-{os.getpid()}"
Act = Callable[[Host], object]


@pytest.fixture(scope="module")
def host(roots: str) -> Iterator[Host]:
    """A host of this module's own, with the default image made."""
    with Host(f"{roots}/network-faults") as host:
        host.containers.run("busybox", ["true"])
        host.networks.create("first").remove()  # makes locks, and opens what stays open
        with Host(host.root), Host(host.root):  # SQLite keeps descriptors it closed for the next time
            assert_clean(host.root)
        yield host
        host.close(stop_server=True)


@pytest.fixture(autouse=True)
def front(host: Host) -> Iterator[Network]:
    """A network, with a container on it that is not concerned."""
    network = host.networks.create(FRONT, ipv6=True, rate="100Mbit")
    with host.containers.launch("busybox", ["sleep", "1000"], name="bystander", network=network) as bystander:
        before = bystander.networks
        yield network
        assert bystander.networks == before and interfaces(bystander) == {"lo", "eth0"}
    for left in host.networks:
        left.remove()
    host._machinery.supervisor.stop()


def _finish(host: Host) -> None:
    """One new `Host` is enough; then no link is without a record, and the victim can be removed."""
    assert_clean(host.root)
    shared = 1  # of both networks
    eventually(lambda: _name_servers(host) <= len(host.networks) + shared, within_s=5)
    eventually(lambda: _links(host) <= _recorded(host), within_s=5)
    for container in host.containers:
        if container.state.is_alive:
            _check_inside(container)
    faults.until(lambda: kernel.wrong(host), 5.0)
    for name in (NAME, OTHER_NAME):
        if victim := host.containers.get(name):
            victim.remove(force=True)
    if back := host.networks.get(BACK):
        back.remove()
    host.networks[FRONT].limit("100Mbit")


def _name_servers(host: Host) -> int:
    found = 0
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            is_one = (entry / "comm").read_text() == "dnsmasq\n"
            found += is_one and str(host.root) in (entry / "cmdline").read_text()
    return found


def _links(host: Host) -> set[str]:
    """Of this root directory: those on its bridges, and its bridges."""
    with Rtnetlink() as net:
        links = read_links(net)
    names = {row["bridge"] for row in host._machinery.state.connection.execute("SELECT bridge FROM networks")}
    bridges = {link.ifindex for link in links if link.name in names}
    ours = {link.name for link in links if link.ifindex in bridges or link.master in bridges}
    return ours | detours(host, "")


def _recorded(host: Host) -> set[str]:
    query = "SELECT bridge FROM networks"
    bridges = {row["bridge"] for row in host._machinery.state.connection.execute(query)}
    running = [container.id for container in host.containers if container.state.is_alive]
    wires = [wire for each in running for wire in host._machinery.network_store.wires(each)]
    assert all(wire["owner_pid"] is None for wire in wires)
    limited = {detour_name(wire["link"]) for wire in wires if wire["egress_bps"]}
    return bridges | {wire["link"] for wire in wires} | limited


def _check_inside(container: Container) -> None:
    expected = {endpoint.interface for endpoint in container.networks.values()} | {"lo"}
    assert interfaces(container) == expected
    with wiring.network_of(container._machinery.bundle(container.id)) as fd, Rtnetlink(fd) as net:
        have = {address.interface.partition("/")[0] for address in read_addresses(net)}
    exposed = Firewall(container._machinery.root.path).exposed(container.id)
    wires = container._machinery.network_store.wires(container.id)
    assert (exposed.servers if exposed else ()) == tuple(asked(wires))
    leased = {address for each in container.networks.values() for address in (each.ip, each.ip6) if address}
    rates = {each.interface: each.rate or Rate() for each in container.networks.values()}
    assert in_force(container) == {key: (rate.egress or 0, rate.ingress or 0) for key, rate in rates.items()}
    assert leased <= have and {each for each in have if each.startswith("10.")} <= leased


def _nothing(host: Host) -> None:
    pass


def _launched(host: Host) -> None:
    host.containers.launch("busybox", ["sleep", "1000"], name=NAME)


def _connected(host: Host) -> None:
    host.containers.launch("busybox", ["sleep", "1000"], name=NAME, network=FRONT)


def _made(host: Host) -> None:
    host.networks.create(BACK, ipv6=True)


def _connected_and_made(host: Host) -> None:
    _connected(host)
    _made(host)


CALLER: dict[str, tuple[Act, Act]] = {
    "create a network": (_nothing, _made),
    "remove a network": (_made, lambda host: host.networks[BACK].remove()),
    "launch": (_nothing, _connected),
    "remove": (_connected, lambda host: host.containers[NAME].remove(force=True)),
    "connect": (_launched, lambda host: host.networks[FRONT].connect(NAME)),
    "connect to one more": (_connected_and_made, lambda host: host.networks[BACK].connect(NAME)),
    "rename": (_connected, lambda host: host.containers[NAME].rename(OTHER_NAME)),
    "disconnect": (_connected, lambda host: host.networks[FRONT].disconnect(NAME)),
    "limit": (_connected, lambda host: host.networks[FRONT].limit(Rate(ingress="1Mbit"))),
    "update": (_connected, lambda host: host.containers[NAME].update(Limits(network_rate=Rate()))),
}


@pytest.mark.parametrize("operation", CALLER)
def test_the_caller_may_be_killed_at_any_line(host: Host, operation: str) -> None:
    """The next host completes or undoes what it had begun; what ran before goes on running."""
    prepare, act = CALLER[operation]
    n = 1
    while True:
        prepare(host)
        eventually(lambda: threading.active_count() == 1)
        with Host(host.root) as callers:
            was_struck = faults.killed_at(n, lambda: act(callers))
        _finish(host)
        if not was_struck:
            break
        n += STRIDE
    print(f"{operation}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s


def _a_life(host: Host) -> None:
    _connected(host)
    with host.containers[NAME] as container:
        container.stop()


@pytest.mark.parametrize("role", ["monitor", "starter", "runner"])
def test_a_process_of_the_supervisor_may_be_killed_at_any_line(host: Host, role: str) -> None:
    """Its caller gets an answer or an error of ours; addresses are free again with the container."""
    n, error = 1, None
    with faults.armed_server(host) as (set_fault, was_struck):
        while True:
            set_fault(role, n)
            try:
                _a_life(host)
            except LxcwrapError as caught:
                error = caught
            if not was_struck():
                break
            _finish(host)
            error, n = None, n + STRIDE
    assert error is None
    print(f"{role}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s
