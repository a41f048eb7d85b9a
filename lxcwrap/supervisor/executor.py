"""The process that runs one command inside a container: forked from the nursery, as liblxc forks it twice to
enter, and small processes fork fast. No heavy imports here (handover.py)."""

from __future__ import annotations

import os
import socket

from ..drivers import AttachRefused, inheritance, syscalls
from ..drivers.liblxc import LxcDriver
from .argv import with_descriptors
from .handover import WAITING, close_all, flat_json, received_fds, send_frame, take
from .streams import open_to_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_CLONE_NEWNET = 0x40000000
_SIGKILL = 9


def stand_by(channel: socket.socket) -> None:
    """Wait on `channel` for the one command, and run it inside, entered through our init as the main one was.

    Answers its caller: ``started`` with a pidfd, ``terminal`` with a pty master if asked for, ``exited``.
    """
    be_nobody_elses()
    syscalls.set_process_name(WAITING)
    status, init_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    received = take(channel)
    if received is None:
        return  # the server has ended
    syscalls.set_process_name("lxcwrap-exec")
    request, (client_fd, *fds) = received
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, client_fd)
    count = len(request["stdio"])
    stdio, entry_fds = standard_streams(request["stdio"], fds[:count]), fds[count:]
    open_to_all(stdio)
    argv = with_descriptors(request["argv"], init_end.fileno(), () if request["init"] else entry_fds)
    try:
        enter_network(request["netns_of"])
        pid = LxcDriver(request["lxc_path"]).attach(
            request["id"],
            _trusted(request, argv, entry_fds) if request["init"] else argv,
            env=request["env"],
            stdio=stdio,
            keep_fds=(init_end.fileno(), *entry_fds),
            config=request["config"],
            limits_itself=request.get("capabilities") is not None,  # older plans of probes do not say
        )
    except AttachRefused:
        tell(client, {"event": "exited", "exit_code": None, "error": "liblxc could not enter the container"})
        return
    init_end.close()
    close_all(tuple(set(stdio)))  # or a reader of the command's output would never see its end
    follow(pid, client, _listen(status, client))


def enter_network(pid: int | None) -> None:
    """Be in the network of process `pid` already, if given: liblxc would enter it from within the container's
    user namespace, which has no right to where it is another's. Raises AttachRefused."""
    if pid is None:
        return
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise AttachRefused(f"process {pid} has ended") from None
    syscalls.setns(fd, _CLONE_NEWNET)
    os.close(fd)


def _trusted(request: dict[str, Any], argv: list[str], entry_fds: list[int]) -> Callable[[object], int]:
    """What enters a container whose root may have mounted others over our init and filter: what these do
    first, and then our init by descriptor."""
    init_fd = os.open(request["init"], os.O_PATH | os.O_CLOEXEC)
    seccomp = read_file(request["seccomp"]) if request["seccomp"] else b""
    variables = dict(text.split("=", 1) for text in ("container=lxc", *request["env"]))

    def enter(_: object) -> int:
        for fd in entry_fds:
            os.write(fd, b"0")
        if seccomp:
            syscalls.load_seccomp(seccomp)
        os.execve(init_fd, argv, variables)

    return enter


def read_file(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def follow(pid: int, client: socket.socket, exec_error: str | None) -> None:
    """Tell the caller that the attached process `pid`, our child, has started, and how it ends."""
    pidfd = os.pidfd_open(pid)
    if not tell(client, {"event": "started", "pid": pid, "exec_error": exec_error}, [pidfd]):
        # Interrupted or killed, its caller never knew that it runs, and cannot end it.
        try:
            os.killpg(pid, _SIGKILL)
        except ProcessLookupError:
            os.kill(pid, _SIGKILL)  # it leads no group yet
    os.close(pidfd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    tell(client, {"event": "exited", "exit_code": 128 - code if code < 0 else code, "exec_error": exec_error})


def be_nobody_elses() -> None:
    os.setsid()
    inheritance.new_session_keyring()
    # What enters the container is a copy of this process, until it executes something: nobody inside may
    # trace or read it, or reach its files through /proc.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def standard_streams(names: Sequence[str], fds: Sequence[int]) -> tuple[int, int, int]:
    given = dict(zip(names, fds, strict=True))
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    return given.get("stdin", null), given.get("stdout", null), given.get("stderr", null)


def tell(client: socket.socket, message: Mapping[str, object], fds: Sequence[int] = ()) -> bool:
    """Whether the caller is still there."""
    try:
        send_frame(client, flat_json(message).encode(), fds)
    except OSError:
        return False
    return True


def _listen(status: socket.socket, client: socket.socket) -> str | None:
    """What init says until it has become the command: an error, or the master of its terminal."""
    error = None
    while True:
        data, ancillary, _flags, _address = status.recvmsg(4096, 1024, socket.MSG_CMSG_CLOEXEC)
        fds = received_fds(ancillary)
        if data.startswith(b"E"):
            error = data[1:].decode(errors="replace")
        elif data == b"T":
            tell(client, {"event": "terminal"}, fds)
        close_all(fds)
        if not data:
            return error
