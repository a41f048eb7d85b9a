"""Which links and limits this kernel has, tried in a namespace of its own, of which nothing is left."""

from __future__ import annotations

import os
from collections.abc import Callable

from . import links, netem, netns, traffic
from .rtnetlink import Rtnetlink


def probe(kind: str) -> str:
    """Why there is no `kind` here (a key of `TRIALS`); empty: there is."""
    try:
        fd = netns.make()
        try:
            with Rtnetlink(fd) as net:
                TRIALS[kind](net)
        finally:
            os.close(fd)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _parent(net: Rtnetlink) -> int:
    net.apply(links.veth("parent", "other"))
    return net.index("parent")


def _port(net: Rtnetlink) -> None:
    net.apply(links.bridge("bridge"))
    net.apply(links.veth("port", "other", master=net.index("bridge")))
    net.apply(links.port("port", hairpin=True, isolated=True))


def _rate_limits(net: Rtnetlink) -> None:
    _parent(net)
    traffic.set_limits(net, "parent", "detour", sent_bps=10**6, received_bps=10**6)


def _delays(net: Rtnetlink) -> None:
    _parent(net)
    netem.impair(net, "parent", delay_s=0.1, jitter_s=0.01, loss=0.01)


TRIALS: dict[str, Callable[[Rtnetlink], None]] = {
    "bridge": _port,
    "macvlan": lambda net: net.apply(links.macvlan("trial", _parent(net))),
    "ipvlan": lambda net: net.apply(links.ipvlan("trial", _parent(net))),
    "rate limits": _rate_limits,
    "delays": _delays,
}
