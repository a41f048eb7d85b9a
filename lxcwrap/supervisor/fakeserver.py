"""The process behind `fake.FakeSupervisor`: its children, one a request, play containers and commands."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from ..drivers.fake import exit_code, find_program, play
from ..drivers.pidfd import boot_id, open_same, start_time
from ..drivers.polling import readable
from ..storage.logs import STDERR, STDOUT, LogWriter, open_pipe
from ..storage.root import RootDir
from . import call, wire
from .handover import close_all
from .records import Records
from .undertaker import remove_container


def main() -> None:
    """Fork for each connection that comes through stdin, until that is closed."""
    if os.fork():
        return
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=os.dup(0))
    while fds := socket.recv_fds(control, 1, 1)[1]:
        with socket.socket(fileno=fds[0]) as client:
            if os.fork() == 0:
                control.close()
                _serve(client)


def _serve(client: socket.socket) -> NoReturn:
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        received = wire.receive(client)
        if received is not None:
            request, fds = received
            _OPERATIONS[request["op"]](request, client, fds)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _launch(request: wire.Message, client: socket.socket, fds: list[int]) -> None:
    records = Records(request["bundle"])
    records.hold(10.0)  # until this process ends
    for name in ("exit", "run"):
        records.remove(name)
    plan = records.read("plan") or {}
    if "restart" in request or "health" in request:
        why = "the fake restarts nothing, and probes no health"
        return _tell(client, {"event": "exited", "exit_code": None, "error": why})
    if "-t" in plan["init"]:
        return _tell(client, {"event": "exited", "exit_code": None, "error": "the fake has no terminals"})
    log, pipes = LogWriter(f"{plan['bundle']}/logs", **request["log"]), dict[int, int]()
    stdio = dict(zip(request["stdio"], fds, strict=True))
    for name, stream in (("stdout", STDOUT), ("stderr", STDERR)):
        if name not in stdio:
            reader, stdio[name] = open_pipe()
            pipes[reader] = stream
    process, exec_error = _play(request, plan["argv"], plan["env"], stdio)
    me, init = os.getpid(), process.pid
    run = {"monitor": me, "monitor_start": start_time(me), "init_pid": init, "init_start": start_time(init)}
    records.begin({**run, "started_at": time.time(), "boot": boot_id()})
    _tell(client, {"event": "started", "init_pid": init, "exec_error": exec_error})
    _pump(log, pipes)
    ended: dict[str, object] = {"exit_code": exit_code(process), "exec_error": exec_error, "error": None}
    log.close()
    ended |= {"oom_killed": False, "log_tail": "", "finished_at": time.time()}
    records.end(ended)
    _tell(client, {"event": "exited", **ended})
    if plan["auto_remove"]:
        remove_container(RootDir(plan["root"]), plan["id"])


def _play(
    request: wire.Message, argv: Sequence[str], env: Sequence[str], stdio: Mapping[str, int]
) -> tuple[subprocess.Popen[bytes], str | None]:
    """The process, and what our init would say of a command that it cannot execute. Closes `stdio`."""
    source = find_program(request["programs"], argv)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    streams = (stdio.get("stdin", null), stdio.get("stdout", null), stdio.get("stderr", null))
    try:
        process = play("raise SystemExit(127)" if source is None else source, argv, env=env, stdio=streams)
    finally:
        close_all([*{*stdio.values(), null}])
    return process, "2 exec" if source is None else None


def _pump(log: LogWriter, pipes: dict[int, int]) -> None:
    poll = select.poll()
    for fd in pipes:
        poll.register(fd, select.POLLIN)
    while pipes:
        for fd, _event in poll.poll():
            if not log.pump(fd, pipes[fd]):
                poll.unregister(fd)
                del pipes[fd]


def _execute(request: wire.Message, client: socket.socket, fds: list[int]) -> None:
    init = _init_of(request)
    options, words = _split(request["argv"])
    if init is None or "-t" in options:
        why = "the fake has no terminals" if init else "the container does not run"
        return _tell(client, {"event": "exited", "exit_code": None, "error": why})
    stdio = dict(zip(request["stdio"], fds, strict=True))
    process, exec_error = _play(request, words, request["env"], stdio)
    pidfd = os.pidfd_open(process.pid)
    _tell(client, {"event": "started", "pid": process.pid, "exec_error": exec_error}, [pidfd])
    if pidfd not in readable(pidfd, init):
        process.kill()  # with its init a container ends
    _tell(client, {"event": "exited", "exit_code": exit_code(process), "exec_error": exec_error})


def _init_of(request: wire.Message) -> int | None:
    """A pidfd of the container's main process; None when it does not run."""
    run = Records(f"{request['lxc_path']}/{request['id']}").read("run")
    return open_same(run["init_pid"], run["init_start"]) if run else None


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The options of our init, and the command."""
    end = argv.index("--")
    return argv[:end], argv[end + 1 :]


def _call(request: wire.Message, client: socket.socket, fds: list[int]) -> None:
    payload_fd, result_fd, *others = fds
    with os.fdopen(payload_fd, "rb") as file:
        prepared = call.prepare_call(file.read())
    child = os.fork()
    if child == 0:
        status = 255
        try:
            status = int(call.run_call(prepared, result_fd, request["env"]))
        finally:
            os._exit(status)
    close_all([result_fd, *others])
    _tell(client, {"event": "started", "pid": child, "exec_error": None}, [os.pidfd_open(child)])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _tell(client, {"event": "exited", "exit_code": 128 - code if code < 0 else code, "exec_error": None})


def _mount(request: wire.Message, client: socket.socket, fds: list[int]) -> None:
    _tell(client, {"error": "the fake has no file systems", "errno": errno.EOPNOTSUPP})


_OPERATIONS: dict[str, Callable[[wire.Message, socket.socket, list[int]], Any]] = {
    "launch": _launch,
    "exec": _execute,
    "call": _call,
    "mount": _mount,
    "remount": _mount,
}


def _tell(client: socket.socket, message: wire.Message, fds: Sequence[int] = ()) -> None:
    with suppress(OSError):  # the caller is gone
        wire.send(client, message, fds)
