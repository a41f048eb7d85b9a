"""What is handed on between sockets, and who is disturbed by whom."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lxcwrap.supervisor.relays import Listener, Loop

NOWHERE = ("255.255.255.255", 9)  # to which the kernel refuses a connection at once


@contextmanager
def relayed(server: socket.socket) -> Iterator[Listener]:
    """What comes to `server` is handed on by a thread."""
    loop, (wake, wakes) = Loop(), socket.socketpair()
    relay = Listener(loop, server, NOWHERE)

    def end(_: int) -> None:
        relay.close()
        loop.forget(wake.fileno())

    loop.watch(wake.fileno(), select.POLLIN, end)
    thread = threading.Thread(target=loop.run, kwargs={"at_least": 1})
    thread.start()
    try:
        with wake, wakes:
            yield relay
            wakes.send(b"!")
            thread.join(10)
    finally:
        assert not thread.is_alive()


def test_a_connection_that_leads_nowhere_ends_alone() -> None:
    """One that comes later, and leads somewhere, is served."""
    with socket.create_server(("127.0.0.1", 0)) as target:
        server = socket.create_server(("127.0.0.1", 0))
        where = server.getsockname()
        with relayed(server) as relay:
            with socket.create_connection(where, timeout=10) as client:
                assert client.recv(1) == b""
            relay.lead_to(target.getsockname())
            with socket.create_connection(where, timeout=10) as client:
                other, _ = target.accept()
                with other:
                    other.sendall(b"here")
                assert client.recv(4, socket.MSG_WAITALL) == b"here"
