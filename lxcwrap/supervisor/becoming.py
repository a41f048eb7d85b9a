"""Another user inside a container, for a process that has entered it: by the rules of our init (init.c).

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_MOST_BYTES = 4 << 20


def become(wanted: str) -> None:
    """``user`` or ``user:group``, names or numbers, of this root's /etc/passwd and /etc/group. LookupError:
    there is none of this name; OSError: the kernel refuses."""
    name, _, group = wanted.partition(":")
    known, uid, gid = _user(name or "0")
    groups = [gid]
    if group:
        groups = [_group(group)]
    elif known:
        groups += [number for _, number, members in _groups() if known in members]
    os.setgroups(groups)
    os.setresgid(groups[0], groups[0], groups[0])
    os.setresuid(uid, uid, uid)


def _user(wanted: str) -> tuple[str, int, int]:
    """Name (empty if there is no entry), user and group."""
    for fields in _entries("/etc/passwd", 4):
        if fields[2].isdecimal() and fields[3].isdecimal() and wanted in (fields[0], str(int(fields[2]))):
            return fields[0], int(fields[2]), int(fields[3])
    return "", _number(wanted, "/etc/passwd"), 0


def _group(wanted: str) -> int:
    named = (number for name, number, _ in _groups() if name == wanted)
    found = next(named, None)
    return _number(wanted, "/etc/group") if found is None else found


def _groups() -> Iterator[tuple[str, int, list[str]]]:
    for fields in _entries("/etc/group", 4):
        if fields[2].isdecimal():
            yield fields[0], int(fields[2]), fields[3].split(",")


def _number(wanted: str, path: str) -> int:
    if not (wanted.isascii() and wanted.isdecimal()):
        raise LookupError(f"{wanted!r} is not in the container's {path}")
    return int(wanted)


def _entries(path: str, least: int) -> Iterator[list[str]]:
    for line in _read(path).decode(errors="surrogateescape").split("\n"):
        fields = line.split(":")
        if len(fields) >= least:
            yield fields


def _read(path: str) -> bytes:
    """Empty if there is none. O_NONBLOCK: the container may have put a FIFO there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    try:
        data = b""
        while len(data) < _MOST_BYTES and (more := os.read(fd, 1 << 16)):
            data += more
        return data
    finally:
        os.close(fd)
