"""From created to removed: what happens to a container as a whole. Functions over a `Machinery` and a container's id."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, NamedTuple

from attrs import asdict, evolve

from .drivers.pidfd import open_same, start_time
from .drivers.cgroups import LimitError, MissingController
from .errors import (
    ContainerNotFoundError,
    KernelError,
    StartError,
    SupervisorError,
    TimeoutExpired,
    UnsupportedError,
    WrongStateError,
)
from .execution import Streams
from .machinery import Machinery
from .specs import ContainerSpec, Limits, State, spec_from_json, spec_to_json
from .supervisor.client import Conversation
from .supervisor.records import Record

# How long the clean-up of an ended container may take before we say that something is wrong.
_END_TIMEOUT_S = 30.0
# How long the fork-server may need to find out how the container of a killed monitor ended.
_BURIAL_TIMEOUT_S = 3.0


class Run(NamedTuple):
    """What is known of a container's present or last run."""

    state: State
    run: Record
    exit: Record


def row(machinery: Machinery, container_id: str) -> Mapping[str, Any]:
    """Its record. Raises ContainerNotFoundError when it was removed."""
    query = "SELECT * FROM containers WHERE id = ?"
    found: Mapping[str, Any] | None = machinery.state.connection.execute(query, (container_id,)).fetchone()
    if found is None:
        raise ContainerNotFoundError(container_id[:12])
    return found


def spec_of(machinery: Machinery, container_id: str) -> ContainerSpec:
    return spec_from_json(row(machinery, container_id)["spec"])


def look(machinery: Machinery, container_id: str) -> Run:
    """Its state now, from its directory and the kernel; the record is asked only when there is no directory."""
    records = machinery.records(container_id)
    ended = records.read("exit")
    run = records.read("run") or {}
    if ended is not None:
        return Run(State.STOPPED, run, ended)
    if run:
        if start_time(run["monitor"]) != run["monitor_start"]:
            # Its monitor was killed, or has ended between the two reads.
            return Run(State.STOPPED, run, records.read("exit") or {})
        frozen = machinery.cgroups.is_frozen(container_id)
        return Run(State.PAUSED if frozen else State.RUNNING, run, {})
    phase = row(machinery, container_id)["phase"]
    return Run(State.CREATING if phase == "creating" else State.CREATED, {}, {})


def begin(
    machinery: Machinery, container_id: str, spec: ContainerSpec, slot: int | None, streams: Streams
) -> Conversation:
    """Ask for a start; the conversation tells how it goes. The caller's `streams` become those of the main process."""
    message = {
        "op": "launch",
        "id": container_id,
        "root": str(machinery.root.path),
        "bundle": str(machinery.bundle(container_id)),
        "id_base": machinery.idmap(slot).base,
        "auto_remove": spec.auto_remove,
        "log": {"max_bytes": spec.log_max_bytes, "max_files": spec.log_max_files},
        "stdio": streams.names,
    }
    try:
        return machinery.supervisor.ask(message, streams.fds, what=f"start of {spec.name}")
    finally:
        streams.sent()


def start(machinery: Machinery, container_id: str) -> None:
    """Start, and return when the main process runs. Raises WrongStateError, StartError."""
    record = row(machinery, container_id)
    spec, state = spec_from_json(record["spec"]), look(machinery, container_id).state
    name = spec.name
    if not state.can_start:
        raise WrongStateError(name, state, "start")
    with begin(machinery, container_id, spec, record["slot"], Streams(None, None, None)) as conversation:
        answer, _ = conversation.receive()
    if answer.get("exec_error"):
        raise StartError(name, explain_exec(answer["exec_error"], machinery, container_id))
    if answer["event"] == "exited":
        raise start_error(name, answer)


def start_error(name: str, ended: Record) -> StartError:
    """A start that came to nothing, from its exit record."""
    return StartError(name, ended.get("error") or "it ended before it ran", ended.get("log_tail", ""))


def explain_exec(text: str, machinery: Machinery, container_id: str) -> str:
    """What init reported, in words: an errno and the stage it was at."""
    number, _, stage = text.partition(" ")
    spec = spec_of(machinery, container_id)
    what = {
        "exec": f"command {spec.argv[0]!r}",
        "user": f"user {spec.user!r}",
        "cwd": f"directory {spec.cwd!r}",
    }
    return f"{what.get(stage, stage)}: {os.strerror(int(number))}"


