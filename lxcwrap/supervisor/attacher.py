"""Short-lived children of the fork-server that act on one container: exec, call, mount.

Each gets the request, the connection to answer on, and the descriptors that came with the request.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence

from ..drivers import AttachRefused, inheritance, mounts, namespaces, syscalls
from ..drivers.cgroups import CgroupHost
from ..drivers.liblxc import LxcDriver
from ..ids import IdMap
from . import call, rootfs, streams, wire
from .argv import with_descriptors
from .handover import close_all, received_fds, take

Work = Callable[[wire.Message, socket.socket, list[int], CgroupHost], None]


def stand_by(channel: socket.socket, cgroups: CgroupHost) -> None:
    """Wait on `channel` for the one request to serve."""
    received = take(channel)
    if received is not None:  # else the server has ended
        request, (client, *fds) = received
        OPERATIONS[request["op"]](request, socket.socket(fileno=client), fds, cgroups)


def execute(
    request: wire.Message, client: socket.socket, fds: list[int], cgroups: CgroupHost
) -> None:
    """Run a command inside, entered through our init, as the main process was.

    Answers: ``started`` with a pidfd, ``terminal`` with a pty master if asked for, ``exited``.
    """
    _be_nobody_elses()
    status, init_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    entry_fds = cgroups.entry_fds(request["id"])
    argv = with_descriptors(request["argv"], init_end.fileno(), entry_fds)
    stdio = _stdio(request["stdio"], fds)
    streams.open_to_all(stdio)
    try:
        driver = LxcDriver(request["lxc_path"])
        keep_fds = (init_end.fileno(), *entry_fds)
        pid = driver.attach(
            request["id"],
            argv,
            env=request["env"],
            stdio=stdio,
            keep_fds=keep_fds,
            config=request["config"],
        )
    except AttachRefused:
        wire.send(
            client, {"event": "exited", "exit_code": None, "error": "liblxc could not enter the container"}
        )
        return
    init_end.close()
    _let_go(stdio)
    exec_error = _listen(status, client)
    pidfd = os.pidfd_open(pid)
    _tell(client, {"event": "started", "pid": pid, "exec_error": exec_error}, [pidfd])
    os.close(pidfd)
    _tell(client, {"event": "exited", "exit_code": _wait(pid), "exec_error": exec_error})


def _be_nobody_elses() -> None:
    os.setsid()
    inheritance.new_session_keyring()
    # What enters the container is a copy of the fork-server, until it executes something: nobody inside may
    # trace or read it, or reach its files through /proc.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _listen(status: socket.socket, client: socket.socket) -> str | None:
    """What init says until it has become the command: an error, or the master of its terminal."""
    error = None
    while True:
        data, ancillary, _flags, _address = status.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
        fds = received_fds(ancillary)
        if data.startswith(b"E"):
            error = data[1:].decode(errors="replace")
        elif data == b"T":
            _tell(client, {"event": "terminal"}, fds)
        close_all(fds)
        if not data:
            return error


def call_function(
    request: wire.Message, client: socket.socket, fds: list[int], cgroups: CgroupHost
) -> None:
    """Run a pickled Python function inside; `fds`: its payload to read, the pipe for its result, and its stdio."""
    _be_nobody_elses()
    payload_fd, result_fd = fds[:2]
    with os.fdopen(payload_fd, "rb") as file:
        prepared = call.prepare_call(file.read())
    stdio = _stdio(request["stdio"], fds[2:])
    seccomp = bytes.fromhex(request["seccomp"])
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
        wire.send(
            client, {"event": "exited", "exit_code": None, "error": "liblxc could not enter the container"}
        )
        return
    os.close(result_fd)
    _let_go(stdio)
    pidfd = os.pidfd_open(pid)
    _tell(client, {"event": "started", "pid": pid, "exec_error": None}, [pidfd])
    _tell(client, {"event": "exited", "exit_code": _wait(pid), "exec_error": None})


def mount_root(
    request: wire.Message, client: socket.socket, fds: list[int], cgroups: CgroupHost
) -> None:
    """Answer with a detached tree of a stopped container's root and what lasts of its mounts: it ends when the caller
    closes it. The root can be written, even where the container itself may only read it."""
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


OPERATIONS: dict[str, Work] = {"exec": execute, "call": call_function, "mount": mount_root}


def _stdio(names: Sequence[str], fds: Sequence[int]) -> tuple[int, int, int]:
    given = dict(zip(names, fds, strict=True))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return given.get("stdin", null), given.get("stdout", null), given.get("stderr", null)


def _let_go(stdio: tuple[int, int, int]) -> None:
    """Close our copies, or a reader of the command's output would never see its end."""
    for fd in set(stdio):
        os.close(fd)


def _wait(pid: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code


def _tell(client: socket.socket, message: wire.Message, fds: Sequence[int] = ()) -> None:
    try:
        wire.send(client, message, fds)
    except OSError:
        pass  # the caller is gone; the command goes on, as its own
