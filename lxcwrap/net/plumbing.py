"""Networks and their endpoints in the kernel: bridges, links, addresses, routes. What there is to be, records
tell (see store.py), of which this takes rows.

A bridge is made when it is first needed, also after the host has booted; it is up when it is complete. The
host's end of a container's link goes when its namespace does: nobody need remove it.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress

from ..drivers import links
from ..drivers.forwarding import prepare_bridge
from ..drivers.namespaces import link_is_up
from ..drivers.netlink_dumps import read_addresses, read_links
from ..drivers.netlink_messages import packed_network
from ..drivers.rtnetlink import Rtnetlink
from ..storage.root import RootDir
from ..storage.state import State
from . import rates
from .firewall import Firewall
from .names import veth_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from typing import Any

Network = dict[str, "Any"]  # id, name, bridge, and the fields of its NetworkSpec
# The columns of an endpoint, `network`: its Network, and `egress_bps` and `ingress_bps`: 0 is no limit.
Wire = dict[str, "Any"]

_WIRES = """
    SELECT endpoints.*, networks.name, networks.bridge, networks.spec, coalesce(
        rate, json_extract(containers.spec, '$.limits.network_rate'), json_extract(networks.spec, '$.rate')
    ) AS in_force FROM endpoints JOIN networks ON networks.id = network_id
    JOIN containers ON containers.id = container_id WHERE container_id = ? ORDER BY position
"""
_TEARDOWN_S = 5.0  # the kernel takes 20 ms


def wires(connection: sqlite3.Connection, container_id: str) -> list[Wire]:
    """The endpoints of a container, the first one first."""
    return [_wire(dict(row)) for row in connection.execute(_WIRES, (container_id,))]


def _wire(row: dict[str, Any]) -> Wire:
    names = {"id": row["network_id"], "name": row.pop("name"), "bridge": row.pop("bridge")}
    rate = json.loads(row.pop("in_force") or "{}")
    limits = {f"{direction}_bps": rate.get(direction) or 0 for direction in ("egress", "ingress")}
    return {**row, **limits, "network": {**json.loads(row.pop("spec")), **names}}


def addresses(wire: Wire) -> list[str]:
    """Its own, without lengths."""
    return [address for address in (wire["ip"], wire["ip6"]) if address]


# --- networks -------------------------------------------------------------------------------------------


def ensure_network(net: Rtnetlink, network: Network, run: str) -> None:
    """Its bridge, complete. run: the directory for locks of the root directory."""
    if network["driver"] != "bridge" or link_is_up(network["bridge"]):
        return
    with locked(f"{run}/networks.lock"):
        if not link_is_up(network["bridge"]):
            _check_unused(net, network)
            root = os.path.dirname(run)
            _check_recorded(root, network)
            Firewall(root).network_added(network)
            _make_bridge(net, network, root)


def _check_unused(net: Rtnetlink, network: Network) -> None:
    """OSError EADDRINUSE: while it had no bridge, its addresses have become another link's."""
    names = {link.ifindex: link.name for link in read_links(net)}
    for address in read_addresses(net):
        name = names.get(address.ifindex, "")
        for subnet, _ in _subnets(network):
            if name != network["bridge"] and _overlap(subnet, address.interface):
                what = f"{subnet} of network {network['name']} is in use: {address.interface} at {name}"
                raise OSError(errno.EADDRINUSE, what)


def _check_recorded(root: str, network: Network) -> None:
    """OSError ENOENT: it was removed while somebody was about to use it; its bridge would stay for ever."""
    with closing(State(RootDir(root).state_db)) as state:
        query = "SELECT 1 FROM networks WHERE id = ?"
        if not state.connection.execute(query, (network["id"],)).fetchone():
            raise OSError(errno.ENOENT, f"network {network['name']} was removed")


def _overlap(one: str, other: str) -> bool:
    family, value, bits = packed_network(one)
    other_family, other_value, other_bits = packed_network(other)
    if family != other_family:
        return False
    shift = len(value) * 8 - min(bits, other_bits)
    return int.from_bytes(value, "big") >> shift == int.from_bytes(other_value, "big") >> shift


def _make_bridge(net: Rtnetlink, network: Network, root: str) -> None:
    """What a killed process has made of it stays. root: the directory it belongs to, for who wonders."""
    name, mac = network["bridge"], bytes.fromhex("02" + network["id"][:10]).hex(":")
    with suppress(FileExistsError):
        net.apply(links.bridge(name, mtu=network["mtu"], mac=mac, up=False))
    prepare_bridge(name)
    index = net.index(name)
    for subnet, gateway in _subnets(network):
        with suppress(FileExistsError):
            net.apply(links.address(index, _with_length(gateway, subnet)))
    # Up in the end: then it is complete.
    net.apply(links.label(index, root), links.change(index, up=True))


@contextmanager
def removing(run: str) -> Iterator[None]:
    """For who removes networks: nobody makes one meanwhile, or changes rules. Held before a transaction of
    the records begins, as by others: see `Firewall.alone`."""
    with locked(f"{run}/networks.lock"), Firewall(os.path.dirname(run)).alone():
        yield


def remove_network(net: Rtnetlink, network: Network, run: str, *, last: bool) -> None:
    """In the kernel, if it is there, while `removing`. Nothing may be connected to it. last: there are no
    others."""
    if network["driver"] == "bridge":
        for link in (*_remains(net, network["bridge"]), network["bridge"]):
            _discard(net, link)
        Firewall(os.path.dirname(run)).network_removed(network, last=last)


