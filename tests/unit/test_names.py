"""Names of containers on a network: what a name server is given to read."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.errors import InvalidSpecError
from lxcwrap.net.names import check_alias, hosts_text, is_host_name, reverse_zones

LONG = ("x" * 64, ".".join(["x" * 60] * 5))


def test_each_address_has_all_names() -> None:
    """The container's own, with the network's behind it, comes first: its address leads back to that."""
    text = hosts_text(["10.88.1.2", "FD00::2"], ["Web", "www"], "Front")
    assert text == "10.88.1.2 web.front www.front web www\nfd00::2 web.front www.front web www\n"


def test_names_are_there_once() -> None:
    """Though an alias repeats the name."""
    assert hosts_text(["10.88.1.2"], ["web", "WEB", "web.front"], "front").split().count("web.front") == 1


def test_what_is_no_name_of_a_host_is_left_out() -> None:
    """Names of containers and networks may be longer than a label; without any name there is no line."""
    long = "x" * 64
    assert hosts_text(["10.88.1.2"], [long, "www"], "front") == "10.88.1.2 www.front www\n"
    assert hosts_text(["10.88.1.2"], ["web"], long) == "10.88.1.2 web\n"
    assert hosts_text(["10.88.1.2"], [long], "front") == ""
    assert hosts_text([], ["web"], "front") == ""


@pytest.mark.parametrize("alias", ["www", "WWW", "db_1", "a-b.c", "_dmarc", "x" * 63, "3com", "10.0.0.x"])
def test_aliases_are_names_of_hosts(alias: str) -> None:
    """In lower case."""
    assert check_alias(alias) == alias.lower()


@pytest.mark.parametrize(
    "alias",
    [
        "",
        ".",
        "a..b",
        ".a",
        "a.",
        "-a",
        "a-",
        "a b",
        "a\nb",
        "a#b",
        "10.0.0.1",
        "7",
        "a.7",
        "ü",
        "a/b",
        *LONG,
    ],
)
def test_other_aliases_are_refused(alias: str) -> None:
    """Blanks, lines, comments, addresses, what is too long."""
    with pytest.raises(InvalidSpecError):
        check_alias(alias)


@given(st.lists(st.text(max_size=70), max_size=4), st.text(max_size=70))
def test_no_text_makes_another_line_or_word(names: list[str], network: str) -> None:
    """Each word of a file is a name of a host that was given, whatever was given."""
    text = hosts_text(["10.88.1.2"], names, network)
    lines = text.splitlines()
    assert len(lines) <= 1
    for word in text.split()[1:]:
        assert is_host_name(word)
        assert word in {f"{name.lower()}{tail}" for name in names for tail in ("", f".{network.lower()}")}


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.88.1.0/24", ["1.88.10.in-addr.arpa"]),
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("10.88.0.0/23", ["0.88.10.in-addr.arpa", "1.88.10.in-addr.arpa"]),
        ("fd00::/64", ["0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"]),
    ],
)
def test_reverse_zones(subnet: str, zones: list[str]) -> None:
    """As few as hold the subnet and nothing else."""
    assert reverse_zones(subnet) == zones


@given(st.integers(8, 32), st.ip_addresses(v=4), st.ip_addresses(v=4))
def test_reverse_zones_hold_the_subnets_names_only(bits: int, inside: object, other: object) -> None:
    """An address is in the subnet just if its reverse name is in one of the zones."""
    network = ip_network(f"{inside}/{bits}", strict=False)
    zones = reverse_zones(str(network))
    for address in (str(inside), str(other)):
        name = ip_address(address).reverse_pointer
        held = any(f".{name}".endswith(f".{zone}") for zone in zones)
        assert held == (ip_address(address) in network)