def send(run: Run, number: int) -> None:
    """Signal init of a running container: ours hands it on to the main process."""
    pidfd = open_same(run.run["init_pid"], run.run["init_start"])
    if pidfd is not None:
        try:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def wait(machinery: Machinery, container_id: str, name: str, timeout_s: float | None) -> Record:
    """The exit record, when the container has ended. Raises TimeoutExpired, WrongStateError if it was never started."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    with _exit_file(machinery, container_id) as file:
        run = look(machinery, container_id)
        if run.state in (State.CREATING, State.CREATED):
            raise WrongStateError(name, run.state, "wait for")
        if run.state.is_alive:
            monitor = open_same(run.run["monitor"], run.run["monitor_start"])
            if monitor is not None:
                try:
                    _await_end(monitor, deadline, name, timeout_s)
                finally:
                    os.close(monitor)
            return _exit_record(file)
        return run.exit


@contextmanager
def _exit_file(machinery: Machinery, container_id: str) -> Iterator[IO[bytes] | None]:
    """Where the end of the present or last run is or will be recorded: readable even when its directory is deleted. None
    before the first run."""
    for name in ("exit.part", "exit.json"):
        with suppress(FileNotFoundError), open(machinery.bundle(container_id) / name, "rb") as file:
            yield file
            return
    yield None


def _await_end(pidfd: int, deadline: float | None, name: str, timeout_s: float | None) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    remaining = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
    if not poll.poll(remaining):
        raise TimeoutExpired(f"wait for {name}", timeout_s or 0.0)


def _exit_record(file: IO[bytes] | None) -> Record:
    """Written before the monitor ended, or, if that was killed, by the fork-server soon."""
    deadline = time.monotonic() + _BURIAL_TIMEOUT_S
    while file is not None and time.monotonic() < deadline:
        with suppress(ValueError):  # not yet, or half of it
            record: Record = json.loads(os.pread(file.fileno(), 1 << 20, 0))
            return record
        time.sleep(0.005)
    return {}


def stop(machinery: Machinery, container_id: str, name: str, number: int, timeout_s: float) -> Record:
    """Signal, wait, kill. The exit record. Nothing happens to a container that does not run."""
    run = look(machinery, container_id)
    if not run.state.is_alive:
        return run.exit
    if run.state == State.PAUSED:
        machinery.cgroups.set_frozen(container_id, False)
    send(run, number)
    try:
        return wait(machinery, container_id, name, timeout_s)
    except TimeoutExpired:
        return kill_and_wait(machinery, container_id, name)


def kill_and_wait(machinery: Machinery, container_id: str, name: str) -> Record:
    kill(machinery, container_id)
    return wait(machinery, container_id, name, _END_TIMEOUT_S)


def kill(machinery: Machinery, container_id: str) -> None:
    """SIGKILL, frozen or not, without waiting for the end."""
    run = look(machinery, container_id)
    if run.state.is_alive:
        send(run, signal.SIGKILL)
        if run.state == State.PAUSED:  # a frozen process dies only when it runs again
            machinery.cgroups.set_frozen(container_id, False)


def update(machinery: Machinery, container_id: str, limits: Limits) -> None:
    """Merge `limits` into the container's: in the kernel first, as only the kernel can refuse."""
    if not isinstance(limits, Limits):
        raise TypeError(f"update takes Limits(...), not {limits!r}")
    spec = spec_of(machinery, container_id)
    changed = {key: value for key, value in asdict(limits).items() if value is not None}
    merged = evolve(spec.limits, **changed)
    if look(machinery, container_id).state.is_alive:
        try:
            machinery.cgroups.apply_limits(container_id, changed)
        except MissingController as error:
            raise UnsupportedError(str(error.strerror)) from error
        except LimitError as error:
            raise KernelError(error.errno or 0, str(error.strerror)) from error
    records = machinery.records(container_id)
    plan = records.read("plan") or {}
    records.write(
        "plan", {**plan, "limits": {key: value for key, value in asdict(merged).items() if value is not None}}
    )
    with machinery.state.transaction() as change:
        text = spec_to_json(evolve(spec, limits=merged))
        change.execute("UPDATE containers SET spec = ? WHERE id = ?", (text, container_id))


def remove(machinery: Machinery, container_id: str, name: str, *, force: bool) -> None:
    """Remove a container that does not run; `force`: kill it first. The intent is recorded before anything is touched."""
    state = look(machinery, container_id).state
    if state.is_alive:
        if not force:
            raise WrongStateError(name, state, "remove")
        kill_and_wait(machinery, container_id, name)
    with machinery.state.transaction() as change:
        claim = "UPDATE containers SET phase = 'removing', owner_pid = ?, owner_start = ? WHERE id = ?"
        change.execute(claim, (os.getpid(), start_time(os.getpid()), container_id))
    _await_teardown(machinery, container_id)
    machinery.forget(container_id)


def _await_teardown(machinery: Machinery, container_id: str) -> None:
    """An ended container's monitor may still be tidying: let it finish."""
    records = machinery.records(container_id)
    try:
        os.close(records.hold(_END_TIMEOUT_S))
    except FileNotFoundError:
        pass  # never started, or removed by its monitor
    except BlockingIOError:
        raise SupervisorError(
            f"the monitor of {container_id[:12]} does not end", "see monitor in its run.json"
        ) from None


def discard(machinery: Machinery, container_id: str) -> None:
    """Stop and remove, whatever its state; nothing happens when it is gone. For the end of a ``with``, and to undo."""
    with suppress(ContainerNotFoundError):
        spec = spec_of(machinery, container_id)
        if not spec.auto_remove:
            stop(machinery, container_id, spec.name, spec.stop_signal, 10.0)
        remove(machinery, container_id, spec.name, force=True)


def forget_row(machinery: Machinery, container_id: str) -> None:
    with machinery.state.transaction() as change:
        change.execute("DELETE FROM containers WHERE id = ?", (container_id,))
