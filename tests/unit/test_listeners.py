"""Who has a port: sockets of this very process."""

from __future__ import annotations

import os
import socket

import pytest

from lxcwrap.drivers.listeners import holder


@pytest.mark.parametrize(
    ("listens_at", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", ""),
        ("0.0.0.0", "127.0.0.1"),
        ("::1", "::"),
        ("::", "0.0.0.0"),
    ],
)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_it_is_found_where_it_is_in_the_way(protocol: str, listens_at: str, asked: str) -> None:
    """At the same address, or one that is all of them."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in listens_at else socket.AF_INET
    with socket.socket(family, kind) as server:
        server.bind((listens_at, 0))
        if protocol == "tcp":
            server.listen()
        port = server.getsockname()[1]
        found = holder(protocol, asked, port)
        assert found is not None and found.pid == os.getpid()
        assert "python" in found.command or "pytest" in found.command
    assert holder(protocol, asked, port) is None


def test_whom_it_does_not_concern_is_not_named() -> None:
    """Another address; a connection; a protocol that /proc does not tell of."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()
        assert holder("tcp", "127.0.0.2", where[1]) is None
        assert holder("udp", "", where[1]) is None and holder("sctp", "", where[1]) is None
        with socket.create_connection(where) as client:
            assert holder("tcp", "", client.getsockname()[1]) is None
