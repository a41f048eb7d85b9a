"""The files of a container that does not run, mounted for a caller by a child of the fork-server."""

from __future__ import annotations

import socket

from ..drivers import mounts, namespaces
from ..ids import IdMap
from . import rootfs, wire


def mount_root(request: wire.Message, client: socket.socket) -> None:
    """Answer with a detached tree of a stopped container's root and what lasts of its mounts: it ends when
    the caller closes it. The root can be written, even where the container itself may only read it."""
    lasting = [mount for mount in request["plan"]["mounts"] if mount["kind"] != "tmpfs"]
    plan = {**request["plan"], "mounts": lasting, "read_only": False}
    idmap = IdMap(*plan["idmap"])
    try:
        userns_fd = None if idmap.is_identity else namespaces.make_user_namespace(idmap)
        mounts.private_mount_namespace()
        tree = mounts.clone_tree(rootfs.mount_all(plan, userns_fd), recursive=True)
        wire.send(client, {"done": True}, [tree])
    except OSError as error:
        wire.send(client, {"error": str(error), "errno": error.errno})
