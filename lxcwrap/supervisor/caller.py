"""The process that runs one Python function inside a container. It is forked from a nursery, so its memory
holds nothing of earlier requests: from one of its own, as what is loaded here is too much for the other."""

from __future__ import annotations

import encodings.idna  # noqa: F401  # what getaddrinfo would import, which a called function cannot do inside
import os
import socket

from ..drivers import AttachRefused, syscalls
from ..drivers.liblxc import LxcDriver
from . import call
from .executor import be_nobody_elses, enter_network, follow, read_file, standard_streams, tell
from .handover import WAITING, close_all, take, unix_socket


def stand_by(channel: socket.socket) -> None:
    """Wait on `channel` for the one call. With it come the payload, the pipe for the result, the streams, and
    what cgroups are entered by."""
    be_nobody_elses()
    syscalls.set_process_name(WAITING)
    received = take(channel)
    if received is None:
        return  # the server has ended
    syscalls.set_process_name("lxcwrap-call")
    request, (client_fd, payload_fd, result_fd, *fds) = received
    client, count = unix_socket(client_fd), len(request["stdio"])
    with os.fdopen(payload_fd, "rb") as file:
        prepared = call.prepare_call(file.read())
    stdio, entry_fds = standard_streams(request["stdio"], fds[:count]), fds[count:]
    seccomp = read_file(request["seccomp"]) if request["seccomp"] else b""

    def inside(_: object) -> int:
        for fd in entry_fds:
            os.write(fd, b"0")
        if request["capabilities"] is not None:
            syscalls.limit_capabilities(request["capabilities"])
        if seccomp:
            syscalls.load_seccomp(seccomp)
        return int(call.run_call(prepared, result_fd, request["env"], request["user"]))

    try:
        enter_network(request["netns_of"])
        driver = LxcDriver(request["lxc_path"])
        limits_itself = request["capabilities"] is not None
        pid = driver.attach(
            request["id"], inside, env=request["env"], stdio=stdio, limits_itself=limits_itself
        )
    except AttachRefused:
        tell(client, {"event": "exited", "exit_code": None, "error": "liblxc could not enter the container"})
        return
    os.close(result_fd)
    close_all(tuple(set(stdio)))
    follow(pid, client, None)
