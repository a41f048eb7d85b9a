"""Networks whose parts do not reach each other for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from lxcwrap import Container, Host, InvalidSpecError, Network
from tests.integration.networked import Make, launch, maker, reaches
from tests.polling import eventually


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def network(make: Make) -> Network:
    return make(ipv6=True)


@pytest.fixture
def nodes(host: Host, network: Network) -> list[Container]:
    return [launch(host, network=network) for _ in range(3)]


def test_parts_do_not_reach_each_other(network: Network, nodes: list[Container]) -> None:
    """Until the block ends; within a part, and to the host, all is as before."""
    one, other, third = nodes
    with network.partition([one, other], [third.name]):
        assert reaches(one, other.ip) and reaches(third, network.gateway)
        assert not reaches(one, third.ip) and not reaches(third, other.ip)
        assert not reaches(one, third.networks[network.name].ip6)
    eventually(lambda: reaches(one, third.ip))  # who has asked in vain asks again after a second


def test_one_part_is_cut_off_from_all_others(network: Network, nodes: list[Container]) -> None:
    """Also when a container of it starts again."""
    one, other, third = nodes
    with network.partition([one]):
        one.restart(timeout_s=0)
        assert not reaches(one, other.ip) and not reaches(third, one.ip) and reaches(other, third.ip)


def test_who_is_in_no_part_reaches_all(network: Network, nodes: list[Container]) -> None:
    """And is reached; partitions at once add up."""
    one, other, third = nodes
    with network.partition([one], [other]):
        assert reaches(third, one.ip) and reaches(other, third.ip) and not reaches(one, other.ip)
        with network.partition([third], [other]):
            assert not reaches(third, other.ip) and reaches(third, one.ip)
        eventually(lambda: reaches(third, other.ip))


def test_other_networks_stay(make: Make, network: Network, nodes: list[Container]) -> None:
    """Even of the same containers."""
    one, other, _ = nodes
    beside = make()
    for node in (one, other):
        beside.connect(node)
    with network.partition([one]):
        assert reaches(one, other.networks[beside.name].ip) and not reaches(one, other.ip)


def test_it_ends_with_its_process(network: Network, nodes: list[Container]) -> None:
    """However that ends."""
    one, other, _ = nodes
    child = os.fork()
    if not child:
        with network.partition([one]):
            signal.pause()
        os._exit(0)
    try:
        eventually(lambda: not reaches(one, other.ip))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    eventually(lambda: reaches(one, other.ip))


def test_what_cannot_be_parted_is_refused(host: Host, network: Network, nodes: list[Container]) -> None:
    """Containers of elsewhere, or in two parts; parts without anybody on the other side."""
    with launch(host) as stranger:
        for parts in ([[stranger]], [nodes[:2], nodes[1:]], [nodes], [nodes, []], []):
            with pytest.raises(InvalidSpecError):
                network.partition(*parts)
