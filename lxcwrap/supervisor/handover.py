"""Messages between our own processes, by marshal and with descriptors; JSON for those that must stay light.

What the nursery imports, each monitor and runner carries: the fewer modules, the denser lie the objects that
are touched, and the fewer pages each process has to itself. So no json, typing or contextlib here (docs:
performance).
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

MAX_FDS = 64
# Name of processes forked ahead, until they have something to do.
WAITING = "lxcwrap-waiting"
_PLAIN = {ord(sign): None for sign in "-._"}  # beside letters and digits
_LENGTH = struct.Struct("<I")
_FDS_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)


def unix_socket(fd: int) -> socket.socket:
    """As ``socket.socket(fileno=fd)``, without asking the kernel what it is."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)


def hand(sock: socket.socket, value: Any, fds: Sequence[int] = ()) -> None:
    """Send plain data and duplicates of `fds`. Raises OSError when the other end is gone."""
    send_frame(sock, marshal.dumps(value), fds)


def take(sock: socket.socket) -> tuple[Any, list[int]] | None:
    """What `hand` sent; None at the end of the stream."""
    head, ancillary, _flags, _address = sock.recvmsg(_LENGTH.size, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
    if not head:
        return None
    body = sock.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)
    return marshal.loads(body), received_fds(ancillary)


def send_frame(sock: socket.socket, body: bytes, fds: Sequence[int] = ()) -> None:
    """A length (4 bytes, little endian), then `body`; the descriptors ride on the first byte."""
    data = _LENGTH.pack(len(body)) + body
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
    if sent < len(data):  # else the other end may have read it all and gone
        sock.sendall(memoryview(data)[sent:], socket.MSG_NOSIGNAL)


def received_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Descriptors out of what recvmsg gave."""
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return fds.tolist()


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def flat_json(record: Mapping[str, object]) -> str:
    """JSON of a flat record; the json module is loaded only for text that may need escapes."""
    return "{" + ", ".join(f'"{key}": {_plain(value)}' for key, value in record.items()) + "}"


def _plain(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str) and value.isascii() and value.translate(_PLAIN).isalnum():
        return f'"{value}"'
    import json

    return json.dumps(value)
