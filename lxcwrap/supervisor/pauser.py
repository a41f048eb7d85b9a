"""A container kept frozen for a caller by a child of the fork-server: it goes on if the caller is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from contextlib import suppress

from ..drivers.cgroups import CgroupHost
from . import wire

_OURS = b"k"  # in the lock's file: it is frozen on behalf of who keeps it so, and not by a user


def keep_frozen(request: wire.Message, client: socket.socket, cgroups: CgroupHost) -> None:
    """Freeze a running container and answer; when the caller shuts its side of the connection thaw it, unless
    others keep it frozen, too, and answer again. A container that was paused stays so."""
    container_id = request["id"]
    try:
        lock = os.open(f"{request['bundle']}/pause.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _freeze(lock, container_id, cgroups)
            wire.send(client, {"frozen": True})
            client.recv(1)
        finally:
            _thaw(lock, container_id, cgroups)
        wire.send(client, {"frozen": False})
    except OSError as error:
        with suppress(OSError):  # nobody waits for an answer any more
            wire.send(client, {"error": str(error.strerror or error), "errno": error.errno or errno.EIO})


def _freeze(lock: int, container_id: str, cgroups: CgroupHost) -> None:
    """Who keeps it frozen shares the lock, so nobody thaws it."""
    fcntl.flock(lock, fcntl.LOCK_SH)
    if not cgroups.is_frozen(container_id):
        os.pwrite(lock, _OURS, 0)
        cgroups.set_frozen(container_id, True)


def _thaw(lock: int, container_id: str, cgroups: CgroupHost) -> None:
    """By whoever finds that nobody shares the lock any more."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.pread(lock, 1, 0):
            os.ftruncate(lock, 0)
            cgroups.set_frozen(container_id, False)
    except (BlockingIOError, FileNotFoundError):
        pass  # others keep it so; it has ended
