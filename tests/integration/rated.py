"""How fast containers are, and what the kernel limits them to."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lxcwrap import Container, Host
from lxcwrap.drivers import netns
from lxcwrap.drivers.netlink_dumps import read_links
from lxcwrap.drivers.netlink_messages import attributes
from lxcwrap.drivers.rtnetlink import Rtnetlink
from lxcwrap.supervisor import wiring
from tests.leaks import read

GETQDISC = 38
BURST = 128 << 10  # bytes that pass at once
SIZE = 1 << 20


def least_s(bps: int) -> float:
    """What `SIZE` bytes take at the least, at this rate."""
    return (SIZE - BURST) * 8 / bps


class Line(NamedTuple):
    """A TCP connection between two places."""

    sender: socket.socket
    receiver: socket.socket

    def seconds(self) -> float:
        """That `SIZE` bytes take from one end to the other."""
        thread = threading.Thread(target=self.sender.sendall, args=(bytes(SIZE),))
        began, received = time.monotonic(), 0
        thread.start()
        while received < SIZE:
            received += len(self.receiver.recv(1 << 18))
        taken = time.monotonic() - began
        thread.join()
        return taken


@contextmanager
def line(source: Container | None, target: Container | None, address: str) -> Iterator[Line]:
    """From one container to another, that has `address`; None: the host."""
    with _listening(target, address) as listener, _socket(source, listener.family) as sender:
        sender.connect(listener.getsockname())
        receiver, _ = listener.accept()
        with receiver:
            receiver.settimeout(60)
            yield Line(sender, receiver)


@contextmanager
def _listening(where: Container | None, address: str) -> Iterator[socket.socket]:
    with _socket(where, socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        listener.listen()
        yield listener


def _socket(where: Container | None, family: int) -> socket.socket:
    if where is None:
        made = socket.socket(family)
    else:
        with wiring.network_of(where._machinery.bundle(where.id)) as fd, netns.within(fd):
            made = socket.socket(family)
    made.settimeout(60)
    return made


# --- in the kernel --------------------------------------------------------------------------------------


def in_force(container: Container) -> dict[str, tuple[int, int]]:
    """Bits a second that it may send and receive, 0 for no limit, by the interface of each network."""
    found = {}
    for wire in container._machinery.network_store.wires(container.id):
        with wiring.network_of(container._machinery.bundle(container.id)) as fd, Rtnetlink(fd) as inside:
            has_bridge = wire["network"]["driver"] == "bridge"
            limits = rates() if has_bridge else rates(inside)
        detour = limits.get(f"lxi{wire['link'][3:]}", 0)
        own = limits.get(wire["link"] if has_bridge else wire["interface"], 0)
        found[wire["interface"]] = (detour, own) if has_bridge else (own, detour)
    return found


def rates(net: Rtnetlink | None = None) -> dict[str, int]:
    """Of all links that have one, by name: of the host."""
    if net is None:
        with Rtnetlink() as net:
            return rates(net)
    names = {link.ifindex: link.name for link in read_links(net)}
    found = {}
    for body in net.dump(GETQDISC, bytes(20)):
        facts = attributes(body[20:])
        if facts[1] == b"tbf\0":
            index = struct.unpack_from("=i", body, 4)[0]
            options = attributes(facts[2])
            wide = options.get(4)  # if 32 bits cannot hold it
            (rate,) = struct.unpack("=Q", wide) if wide else struct.unpack_from("=8xI", options[1])
            found[names.get(index, str(index))] = rate * 8
    return found


def detours(host: Host, *unlabelled: str) -> set[str]:
    """The devices by which what its containers send is limited. unlabelled: ``""``: also of nobody."""
    owners = {str(host.root), *unlabelled}
    links = Path("/sys/class/net").glob("lxi*")
    return {link.name for link in links if read(link / "ifalias").strip() in owners and link.exists()}
