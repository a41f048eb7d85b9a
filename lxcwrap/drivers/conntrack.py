"""The connections that the kernel has in mind (linux/netfilter/nfnetlink_conntrack.h). Each goes on as it was
led when it began, whatever the rules say by now: by UDP, as long as somebody sends.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import socket
import struct

from .netlink_messages import Request, attributes, nested, packed
from .rtnetlink import Rtnetlink

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2  # of NFNL_SUBSYS_CTNETLINK
_ORIGINAL, _REPLY = 1, 2  # CTA_TUPLE_*
_IP, _PROTOCOL, _SOURCE4, _SOURCE6, _NUMBER, _TO_PORT = 1, 2, 1, 3, 1, 3


class Connections(Rtnetlink):
    """Of one network namespace, as `Rtnetlink`."""

    _protocol = 12  # NETLINK_NETFILTER

    def forget_address(self, address: str) -> None:
        """Those with the container at `address`, when it has ended: another may get it."""
        family, value = packed(address)
        for tuples in self._all(family):
            source = attributes(attributes(tuples[_REPLY])[_IP])
            if source.get(_SOURCE4, source.get(_SOURCE6)) == value:
                self._forget(family, tuples[_ORIGINAL], address)

    def forget_udp(self, port: int) -> None:
        """What is sent by UDP to `port`, wherever: it then finds a port that has been published since."""
        for family in (socket.AF_INET, socket.AF_INET6):
            for tuples in self._all(family):
                protocol = attributes(attributes(tuples[_ORIGINAL])[_PROTOCOL])
                if protocol[_NUMBER][0] == socket.IPPROTO_UDP and protocol[_TO_PORT] == struct.pack(
                    ">H", port
                ):
                    self._forget(family, tuples[_ORIGINAL], f"udp {port}")

    def _all(self, family: int) -> list[dict[int, bytes]]:
        return [attributes(body[4:]) for body in self.dump(_GET, _header(family))]

    def _forget(self, family: int, original: bytes, name: str) -> None:
        body = _header(family) + nested(_ORIGINAL, original)
        try:
            self.apply(Request("forget connection", name, _DELETE, 0, body))
        except OSError as error:
            if error.errno != errno.ENOENT:  # it has ended by itself
                raise


def _header(family: int) -> bytes:
    """struct nfgenmsg"""
    return struct.pack("BBxx", family, 0)
