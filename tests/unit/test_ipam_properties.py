"""Subnets and addresses, whatever is in use: never two for one, and none while there is one."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_interface, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.errors import ExhaustedError
from lxcwrap.net.ipam import Subnet, free_subnet, mac_of

POOL = "10.64.0.0/20"  # sixteen subnets
POOL6 = "fd00::/60"


def within(pool: str, least_bits: int) -> st.SearchStrategy[str]:
    """Interfaces in a pool, or around it."""
    network = ip_network(pool)
    numbers = st.integers(int(network[0]), int(network[-1]))
    return st.builds(
        lambda number, bits: f"{type(network[0])(number)}/{bits}",
        numbers,
        st.integers(least_bits, network.max_prefixlen),
    )


@given(st.lists(within(POOL, 21), max_size=40))
def test_a_subnet_is_free_or_there_is_none(in_use: list[str]) -> None:
    """The first that overlaps with nothing, as one finds by trying all."""
    taken = [ip_interface(text).network for text in in_use]
    free = [
        subnet for subnet in IPv4Network(POOL).subnets(new_prefix=24) if not any(map(subnet.overlaps, taken))
    ]
    if free:
        assert free_subnet(in_use, [POOL]) == str(free[0])
    else:
        with pytest.raises(ExhaustedError):
            free_subnet(in_use, [POOL])


@given(st.lists(within(POOL6, 61), max_size=40))
def test_so_it_is_with_ipv6(in_use: list[str]) -> None:
    """A /64 of sixteen."""
    taken = [ip_interface(text).network for text in in_use]
    free = [
        subnet for subnet in IPv6Network(POOL6).subnets(new_prefix=64) if not any(map(subnet.overlaps, taken))
    ]
    if free:
        assert free_subnet(in_use, [POOL6]) == str(free[0])
    else:
        with pytest.raises(ExhaustedError):
            free_subnet(in_use, [POOL6])


def test_a_pool_is_used_up_to_the_last() -> None:
    """Sixteen networks, no two of which overlap; then there is none."""
    made: list[str] = []
    for _ in range(16):
        made.append(free_subnet(made, [POOL]))
    assert len({*made}) == 16
    with pytest.raises(ExhaustedError):
        free_subnet(made, [POOL])


@given(
    st.sampled_from(["192.0.2.0/28", "192.0.2.16/29", "fd00::/124"]),
    st.lists(st.tuples(st.booleans(), st.integers(0, 20)), max_size=60),
)
def test_no_address_is_leased_twice(network: str, steps: list[tuple[bool, int]]) -> None:
    """Through any series of leases and returns; all can be leased, and the reserved ones never."""
    subnet = Subnet(network)
    leased: list[str] = []
    last = ""
    for lease, which in steps:
        if not lease and leased:
            leased.pop(which % len(leased))
            continue
        try:
            last = subnet.free_address(leased, after=last)
        except ExhaustedError:
            reserved = 3 if subnet.version == 4 else 2
            assert len(leased) == ip_network(network).num_addresses - reserved
            continue
        assert last not in leased
        assert subnet.check_address(last) == last
        leased.append(last)


@given(st.sets(st.ip_addresses(v=4), min_size=2, max_size=20))
def test_addresses_have_macs_of_their_own(addresses: set[object]) -> None:
    """No two the same."""
    assert len({mac_of(str(address)) for address in addresses}) == len(addresses)
