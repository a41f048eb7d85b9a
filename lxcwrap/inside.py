"""Acts inside a running container: exec, popen, attach, call, and its root for file access."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from . import lifecycle
from .drivers.pidfd import start_time
from .errors import (
    ContainerNotFoundError,
    ExecError,
    SupervisorError,
    TimeoutExpired,
    WrongStateError,
)
from .execution import PIPE, OnOutput, Popen, Stream, Streams, checked, input_bytes
from .inroot import Root
from .machinery import Machinery
from .options import check_user
from .results import Completed
from .specs import ContainerSpec, State, check_argv, check_env, check_text
from .supervisor.entry import exec_order
from .supervisor.plan import environment
from .waiting import Steps, steps


def popen(
    machinery: Machinery,
    container_id: str,
    argv: Sequence[str],
    *,
    stdin: Stream,
    stdout: Stream,
    stderr: Stream,
    env: Mapping[str, str] | None,
    user: str | int | None,
    cwd: str | None,
    tty: bool,
) -> Popen:
    words = check_argv(argv) or ()
    extra = check_env(env)
    spec = running(machinery, container_id, "exec in")
    order = exec_order(
        machinery.root.path,
        container_id,
        spec,
        words,
        environment(spec.env, {"TERM": "xterm"} if tty else {}, extra),
        user=None if user is None else check_user(user, spec.security),
        cwd=None if cwd is None else check_text(cwd, "cwd"),
        tty=tty,
    )
    streams = Streams(stdin, stdout, stderr)
    message = {**order, "netns_of": lender(machinery, container_id, spec), "stdio": streams.names}
    try:
        conversation = machinery.supervisor.ask(
            message, streams.fds, what=f"exec of {list(words)!r} in {spec.name}"
        )
        streams.sent()
        return Popen(words, spec.name, conversation, streams)
    except SupervisorError:
        streams.close()
        _raise_if_ending(machinery, container_id, "exec in")
        raise
    except BaseException:
        streams.close()
        raise


def running(machinery: Machinery, container_id: str, operation: str) -> ContainerSpec:
    """Its spec. Raises WrongStateError for `operation` when it does not run, or is paused."""
    spec = lifecycle.spec_of(machinery, container_id)
    state = lifecycle.look(machinery, container_id).state
    if state != State.RUNNING:  # entering a paused one would wait for its thaw
        raise WrongStateError(spec.name, state, operation)
    return spec


def lender(machinery: Machinery, container_id: str, spec: ContainerSpec) -> int | None:
    """A process in the container's network, if that is another's."""
    if not spec.network_mode.startswith("container:"):
        return None
    return lifecycle.look(machinery, container_id).run.get("init_pid")


def _raise_if_ending(machinery: Machinery, container_id: str, operation: str) -> None:
    """Entering failed. The likely reason is that the container was about to end: its record follows soon."""
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        running(machinery, container_id, operation)
        time.sleep(0.005)


def execute(
    machinery: Machinery,
    container_id: str,
    argv: Sequence[str] | None,
    sh: str | None,
    *,
    input: bytes | str | None,
    env: Mapping[str, str] | None,
    user: str | int | None,
    cwd: str | None,
    timeout_s: float | None,
    check: bool,
    on_output: OnOutput | None,
) -> Steps[Completed]:
    if (argv is None) == (sh is None):
        raise TypeError("give a command or sh=, and not both")
    words = check_argv(argv if sh is None else ("/bin/sh", "-c", sh)) or ()
    began = time.monotonic()
    input = None if input is None else input_bytes(input)
    stdin = None if input is None else PIPE
    with popen(
        machinery,
        container_id,
        words,
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
        env=env,
        user=user,
        cwd=cwd,
        tty=False,
    ) as process:
        try:
            stdout, stderr = yield from steps(process.communicate)(input, timeout_s, on_output=on_output)
        except TimeoutExpired as expired:  # at the end of the block it is killed
            raise _texts(expired) from None
        done = Completed(
            argv=words,
            exit_code=process.wait(),
            stdout_bytes=stdout,
            stderr_bytes=stderr,
            duration_s=time.monotonic() - began,
        )
        return checked(done, process.container, check=check)


def _texts(expired: TimeoutExpired) -> TimeoutExpired:
    def text(data: str | bytes) -> str:
        return data if isinstance(data, str) else data.decode(errors="replace")

    return TimeoutExpired(expired.operation, expired.timeout_s, text(expired.stdout), text(expired.stderr))


# --- a terminal ---


def attach(
    machinery: Machinery,
    container_id: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    user: str | int | None,
    cwd: str | None,
) -> int:
    if not os.isatty(sys.stdin.fileno()):
        raise ExecError("attach: stdin is no terminal; use exec() or popen()")
    term = {"TERM": os.environ.get("TERM", "xterm")}
    with popen(
        machinery,
        container_id,
        argv,
        stdin=None,
        stdout=None,
        stderr=None,
        env={**term, **(env or {})},
        user=user,
        cwd=cwd,
        tty=True,
    ) as process:
        return process.interact()


# --- its root ---


@contextmanager
def open_root(machinery: Machinery, container_id: str) -> Iterator[Root]:
    """Its root directory: that of the running init, or else a mount made for the occasion."""
    record = lifecycle.row(machinery, container_id)
    spec, idmap = lifecycle.spec_of(machinery, container_id), machinery.idmap(record["slot"])
    run = lifecycle.look(machinery, container_id)
    fd = _root_of(run.run["init_pid"], run.run["init_start"]) if run.state.is_alive else None
    if fd is not None:
        try:
            if os.path.samestat(os.fstat(fd), os.stat("/")):  # a fake
                raise SupervisorError(f"{spec.name}: its root is the host's", "nothing was touched")
            yield Root(fd, idmap, spec.name, spec.read_only)
        finally:
            os.close(fd)
        return
    with _mounted(machinery, container_id, spec.name) as fd:
        yield Root(fd, idmap, spec.name)


def _root_of(pid: int, start: int) -> int | None:
    """The root directory of the process that had `pid` at `start`; None when it has ended."""
    try:
        fd = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if start_time(pid) == start:  # asked when it is open: before, its number might become another's
        return fd
    os.close(fd)
    return None


@contextmanager
def _mounted(machinery: Machinery, container_id: str, name: str) -> Iterator[int]:
    records = machinery.records(container_id)
    try:
        held = records.held(10.0)  # a start must wait: one overlay must not be mounted twice at a time
    except FileNotFoundError:
        raise ContainerNotFoundError(name) from None
    except BlockingIOError:
        raise SupervisorError(f"{name}: its files are in use, or it was just started", "try again") from None
    with held:
        message = {"op": "mount", "plan": records.read("plan")}
        with machinery.supervisor.ask(message, what=f"access to files of {name}") as conversation:
            answer, fds = conversation.receive()
        if not fds:
            raise SupervisorError(f"{name}: its root cannot be mounted", str(answer.get("error")))
        try:
            yield fds[0]
        finally:
            os.close(fds[0])
