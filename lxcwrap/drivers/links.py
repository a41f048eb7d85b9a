"""Requests for links, addresses and routes, to be carried out by `rtnetlink.Rtnetlink.apply`. Pure.

Where a link is meant, it is given by name or index. ValueError: what cannot be right.
Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import struct

from .netlink_messages import (
    CREATE,
    EXCLUSIVE,
    Request,
    attribute,
    check_link_name,
    mac_bytes,
    nested,
    number,
    packed,
    packed_network,
    text,
)

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
LOOPBACK = 1  # its index in every namespace

# linux/if_link.h, if_addr.h, rtnetlink.h
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_FD = (
    *(1, 3, 4, 5, 10),
    *(18, 28),
)
_IFLA_GROUP = 27
INFO_KIND, INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_IFLA_IFALIAS, _IFLA_AF_SPEC, _INET6, _ADDR_GEN_MODE, _NO_ADDRESS = 20, 26, 10, 8, 1
_VETH_PEER, _MACVLAN_MODE, _IPVLAN_MODE = 1, 1, 1
_BRIDGE_SWITCHES, _NO_LINK_LOCAL_LEARNING = 46, 1 << 0
_PORT_HAIRPIN, _PORT_ISOLATED = 4, 33
IFA_ADDRESS, IFA_LOCAL, _IFA_BROADCAST, _NO_DETECTION = 1, 2, 4, 0x2
RTA_DST, RTA_OIF, RTA_GATEWAY, _ONLINK = 1, 4, 5, 0x4
_MAIN_TABLE, _BOOT, _SCOPE_ALL, _SCOPE_LINK, _UNICAST = 254, 3, 0, 253, 1

IFF_UP = 0x1
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}


def named(which: str | int, *, up: bool | None = None) -> bytes:
    """struct ifinfomsg of a link, and its name where it is known by that."""
    index, name = (which, b"") if isinstance(which, int) else (0, text(IFLA_IFNAME, check_link_name(which)))
    flags, change = (0, 0) if up is None else (IFF_UP * up, IFF_UP)
    return struct.pack("=BBHiII", 0, 0, 0, index, flags, change) + name


def _facts(
    *, mtu: int = 0, mac: str = "", master: int = 0, parent: int = 0, netns_fd: int | None = None
) -> bytes:
    return b"".join(
        (
            number(IFLA_MTU, mtu) if mtu else b"",
            attribute(IFLA_ADDRESS, mac_bytes(mac)) if mac else b"",
            number(IFLA_MASTER, master) if master else b"",
            number(IFLA_LINK, parent) if parent else b"",
            number(IFLA_NET_NS_FD, netns_fd) if netns_fd is not None else b"",
        )
    )


def _new(kind: str, name: str, up: bool, facts: bytes, data: bytes = b"") -> Request:
    info = nested(IFLA_LINKINFO, text(INFO_KIND, kind), nested(INFO_DATA, data) if data else b"")
    return Request(f"make {kind}", name, NEWLINK, CREATE | EXCLUSIVE, named(name, up=up) + facts + info)


def bridge(name: str, *, mtu: int = 0, mac: str = "", up: bool = True) -> Request:
    """mac: to be given, as otherwise it changes with the ports."""
    # From frames to the bridge itself (01:80:c2:00:00:0X), which no rule sees, it would learn where a MAC
    # address is: whoever sends one would get what is meant for another.
    value = struct.pack("=II", _NO_LINK_LOCAL_LEARNING, _NO_LINK_LOCAL_LEARNING)  # value, and mask
    return _new("bridge", name, up, _facts(mtu=mtu, mac=mac), attribute(_BRIDGE_SWITCHES, value))


def ifb(name: str) -> Request:
    """A device that packets are led through, to be delayed (see traffic.py)."""
    return _new("ifb", name, True, b"")


def veth(
    name: str,
    peer: str,
    *,
    netns_fd: int | None = None,
    master: int = 0,
    mtu: int = 0,
    mac: str = "",
    group: int = 0,
    up: bool = True,
) -> Request:
    """A pair: `name` here, a port of the bridge with index `master`; `peer` in the namespace `netns_fd`, with
    `mac`, and down, as a link that comes into a namespace is. group: what `name` is known by to rules."""
    other = named(peer) + _facts(mtu=mtu, mac=mac, netns_fd=netns_fd)
    facts = _facts(mtu=mtu, master=master) + number(_IFLA_GROUP, group)
    return _new("veth", name, up, facts, nested(_VETH_PEER, other))


def macvlan(
    name: str, parent: int, *, mode: str = "bridge", netns_fd: int | None = None, mtu: int = 0, mac: str = ""
) -> Request:
    """Another MAC address on the link with index `parent`; `name` appears in the namespace `netns_fd`."""
    data = number(_MACVLAN_MODE, _known(MACVLAN_MODES, mode, "macvlan"))
    return _new("macvlan", name, False, _facts(mtu=mtu, mac=mac, parent=parent, netns_fd=netns_fd), data)


def ipvlan(name: str, parent: int, *, mode: str = "l2", netns_fd: int | None = None, mtu: int = 0) -> Request:
    """More IP addresses under the MAC address of the link with index `parent`."""
    data = attribute(_IPVLAN_MODE, struct.pack("=H", _known(IPVLAN_MODES, mode, "ipvlan")))
    return _new("ipvlan", name, False, _facts(mtu=mtu, parent=parent, netns_fd=netns_fd), data)


def _known(modes: dict[str, int], mode: str, kind: str) -> int:
    if mode not in modes:
        raise ValueError(f"{kind} mode {mode!r}: must be one of {', '.join(modes)}")
    return modes[mode]


def change(
    which: str | int, *, up: bool | None = None, mtu: int = 0, mac: str = "", master: int | None = None
) -> Request:
    """master: index of a bridge to become a port of; 0: of none any more."""
    leaves = number(IFLA_MASTER, 0) if master == 0 else b""
    facts = _facts(mtu=mtu, mac=mac, master=master or 0)
    return Request("change link", str(which), NEWLINK, 0, named(which, up=up) + facts + leaves)


def label(which: str | int, alias: str) -> Request:
    """What a link is for, as ``ip link`` shows it: its end, if it is too long."""
    return Request("label link", str(which), NEWLINK, 0, named(which) + text(_IFLA_IFALIAS, alias[-200:]))


def without_link_local(which: str | int) -> Request:
    """Before it is up: it gives itself no IPv6 address, and has nothing to say of that to all neighbours."""
    inet6 = nested(_INET6, attribute(_ADDR_GEN_MODE, bytes([_NO_ADDRESS])))
    body = named(which) + nested(_IFLA_AF_SPEC, inet6)
    return Request("change link", str(which), NEWLINK, 0, body)


def rename(index: int, name: str) -> Request:
    """Of a link that is down, unless the kernel is Linux 6.2 or newer."""
    body = named(index) + text(IFLA_IFNAME, check_link_name(name))
    return Request("rename link to", name, NEWLINK, 0, body)


def move(which: str | int, netns_fd: int) -> Request:
    """It goes down, and loses its addresses."""
    return Request("move link", str(which), NEWLINK, 0, named(which) + _facts(netns_fd=netns_fd))


def delete(which: str | int) -> Request:
    """With its peer, if it is a veth. Takes the kernel 20 to 40 ms."""
    return Request("delete link", str(which), DELLINK, 0, named(which))


def port(which: str | int, *, hairpin: bool, isolated: bool) -> Request:
    """Of a bridge. hairpin: packets may leave by the port they came in, which a container needs to reach a
    port that it has published itself. isolated: no packets to other isolated ports."""
    flags = attribute(_PORT_HAIRPIN, bytes([hairpin])) + attribute(_PORT_ISOLATED, bytes([isolated]))
    info = nested(IFLA_LINKINFO, text(_INFO_SLAVE_KIND, "bridge"), nested(_INFO_SLAVE_DATA, flags))
    return Request("change bridge port", str(which), NEWLINK, 0, named(which) + info)


def address(index: int, interface: str) -> Request:
    """`interface` as ``10.0.0.2/24``. At once usable: without duplicate address detection."""
    family, value, bits = packed_network(interface)
    body = _address(index, family, value, bits)
    if family == 2 and bits < 31:
        hosts = (1 << 32 - bits) - 1
        body += attribute(_IFA_BROADCAST, (int.from_bytes(value, "big") | hosts).to_bytes(4, "big"))
    return Request("add address", interface, NEWADDR, CREATE | EXCLUSIVE, body)


def delete_address(index: int, interface: str) -> Request:
    return Request("delete address", interface, DELADDR, 0, _address(index, *packed_network(interface)))


def _address(index: int, family: int, value: bytes, bits: int) -> bytes:
    flags = 0 if family == 2 else _NO_DETECTION
    header = struct.pack("=BBBBI", family, bits, flags, _SCOPE_ALL, index)
    return header + attribute(IFA_LOCAL, value) + attribute(IFA_ADDRESS, value)


def route(destination: str, *, via: str = "", index: int = 0, onlink: bool = False) -> Request:
    """In the main table. destination: ``10.1.0.0/16``, ``0.0.0.0/0``, ``::/0``. index: of the link, needed
    without a gateway. onlink: `via` is reached through the link though no address of the link says so."""
    body = _route(destination, via, index, _ONLINK if onlink else 0)
    return Request("add route", destination, NEWROUTE, CREATE | EXCLUSIVE, body)


def delete_route(destination: str, *, via: str = "", index: int = 0) -> Request:
    return Request("delete route", destination, DELROUTE, 0, _route(destination, via, index, 0))


def _route(destination: str, via: str, index: int, flags: int) -> bytes:
    family, value, bits = packed_network(destination)
    scope = _SCOPE_ALL if via or family != 2 else _SCOPE_LINK
    body = struct.pack("=BBBBBBBBI", family, bits, 0, 0, _MAIN_TABLE, _BOOT, scope, _UNICAST, flags)
    if bits:
        body += attribute(RTA_DST, value)
    if via:
        gateway_family, gateway = packed(via)
        if gateway_family != family:
            raise ValueError(f"route to {destination} via {via}: both must be of one IP version")
        body += attribute(RTA_GATEWAY, gateway)
    return body + (number(RTA_OIF, index) if index else b"")
