"""Whom ``--chown`` names: users and groups as the image knows them."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from ..drivers.paths import open_in_root
from ..errors import InvalidSpecError

_ID = re.compile(r"[0-9]{1,10}")
_MAX_ID = (1 << 32) - 2  # one more is -1, by which chown(2) means "leave it"
_MAX_BYTES = 4 << 20
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


def find_owner(chown: str, root_fd: int) -> tuple[int, int]:
    """
    User and group id of ``user[:group]``, looked up in /etc/passwd and /etc/group of the tree `root_fd`.

    Without a group it is the user's own; for an id, the same number. Raises InvalidSpecError: no such name.
    """
    user, colon, group = chown.partition(":")
    uid = gid = _id(user)
    if uid is None:
        for name, _, *ids in _entries(root_fd, "etc/passwd", 4):
            if name == user and None not in (found := [_id(text) for text in ids[:2]]):
                uid, gid = found
                break
    if colon:
        gid = _id(group)
        if gid is None:
            gid = _group_id(group, root_fd)
    if uid is None or gid is None:
        kind, name = ("user", user) if uid is None else ("group", group)
        raise InvalidSpecError(f"owner {chown!r}: the image has no {kind} {name!r}: give its id")
    return uid, gid


def _id(text: str) -> int | None:
    return int(text) if _ID.fullmatch(text) and int(text) <= _MAX_ID else None


def _group_id(group: str, root_fd: int) -> int | None:
    for name, _, text, *_ in _entries(root_fd, "etc/group", 3):
        if name == group and (gid := _id(text)) is not None:
            return gid
    return None


def _entries(root_fd: int, path: str, fields: int) -> Iterator[list[str]]:
    try:
        fd = open_in_root(root_fd, path, _FILE)
    except OSError:
        return  # an image without users
    with os.fdopen(fd, "rb") as file:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            for line in file.read(_MAX_BYTES).decode(errors="surrogateescape").split("\n"):
                if len(entry := line.split(":")) >= fields:
                    yield entry
