"""Bytes and datagrams handed on between sockets, by one thread, with bounded memory."""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Address = tuple[str, int]
_CHUNK = 1 << 16
_IDLE_S = 60.0  # as the kernel forgets who has sent by UDP
_MOST_PEERS = 1024


class Loop:
    """Calls what waits for a descriptor, with what has happened there."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """From now on for these events."""
        self._handlers[fd] = handler
        self._poll.register(fd, events)

    def forget(self, fd: int) -> None:
        if self._handlers.pop(fd, None):
            self._poll.unregister(fd)

    def run(self, *, at_least: int) -> None:
        """As long as so many descriptors are watched."""
        while len(self._handlers) >= at_least:
            for fd, events in self._poll.poll():
                if fd in self._handlers:  # one before it may have ended it
                    self._handlers[fd](events)


class Listener:
    """Of TCP: each connection is handed on to `target`; while that has no address, to nobody."""

    def __init__(self, loop: Loop, server: socket.socket, target: Address) -> None:
        self._loop, self._server, self._target = loop, server, target
        loop.watch(server.fileno(), select.POLLIN, self._accept)

    def lead_to(self, target: Address) -> None:
        """Those that come from now on."""
        self._target = target

    def close(self) -> None:
        """No more; those that there are go on."""
        self._loop.forget(self._server.fileno())
        self._server.close()

    def _accept(self, _: int) -> None:
        try:
            client, _peer = self._server.accept()
        except OSError:  # it has gone again, or there are no more descriptors
            time.sleep(0.01)
            return
        try:
            other = self._dial()
        except OSError:  # no way there, or no more descriptors
            return client.close()
        client.setblocking(False)
        for each in (client, other):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _Pair(self._loop, client, other)

    def _dial(self) -> socket.socket:
        if not self._target[0]:
            raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
        other = socket.socket(_family(self._target), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            with suppress(BlockingIOError):
                other.connect(self._target)
        except OSError:
            other.close()
            raise
        return other


class _Pair:
    """Two sockets that are one connection: the second may still be connecting."""

    def __init__(self, loop: Loop, client: socket.socket, server: socket.socket) -> None:
        self._loop = loop
        self._other = {client: server, server: client}
        self._pending = {client: b"", server: b""}  # to be sent to it
        self._open = {client, server}  # more may be read from it
        self._connecting: socket.socket | None = server
        for each in self._other:
            self._watch(each)

    def _watch(self, each: socket.socket) -> None:
        events = 0
        if each is self._connecting or self._pending[each]:
            events |= select.POLLOUT
        if self._connecting is None and each in self._open and not self._pending[self._other[each]]:
            events |= select.POLLIN
        if events:
            self._loop.watch(each.fileno(), events, lambda happened: self._handle(each, happened))
        else:  # else poll would tell of its end again and again
            self._loop.forget(each.fileno())

    def _handle(self, each: socket.socket, happened: int) -> None:
        try:
            if happened & select.POLLOUT:
                self._connecting = None if each is self._connecting else self._connecting
                self._pending[each] = self._pending[each][each.send(self._pending[each]) :]
            if happened & select.POLLIN:
                self._read(each)
            elif happened & (select.POLLERR | select.POLLHUP):
                return self._end()
        except BlockingIOError:
            pass
        except OSError:
            return self._end()
        if not self._open and not any(self._pending.values()):
            return self._end()
        for side in self._other:
            self._watch(side)

    def _read(self, each: socket.socket) -> None:
        other, data = self._other[each], each.recv(_CHUNK)
        if data:
            self._pending[other] = data
            with suppress(BlockingIOError):
                self._pending[other] = data[other.send(data) :]
        else:
            self._open.discard(each)
            other.shutdown(socket.SHUT_WR)

    def _end(self) -> None:
        for each in self._other:
            self._loop.forget(each.fileno())
            each.close()


class Datagrams:
    """Of UDP: each that sends has a socket of its own to `target`, by which answers come."""

    def __init__(self, loop: Loop, server: socket.socket, target: Address) -> None:
        self._loop, self._server, self._target = loop, server, target
        self._peers: dict[Any, tuple[socket.socket, float]] = {}  # who was last heard of last comes last
        loop.watch(server.fileno(), select.POLLIN, self._receive)

    def lead_to(self, target: Address) -> None:
        """All, from now on."""
        if target != self._target:
            self._target = target
            for peer in list(self._peers):
                self._forget(peer)

    def close(self) -> None:
        self._loop.forget(self._server.fileno())
        self._server.close()
        for peer in list(self._peers):
            self._forget(peer)

    def _receive(self, _: int) -> None:
        with suppress(OSError):
            data, peer = self._server.recvfrom(_CHUNK)
            if self._target[0]:
                self._of(peer).send(data)

    def _of(self, peer: Any) -> socket.socket:
        now = time.monotonic()
        while self._peers:
            oldest, (_, heard) = next(iter(self._peers.items()))
            if heard > now - _IDLE_S and len(self._peers) < _MOST_PEERS:
                break
            self._forget(oldest)
        own, _ = self._peers.pop(peer, (None, 0.0))
        if own is None:
            own = socket.socket(_family(self._target), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            own.connect(self._target)
            answers = own
            self._loop.watch(own.fileno(), select.POLLIN, lambda _: self._answer(answers, peer))
        self._peers[peer] = (own, now)
        return own

    def _answer(self, own: socket.socket, peer: Any) -> None:
        with suppress(OSError):
            self._server.sendto(own.recv(_CHUNK), peer)

    def _forget(self, peer: Any) -> None:
        own, _ = self._peers.pop(peer)
        self._loop.forget(own.fileno())
        own.close()


def _family(target: Address) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in target[0] else socket.AF_INET
