"""Another machine, beside the host that the tests run on: a namespace at the end of a cable."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from lxcwrap.drivers import links, netns
from lxcwrap.drivers.rtnetlink import Rtnetlink
from tests.netlab import TIMEOUT_S, Address, Place

_NUMBER = os.getpid() % 250 + 2  # that of other test runs is another
HOST, HOST6 = f"198.18.{_NUMBER}.1", f"2001:db8:{_NUMBER:x}::1"
ITS, ITS6 = f"198.18.{_NUMBER}.2", f"2001:db8:{_NUMBER:x}::2"


class Machine(Place):
    """Where connections begin."""

    def connect(self, where: Address, *, udp: bool = False, timeout_s: float = 3.0) -> socket.socket:
        with netns.within(self.fd):
            family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
            opened = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        try:
            opened.settimeout(timeout_s)
            opened.connect(where)
        except BaseException:
            opened.close()
            raise
        return opened

    def connects(self, where: Address) -> bool:
        try:
            self.connect(where, timeout_s=TIMEOUT_S).close()
        except OSError:
            return False
        return True


@contextmanager
def outside() -> Iterator[Machine]:
    """It has ITS addresses, and the host HOST; it sends all to the host, as to a router."""
    link = f"lxto{os.getpid()}"
    with ExitStack() as stack:
        place, net = Machine(stack), stack.enter_context(Rtnetlink())
        net.apply(links.veth(link, "eth0", netns_fd=place.fd))
        stack.callback(net.apply, links.delete(link))
        for side, name, addresses in ((net, link, (HOST, HOST6)), (place.net, "eth0", (ITS, ITS6))):
            index = side.index(name)
            side.apply(
                links.change(index, up=True),
                links.address(index, f"{addresses[0]}/24"),
                links.address(index, f"{addresses[1]}/64"),
            )
        place.net.apply(links.route("0.0.0.0/0", via=HOST), links.route("::/0", via=HOST6))
        yield place
