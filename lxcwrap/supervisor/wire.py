"""How callers and the supervisor's processes talk: JSON messages with descriptors over a unix stream socket.

A message is a length (4 bytes, little endian), then that many bytes of JSON; descriptors ride on the first byte.
"""

from __future__ import annotations

import array
import json
import marshal
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

MAX_MESSAGE = 64 << 20
MAX_FDS = 16
# Raised with every change of the messages: a caller that meets an older server asks it to retire.
PROTOCOL = 1

_LENGTH = struct.Struct("<I")
_FDS_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
Message = dict[str, Any]


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send `message` and duplicates of `fds`. Raises OSError when the other end is gone."""
    body = json.dumps(message, separators=(",", ":")).encode()
    data = memoryview(_LENGTH.pack(len(body)) + body)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sent = sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
    if sent < len(data):  # else the other end may have read it all and gone
        sock.sendall(data[sent:], socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors; None at the end of the stream. Raises ValueError on nonsense."""
    data, fds = _first(sock)
    try:
        if not data:
            return None
        while len(data) < _LENGTH.size:
            data += _more(sock, _LENGTH.size - len(data))
        (length,) = _LENGTH.unpack_from(data)
        if length > MAX_MESSAGE:
            raise ValueError(f"a message of {length} bytes")
        body = bytearray()
        while len(body) < length:
            body += _more(sock, min(length - len(body), 1 << 20))
        message = json.loads(body)
        if not isinstance(message, dict):
            raise ValueError("a message that is no object")
        return message, fds
    except BaseException:
        close_all(fds)
        raise


def _first(sock: socket.socket) -> tuple[bytes, list[int]]:
    data, ancillary, _flags, _address = sock.recvmsg(_LENGTH.size, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
    return data, received_fds(ancillary)


def received_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Descriptors out of what recvmsg gave."""
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return fds.tolist()


def _more(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if not data:
        raise ValueError("the stream ended within a message")
    return data


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def hand(sock: socket.socket, value: Any, fds: Sequence[int] = ()) -> None:
    """As `send`, between our own processes: by marshal, which touches far less of the memory they share than JSON."""
    body = marshal.dumps(value)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    data = _LENGTH.pack(len(body)) + body
    sent = sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
    if sent < len(data):
        sock.sendall(data[sent:], socket.MSG_NOSIGNAL)


def take(sock: socket.socket) -> tuple[Any, list[int]] | None:
    """What `hand` sent; None at the end of the stream."""
    head, ancillary, _flags, _address = sock.recvmsg(_LENGTH.size, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
    if not head:
        return None
    body = sock.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)
    return marshal.loads(body), received_fds(ancillary)
