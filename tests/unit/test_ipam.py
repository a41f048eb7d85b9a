"""Subnets and addresses: what is free, what may be asked for."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from lxcwrap.errors import AddressInUseError, ExhaustedError, InvalidSpecError
from lxcwrap.net.ipam import POOLS, Subnet, check_mac, free_subnet, mac_of, ula_pool


def test_the_first_subnet_is_the_pools_first() -> None:
    """And the next the next to it."""
    assert free_subnet([]) == "10.88.0.0/24"
    assert free_subnet(["10.88.0.1/24", "10.88.1.0/24"]) == "10.88.2.0/24"


def test_gaps_are_filled() -> None:
    """Also behind one network that covers several, and one that is part of a /24."""
    assert free_subnet(["10.88.0.0/22", "10.88.4.128/25", "10.88.6.0/24"]) == "10.88.5.0/24"
    assert free_subnet(["10.88.0.0/24", "10.88.0.0/22", "10.88.1.0/24"]) == "10.88.4.0/24"


@pytest.mark.parametrize("route", ["10.0.0.0/8", "10.88.0.0/16", "8.0.0.0/5"])
def test_a_pool_that_the_host_routes_is_passed_over(route: str) -> None:
    """Wherever to: hosts on it would be out of reach."""
    assert not ip_network(free_subnet([route])).overlaps(IPv4Network(route))


@pytest.mark.parametrize("route", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "fd00::/64"])
def test_default_routes_take_nothing(route: str) -> None:
    """In two halves, as VPNs have it, neither; nor does the other IP version."""
    assert free_subnet([route]) == "10.88.0.0/24"


def test_exhausted_pools_are_named() -> None:
    """With all of them in the error."""
    with pytest.raises(ExhaustedError) as caught:
        free_subnet(POOLS)
    assert (caught.value.what, caught.value.where) == ("subnet", " and ".join(POOLS))


def test_a_pool_may_be_smaller_than_a_subnet() -> None:
    """It is then one."""
    assert free_subnet([], ["192.0.2.0/28"]) == "192.0.2.0/28"


def test_ipv6_pools_are_unique_and_local() -> None:
    """Always the same for one seed; a /64 each."""
    pool = ula_pool(b"one")
    assert pool == ula_pool(b"one") != ula_pool(b"other")
    assert IPv6Network(pool).subnet_of(IPv6Network("fd00::/8"))
    first = free_subnet([], [pool])
    second = free_subnet([first], [pool])
    assert IPv6Network(first).prefixlen == IPv6Network(second).prefixlen == 64
    assert not IPv6Network(first).overlaps(IPv6Network(second))


def test_the_gateway_is_the_first_address_or_as_given() -> None:
    """In the one way to write it."""
    assert Subnet("10.88.1.0/24").gateway == "10.88.1.1"
    assert Subnet("FD00:0::/64").network == "fd00::/64"
    assert Subnet("10.88.1.0/24", gateway="10.88.1.254").gateway == "10.88.1.254"


@pytest.mark.parametrize(
    ("network", "gateway"),
    [
        ("10.88.1.1/24", ""),
        ("10.88.1.0/31", ""),
        ("fd00::/127", ""),
        ("127.0.0.0/8", ""),
        ("224.0.0.0/8", ""),
        ("169.254.0.0/16", ""),
        ("fe80::/64", ""),
        ("ff02::/64", ""),
        ("10.88.1/24", ""),
        ("front", ""),
        ("", ""),
        ("10.88.1.0/24", "10.88.2.1"),
        ("10.88.1.0/24", "10.88.1.0"),
        ("10.88.1.0/24", "10.88.1.255"),
        ("10.88.1.0/24", "fd00::1"),
        ("fd00::/64", "fd00::"),
        ("10.88.1.0/24", "first"),
    ],
)
def test_what_cannot_be_a_subnet_is_refused(network: str, gateway: str) -> None:
    """Host bits, no room, reserved ranges, gateways that no host can have."""
    with pytest.raises(InvalidSpecError):
        Subnet(network, gateway)


def test_an_overlap_is_named() -> None:
    """What was asked for, and what it meets."""
    subnet = Subnet("10.88.0.0/16")
    subnet.check_unused(["0.0.0.0/0", "10.89.0.0/16", "fd00::/64", "0.0.0.0/1"])
    with pytest.raises(AddressInUseError) as caught:
        subnet.check_unused(["10.89.0.0/16", "10.88.3.7/24"])
    assert (caught.value.address, caught.value.user) == ("10.88.0.0/16", "10.88.3.7/24")


@pytest.mark.parametrize(
    "address", ["10.88.1.0", "10.88.1.1", "10.88.1.255", "10.88.2.2", "fd00::2", "two", ""]
)
def test_static_addresses_are_checked(address: str) -> None:
    """Network, gateway, broadcast, elsewhere, no address."""
    with pytest.raises(InvalidSpecError):
        Subnet("10.88.1.0/24").check_address(address)


def test_static_addresses_are_written_in_one_way() -> None:
    """So that they compare."""
    assert Subnet("fd00::/64").check_address("FD00:0:0::0A") == "fd00::a"


def test_addresses_are_given_in_turn() -> None:
    """The next behind the last, past what is taken, and again from the first."""
    subnet = Subnet("192.0.2.0/29")
    assert subnet.free_address([]) == "192.0.2.2"
    assert subnet.free_address(["192.0.2.3"], after="192.0.2.2") == "192.0.2.4"
    assert subnet.free_address(["192.0.2.2"], after="192.0.2.6") == "192.0.2.3"
    with pytest.raises(ExhaustedError) as caught:
        subnet.free_address([f"192.0.2.{number}" for number in range(2, 7)], after="192.0.2.4")
    assert (caught.value.what, caught.value.where) == ("address", "192.0.2.0/29")


def test_macs_are_local_and_follow_the_address() -> None:
    """Of one station, administered locally, always the same."""
    assert mac_of("10.88.1.2") == "02:58:0a:58:01:02"
    assert mac_of("fd00::2") == mac_of("fd00:0::2") != mac_of("fd00::3")
    for mac in (mac_of("10.88.1.2"), mac_of("fd00::2")):
        assert check_mac(mac) == mac
        assert int(mac[:2], 16) & 3 == 2


@pytest.mark.parametrize(
    "mac",
    [
        "",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "02:00:00:00:01",
        "02-00-00-00-00-01",
    ],
)
def test_macs_of_no_station_are_refused(mac: str) -> None:
    """Groups, none at all, other forms."""
    with pytest.raises(InvalidSpecError):
        check_mac(mac)


def test_macs_are_written_in_one_way() -> None:
    """In lower case."""
    assert check_mac("02:AB:CD:00:00:01") == "02:ab:cd:00:00:01"
