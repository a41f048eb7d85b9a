"""What a user asks for of networks: frozen values, checked when they are made. Nothing here touches the
machine."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Literal

from attrs import Attribute, field, frozen

from .errors import InvalidSpecError

Driver = Literal["bridge", "macvlan", "ipvlan"]
Protocol = Literal["tcp", "udp", "sctp"]
DRIVERS = ("bridge", "macvlan", "ipvlan")
PROTOCOLS = ("tcp", "udp", "sctp")
_MTU = (1280, 65535)  # with less there is no IPv6 (RFC 8200)
_INTERFACE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,14}")


def _address(value: str | None) -> str | None:
    """In the one way to write it."""
    if value is None:
        return None
    try:
        return str(ip_address(value))
    except ValueError as error:
        raise InvalidSpecError(f"address {value!r}: {error}") from None


def _optional_address(value: str) -> str:
    return (_address(value) or "") if value else ""


def _names(values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, str | bytes):
        raise TypeError(f"aliases= takes a list of names, not {values!r}")
    return tuple(values)


def _port(_: object, attribute: Attribute[Any], value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise InvalidSpecError(f"{attribute.name}={value!r}: must be within 1..65535")


def _optional_port(instance: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None:
        _port(instance, attribute, value)


@frozen
class Port:
    """A port of a container to be reached by one of the host.

    container_port: 1..65535.  host_port: None: a free one.  host_ip: the host's address to be reached at;
    empty: all.  protocol: ``"tcp"``, ``"udp"`` or ``"sctp"``.
    """

    container_port: int = field(validator=_port)
    host_port: int | None = field(default=None, validator=_optional_port, kw_only=True)
    host_ip: str = field(default="", converter=_optional_address, kw_only=True)
    protocol: Protocol = field(default="tcp", kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise InvalidSpecError(f"protocol={self.protocol!r}: must be one of {', '.join(PROTOCOLS)}")


@frozen(kw_only=True)
class Endpoint:
    """One container on one network. What is None is chosen.

    ip, ip6: addresses of the network's subnets.  mac: as ``"02:00:00:00:00:01"``.  aliases: further names it
    has there.  interface: name of the link inside, such as ``"eth0"``.
    """

    ip: str | None = field(default=None, converter=_address)
    ip6: str | None = field(default=None, converter=_address)
    mac: str | None = None
    aliases: tuple[str, ...] = field(default=(), converter=_names)
    interface: str | None = None

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
    mtu: int
    parent: str = ""
    labels: Mapping[str, str] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        if self.driver not in DRIVERS:
            raise InvalidSpecError(f"driver={self.driver!r}: must be one of {', '.join(DRIVERS)}")
        least, most = _MTU
        if not least <= self.mtu <= most:
            raise InvalidSpecError(f"mtu={self.mtu}: must be within {least}..{most}")
        if bool(self.parent) != (self.driver != "bridge"):
            what = "a bridge has none" if self.parent else "name the link of the host that it is to share"
            raise InvalidSpecError(f"parent={self.parent!r}: {what}")
