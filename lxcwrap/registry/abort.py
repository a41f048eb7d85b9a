"""Giving up from another thread what waits for a registry: pauses end, connections are shut down."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any, cast
from weakref import WeakSet

import urllib3
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool


class Abort:
    """Set once; whoever waits then raises soon. Reading and writing fail as if the other side had hung up."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._connections: WeakSet[HTTPConnection] = WeakSet()
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock:
            self._event.set()
            for connection in self._connections:
                _shut_down(connection)

    def wait(self, timeout_s: float) -> bool:
        """Pause; True: it was set, so do not go on."""
        return self._event.wait(timeout_s)

    def watch(self, manager: urllib3.PoolManager) -> urllib3.PoolManager:
        """Shut down the connections of `manager`, too; those it has not made yet."""
        pools = cast(dict[str, type[HTTPConnectionPool]], manager.pool_classes_by_scheme)
        manager.pool_classes_by_scheme = {scheme: self._watching(pool) for scheme, pool in pools.items()}
        return manager

    def _watching(self, pool: type[HTTPConnectionPool]) -> type[HTTPConnectionPool]:
        base: Any = pool.ConnectionCls

        def add(connection: HTTPConnection) -> None:
            with self._lock:
                self._connections.add(connection)
                if self._event.is_set():
                    _shut_down(connection)

        class Connection(base):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                add(self)

        return type(pool.__name__, (pool,), {"ConnectionCls": Connection})


def _shut_down(connection: HTTPConnection) -> None:
    # Within TLS to a proxy, TLS to the server has no socket of its own but wraps the proxy's.
    own = getattr(connection.sock, "socket", connection.sock)
    if own:
        with suppress(OSError):
            # Not by TLS' own shutdown, which would change what the other thread is using.
            socket.socket.shutdown(own, socket.SHUT_RDWR)
