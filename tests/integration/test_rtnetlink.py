"""Links, addresses, routes and limits of rates, made for real in namespaces of their own."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from lxcwrap.drivers import links, netns, traffic
from lxcwrap.drivers.link_probes import TRIALS, probe
from lxcwrap.drivers.netlink_dumps import (
    Address,
    networks_in_use,
    read_addresses,
    read_links,
    read_routes,
)
from lxcwrap.drivers.netlink_messages import CREATE, Request, attributes, text
from lxcwrap.drivers.rtnetlink import Rtnetlink
from tests.netlab import Place

MAC = "02:00:00:00:01:02"


class Pair:
    """A host with a bridge, and a container with an end of a veth."""

    def __init__(self, stack: ExitStack) -> None:
        self.host, self.container = Place(stack), Place(stack)
        self.host.net.apply(links.bridge("bridge", mtu=1400, mac="02:00:00:00:01:01"))
        self.bridge = self.host.net.index("bridge")
        veth = links.veth("veth", "eth0", netns_fd=self.container.fd, master=self.bridge, mtu=1400, mac=MAC)
        self.host.net.apply(veth, links.port("veth", hairpin=True, isolated=True))
        self.eth0 = self.container.net.index("eth0")
        self.container.net.apply(
            links.change(self.eth0, up=True),
            links.address(self.eth0, "10.1.0.2/24"),
            links.address(self.eth0, "fd00:1::2/64"),
            links.route("0.0.0.0/0", via="10.1.0.1"),
            links.route("::/0", via="fd00:1::1"),
        )
        self.host.net.apply(
            links.address(self.bridge, "10.1.0.1/24"), links.address(self.bridge, "fd00:1::1/64")
        )


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack)


def test_links_are_as_asked_for(pair: Pair) -> None:
    """Kind, MAC, MTU, bridge, peer and state, on both sides."""
    host = {link.name: link for link in read_links(pair.host.net)}
    eth0 = read_links(pair.container.net)[-1]
    assert (host["bridge"].kind, host["bridge"].mac) == ("bridge", "02:00:00:00:01:01")
    assert (host["bridge"].mtu, host["bridge"].is_up) == (1400, True)
    assert (host["veth"].kind, host["veth"].master, host["veth"].mtu) == ("veth", pair.bridge, 1400)
    assert (eth0.name, eth0.mac, eth0.mtu, eth0.is_up) == ("eth0", MAC, 1400, True)
    assert (eth0.parent, host["veth"].parent) == (host["veth"].ifindex, eth0.ifindex)


def test_addresses_and_routes_are_as_asked_for(pair: Pair) -> None:
    """And are seen as networks in use; an IPv6 address is not held back for duplicates to be looked for."""
    net, eth0 = pair.container.net, pair.eth0
    assert {Address(eth0, "10.1.0.2/24"), Address(eth0, "fd00:1::2/64")} <= set(read_addresses(net))
    routes = {(route.destination, route.via) for route in read_routes(net) if route.table == 254}
    assert {("0.0.0.0/0", "10.1.0.1"), ("::/0", "fd00:1::1"), ("10.1.0.0/24", "")} <= routes
    assert {"10.1.0.2/24", "0.0.0.0/0", "fd00:1::2/64"} <= networks_in_use(net)
    with netns.within(pair.container.fd), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
        bound.bind(("fd00:1::2", 0))


def test_all_can_be_changed_and_taken_away(pair: Pair) -> None:
    """By name or by index."""
    net, eth0 = pair.container.net, pair.eth0
    net.apply(
        links.delete_route("0.0.0.0/0", via="10.1.0.1"),
        links.delete_route("::/0"),
        links.delete_address(eth0, "10.1.0.2/24"),
        links.delete_address(eth0, "fd00:1::2/64"),
        links.change("eth0", up=False, mtu=1300, mac="02:00:00:00:01:09"),
        links.rename(eth0, "eth9"),
    )
    assert not {"10.1.0.2/24", "fd00:1::2/64", "0.0.0.0/0", "::/0"} & networks_in_use(net)
    changed = read_links(net)[-1]
    assert (changed.name, changed.mtu, changed.is_up) == ("eth9", 1300, False)
    assert changed.mac == "02:00:00:00:01:09"
    pair.host.net.apply(links.change("veth", master=0))
    assert {link.name: link.master for link in read_links(pair.host.net)}["veth"] == 0
    net.apply(links.move("eth9", pair.host.fd))
    assert {"veth", "eth9"} <= {link.name for link in read_links(pair.host.net)}
    pair.host.net.apply(links.delete(pair.host.net.index("veth")), links.delete("bridge"))
    assert [link.name for link in read_links(pair.host.net)] == ["lo"]


def test_a_gateway_outside_the_subnet_needs_onlink(pair: Pair) -> None:
    """Without, the kernel refuses, and its reason is in the error."""
    net, eth0 = pair.container.net, pair.eth0
    with pytest.raises(OSError) as caught:
        net.apply(links.route("10.9.0.0/16", via="192.0.2.9", index=eth0))
    assert (caught.value.errno, caught.value.filename) == (errno.ENETUNREACH, "10.9.0.0/16")
    assert "add route" in str(caught.value)
    assert "gateway" in str(caught.value)
    net.apply(links.route("10.9.0.0/16", via="192.0.2.9", index=eth0, onlink=True))


@pytest.mark.parametrize(
    ("request_", "number"),
    [
        (links.bridge("bridge"), errno.EEXIST),
        (links.delete("none"), errno.ENODEV),
        (links.delete(4321), errno.ENODEV),
        (links.bridge("huge", mtu=1 << 30), errno.EINVAL),
        (links.port("none", hairpin=True, isolated=False), errno.ENODEV),
    ],
    ids=lambda value: getattr(value, "operation", ""),
)
def test_refusals_name_operation_and_link(pair: Pair, request_: Request, number: int) -> None:
    """With the kernel's errno."""
    with pytest.raises(OSError) as caught:
        pair.host.net.apply(request_)
    assert (caught.value.errno, caught.value.filename) == (number, request_.name)
    assert request_.operation in str(caught.value)


