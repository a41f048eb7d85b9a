"""What this machine is asked and told of networks, by those who are not the fork-server; and the same of a
machine that is none, for tests."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache

from ..drivers import link_probes, netns
from ..drivers.netlink_dumps import networks_in_use, read_links, read_routes
from ..drivers.rtnetlink import Rtnetlink
from ..errors import InvalidSpecError, UnsupportedError
from ..netspecs import Rate
from ..storage.root import RootDir
from . import plumbing
from .dns import NameServers, program

_ETHERNET_MTU = 1500
_MAIN_TABLE = 254
_CHOOSING = "/run/lxcwrap-subnets.lock"
_probe = cache(link_probes.probe)  # what a kernel lacks it will not get


class KernelNetworks:
    """The networks of one root directory."""

    has_names = True  # containers find each other by name

    def __init__(self, root: RootDir) -> None:
        self._root = root

    def check(self, driver: str, *, dns: bool) -> None:
        """Raises UnsupportedError: there can be no such network here, with the reason."""
        if reason := _probe(driver):
            raise UnsupportedError(f"this kernel has no {driver} ({reason})", "take another driver or kernel")
        if dns and program() is None:
            what = "no name server for containers (dnsmasq)"
            raise UnsupportedError(what, "apt install dnsmasq-base, or make the network with dns=False")

    def check_rates(self, *wanted: Rate | None) -> None:
        """Raises UnsupportedError: there are limits among them, and links cannot be limited here."""
        if all(rate in (None, Rate()) for rate in wanted):
            return
        if reason := _probe("rate limits"):
            raise UnsupportedError(
                f"this kernel cannot limit rates ({reason})",
                "modprobe -a sch_tbf ifb sch_ingress cls_u32 act_mirred",
            )

    def check_delays(self) -> None:
        """Raises UnsupportedError: links cannot be delayed here, with the reason."""
        if reason := _probe("delays"):
            raise UnsupportedError(f"this kernel cannot delay packets ({reason})", "modprobe sch_netem")

    def choosing(self) -> AbstractContextManager[None]:
        """Within, no other root directory of this machine chooses a subnet: from looking what is in use until
        it is in use."""
        return plumbing.locked(_CHOOSING)

    def in_use(self) -> set[str]:
        """All networks and addresses that the host has or routes."""
        with Rtnetlink() as net:
            return networks_in_use(net)

    def usual_mtu(self, parent: str | None) -> int:
        """That of the link packets leave by, as longer ones would get lost. InvalidSpecError: no `parent`."""
        with Rtnetlink() as net:
            known = {link.ifindex: link for link in read_links(net)}
            routes = read_routes(net)
        if parent is not None:
            found = [link.mtu for link in known.values() if link.name == parent]
            if not found:
                raise InvalidSpecError(f"parent={parent!r}: the host has no such link")
            return found[0]
        leaving = [
            known[route.ifindex].mtu
            for route in routes
            if route.destination in ("0.0.0.0/0", "::/0")
            and route.table == _MAIN_TABLE
            and route.ifindex in known
        ]
        return min((mtu for mtu in leaving if mtu <= _ETHERNET_MTU), default=_ETHERNET_MTU)

    def add(self, network: plumbing.Network) -> None:
        with Rtnetlink() as net:
            plumbing.ensure_network(net, network, str(self._root.run))

    def removing(self) -> AbstractContextManager[None]:
        """See `plumbing.removing`."""
        return plumbing.removing(str(self._root.run))

    def remove(self, network: plumbing.Network, *, last: bool) -> None:
        NameServers(self._root.path).remove(network["id"])
        with Rtnetlink() as net:
            plumbing.remove_network(net, network, str(self._root.run), last=last)

    def plug(self, netns_fd: int, wire: plumbing.Wire, connected: Iterable[plumbing.Wire]) -> None:
        """See `plumbing.plug`."""
        with Rtnetlink() as net:
            plumbing.plug(net, netns_fd, wire, connected, str(self._root.run))

    def unplug(self, netns_fd: int, wire: plumbing.Wire, connected: Iterable[plumbing.Wire]) -> None:
        """See `plumbing.unplug`."""
        plumbing.unplug(netns_fd, wire, connected, str(self._root.run))

    def limit(self, netns_fd: int, connected: Iterable[plumbing.Wire]) -> None:
        """See `plumbing.limit`."""
        with Rtnetlink() as net:
            plumbing.limit(net, netns_fd, connected, str(self._root.run))

    def make_socket(self, netns_fd: int, family: int) -> socket.socket:
        """A TCP socket in a network namespace; the thread stays where it is."""
        with netns.within(netns_fd):
            return socket.socket(family, socket.SOCK_STREAM)


class FakeNetworks(KernelNetworks):
    """Without links: records alone. The processes of fake containers are on the host's own network."""

    has_names = False

    def check(self, driver: str, *, dns: bool) -> None:
        pass

    def check_rates(self, *wanted: Rate | None) -> None:
        pass

    def choosing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def in_use(self) -> set[str]:
        return set()

    def usual_mtu(self, parent: str | None) -> int:
        return _ETHERNET_MTU

    def add(self, network: plumbing.Network) -> None:
        pass

    def removing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def remove(self, network: plumbing.Network, *, last: bool) -> None:
        pass

    def plug(self, netns_fd: int, wire: plumbing.Wire, connected: Iterable[plumbing.Wire]) -> None:
        pass

    def unplug(self, netns_fd: int, wire: plumbing.Wire, connected: Iterable[plumbing.Wire]) -> None:
        pass

    def limit(self, netns_fd: int, connected: Iterable[plumbing.Wire]) -> None:
        pass

    def make_socket(self, netns_fd: int, family: int) -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM)
