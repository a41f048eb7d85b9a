"""Netlink as bytes: attributes, answers, and what the kernel says with an error (linux/netlink.h). Pure.

Imported by the fork-server: no heavy imports here, such as ipaddress or typing.
"""

from __future__ import annotations

import os
import socket
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST, MULTI, ACK, DUMP_INTERRUPTED = 0x1, 0x2, 0x4, 0x10
REPLACE, EXCLUSIVE, CREATE, DUMP = 0x100, 0x200, 0x400, 0x300
ERROR, DONE = 2, 3
NESTED = 0x8000

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")
_HAS_TEXT, _TEXT = 0x200, 1  # NLM_F_ACK_TLVS, NLMSGERR_ATTR_MSG
_LONGEST_NAME = 15


class Request:
    """One change to ask of the kernel: the message, and `operation` on `name` for the error if it refuses."""

    __slots__ = ("body", "flags", "kind", "name", "operation")

    def __init__(self, operation: str, name: str, kind: int, flags: int, body: bytes) -> None:
        self.operation, self.name = operation, name
        self.kind, self.flags, self.body = kind, flags, body

    def message(self, sequence: int, flags: int) -> bytes:
        flags |= REQUEST | self.flags
        return _HEADER.pack(_HEADER.size + len(self.body), self.kind, flags, sequence, 0) + self.body

    def failed(self, number: int, reason: str) -> OSError:
        """What to raise when the kernel answered `number`, and `reason` in words, if it gave one."""
        text = f"{self.operation}: {os.strerror(number)}" + (f" ({reason})" if reason else "")
        return OSError(number, text, self.name)


def attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(attributes))


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def attributes(data: bytes) -> dict[int, bytes]:
    """By type, without the flags; of a type that comes twice, the last."""
    found, offset = {}, 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += length + -length % 4
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and body of each message in what was received."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            break
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def verdict(flags: int, body: bytes) -> tuple[int, str]:
    """Of an ERROR message: errno (0: it was done), and the kernel's words (NETLINK_EXT_ACK)."""
    reason = attributes(body[20:]).get(_TEXT, b"") if flags & _HAS_TEXT else b""
    return -struct.unpack_from("=i", body)[0], reason.rstrip(b"\0").decode(errors="replace")


def check_link_name(name: str) -> str:
    """`name`, or ValueError: what the kernel refuses, and ``%``, by which it would choose another name."""
    if not 0 < len(name.encode()) <= _LONGEST_NAME or name in (".", ".."):
        raise ValueError(f"link name {name!r}: 1 to {_LONGEST_NAME} bytes")
    if not name.isprintable() or any(sign in name for sign in " /:%"):
        raise ValueError(f"link name {name!r}: no blanks, '/', ':' or '%'")
    return name


def mac_bytes(mac: str) -> bytes:
    """The six bytes of ``02:..``, or ValueError."""
    value = bytes.fromhex(mac.replace(":", ""))
    if len(value) != 6 or len(mac) != 17:
        raise ValueError(f"MAC address {mac!r}: six bytes as '02:00:00:00:00:01'")
    return value


def packed(address: str) -> tuple[int, bytes]:
    """Family and bytes of an IPv4 or IPv6 address, or ValueError."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return family, socket.inet_pton(family, address)
    except OSError:
        raise ValueError(f"{address!r} is no IP address") from None


def packed_network(network: str) -> tuple[int, bytes, int]:
    """Family, bytes and prefix length of ``address/length``, or ValueError; no length: one address."""
    address, _, length = network.partition("/")
    family, value = packed(address)
    longest = len(value) * 8
    bits = int(length) if length.isascii() and length.isdigit() else longest if not length else -1
    if not 0 <= bits <= longest:
        raise ValueError(f"{network!r}: prefix length must be within 0..{longest}")
    return family, value, bits


def unpacked(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)
