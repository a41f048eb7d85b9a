"""The firewall's rules for networks, published ports and containers' addresses, as text for nftables. Pure.

Each root directory has two tables of its own, named by its tag, so that several share a machine: ``inet`` for
what the host routes, ``bridge`` for what containers send. A packet is dropped if any table drops it.

What networks, ports and containers add are elements of sets and maps; the rules stay. All text here may be
applied twice, and applies as a whole or not at all. Deleting adds first: so it is no error if it has gone,
and a port that leads elsewhere by now is refused (EEXIST), where nft itself would delete it.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2s
from typing import NamedTuple

from ..drivers.netlink_messages import check_link_name, mac_bytes, packed, packed_network, unpacked

# Packets to containers are dropped, unless they come from their own network, or to a port that is published
# (ct status dnat). `internal` stands before that: a published port is no way out or in, either.
_ROUTED = """
table inet NAME {
  set bridges { type ifname; }
  set internal { type ifname; }
  set together { type ifname . ifname; }
  set subnets4 { type ipv4_addr; flags interval; }
  set subnets6 { type ipv6_addr; flags interval; }
  set gateways4 { type ipv4_addr; }
  set gateways6 { type ipv6_addr; }
  set servers4 { type ifname . ipv4_addr; }
  set servers6 { type ifname . ipv6_addr; }
  map names { type ifname . ipv4_addr : ipv4_addr; }
  map zones { typeof iifname . ip saddr : ct zone; }
  map publish4 { type inet_proto . inet_service : ipv4_addr . inet_service; }
  map publish6 { type inet_proto . inet_service : ipv6_addr . inet_service; }
  map publish4_at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
  map publish6_at { type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }

  # Bridges route 127.0.0.0/8 (route_localnet), for published ports: containers must not use that. A network's
  # name server is asked from its own bridge only, and by the host. The zone lets who keeps on asking from one
  # port, after its networks have changed, be led anew.
  chain guard {
    type filter hook prerouting priority raw; policy accept;
    iifname @bridges ip daddr 127.0.0.0/8 drop
    iifname @bridges ip saddr 127.0.0.0/8 drop
    iifname != "lo" meta l4proto { tcp, udp } th dport 53 jump asking
  }
  chain asking {
    ip daddr @gateways4 iifname . ip daddr != @servers4 drop
    ip6 daddr @gateways6 iifname . ip6 daddr != @servers6 drop
    ip daddr @gateways4 ct original zone set iifname . ip saddr map @zones
  }

  # Questions of containers to their name server stay its own; who is on several networks asks one that knows
  # them all. To ::1 the kernel cannot lead a connection elsewhere, so it is refused, and not left to wait.
  chain published {
    meta l4proto { tcp, udp } th dport 53 ip daddr @gateways4 dnat ip to iifname . ip saddr map @names
    meta l4proto { tcp, udp } th dport 53 ip daddr @gateways4 return
    meta l4proto { tcp, udp } th dport 53 ip6 daddr @gateways6 return
    dnat ip to ip daddr . meta l4proto . th dport map @publish4_at
    dnat ip to meta l4proto . th dport map @publish4
    ip6 daddr != ::1 dnat ip6 to ip6 daddr . meta l4proto . th dport map @publish6_at
    ip6 daddr != ::1 dnat ip6 to meta l4proto . th dport map @publish6
  }
  chain arriving {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump published
  }
  chain own {
    type nat hook output priority -100; policy accept;
    fib daddr type local jump published
  }

  chain leaving {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ct status dnat ip saddr 127.0.0.0/8 masquerade
    oifname @bridges ct status dnat ip saddr @subnets4 masquerade
    oifname @bridges ct status dnat ip6 saddr @subnets6 masquerade
    oifname "lo" return
    oifname != @bridges ip saddr @subnets4 masquerade
    oifname != @bridges ip6 saddr @subnets6 masquerade
  }

  chain routed {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifname . oifname @together accept
    iifname @internal drop
    oifname @internal drop
    ct status dnat accept
    oifname @bridges drop
    iifname @bridges ct state invalid drop
  }
}
"""

# Of a container's port only what bears its MAC and IP addresses, and claims no other's: by ARP, by neighbour
# advertisements (their target), as a router. All else (VLAN tags, other protocols) is dropped; and all of one
# whose container has ended: its network lives on with a socket that somebody else was given.
_SENT = """
table bridge NAME {
  set ports { type ifname; }
  set macs { type ifname . ether_addr; }
  set sources4 { type ifname . ipv4_addr; }
  set sources6 { type ifname . ipv6_addr; }
  set targets6 { typeof iifname . @th,64,128; }

  chain sent {
    type filter hook prerouting priority -300; policy accept;
    iifname @ports jump pinned
    iifgroup GROUP jump pinned
  }
  chain pinned {
    iifname . ether saddr != @macs drop
    ether type ip iifname . ip saddr @sources4 accept
    ether type arp iifname . arp saddr ether @macs iifname . arp saddr ip @sources4 accept
    ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop
    ether type ip6 icmpv6 type nd-neighbor-advert iifname . @th,64,128 != @targets6 drop
    ether type ip6 iifname . ip6 saddr @sources6 accept
    drop
  }
}
"""

PROTOCOLS = ("tcp", "udp", "sctp")
Element = tuple[str, str]  # the set or map, and what is in it


class NetworkRules(NamedTuple):
    """A network as the firewall sees it.

    subnets: ``10.88.1.0/24``.. internal: no way out or in, not by published ports either. isolated: its
    containers do not reach each other by way of the host; directly, their bridge ports forbid it.
    """

    bridge: str
    subnets: Sequence[str]
    gateways: Sequence[str]
    internal: bool = False
    isolated: bool = False

    def elements(self) -> list[Element]:
        bridge = _quoted(self.bridge)
        found = [("bridges", bridge)]
        if self.internal:
            found.append(("internal", bridge))
        if not self.isolated:
            found.append(("together", f"{bridge} . {bridge}"))
        found += [_with_version("subnets", *_network(subnet)) for subnet in self.subnets]
        for version, gateway in map(_address, self.gateways):
            found += [(f"gateways{version}", gateway), (f"servers{version}", f"{bridge} . {gateway}")]
        return found


class PublishedPort(NamedTuple):
    """`span` ports from `host_port` on lead to those of the container at `address`, from `port` on.

    host_ip: the host's address they are published at; empty: all, of the IP version of `address`.
    """

    protocol: str
    host_port: int
    address: str
    port: int
    host_ip: str = ""
    span: int = 1

    def elements(self) -> list[Element]:
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r}: must be one of {', '.join(PROTOCOLS)}")
        for first in (self.host_port, self.port):
            if not 1 <= first <= first + self.span - 1 <= 65535:
                raise ValueError(f"ports {first}..{first + self.span - 1}: must be within 1..65535")
        version, address = _address(self.address)
        where, at = f"publish{version}", ""
        if self.host_ip:
            host_version, host_ip = _address(self.host_ip)
            if host_version != version:
                raise ValueError(f"port at {host_ip} to {address}: both must be of one IP version")
            where, at = f"{where}_at", f"{host_ip} . "
        return [
            (where, f"{at}{self.protocol} . {self.host_port + i} : {address} . {self.port + i}")
            for i in range(self.span)
        ]


class PinnedPort(NamedTuple):
    """What a container may send by the bridge port `link`. With an IPv6 address, also from the link-local one
    that the kernel derives from `mac` (RFC 4291, appendix A)."""

    link: str
    mac: str
    addresses: Sequence[str]

    def elements(self) -> list[Element]:
        link, mac = _quoted(self.link), mac_bytes(self.mac).hex(":")
        found = [("ports", link), ("macs", f"{link} . {mac}")]
        addresses = [_address(address) for address in self.addresses]
        if any(version == 6 for version, _ in addresses):
            addresses.append((6, link_local(mac)))
        for version, address in addresses:
            found.append((f"sources{version}", f"{link} . {address}"))
            if version == 6:
                found.append(("targets6", f"{link} . 0x{packed(address)[1].hex()}"))
        return found


class SharedServer(NamedTuple):
    """The name server at `server`, of the host, that a container asks from `address` by way of `bridge`.
    zone: of its own, 1 to 65535."""

    bridge: str
    address: str
    server: str
    zone: int

    def elements(self) -> list[Element]:
        values = _address(self.server)[1], int(self.zone)
        keys = self.asking()
        return [(where, f"{key} : {value}") for (where, key), value in zip(keys, values, strict=True)]

    def asking(self) -> list[Element]:
        """Enough to delete it, wherever it leads."""
        asker = f"{_quoted(self.bridge)} . {_address(self.address)[1]}"
        return [("names", asker), ("zones", asker)]


Part = NetworkRules | PublishedPort | PinnedPort | SharedServer


class Tables:
    """The two tables of a root directory; `tag` is its own, of letters and digits."""

    def __init__(self, tag: str) -> None:
        if not tag.isalnum() or not tag.isascii() or len(tag) > 24:
            raise ValueError(f"tag {tag!r}: 1 to 24 letters and digits")
        self.name = f"lxcwrap_{tag}"
        # Of the host's ends of all links of containers: IFLA_GROUP.
        self.group = int.from_bytes(blake2s(tag.encode(), digest_size=4).digest(), "big") | 1
        self._routed, self._sent = f"inet {self.name}", f"bridge {self.name}"

    def create(self) -> str:
        """If they are not there; if they are, the rules are made anew, and the elements stay."""
        emptied = "".join(f"table {table}\nflush table {table}\n" for table in (self._routed, self._sent))
        rules = (_ROUTED + _SENT).replace("NAME", self.name).replace("GROUP", str(self.group))
        return emptied + rules

    def remove(self) -> str:
        """With all that is in them."""
        return "".join(f"table {table}\ndelete table {table}\n" for table in (self._routed, self._sent))

    def replace(self, *parts: Part) -> str:
        """Whatever there was, hereafter exactly `parts` are there. Connections stay."""
        return self.remove() + self.create() + self.add(*parts)

    def add(self, *parts: Part) -> str:
        """EEXIST on a published port that leads elsewhere."""
        return self._elements("add", parts)

    def delete(self, *parts: Part) -> str:
        return self._elements("add", parts) + self._elements("delete", parts)

    def delete_asked(self, *servers: SharedServer) -> str:
        """Wherever they lead by now. ENOENT: one is not there."""
        return self._text("delete", [element for server in servers for element in server.asking()])

    def _elements(self, verb: str, parts: Sequence[Part]) -> str:
        return self._text(verb, [element for part in parts for element in part.elements()])

    def _text(self, verb: str, found: Sequence[Element]) -> str:
        by_set: dict[str, list[str]] = {}
        for where, element in found:
            by_set.setdefault(where, []).append(element)
        return "".join(
            f"{verb} element {self._table(where)} {where} {{ {', '.join(elements)} }}\n"
            for where, elements in by_set.items()
        )

    def _table(self, where: str) -> str:
        return self._sent if where in _SENT_SETS else self._routed


_SENT_SETS = ("ports", "macs", "sources4", "sources6", "targets6")


def link_local(mac: str) -> str:
    """The IPv6 address that a link with this MAC address gives itself (RFC 4291, appendix A)."""
    value = mac_bytes(mac)
    return unpacked(b"\xfe\x80" + bytes(6) + bytes([value[0] ^ 2]) + value[1:3] + b"\xff\xfe" + value[3:])


def _quoted(link: str) -> str:
    if not all(sign.isascii() and (sign.isalnum() or sign in "._-") for sign in link):
        raise ValueError(f"link name {link!r}: letters, digits, '.', '_' and '-' only")
    return f'"{check_link_name(link)}"'


def _address(address: str) -> tuple[int, str]:
    """Version, and the one way in which to write it."""
    value = packed(address)[1]
    return (4 if len(value) == 4 else 6), unpacked(value)


def _network(network: str) -> tuple[int, str]:
    _, value, bits = packed_network(network)
    return (4 if len(value) == 4 else 6), f"{unpacked(value)}/{bits}"


def _with_version(where: str, version: int, element: str) -> Element:
    return f"{where}{version}", element
