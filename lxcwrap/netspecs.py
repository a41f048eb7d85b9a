"""What a user asks for of networks: frozen values, checked when they are made. Nothing here touches the
machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from ipaddress import IPv6Address, ip_address
from typing import Any, Literal

from attrs import field, frozen

from .errors import InvalidSpecError

Driver = Literal["bridge", "macvlan", "ipvlan"]
Protocol = Literal["tcp", "udp", "sctp"]
DRIVERS = ("bridge", "macvlan", "ipvlan")
PROTOCOLS = ("tcp", "udp", "sctp")
_MTU = (1280, 65535)  # with less there is no IPv6 (RFC 8200)
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_INTERFACE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}")
_RATE = re.compile(r"(\d{1,13}(?:\.\d{1,9})?)\s*([KMGT]i?)?bit(?:/s)?", re.IGNORECASE | re.ASCII)
_RATES = (1_000, 10**12)  # bits a second


def _address(value: str | None) -> str | None:
    """In the one way to write it."""
    if value is None:
        return None
    try:
        address = ip_address(value)
    except ValueError as error:
        raise InvalidSpecError(f"address {value!r}: {error}") from None
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address.ipv4_mapped):
        raise InvalidSpecError(f"address {value!r}: give it without a zone, and IPv4 as such")
    return str(address)


def _optional_address(value: str) -> str:
    return (_address(value) or "") if value else ""


def _names(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str | bytes):
        raise TypeError(f"aliases= takes a list of names, not {values!r}")
    return tuple(values)


def _span(value: object, what: str) -> tuple[int, int]:
    """The first and the last of the ports that are meant."""
    match = _PORTS.fullmatch(str(value)) if isinstance(value, int | str) else None
    if match is None or isinstance(value, bool):
        raise InvalidSpecError(f"{what}={value!r}: must be a number, or a range such as '8000-8005'")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= 65535:
        raise InvalidSpecError(f"{what}={value!r}: must be within 1..65535")
    return first, last


def _container_port(value: int | str) -> int | str:
    return _written(_span(value, "container_port"))


def _host_port(value: int | str | None) -> int | str | None:
    return None if value is None else _written(_span(value, "host_port"))


def _written(span: tuple[int, int]) -> int | str:
    first, last = span
    return first if first == last else f"{first}-{last}"


@frozen
class Port:
    """A port of a container to be reached by one of the host; or a range of them, as ``"8000-8005"``.

    container_port: 1..65535.  host_port: None: a free one, for each; else as many as `container_port` has.
    host_ip: the host's address to be reached at; empty: all, ``"0.0.0.0"``: all of IPv4, ``"::"``: of IPv6.
    protocol: ``"tcp"``, ``"udp"`` or ``"sctp"``.

    >>> Port("8000-8002").container_ports
    range(8000, 8003)
    """

    container_port: int | str = field(converter=_container_port)
    host_port: int | str | None = field(default=None, converter=_host_port, kw_only=True)
    host_ip: str = field(default="", converter=_optional_address, kw_only=True)
    protocol: Protocol = field(default="tcp", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InvalidSpecError(f"protocol={self.protocol!r}: must be one of {', '.join(PROTOCOLS)}")
        ports, host_ports = self.container_ports, self.host_ports
        if host_ports is not None and len(host_ports) != len(ports):
            raise InvalidSpecError(
                f"host_port={self.host_port!r}: must be as many as container_port={self.container_port!r}"
            )

    @property
    def container_ports(self) -> range:
        """All ports of the container that it means."""
        first, last = _span(self.container_port, "container_port")
        return range(first, last + 1)

    @property
    def host_ports(self) -> range | None:
        """In the order of `container_ports`; None: free ones."""
        if self.host_port is None:
            return None
        first, last = _span(self.host_port, "host_port")
        return range(first, last + 1)


@frozen(kw_only=True)
class PortBinding:
    """A port of the host that leads to one of a container. See `Port`."""

    container_port: int
    host_port: int
    host_ip: str
    protocol: Protocol


def parse_rate(value: int | str | None) -> int | None:
    """Bits a second. In text ``"1Mbit"`` is 10**6, ``"1Mibit"`` 2**20; ``/s`` may follow. None: no limit."""
    if value is None:
        return None
    match = _RATE.fullmatch(value.strip()) if isinstance(value, str) else None
    if isinstance(value, bool) or not (match or isinstance(value, int)):
        raise InvalidSpecError(f"rate {value!r}: give bits a second, as an int or as text such as '100Mbit'")
    if match:
        prefix = (match[2] or "").lower()
        base = 1024 if prefix.endswith("i") else 1000
        factor: int = base ** (" kmgt".index(prefix[0]) if prefix else 0)
        value = round(Decimal(match[1]) * factor)
    rate, (least, most) = int(value), _RATES
    if not least <= rate <= most:
        raise InvalidSpecError(f"rate {value!r}: must be within 1kbit..1Tbit a second; None is no limit")
    return rate


@frozen(kw_only=True)
class Rate:
    """How fast a container may send (`egress`) and receive (`ingress`) by one network, each by itself.

    Bits a second: an int, or text such as ``"100Mbit"``, ``"1.5Gbit"`` or ``"64Kibit"``, from 1 kbit to
    1 Tbit. None: no limit. Where a rate is asked for, one such figure stands for both directions.

    >>> Rate(egress="1.5Mbit")
    Rate(egress=1500000, ingress=None)
    """

    egress: int | None = field(default=None, converter=parse_rate)
    ingress: int | None = field(default=None, converter=parse_rate)


RateOption = Rate | int | str


def as_rate(value: RateOption | Mapping[str, Any] | None) -> Rate | None:
    """A mapping is a `Rate` as the records have it."""
    if value is None or isinstance(value, Rate):
        return value
    return Rate(**value) if isinstance(value, Mapping) else Rate(egress=value, ingress=value)


@frozen(kw_only=True)
class Endpoint:
    """One container on one network. What is None is chosen.

    ip, ip6: addresses of the network's subnets.  mac: as ``"02:00:00:00:00:01"``.  aliases: further names it
    has there.  interface: name of the link inside, such as ``"eth0"``.  rate: see `Rate`; None: that of the
    container's `Limits`, or else of the network; ``Rate()``: no limit, whatever those say.
    """

    ip: str | None = field(default=None, converter=_address)
    ip6: str | None = field(default=None, converter=_address)
    mac: str | None = None
    aliases: tuple[str, ...] = field(default=(), converter=_names)
    interface: str | None = None
    rate: Rate | None = field(default=None, converter=as_rate)

    def __attrs_post_init__(self) -> None:
        for name, sign in (("ip", "."), ("ip6", ":")):
            value = getattr(self, name)
            if value is not None and sign not in value:
                raise InvalidSpecError(f"{name}={value!r}: not of this version of IP")
        if self.interface is not None and (
            not _INTERFACE.fullmatch(self.interface) or self.interface == "lo"
        ):
            raise InvalidSpecError(f"interface {self.interface!r}: letters, digits, '_.-', 15 at most")


@frozen(kw_only=True)
class NetworkSpec:
    """All about one network, complete. See `Networks.create`."""

    driver: Driver = "bridge"
    subnet: str
    gateway: str
    subnet6: str = ""
    gateway6: str = ""
    internal: bool = False
    isolated: bool = False
    dns: bool = True
    mtu: int
    parent: str = ""
    labels: Mapping[str, str] = field(factory=dict)
    rate: Rate | None = field(default=None, converter=as_rate)

    def __attrs_post_init__(self) -> None:
        if self.driver not in DRIVERS:
            raise InvalidSpecError(f"driver={self.driver!r}: must be one of {', '.join(DRIVERS)}")
        least, most = _MTU
        if not least <= self.mtu <= most:
            raise InvalidSpecError(f"mtu={self.mtu}: must be within {least}..{most}")
        if bool(self.parent) != (self.driver != "bridge"):
            what = "a bridge has none" if self.parent else "name the link of the host that it is to share"
            raise InvalidSpecError(f"parent={self.parent!r}: {what}")
