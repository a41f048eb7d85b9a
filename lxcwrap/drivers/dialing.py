"""Connections to what listens in a container's own network. Imported by the supervisor: no heavy imports."""

from __future__ import annotations

import socket
import time

from . import netns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_HEAD = 4096  # bytes of an answer's first line


def loopback(dial: Callable[[str], socket.socket]) -> socket.socket:
    """What `dial` gives for 127.0.0.1, or where that is refused for ::1."""
    try:
        return dial("127.0.0.1")
    except ConnectionRefusedError as refused:
        try:
            return dial("::1")
        except OSError:
            raise refused from None


def tcp(netns_fd: int, host: str, port: int, timeout_s: float) -> socket.socket:
    """A connection within a network namespace; it keeps the time-out. Raises what connect(2) does."""
    with netns.within(netns_fd):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return sock


def http_status(sock: socket.socket, path: str, timeout_s: float) -> int:
    """The status of a GET of `path`; the rest is not read. OSError, TimeoutError; ValueError: no HTTP."""
    deadline = time.monotonic() + timeout_s
    head = b""
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    while b"\n" not in head and len(head) < _MOST_HEAD:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError("timed out")
        sock.settimeout(remaining_s)
        data = sock.recv(_MOST_HEAD)
        if not data:
            break
        head += data
    words = head.partition(b"\n")[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError(f"no answer in HTTP: {head[:80]!r}")
    return int(words[1])
