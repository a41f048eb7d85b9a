"""Whom ``--chown`` names: users and groups as the image knows them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from ..drivers.paths import open_in_root
from ..errors import InvalidSpecError

_MAX_BYTES = 4 << 20
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY


def find_owner(chown: str, root_fd: int) -> tuple[int, int]:
    """
    User and group id of ``user[:group]``, looked up in /etc/passwd and /etc/group of the tree `root_fd`.

    Without a group it is the user's own; for an id, the same number. Raises InvalidSpecError: no such name.
    """
    user, colon, group = chown.partition(":")
    uid = gid = int(user) if user.isdigit() else -1
    if uid < 0:
        for name, _, uid_text, gid_text, *_ in _entries(root_fd, "etc/passwd", 4):
            if name == user and uid_text.isdigit() and gid_text.isdigit():
                uid, gid = int(uid_text), int(gid_text)
                break
        else:
            raise _unknown(chown, "user", user)
    if colon:
        gid = int(group) if group.isdigit() else _group_id(chown, group, root_fd)
    return uid, gid


def _group_id(chown: str, group: str, root_fd: int) -> int:
    for name, _, gid, *_ in _entries(root_fd, "etc/group", 3):
        if name == group and gid.isdigit():
            return int(gid)
    raise _unknown(chown, "group", group)


def _unknown(chown: str, kind: str, name: str) -> InvalidSpecError:
    return InvalidSpecError(f"owner {chown!r}: the image has no {kind} {name!r}: give its id")


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