def test_nothing_is_done_behind_a_refusal(pair: Pair) -> None:
    """As what follows may mean a link that is another's."""
    with pytest.raises(FileExistsError):
        pair.host.net.apply(links.bridge("bridge"), links.change("bridge", mtu=1300))
    assert {link.name: link.mtu for link in read_links(pair.host.net)}["bridge"] == 1400


def test_long_lists_are_whole(pair: Pair) -> None:
    """Of more routes than fit into one answer."""
    wanted = [f"10.{number >> 8}.{number & 255}.0/24" for number in range(512, 1012)]
    pair.host.net.apply(*(links.route(text, via="10.1.0.2") for text in wanted))
    assert set(wanted) <= {route.destination for route in read_routes(pair.host.net)}


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_macvlan_is_another_station_on_a_link(pair: Pair, mode: str) -> None:
    """In the container's namespace, over a link of the host's."""
    host = pair.host.net
    host.apply(links.veth("up", "wire"))
    host.apply(links.macvlan("eth1", host.index("up"), mode=mode, netns_fd=pair.container.fd, mac=MAC))
    made = read_links(pair.container.net)[-1]
    assert (made.name, made.kind, made.mac, made.parent) == ("eth1", "macvlan", MAC, host.index("up"))


def test_within_a_namespace_and_back(pair: Pair) -> None:
    """Also when the block fails, and when there is no way in."""
    home = os.stat("/proc/thread-self/ns/net").st_ino
    with suppress(KeyError), netns.within(pair.host.fd):
        assert os.stat("/proc/thread-self/ns/net").st_ino == os.fstat(pair.host.fd).st_ino
        raise KeyError
    with open("/proc/self/ns/mnt") as other, pytest.raises(OSError), netns.within(other.fileno()):
        pytest.fail("that is no network namespace")
    assert os.stat("/proc/thread-self/ns/net").st_ino == home


def test_other_threads_stay_where_they_are(pair: Pair) -> None:
    """A namespace is entered by one thread."""
    with ThreadPoolExecutor(1) as other:
        home = other.submit(os.stat, "/proc/thread-self/ns/net").result()
        with netns.within(pair.host.fd):
            assert other.submit(os.stat, "/proc/thread-self/ns/net").result() == home


def test_a_socket_stays_in_its_namespace(pair: Pair) -> None:
    """Wherever the thread has gone."""
    with netns.within(pair.container.fd):
        assert "bridge" in {link.name for link in read_links(pair.host.net)}
    with Rtnetlink() as here:
        assert pair.host.net.index("bridge") == pair.bridge
        with pytest.raises(OSError):
            here.index("veth-of-no-one")


@pytest.mark.parametrize("kind", TRIALS)
def test_probes_agree_with_the_kernel(kind: str) -> None:
    """What this kernel lacks has a reason; what is probed leaves nothing."""
    reason = probe(kind)
    if kind not in ("ipvlan", "delays"):
        assert reason == ""
    elif reason:
        assert {"ipvlan": "ipvlan", "delays": "delay link"}[kind] in reason


