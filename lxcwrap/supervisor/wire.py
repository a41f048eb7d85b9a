"""How callers and the supervisor's processes talk: JSON messages with descriptors over a unix stream socket.

A message is a length (4 bytes, little endian), then so many bytes of JSON; descriptors ride on the first
byte.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

from .. import __version__
from .handover import MAX_FDS, close_all, received_fds, send_frame

MAX_MESSAGE = 64 << 20
# Socket and lock in run/. A caller of another version does not meet this server: it starts one of its own.
SERVER = f"server-{__version__}"

_LENGTH = struct.Struct("<I")
_FDS_SPACE = socket.CMSG_SPACE(MAX_FDS * array.array("i").itemsize)
Message = dict[str, Any]


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send `message` and duplicates of `fds`. Raises OSError when the other end is gone."""
    send_frame(sock, json.dumps(message, separators=(",", ":")).encode(), fds)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors; None at the end of the stream. Raises ValueError on nonsense."""
    data, ancillary, _flags, _address = sock.recvmsg(_LENGTH.size, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
    fds = received_fds(ancillary)
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
    except RecursionError:
        close_all(fds)
        raise ValueError("a message nested too deeply") from None
    except BaseException:
        close_all(fds)
        raise


def _more(sock: socket.socket, size: int) -> bytes:
    data = sock.recv(size)
    if not data:
        raise ValueError("the stream ended within a message")
    return data
