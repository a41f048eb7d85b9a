"""Network namespaces that play a host, another machine beside it, and containers: linked by the drivers under
test, and gone when closed. Sockets are made within, so that no command is run.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lxcwrap.drivers import links, netns
from lxcwrap.drivers.forwarding import enable_forwarding, prepare_bridge
from lxcwrap.drivers.nftables import Nftables
from lxcwrap.drivers.rtnetlink import Rtnetlink
from lxcwrap.net.ruleset import NetworkRules, Part, PinnedPort, Tables

Address = tuple[str, int]
HOST, HOST6 = "192.0.2.1", "2001:db8::1"  # as other machines see it
OUTSIDE, OUTSIDE6 = "192.0.2.2", "2001:db8::2"
TIMEOUT_S = 0.3  # for what must not arrive


class Place:
    """One namespace, with loopback up."""

    def __init__(self, stack: ExitStack) -> None:
        self.fd = netns.make()
        stack.callback(os.close, self.fd)
        self.net = stack.enter_context(Rtnetlink(self.fd))
        self.net.apply(links.change(links.LOOPBACK, up=True))
        self._stack = stack

    def serve(self, where: Address, *, udp: bool = False) -> None:
        """Answer everyone with the address that they are seen with."""
        with netns.within(self.fd):
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
            server = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        server.bind(where)
        if not udp:
            server.listen()
        thread = threading.Thread(target=_answer_datagrams if udp else _answer, args=(server,))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(_end, server)

    def ask(self, where: Address, *, udp: bool = False, source: str = "", timeout_s: float = 3.0) -> str:
        """The address that the server there sees. OSError: no connection, or no answer in time."""
        with netns.within(self.fd):
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
            client = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        with client:
            client.settimeout(timeout_s)
            if source:
                client.bind((source, 0))
            client.connect(where)
            if udp:
                client.send(b"?")
            return client.recv(100).decode()

    def reaches(self, where: Address, *, udp: bool = False, timeout_s: float = TIMEOUT_S) -> bool:
        try:
            return bool(self.ask(where, udp=udp, timeout_s=timeout_s))
        except OSError:
            return False

    def sysctl(self, name: str) -> str:
        with netns.within(self.fd):
            return Path("/proc/sys/net", name).read_text().strip()


class Container(Place):
    """A namespace with `eth0` on a network of the lab's host; `link` is the host's end."""

    def __init__(self, lab: Lab, network: Network, number: int, *, pinned: bool) -> None:
        super().__init__(lab.stack)
        self.link, self.mac = f"v{network.number}x{number}", f"02:00:00:00:{network.number:02x}:{number:02x}"
        self.ip, self.ip6 = network.address(number)
        if pinned:
            lab.add(PinnedPort(self.link, self.mac, (self.ip, self.ip6)))
        lab.host.net.apply(
            links.veth(self.link, "eth0", netns_fd=self.fd, master=network.ifindex, mtu=1400, mac=self.mac),
            links.port(self.link, hairpin=True, isolated=network.rules.isolated),
        )
        gateway, gateway6 = network.address(1)
        index = self.net.index("eth0")
        self.net.apply(
            links.address(index, f"{self.ip}/24"),
            links.address(index, f"{self.ip6}/64"),
            links.change(index, up=True),
            links.route("0.0.0.0/0", via=gateway),
            links.route("::/0", via=gateway6),
        )


class Network:
    """Bridge, addresses and rules on the lab's host."""

    def __init__(self, lab: Lab, number: int, *, internal: bool, isolated: bool) -> None:
        self.number = number
        self.bridge = f"lxct{number}"
        gateway, gateway6 = self.address(1)
        subnets = f"10.88.{number}.0/24", f"fd88:{number}::/64"
        self.rules = NetworkRules(self.bridge, subnets, (gateway, gateway6), internal, isolated)
        lab.add(self.rules)
        net = lab.host.net
        net.apply(links.bridge(self.bridge, mtu=1400, mac=f"02:00:00:00:{number:02x}:01"))
        lab.stack.callback(net.apply, links.delete(self.bridge))
        self.ifindex = net.index(self.bridge)
        net.apply(links.address(self.ifindex, f"{gateway}/24"), links.address(self.ifindex, f"{gateway6}/64"))
        with netns.within(lab.host.fd):
            prepare_bridge(self.bridge)

    def address(self, number: int) -> tuple[str, str]:
        return f"10.88.{self.number}.{number}", f"fd88:{self.number}::{number:x}"


class Lab:
    """A host with the tables of one root directory; a machine outside knows the way to its containers."""

    def __init__(
        self, stack: ExitStack, tag: str, host: Place, outside: Place, numbers: Iterator[int]
    ) -> None:
        self.stack, self.host, self.outside, self._numbers = stack, host, outside, numbers
        with netns.within(host.fd):
            self.nft = stack.enter_context(Nftables())
        self.tables = Tables(tag)
        self.nft.run(self.tables.create())
        stack.callback(self.nft.run, self.tables.remove())
        self.parts: list[Part] = []

    def add(self, part: Part) -> None:
        self.parts.append(part)
        self.nft.run(self.tables.add(part))

    def network(self, *, internal: bool = False, isolated: bool = False) -> Network:
        return Network(self, next(self._numbers), internal=internal, isolated=isolated)

    def container(self, network: Network, number: int, *, pinned: bool = True) -> Container:
        """Its addresses end in `number`, from 2 on."""
        return Container(self, network, number, pinned=pinned)

    @contextmanager
    def another_root(self, tag: str) -> Iterator[Lab]:
        """Of the same host."""
        with ExitStack() as stack:
            yield Lab(stack, tag, self.host, self.outside, self._numbers)

    def rules(self) -> list[object]:
        """All rules on the host, without numbers that differ between readings; elements in no order."""
        return [_stripped(item) for item in self.nft.query("list ruleset") if "metainfo" not in item]


@contextmanager
def lab() -> Iterator[Lab]:
    with ExitStack() as stack:
        host, outside = Place(stack), Place(stack)
        _join(host, outside)
        with netns.within(host.fd):
            enable_forwarding(ipv6=True)
        yield Lab(stack, "lab", host, outside, itertools.count(1))


def _join(host: Place, outside: Place) -> None:
    host.net.apply(links.veth("uplink", "eth0", netns_fd=outside.fd))
    for place, link, address, address6 in (
        (host, "uplink", HOST, HOST6),
        (outside, "eth0", OUTSIDE, OUTSIDE6),
    ):
        index = place.net.index(link)
        place.net.apply(
            links.change(index, up=True),
            links.address(index, f"{address}/24"),
            links.address(index, f"{address6}/64"),
        )
    outside.net.apply(links.route("10.88.0.0/16", via=HOST), links.route("fd88::/16", via=HOST6))


def _stripped(value: object) -> object:
    if isinstance(value, dict):
        unlike = ("handle", "packets", "bytes")
        return {key: _stripped(inner) for key, inner in value.items() if key not in unlike}
    if isinstance(value, list):
        return sorted(map(_stripped, value), key=str)
    return value


def _answer(server: socket.socket) -> None:
    with suppress(OSError):  # it is shut down
        while True:
            connection, peer = server.accept()
            with connection:
                connection.sendall(peer[0].encode())


def _answer_datagrams(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            question, peer = server.recvfrom(100)
            if not question:
                return
            server.sendto(peer[0].encode(), peer)


def _end(server: socket.socket) -> None:
    with suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()