def rate(source: Place, where: Place, address: str) -> float:
    """Bits a second by TCP, once the bucket is empty."""
    with netns.within(where.fd):
        listener = socket.create_server((address, 0))
    with netns.within(source.fd):
        sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    end = time.monotonic() + 0.8
    thread = threading.Thread(target=_send_until, args=(sender, end))
    thread.start()
    received, start = 0, 0.0
    while data := receiver.recv(1 << 20):
        now = time.monotonic()
        start = start or (now if now > end - 0.5 else 0.0)
        received += len(data) if start else 0
    taken = time.monotonic() - start
    thread.join()
    for opened in (listener, receiver):
        opened.close()
    return received * 8 / taken


def limited_to(bps: int, rate: float) -> bool:
    """Never more; on a busy machine it may be less."""
    return bps * 0.4 < rate < bps * 1.1


def _send_until(sender: socket.socket, end: float) -> None:
    with sender:
        while time.monotonic() < end:
            sender.send(bytes(16384))


def test_rates_are_limited_both_ways_and_change_while_it_runs(pair: Pair) -> None:
    """And the last of the limits takes its device along."""
    net = pair.host.net
    to_container = (pair.host, pair.container, "10.1.0.2")
    from_container = (pair.container, pair.host, "10.1.0.1")
    before = read_links(net)
    for bps in (20_000_000, 200_000_000):
        traffic.set_limits(net, "veth", "detour", sent_bps=bps, received_bps=bps)
        assert limited_to(bps, rate(*to_container))
        assert limited_to(bps, rate(*from_container))
    traffic.set_limits(net, "veth", "detour", received_bps=20_000_000)
    assert rate(*to_container) > 400_000_000
    assert limited_to(20_000_000, rate(*from_container))
    for _ in range(2):
        traffic.set_limits(net, "veth", "detour")
    assert rate(*from_container) > 400_000_000
    assert read_links(net) == before


def test_a_limit_is_mended_when_half_of_it_is_there(pair: Pair) -> None:
    """Whoever was to make it was killed; or somebody took its device away."""
    net = pair.host.net
    net.apply(links.ifb("detour"))
    traffic.set_limits(net, "veth", "detour", received_bps=20_000_000)
    net.apply(links.delete("detour"))
    traffic.set_limits(net, "veth", "detour", received_bps=20_000_000)
    assert limited_to(20_000_000, rate(pair.container, pair.host, "10.1.0.1"))


def test_a_detour_is_removed_when_its_link_has_gone(pair: Pair) -> None:
    """As after a container whose namespace ended."""
    net = pair.host.net
    traffic.set_limits(net, "veth", "detour", received_bps=20_000_000)
    net.apply(links.delete("veth"))
    for _ in range(2):
        traffic.remove_detour(net, "veth", "detour")
    assert {link.name for link in read_links(net)} == {"lo", "bridge"}


def test_other_disciplines_stay(pair: Pair) -> None:
    """In the bucket when its rate changes, and in its place when there is no limit."""
    net, bucket, root = pair.host.net, 0x1_0001, 0xFFFFFFFF
    veth = net.index("veth")

    def kinds() -> list[bytes]:
        found = [body for body in net.dump(38, bytes(20)) if struct.unpack_from("=i", body, 4)[0] == veth]
        return [attributes(body[20:])[1].rstrip(b"\0") for body in found]

    def put(parent: int) -> None:
        header = struct.pack("=BxxxiIII", 0, veth, 0x2_0000, parent, 0)
        net.apply(Request("make", "veth", traffic.NEWQDISC, CREATE, header + text(1, "pfifo")))

    traffic.set_limits(net, "veth", "detour", sent_bps=10**6)
    put(bucket)
    traffic.set_limits(net, "veth", "detour", sent_bps=10**7)
    assert kinds() == [b"tbf", b"pfifo"]
    traffic.set_limits(net, "veth", "detour")
    put(root)
    traffic.set_limits(net, "veth", "detour")
    assert kinds() == [b"pfifo"]


def test_a_very_high_rate_is_a_rate(pair: Pair) -> None:
    """100 Gbit/s, which 32 bits cannot hold in bytes, and the least there is."""
    for bps in (100_000_000_000, 1):
        traffic.set_limits(pair.host.net, "veth", "detour", sent_bps=bps, received_bps=bps)
