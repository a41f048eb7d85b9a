"""A container kept frozen for a caller by a child of the fork-server: it goes on if the caller is killed."""

from __future__ import annotations

import errno
import fcntl
import os
import socket

from ..drivers.cgroups import CgroupHost
from . import wire


def keep_frozen(request: wire.Message, client: socket.socket, cgroups: CgroupHost) -> None:
    """Freeze a running container and answer; thaw it when the caller shuts its side of the connection, and
    answer again. Others who want the same wait. A container that was paused stays so."""
    container_id = request["id"]
    was_frozen = True
    try:
        lock = os.open(f"{request['bundle']}/pause.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        was_frozen = cgroups.is_frozen(container_id)
        if not was_frozen:
            cgroups.set_frozen(container_id, True)
        wire.send(client, {"frozen": True})
        client.recv(1)
        _thaw(cgroups, container_id, was_frozen)
        wire.send(client, {"frozen": was_frozen})
    except OSError as error:
        _thaw(cgroups, container_id, was_frozen)
        wire.send(client, {"error": str(error.strerror or error), "errno": error.errno or errno.EIO})


def _thaw(cgroups: CgroupHost, container_id: str, was_frozen: bool) -> None:
    if not was_frozen:
        try:
            cgroups.set_frozen(container_id, False)
        except FileNotFoundError:
            pass  # it has ended
