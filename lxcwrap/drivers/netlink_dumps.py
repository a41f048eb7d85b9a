"""What there is in a network namespace: links, addresses, routes."""

from __future__ import annotations

import struct
from typing import NamedTuple

from . import links
from .netlink_messages import attributes, unpacked
from .rtnetlink import Rtnetlink


class Link(NamedTuple):
    """kind: ``bridge``, ``veth``..; empty for hardware and loopback. master: index of its bridge, or 0.
    parent: index of the link it hangs on, or 0; for a veth that of its peer, in the peer's namespace."""

    ifindex: int
    name: str
    kind: str
    mac: str
    mtu: int
    master: int
    parent: int
    is_up: bool


class Address(NamedTuple):
    """interface: ``10.0.0.2/24``."""

    ifindex: int
    interface: str


class Route(NamedTuple):
    """destination: ``10.0.0.0/24``, ``::/0``. via: the gateway, or empty. ifindex: of the link, or 0.
    table: 254 is the main one, 255 what the host itself answers to."""

    destination: str
    via: str
    ifindex: int
    table: int


def read_links(net: Rtnetlink) -> list[Link]:
    return [_link(body) for body in net.dump(links.GETLINK, links.named(0))]


def read_addresses(net: Rtnetlink) -> list[Address]:
    return [_address(body) for body in net.dump(links.GETADDR, struct.pack("=BBBBI", 0, 0, 0, 0, 0))]


def read_routes(net: Rtnetlink) -> list[Route]:
    """Of all tables, IPv4 and IPv6."""
    return [_route(body) for body in net.dump(links.GETROUTE, bytes(12))]


def networks_in_use(net: Rtnetlink) -> set[str]:
    """All that a new subnet must not overlap with, as ``address/length``, the default routes among it."""
    return {address.interface for address in read_addresses(net)} | {
        route.destination for route in read_routes(net)
    }


def _link(body: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", body, 4)
    found = attributes(body[16:])
    info = attributes(found.get(links.IFLA_LINKINFO, b""))
    return Link(
        ifindex=index,
        name=_text(found.get(links.IFLA_IFNAME, b"")),
        kind=_text(info.get(links.INFO_KIND, b"")),
        mac=found.get(links.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found.get(links.IFLA_MTU)),
        master=_number(found.get(links.IFLA_MASTER)),
        parent=_number(found.get(links.IFLA_LINK)),
        is_up=bool(flags & links.IFF_UP),
    )


def _address(body: bytes) -> Address:
    bits, index = body[1], struct.unpack_from("=I", body, 4)[0]
    found = attributes(body[8:])
    # On a point-to-point link ADDRESS is that of the other end.
    own = found.get(links.IFA_LOCAL) or found[links.IFA_ADDRESS]
    return Address(index, f"{unpacked(own)}/{bits}")


def _route(body: bytes) -> Route:
    family, bits, table = body[0], body[1], body[4]
    found = attributes(body[12:])
    target = found.get(links.RTA_DST) or bytes(4 if family == 2 else 16)
    via = found.get(links.RTA_GATEWAY, b"")
    index = _number(found.get(links.RTA_OIF))
    return Route(f"{unpacked(target)}/{bits}", unpacked(via) if via else "", index, table)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int(struct.unpack_from("=I", value)[0]) if value else 0
