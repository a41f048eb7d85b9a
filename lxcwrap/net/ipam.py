"""Subnets and addresses: which are free. Pure; the leases are the state store's.

Networks, addresses and MACs come as text and go as text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from hashlib import blake2s
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TypeVar

from attrs import frozen

from ..errors import AddressInUseError, ExhaustedError, InvalidSpecError

IPNetwork = IPv4Network | IPv6Network
IPAddress = IPv4Address | IPv6Address
T = TypeVar("T")

# Where subnets are taken from, in this order, each as /24. Not Docker's (172.17.0.0/16 and following).
POOLS = ("10.88.0.0/16", "10.112.0.0/16", "172.29.0.0/16", "192.168.128.0/17")
_SUBNET_BITS = {4: 24, 6: 64}
# What covers this much is the default route, perhaps in pieces, as VPNs write it (0.0.0.0/1, 128.0.0.0/1).
_DEFAULT_ROUTE_BITS = 3
_MULTICAST = 0x01


def ula_pool(seed: bytes) -> str:
    """The /48 of unique local IPv6 addresses that belongs to `seed` (RFC 4193): of the machine or root."""
    return str(IPv6Network((b"\xfd" + blake2s(seed, digest_size=5).digest() + bytes(10), 48)))


def free_subnet(in_use: Iterable[str], pools: Iterable[str] = POOLS) -> str:
    """The first /24 of `pools` (of IPv6 /64) that overlaps with nothing in use, or ExhaustedError.

    in_use: networks and addresses, ``10.0.0.5/24``, of all networks, links and routes there are.
    """
    taken = [network for network in map(_network_of, in_use) if network.prefixlen > _DEFAULT_ROUTE_BITS]
    pools = tuple(pools)
    for pool in map(ip_network, pools):
        inside = sorted(
            (int(network.network_address), int(network.broadcast_address))
            for network in taken
            if network.version == pool.version and network.overlaps(pool)
        )
        found = _first_gap(pool, inside)
        if found is not None:
            return str(found)
    raise ExhaustedError("subnet", " and ".join(pools))


def _first_gap(pool: IPNetwork, taken: list[tuple[int, int]]) -> IPNetwork | None:
    """taken: first and last address of each network, sorted."""
    bits = max(_SUBNET_BITS[pool.version], pool.prefixlen)
    size = 1 << pool.max_prefixlen - bits
    start = int(pool.network_address)
    for first, last in taken:
        if first >= start + size:
            break
        if last >= start:
            start = (last // size + 1) * size
    if start > int(pool.broadcast_address):
        return None
    return type(pool)((start, bits))


def _network_of(text: str) -> IPNetwork:
    return ip_interface(text).network


@frozen
class Subnet:
    """The addresses of a network: ``Subnet("10.88.1.0/24")``, ``Subnet("fd00:1::/64", gateway="fd00:1::9")``.

    gateway: the host's own on it, by default the first. Raises InvalidSpecError for what cannot be a subnet
    of containers.
    """

    network: str
    gateway: str = ""

    def __attrs_post_init__(self) -> None:
        network = _parse(ip_network, self.network, "subnet")
        if network.max_prefixlen - network.prefixlen < 2:
            raise InvalidSpecError(f"subnet {network}: there is no room for a gateway and a container")
        if network.is_loopback or network.is_multicast or network.is_link_local or network.is_unspecified:
            raise InvalidSpecError(f"subnet {network}: reserved for other uses")
        gateway = _parse(ip_address, self.gateway, "gateway") if self.gateway else network[1]
        object.__setattr__(self, "network", str(network))
        object.__setattr__(self, "gateway", str(gateway))
        if gateway not in network or gateway in _unusable(network):
            raise InvalidSpecError(f"gateway {gateway}: no address of {network}")

    @property
    def version(self) -> int:
        """4 or 6."""
        return self._parsed.version

    @property
    def _parsed(self) -> IPNetwork:
        return ip_network(self.network)

    def check_unused(self, in_use: Iterable[str]) -> None:
        """AddressInUseError: it overlaps with one of these, as for `free_subnet`."""
        own = self._parsed
        for text in in_use:
            other = _network_of(text)
            overlaps = other.version == own.version and other.overlaps(own)
            if overlaps and other.prefixlen > _DEFAULT_ROUTE_BITS:
                raise AddressInUseError(self.network, text)

    def check_address(self, address: str) -> str:
        """A static address, in the one way to write it; InvalidSpecError: no container can have it here."""
        value = _parse(ip_address, address, "address")
        if value not in self._parsed:
            raise InvalidSpecError(f"address {value}: not in the subnet {self.network}")
        if value in _unusable(self._parsed) or str(value) == self.gateway:
            raise InvalidSpecError(f"address {value}: reserved in {self.network}")
        return str(value)

    def free_address(self, taken: Collection[str], *, after: str = "") -> str:
        """One that is not `taken`: the next behind `after`, then from the first on. Who gives out one after
        the other gives none again soon, while neighbours may still remember its last owner.

        Raises ExhaustedError.
        """
        network = self._parsed
        used = {int(ip_address(text)) for text in (*taken, self.gateway)}
        used.update(map(int, _unusable(network)))
        first, last = int(network[0]), int(network[-1])
        start = int(ip_address(after)) + 1 if after else first
        for candidates in (range(max(start, first), last + 1), range(first, last + 1)):
            for number in candidates:
                if number not in used:
                    return str(network[number - first])
        raise ExhaustedError("address", self.network)


def _unusable(network: IPNetwork) -> tuple[IPAddress, ...]:
    """The network's own (of IPv6: of any router on it, RFC 4291), and the broadcast address of IPv4."""
    return (network[0], network[-1]) if network.version == 4 else (network[0],)


def _parse(parse: Callable[[str], T], text: str, what: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidSpecError(f"{what} {text!r}: {error}") from None


def mac_of(address: str) -> str:
    """A MAC address for a container with this address: always the same, so that neighbours stay right over
    restarts, and locally administered (IEEE 802c)."""
    value = ip_address(address).packed
    own = value if len(value) == 4 else blake2s(value, digest_size=4).digest()
    return (b"\x02\x58" + own).hex(":")


def check_mac(mac: str) -> str:
    """In lower case; InvalidSpecError: malformed, or not of one station."""
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac.lower()):
        raise InvalidSpecError(f"MAC address {mac!r}: write it as '02:00:00:00:00:01'")
    if int(mac[:2], 16) & _MULTICAST or not int(mac.replace(":", ""), 16):
        raise InvalidSpecError(f"MAC address {mac}: of a group, or of none, not of one station")
    return mac.lower()
