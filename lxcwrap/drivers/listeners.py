"""Who has a port of the host: by what /proc says of sockets, and of the processes that hold them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

_LISTENS = "0A"  # TCP_LISTEN of net/tcp_states.h
_LONGEST = 80


class Holder(NamedTuple):
    """A process; `command` is its command line, as far as it may be shown."""

    pid: int
    command: str


def holder(protocol: str, address: str, port: int) -> Holder | None:
    """Who keeps others from `address` (empty: all of the host's) at `port`; None: nobody whom /proc shows, as
    one in another pid namespace, or by SCTP."""
    links = {f"socket:[{inode}]" for inode in _sockets(protocol, address, port)}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc") if links else ())):
        if not links.isdisjoint(_descriptors(pid)):
            return Holder(pid, _command(pid))
    return None


def _sockets(protocol: str, address: str, port: int) -> Iterator[str]:
    """Their inodes."""
    for table in (protocol, f"{protocol}6") if protocol in ("tcp", "udp") else ():
        with suppress(FileNotFoundError), open(f"/proc/net/{table}") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                local, _, at = fields[1].partition(":")
                takes_part = protocol == "udp" or fields[3] == _LISTENS
                if takes_part and int(at, 16) == port and _meet(_address(local), address):
                    yield fields[9]


def _address(words: str) -> str:
    """Each word of 32 bits is as the processor has it."""
    value = b"".join(int(words[at : at + 8], 16).to_bytes(4, "little") for at in range(0, len(words), 8))
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


def _meet(one: str, other: str) -> bool:
    """Whether what is sent to one may be meant for the other; ``::`` may take IPv4, too."""
    return one == other or one in ("0.0.0.0", "::") or other in ("", "0.0.0.0", "::")


def _descriptors(pid: int) -> Iterator[str]:
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for entry in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):
                yield os.readlink(f"/proc/{pid}/fd/{entry}")


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            words = file.read(_LONGEST).replace("\0", " ").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "".join(sign if sign.isprintable() else "?" for sign in words)