def _remains(net: Rtnetlink, bridge: str) -> list[str]:
    """Links of containers that have gone: a connection whose other end does not answer any more keeps the
    namespace for up to two minutes (tcp_orphan_retries)."""
    known = read_links(net)
    index = next((link.ifindex for link in known if link.name == bridge), None)
    return [link.name for link in known if link.master == index and link.name.startswith(veth_name(""))]


def _subnets(network: Network) -> list[tuple[str, str]]:
    """Of IPv4, and of IPv6 if it has one, with gateways."""
    pairs = ((network["subnet"], network["gateway"]), (network["subnet6"], network["gateway6"]))
    return [pair for pair in pairs if pair[0]]


def _with_length(address: str, subnet: str) -> str:
    return f"{address}/{subnet.rpartition('/')[2]}"


# --- endpoints ------------------------------------------------------------------------------------------


def plug_all(net: Rtnetlink, netns_fd: int, connected: list[Wire], run: str) -> None:
    """Make all links of a container, whose namespace has none yet."""
    with Rtnetlink(netns_fd) as inside:
        for wire in connected:
            ensure_network(net, wire["network"], run)
            _plug(net, inside, netns_fd, wire, run)
        _default_routes(inside, connected)


def plug(net: Rtnetlink, netns_fd: int, wire: Wire, connected: Iterable[Wire], run: str) -> None:
    """Make one link of a container that runs; nothing is left if it fails. connected: all it has then."""
    if _has(net, wire["link"]):  # its start has met this wire already
        return
    ensure_network(net, wire["network"], run)
    Firewall(os.path.dirname(run)).endpoint_added(wire)
    with Rtnetlink(netns_fd) as inside:
        try:
            _plug(net, inside, netns_fd, wire, run)
            _default_routes(inside, connected)
        except BaseException:
            _unplug(netns_fd, wire, run)
            raise


def unplug(netns_fd: int, wire: Wire, connected: Iterable[Wire], run: str) -> None:
    """Take one link from a container that runs, if it has it. connected: all that it keeps."""
    _unplug(netns_fd, wire, run)
    with Rtnetlink(netns_fd) as inside:
        _default_routes(inside, connected)


def limit(net: Rtnetlink, netns_fd: int, connected: Iterable[Wire], run: str) -> None:
    """The links of a container that runs are limited as `connected` says; those that are there."""
    with Rtnetlink(netns_fd) as inside:
        for wire in connected:
            try:
                rates.apply(net, inside, wire, os.path.dirname(run))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise


def _plug(net: Rtnetlink, inside: Rtnetlink, netns_fd: int, wire: Wire, run: str) -> None:
    network, name = wire["network"], wire["interface"]
    facts: dict[str, Any] = {"netns_fd": netns_fd, "mtu": network["mtu"], "mac": wire["mac"]}
    if network["driver"] == "bridge":
        link, group = wire["link"], Firewall(os.path.dirname(run)).tables.group
        bridge = net.index(network["bridge"])
        request = links.veth(link, name, master=bridge, group=group, up=False, **facts)
        try:
            net.apply(request)
        except FileExistsError:  # that of the last run, which the kernel has not removed yet
            _discard(net, link)
            net.apply(request)
        port = links.port(link, hairpin=True, isolated=network["isolated"])
        net.apply(port, links.without_link_local(link), links.change(link, up=True))
    else:
        net.apply(links.macvlan(name, net.index(network["parent"]), **facts))
    if wire["egress_bps"] or wire["ingress_bps"]:
        rates.apply(net, inside, wire, os.path.dirname(run))
    index = inside.index(name)
    own = [(wire["ip"], network["subnet"]), (wire["ip6"], network["subnet6"])]
    inside.apply(*(links.address(index, _with_length(*pair)) for pair in own if pair[0]))
    if not wire["ip6"]:
        inside.apply(links.without_link_local(index))
    _bring_up(inside, index)


def _bring_up(inside: Rtnetlink, index: int) -> None:
    """A macvlan of the last run has the same MAC address, until the kernel has removed it."""
    deadline = time.monotonic() + _TEARDOWN_S
    while True:
        try:
            return inside.apply(links.change(index, up=True))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise
        time.sleep(0.002)


def _default_routes(inside: Rtnetlink, connected: Iterable[Wire]) -> None:
    """By the first network that leads anywhere."""
    for wire in connected:
        network = wire["network"]
        for _, gateway in () if network["internal"] else _subnets(network):
            with suppress(FileExistsError):
                index = inside.index(wire["interface"])
                everything = "::/0" if ":" in gateway else "0.0.0.0/0"
                inside.apply(links.route(everything, via=gateway, index=index))


def _unplug(netns_fd: int, wire: Wire, run: str) -> None:
    """Without waiting until the kernel has let go of the link: 20 ms after that was last seen."""
    from threading import Thread  # here, as in the fork-server it would cost each fork memory

    if wire["network"]["driver"] == "bridge":
        place, link = None, wire["link"]  # and with it its other end
    else:
        place, link = netns_fd, wire["interface"]
    with Rtnetlink(place) as net:
        removal = Thread(target=_discard_apart, args=(Rtnetlink(place), link), name="lxcwrap-unplug")
        removal.start()
        while removal.is_alive() and _has(net, link):
            removal.join(0.0003)
    rates.forget(wire, netns_fd, os.path.dirname(run))


def _discard_apart(net: Rtnetlink, link: str) -> None:
    with net:
        _discard(net, link)


def _has(net: Rtnetlink, link: str) -> bool:
    try:
        return net.index(link) > 0
    except OSError:
        return False


def _discard(net: Rtnetlink, link: str) -> None:
    try:
        net.apply(links.delete(link))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


@contextmanager
def locked(path: str) -> Iterator[None]:
    """With the file, made if it is missing, locked: one after the other."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
