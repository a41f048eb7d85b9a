"""What stands between clients and servers in tests: proxies, lines that are cut, certificates."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import NamedTuple


class _Forwarder(ThreadingTCPServer):
    """Passes connections on to `server`."""

    daemon_threads = True
    server: tuple[str, int]
    limits: list[int]
    heads: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        """Lines that are cut are what is tested."""


@contextmanager
def _serving(handler: type[StreamRequestHandler], server: str) -> Iterator[_Forwarder]:
    with _Forwarder(("127.0.0.1", 0), handler) as forwarder:
        host, _, port = server.partition(":")
        forwarder.server, forwarder.limits, forwarder.heads = (host, int(port)), [], []
        thread = threading.Thread(target=forwarder.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield forwarder
        finally:
            forwarder.shutdown()
            thread.join()


def _relay(client: socket.socket, server: socket.socket, limit: int = 1 << 60) -> None:
    """Pass bytes on in both directions, together no more than `limit`; then cut the line."""
    left = [limit]

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while (piece := source.recv(min(65536, left[0]))) and left[0] > 0:
                left[0] -= len(piece)
                target.sendall(piece)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    back = threading.Thread(target=pump, args=(server, client))
    back.start()
    pump(client, server)
    back.join()


class _Cut(StreamRequestHandler):
    server: _Forwarder

    def handle(self) -> None:
        limit = self.server.limits.pop(0) if self.server.limits else 1 << 60
        with socket.create_connection(self.server.server) as server:
            _relay(self.connection, server, limit)


@contextmanager
def cut_line(server: str, limits: list[int]) -> Iterator[str]:
    """A line to `server` whose first connections are cut after so many bytes: ``127.0.0.1:PORT``."""
    with _serving(_Cut, server) as forwarder:
        forwarder.limits = list(limits)
        yield f"127.0.0.1:{forwarder.server_address[1]}"


class _Proxy(StreamRequestHandler):
    """Takes every name for that of `server`; forwards requests, and tunnels by CONNECT."""

    server: _Forwarder

    def handle(self) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (line := self.rfile.readline(65536)):
                return
            head += line
        self.server.heads.append(head.decode("latin-1"))
        method, target, rest = head.split(b" ", 2)
        with socket.create_connection(self.server.server) as server:
            if method == b"CONNECT":
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                path = b"/" + target.split(b"/", 3)[3]
                # One request for each connection: the next may be for another server.
                rest = rest.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
                server.sendall(b" ".join((method, path, rest)))
            _relay(self.connection, server)


@contextmanager
def proxy(server: str, tls: tuple[Path, Path] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A proxy to which every name is that of `server`: its ``127.0.0.1:PORT``, and the heads it gets."""
    with _serving(_Proxy, server) as forwarder:
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            forwarder.socket = context.wrap_socket(
                forwarder.socket, server_side=True, do_handshake_on_connect=False
            )
        yield f"127.0.0.1:{forwarder.server_address[1]}", forwarder.heads


class Certificates(NamedTuple):
    """An authority, and what it certified: certificate and key."""

    authority: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


def make_certificates(directory: Path) -> Certificates:
    """For 127.0.0.1 and registry.invalid, by openssl."""
    authority = _certify(directory, "authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
    by = ("-CA", str(authority[0]), "-CAkey", str(authority[1]))
    names = "subjectAltName=IP:127.0.0.1,DNS:registry.invalid"
    end = ("-addext", "basicConstraints=critical,CA:false")
    server = _certify(directory, "server", *by, "-addext", names, *end)
    return Certificates(authority[0], server, _certify(directory, "client", *by, *end))


def _certify(directory: Path, name: str, *options: str) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
    files = ("-out", str(certificate), "-keyout", str(key), "-subj", f"/CN={name}")
    subprocess.run([*new, *files, *options], check=True, capture_output=True)
    return certificate, key
