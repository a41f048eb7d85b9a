"""Names of containers on a network, for a name server that reads files in the form of hosts(5). Pure.

On network ``front`` the container ``web`` with the alias ``www`` is ``web``, ``web.front``, ``www`` and
``www.front``; its addresses lead back to ``web.front``. Several containers may share an alias.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import blake2s

from ..drivers.netlink_messages import packed, unpacked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# RFC 1123, and '_', which names of services and of containers may have. The last label is no number, or it
# would be taken for an address.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*(?!\d+$){_LABEL}")
_LONGEST = 253


def has_names(network: Mapping[str, Any]) -> bool:
    """Whether there is a name server on it."""
    return bool(network["driver"] == "bridge" and network.get("dns", True))


def server_of(network_ids: Iterable[str]) -> str:
    """Of the name server that knows the names of just these networks: for one network its own id."""
    ids = sorted(network_ids)
    return ids[0] if len(ids) == 1 else blake2s("".join(ids).encode()).hexdigest()


def shared_address(server: str) -> str:
    """Where the server of several networks listens: in 127.0.0.0/8, which containers reach only as the
    firewall leads them. Of 16 million addresses, so that two hardly ever have the same."""
    first, second, third = bytes.fromhex(server[:6])
    return f"127.{first % 254 + 1}.{second}.{third % 254 + 1}"


def shared_zone(server: str) -> int:
    """Of the kernel's connections with it."""
    return int(server[6:10], 16) % 0xFFFF + 1


def check_alias(alias: str) -> str:
    """In lower case, as names are the same in both; InvalidSpecError: it cannot be a name of a host."""
    from ..errors import InvalidSpecError  # here, as the fork-server has no attrs

    name = alias.lower()
    if not is_host_name(name):
        raise InvalidSpecError(
            f"alias {alias!r}: use letters, digits, '-' and '_', 63 at most between dots, no number last"
        )
    return name


def is_host_name(name: str) -> bool:
    """Whether a name server can know it: not so of all names that containers may have."""
    return len(name) <= _LONGEST and _NAME.fullmatch(name.lower()) is not None


def hosts_text(addresses: Iterable[str], names: Iterable[str], network: str) -> str:
    """A file with a line for each address of one container. The first of `names` is its own; those that are
    no names of hosts are left out."""
    known = [name.lower() for name in names if is_host_name(name)]
    domain = network.lower()
    words = [f"{name}.{domain}" for name in known if is_host_name(f"{name}.{domain}")] + known
    distinct = " ".join(dict.fromkeys(words))
    return "".join(f"{unpacked(packed(address)[1])} {distinct}\n" for address in addresses) if words else ""


def reverse_zones(subnet: str) -> list[str]:
    """The domains that hold the reverse names of a subnet, and the least more: cut at bytes of IPv4, at half
    bytes of IPv6."""
    from ipaddress import ip_network

    network = ip_network(subnet)
    digit_bits, digits = (8, 4) if network.version == 4 else (4, 32)
    kept = -(-network.prefixlen // digit_bits)
    bits = kept * digit_bits
    return [
        part[0].reverse_pointer.split(".", digits - kept)[-1] for part in network.subnets(new_prefix=bits)
    ]


# --- of links, on the host ------------------------------------------------------------------------------


def bridge_name(network_id: str) -> str:
    return f"lxb{network_id[:12]}"


def veth_name(endpoint_id: str) -> str:
    """The host's end."""
    return f"lxv{endpoint_id[:12]}"


def detour_name(link: str) -> str:
    """The device that limits what comes from the container by the host's end `link` (see rates.py)."""
    return f"lxi{link[3:]}"


def link_of_detour(detour: str) -> str:
    return veth_name(detour[3:])
