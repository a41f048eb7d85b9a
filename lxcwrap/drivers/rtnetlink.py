"""The kernel's interface for links, addresses, routes and traffic control: requests in, OSErrors out.

What to ask for is in links.py and traffic.py; how to read what is there in netlink_dumps.py.
Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import socket
import struct

from .links import GETLINK, named
from .netlink_messages import ACK, DONE, DUMP, DUMP_INTERRUPTED, ERROR, Request, messages, verdict
from .netns import within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_BUFFER = 1 << 16  # no answer is longer (netlink_dump() in Linux: net/netlink/af_netlink.c)


class Rtnetlink:
    """A socket to the kernel in one network namespace: that of the thread, or `netns_fd`. It stays there,
    wherever the thread goes; one thread at a time may use it."""

    _protocol = socket.NETLINK_ROUTE

    def __init__(self, netns_fd: int | None = None) -> None:
        if netns_fd is None:
            self._socket = _open(self._protocol)
        else:
            with within(netns_fd):
                self._socket = _open(self._protocol)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def apply(self, *requests: Request) -> None:
        """Carry them out in this order, up to the first that fails: its OSError says what failed, on what,
        and the kernel's reason.

        Each is sent when the one before is done. Of several sent at once the kernel would carry out also
        those behind a failed one, perhaps on a link of that name that is not ours; it would save 5 us each.
        """
        for request in requests:
            self._send(request, ACK)
            for kind, flags, body in self._receive():
                if kind == ERROR:
                    _check(request, flags, body)

    def index(self, name: str) -> int:
        """Of the link `name`; OSError ENODEV: there is none."""
        request = Request("find link", name, GETLINK, 0, named(name))
        self._send(request)
        for kind, flags, body in self._receive():
            if kind == ERROR:
                _check(request, flags, body)
            else:
                return int(struct.unpack_from("=i", body, 4)[0])
        raise request.failed(5, "no answer")

    def dump(self, kind: int, header: bytes) -> list[bytes]:
        """All objects of which `kind` is the GET request; read anew when they changed meanwhile."""
        request = Request("list", "", kind, DUMP, header)
        while True:
            self._send(request)
            found, whole, done = [], True, False
            while not done:
                for answer, flags, body in self._receive():
                    whole &= not flags & DUMP_INTERRUPTED
                    if answer in (ERROR, DONE):
                        _check(request, flags, body)
                        done = True
                    else:
                        found.append(body)
            if whole:
                return found

    def _send(self, request: Request, flags: int = 0) -> None:
        self._sequence += 1
        self._socket.send(request.message(self._sequence, flags))

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """Type, flags and body of answers to the last request; an interrupted one may have left others."""
        found: list[tuple[int, int, bytes]] = []
        while not found:
            for kind, flags, sequence, body in messages(self._socket.recv(_BUFFER)):
                if sequence == self._sequence:
                    found.append((kind, flags, body))
        return iter(found)


def _check(request: Request, flags: int, body: bytes) -> None:
    number, reason = verdict(flags, body)
    if number:
        raise request.failed(number, reason)


def _open(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        opened.bind((0, 0))
        for option in (_CAP_ACK, _EXT_ACK):
            opened.setsockopt(_SOL_NETLINK, option, 1)
    except BaseException:
        opened.close()
        raise
    return opened
