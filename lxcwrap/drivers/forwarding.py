"""Switches of the kernel without which a bridge of containers leads nowhere (networking/ip-sysctl.rst); those
of this thread's network namespace.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import os

_BASE = "/proc/sys/net"


def enable_forwarding(*, ipv6: bool) -> None:
    """Let the host pass packets on. What it has learnt of routers by IPv6 it keeps: by default it would stop
    listening to them."""
    _set("ipv4/ip_forward", "1")
    if ipv6 and _get("ipv6/conf/all/forwarding") != "1":
        for link in os.listdir(f"{_BASE}/ipv6/conf"):
            if _get(f"ipv6/conf/{link}/accept_ra") == "1":
                _set(f"ipv6/conf/{link}/accept_ra", "2")
        _set("ipv6/conf/all/forwarding", "1")


def prepare_bridge(name: str) -> None:
    """Before it has ports, and after the rules are there: ports published at 127.0.0.1 are led through it,
    and no container plays its router."""
    _set(f"ipv4/conf/{name}/route_localnet", "1")
    if os.path.exists(f"{_BASE}/ipv6/conf/{name}"):
        _set(f"ipv6/conf/{name}/accept_ra", "0")


def _get(name: str) -> str:
    with open(f"{_BASE}/{name}") as file:
        return file.read().strip()


def _set(name: str, value: str) -> None:
    """Only if it is another: writing alone may have effects (ip_forward resets others), or be forbidden."""
    if _get(name) != value:
        with open(f"{_BASE}/{name}", "w") as file:
            file.write(value)
