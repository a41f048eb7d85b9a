"""Children of the fork-server itself that act on one container, with all that is loaded there: call, mount.

Each gets the request, the connection to answer on, and the descriptors that came with the request.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401  # what getaddrinfo would import, which a called function cannot do inside
import os
import socket
from collections.abc import Callable

from ..drivers import AttachRefused, mounts, namespaces, syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.liblxc import LxcDriver
from ..ids import IdMap
from . import call, rootfs, wire
from .executor import be_nobody_elses, follow, standard_streams, tell
from .handover import WAITING, close_all, take

Work = Callable[[wire.Message, socket.socket, list[int], CgroupHost], None]


def stand_by(channel: socket.socket, cgroups: CgroupHost) -> None:
    """Wait on `channel` for the one request to serve."""
    be_nobody_elses()
    syscalls.set_process_name(WAITING)
    received = take(channel)
    if received is not None:  # else the server has ended
        syscalls.set_process_name("lxcwrap-attach")
        request, (client, *fds) = received
        OPERATIONS[request["op"]](request, socket.socket(fileno=client), fds, cgroups)


def call_function(request: wire.Message, client: socket.socket, fds: list[int], cgroups: CgroupHost) -> None:
    """Run a pickled Python function inside; `fds`: its payload, the pipe for its result, and its stdio."""
    payload_fd, result_fd = fds[:2]
    with os.fdopen(payload_fd, "rb") as file:
        prepared = call.prepare_call(file.read())
    stdio = standard_streams(request["stdio"], fds[2:])
    seccomp = _read(request["seccomp"]) if request["seccomp"] else b""
    entry_fds = cgroups.entry_fds(request["id"])

    def inside(_: object) -> int:
        for fd in entry_fds:
            os.write(fd, b"0")
        if request["capabilities"] is not None:
            syscalls.limit_capabilities(request["capabilities"])
        if seccomp:
            syscalls.load_seccomp(seccomp)
        return int(call.run_call(prepared, result_fd, request["env"]))

    try:
        driver = LxcDriver(request["lxc_path"])
        pid = driver.attach(request["id"], inside, env=request["env"], stdio=stdio)
    except AttachRefused:
        tell(client, {"event": "exited", "exit_code": None, "error": "liblxc could not enter the container"})
        return
    os.close(result_fd)
    close_all(tuple(set(stdio)))
    follow(pid, client, None)


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def mount_root(request: wire.Message, client: socket.socket, fds: list[int], cgroups: CgroupHost) -> None:
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


OPERATIONS: dict[str, Work] = {"call": call_function, "mount": mount_root}
