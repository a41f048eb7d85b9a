"""Ports as they are asked for, and what of them goes to the kernel."""

from __future__ import annotations

from typing import Any

import pytest

from lxcwrap import InvalidSpecError, Port
from lxcwrap.net.firewall import Exposed, Forward, published_addresses
from lxcwrap.net.ports import _overlap
from lxcwrap.net.ruleset import PublishedPort


def wire(
    ip: str, ip6: str | None = None, *, driver: str = "bridge", internal: bool = False
) -> dict[str, Any]:
    network = {"driver": driver, "internal": internal}
    return {"link": "lxv1", "mac": "02:00:00:00:00:01", "ip": ip, "ip6": ip6, "network": network}


def row(host_ip: str = "", protocol: str = "tcp") -> dict[str, Any]:
    return {"protocol": protocol, "host_ip": host_ip, "host_port": 8080, "container_port": 80}


@pytest.mark.parametrize(
    "port", [0, 65536, -1, True, "", "a", "9-8", "1-65536", "1-2-3", "\u0661", 1.5, None]
)
def test_other_container_ports_are_refused(port: Any) -> None:
    """A number within 1..65535, or two in order."""
    with pytest.raises(InvalidSpecError):
        Port(port)


def test_ranges_are_in_step() -> None:
    """As many on the host as of the container, or free ones."""
    port = Port("8000-8005", host_port="9000-9005")
    assert list(port.container_ports) == list(range(8000, 8006))
    assert list(port.host_ports or ()) == list(range(9000, 9006))
    assert Port("8000-8005").host_ports is None
    assert Port("80") == Port("80-80") == Port(80)
    for host_port in (9000, "9000-9001"):
        with pytest.raises(InvalidSpecError):
            Port("8000-8005", host_port=host_port)


@pytest.mark.parametrize("options", [{"protocol": "icmp"}, {"host_ip": "web"}, {"host_port": 0}])
def test_other_ports_are_refused(options: Any) -> None:
    """What no firewall could lead anywhere."""
    with pytest.raises(InvalidSpecError):
        Port(80, **options)


def test_ports_lead_to_the_first_network_that_others_reach() -> None:
    """By version of IP; not to what is internal, or no network of the host."""
    wires = [wire("10.0.0.2", "fd00::2", internal=True), wire("10.0.1.2", driver="macvlan"), wire("10.0.2.2")]
    assert published_addresses(wires) == {4: "10.0.2.2"}
    assert published_addresses([*wires, wire("10.0.3.2", "fd03::2")]) == {4: "10.0.2.2", 6: "fd03::2"}
    assert published_addresses(wires[:2]) == {}


@pytest.mark.parametrize(
    ("host_ip", "by_kernel", "by_forwarder"),
    [
        ("", {("10.0.0.2", ""), ("fd00::2", "")}, True),
        ("0.0.0.0", {("10.0.0.2", "")}, False),
        ("::", {("fd00::2", "")}, True),
        ("::1", set(), True),
        ("127.0.0.1", {("10.0.0.2", "127.0.0.1")}, False),
        ("2001:db8::1", {("fd00::2", "2001:db8::1")}, False),
    ],
)
def test_which_address_leads_where(host_ip: str, by_kernel: set[object], by_forwarder: bool) -> None:
    """::1 by a process, whatever the container's address; all else by the kernel."""
    exposed = Exposed.of([wire("10.0.0.2", "fd00::2")], [row(host_ip)])
    assert {(port.address, port.host_ip) for port in exposed.ports} == by_kernel
    assert exposed.forwards == ((Forward("tcp", 8080, "10.0.0.2", 80),) if by_forwarder else ())


def test_what_no_process_can_hand_on() -> None:
    """SCTP is the kernel's alone."""
    exposed = Exposed.of([wire("10.0.0.2")], [row(protocol="sctp")])
    assert exposed.ports == (PublishedPort("sctp", 8080, "10.0.0.2", 80),) and not exposed.forwards


def test_which_addresses_overlap() -> None:
    """All do with the one that stands for them."""
    for one, other, does in (
        ("", "127.0.0.1", True),
        ("", "::", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("0.0.0.0", "::", False),
        ("::", "::1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "192.0.2.1", False),
        ("127.0.0.1", "::1", False),
    ):
        assert _overlap(one, other) == _overlap(other, one) == does
