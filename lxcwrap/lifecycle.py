"""From created to removed: what happens to a container as a whole. All take a `Machinery` and an id."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from datetime import UTC, datetime
from functools import lru_cache
from typing import IO, Any, NamedTuple

from attrs import asdict, evolve

from .drivers.cgroups import LimitError, MissingController
from .drivers.pidfd import lives, open_same
from .errors import (
    ContainerNotFoundError,
    KernelError,
    NameInUseError,
    StartError,
    SupervisorError,
    TimeoutExpired,
    UnsupportedError,
    WrongStateError,
)
from .execution import Streams
from .machinery import Machinery
from .results import Health, HealthResult
from .specjson import spec_from_json, spec_to_json
from .specs import ContainerSpec, Limits, State
from .storage import sized
from .storage.outbox import tell
from .supervisor import forwarder, restarting, wiring
from .supervisor.client import Conversation
from .supervisor.plan import plan_limits
from .supervisor.records import Held, Record
from .supervisor.undertaker import forget_record
from .waiting import Steps, Wait, finish

# How long the clean-up of an ended container may take before we say that something is wrong.
_END_TIMEOUT_S = 30.0


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
    return _parsed(row(machinery, container_id)["spec"])


_parsed = lru_cache(maxsize=256)(spec_from_json)  # frozen values: to be shared


def look(machinery: Machinery, container_id: str) -> Run:
    """Its state now, from its directory and the kernel; the record is asked only where these say nothing."""
    records = machinery.records(container_id)
    ended = records.read("exit")
    run = records.read("run") or {}
    if ended is not None:
        pending = restarting.is_pending(records)
        return Run(State.RESTARTING if pending else State.STOPPED, run, ended)
    if run:
        if not lives(run["monitor"], run["monitor_start"], run.get("boot")):
            # Its monitor was killed, or has ended between the two reads.
            machinery.settle(container_id)
            if (ended := records.read("exit")) is None:
                row(machinery, container_id)  # it may have been removed at once
            return Run(State.STOPPED, run, ended or {})
        frozen = machinery.cgroups.is_frozen(container_id)
        return Run(State.PAUSED if frozen else State.RUNNING, run, {})
    phase = row(machinery, container_id)["phase"]
    if restarting.is_pending(records):  # between the two runs
        return Run(State.RESTARTING, {}, {})
    return Run(State.CREATING if phase in ("creating", "building") else State.CREATED, {}, {})


def held(machinery: Machinery, container_id: str, timeout_s: float) -> Held:
    """The lock of a container that does not run. Raises BlockingIOError: it does, or another keeps the lock;
    ContainerNotFoundError."""
    try:
        return machinery.records(container_id).held(timeout_s)
    except FileNotFoundError:
        raise ContainerNotFoundError(container_id[:12]) from None


def health(machinery: Machinery, container_id: str) -> Health | None:
    """As its checks have found it, in its present or last run; None when it has none."""
    if spec_of(machinery, container_id).health is None:
        return None
    record = machinery.records(container_id).read("health")
    if record is None:
        return Health(status="starting")
    results = tuple(
        HealthResult(
            datetime.fromtimestamp(each["started_at"], UTC),
            datetime.fromtimestamp(each["ended_at"], UTC),
            each["exit_code"],
            each["output"],
        )
        for each in record["checks"]
    )
    return Health(status=record["status"], failing_streak=record["failing_streak"], results=results)


def was_oom_killed(machinery: Machinery, container_id: str) -> bool:
    run = look(machinery, container_id)
    if run.state.is_alive:
        return machinery.cgroups.oom_kills(container_id) > 0
    return bool(run.exit.get("oom_killed"))


def begin(
    machinery: Machinery,
    container_id: str,
    spec: ContainerSpec,
    slot: int | None,
    streams: Streams,
    given: Sequence[int] = (),
) -> Conversation:
    """Ask for a start; the conversation tells how it goes. `streams` become those of the main process.

    given: mounts that its plan counts on."""
    message = {
        "op": "launch",
        "id": container_id,
        "root": str(machinery.root.path),
        "bundle": str(machinery.bundle(container_id)),
        "id_base": machinery.idmap(slot).base,
        "auto_remove": spec.auto_remove,
        "system": spec.is_system,
        "log": {"max_bytes": spec.log_max_bytes, "max_files": spec.log_max_files},
        "stdio": streams.names,
    }
    if not spec.image_id:  # a step of a build
        message["quiet"] = True
    if spec.restart.when != "no":
        message["restart"] = asdict(spec.restart)
    if spec.health is not None:
        message["health"] = True
    try:
        return machinery.supervisor.ask(message, [*streams.fds, *given], what=f"start of {spec.name}")
    finally:
        streams.sent()


def start(machinery: Machinery, container_id: str) -> None:
    """Start, and return when the main process runs. Raises WrongStateError, StartError."""
    record = row(machinery, container_id)
    spec, state = _parsed(record["spec"]), look(machinery, container_id).state
    if not state.can_start:
        raise WrongStateError(spec.name, state, "start")
    if state == State.RESTARTING:
        restarting.give_way(machinery.records(container_id))
    run_up(machinery, container_id, spec, record["slot"])


def run_up(machinery: Machinery, container_id: str, spec: ContainerSpec, slot: int | None) -> None:
    """`start` without asking for the state first."""
    if machinery.port_store.bindings(container_id):
        with suppress(BlockingIOError, FileNotFoundError), machinery.records(container_id).held(1.0):
            forwarder.end(str(machinery.bundle(container_id)))  # of its last run
        machinery.port_store.check(container_id)
    with begin(machinery, container_id, spec, slot, Streams(None, None, None)) as conversation:
        answer, _ = conversation.receive()
    if answer.get("exec_error"):
        raise StartError(spec.name, explain_exec(answer["exec_error"], machinery, container_id))
    if answer.get("refused"):  # another start was faster, or a removal
        state = look(machinery, container_id).state
        if state.is_alive:
            raise WrongStateError(spec.name, state, "start")
    if answer["event"] == "exited":
        raise start_error(spec.name, answer)


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


def wait(machinery: Machinery, container_id: str, name: str, timeout_s: float | None) -> Steps[Record]:
    """The exit record, when it has ended. Raises TimeoutExpired; WrongStateError if it was never started."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        with _future_exit(machinery, container_id) as file:
            run = look(machinery, container_id)
            if run.state in (State.CREATING, State.CREATED):
                raise WrongStateError(name, run.state, "wait for")
            if not run.state.is_alive:
                return run.exit
            if file is not None:  # else it began or ended between the two looks
                monitor = open_same(run.run["monitor"], run.run["monitor_start"])
                if monitor is not None:
                    try:
                        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
                        if not (yield Wait(monitor, remaining)):
                            raise TimeoutExpired(f"wait for {name}", timeout_s or 0.0)
                    finally:
                        os.close(monitor)
                return _exit_record(machinery, container_id, file)


def _future_exit(machinery: Machinery, container_id: str) -> AbstractContextManager[IO[bytes] | None]:
    """Where the end of the present run will be recorded: readable even if the directory is deleted."""
    try:
        return open(machinery.bundle(container_id) / "exit.part", "rb")
    except FileNotFoundError:
        return nullcontext()


def _exit_record(machinery: Machinery, container_id: str, file: IO[bytes]) -> Record:
    """Written before the monitor ended, unless that was killed."""
    if not os.fstat(file.fileno()).st_size:
        machinery.settle(container_id)
    try:
        record: Record = json.loads(file.read())
    except ValueError:
        return {}  # nobody saw it, and who was to say so was killed too
    return record


def stop(machinery: Machinery, container_id: str, name: str, number: int, timeout_s: float) -> Steps[Record]:
    """Signal, wait, kill. The exit record. Nothing happens to a container that does not run, but that it will
    not be restarted."""
    has_policy = call_off_restart(machinery, container_id)
    run = look(machinery, container_id)
    while has_policy and not run.state.is_alive:
        with (
            suppress(BlockingIOError, FileNotFoundError),  # it runs after all; it was removed
            machinery.records(container_id).held(_END_TIMEOUT_S),
        ):
            return look(machinery, container_id).exit  # nobody has begun to start it
        run = look(machinery, container_id)
    if not run.state.is_alive:
        return run.exit
    if run.state == State.PAUSED:
        machinery.cgroups.set_frozen(container_id, False)
    send(run, number)
    try:
        return (yield from wait(machinery, container_id, name, timeout_s))
    except TimeoutExpired:
        return (yield from kill_and_wait(machinery, container_id, name))


def call_off_restart(machinery: Machinery, container_id: str) -> bool:
    """Let it stay down, once it is; whether it has a policy by which it would not."""
    if spec_of(machinery, container_id).restart.when == "no":
        return False
    with suppress(FileNotFoundError):  # it was removed
        restarting.call_off(machinery.records(container_id))
    return True


def kill_and_wait(machinery: Machinery, container_id: str, name: str) -> Steps[Record]:
    kill(machinery, container_id)
    return (yield from wait(machinery, container_id, name, _END_TIMEOUT_S))


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
    changed = {key: value for key, value in asdict(limits).items() if value is not None}
    with machinery.state.transaction() as change:  # two updates at once: one after the other
        spec = spec_of(machinery, container_id)
        if (state := look(machinery, container_id).state) is State.CREATING:  # who makes it writes its plan
            raise WrongStateError(spec.name, state, "update")
        merged = evolve(spec.limits, **changed)
        if limits.disk is not None:
            _resize_disk(machinery, container_id, spec, limits.disk)
        records = machinery.records(container_id)
        records.write("limits", {"changing": list(plan_limits(limits))})  # see Machinery.settle_limits
        try:
            _apply(machinery, container_id, plan_limits(limits))
        except (KernelError, UnsupportedError):  # all are as before
            records.remove("limits")
            raise
        records.write("plan", {**(records.read("plan") or {}), "limits": plan_limits(merged)})
        text = spec_to_json(evolve(spec, limits=merged))
        change.execute("UPDATE containers SET spec = ? WHERE id = ?", (text, container_id))
        tell(change, "updated", id=container_id)
    records.remove("limits")


def _resize_disk(machinery: Machinery, container_id: str, spec: ContainerSpec, size: int) -> None:
    if spec.limits.disk is None:
        raise UnsupportedError(f"{spec.name} was made without a limit of its disk", "make it anew with disk=")
    sized.resize(machinery.bundle(container_id) / "disk", size, f"the disk of {spec.name}")


def _apply(machinery: Machinery, container_id: str, limits: dict[str, Any]) -> None:
    if not limits or not look(machinery, container_id).state.is_alive:
        return
    try:
        machinery.cgroups.apply_limits(container_id, limits)
    except MissingController as error:
        raise UnsupportedError(str(error.strerror)) from error
    except LimitError as error:
        raise KernelError(error.errno or 0, str(error.strerror)) from error


def rename(machinery: Machinery, container_id: str, name: str) -> None:
    """Raises NameInUseError, ContainerNotFoundError."""
    with machinery.state.transaction() as change:
        query = "SELECT 1 FROM containers WHERE name = ? AND id != ?"
        if change.execute(query, (name, container_id)).fetchone():
            raise NameInUseError("container", name)
        query = "UPDATE containers SET name = ?, spec = json_set(spec, '$.name', ?) WHERE id = ?"
        if not change.execute(query, (name, name, container_id)).rowcount:
            raise ContainerNotFoundError(container_id[:12])
        tell(change, "renamed", id=container_id, name=name)
        with suppress(FileNotFoundError):  # a killed process has begun to remove it
            wiring.begin_rename(machinery.bundle(container_id))
    wiring.announce(machinery.state.connection, machinery.root, container_id)


def remove(machinery: Machinery, container_id: str, name: str, *, force: bool) -> None:
    """Remove a container that does not run; `force`: kill it first."""
    deadline = time.monotonic() + _END_TIMEOUT_S
    with suppress(ContainerNotFoundError):  # it removed itself when it was killed
        while True:
            state = look(machinery, container_id).state
            if not force and not state.can_start:
                raise WrongStateError(name, state, "remove")
            call_off_restart(machinery, container_id)
            if state.is_alive:
                with suppress(WrongStateError):  # it ended, and another start is under way
                    finish(kill_and_wait(machinery, container_id, name))
            try:
                return _remove_idle(machinery, container_id, deadline)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    reason = "see monitor in its run.json"
                    raise SupervisorError(f"the monitor of {name} does not end", reason) from None


def _remove_idle(machinery: Machinery, container_id: str, deadline: float) -> None:
    """Raises BlockingIOError: it runs again, or its monitor is tidying still at `deadline`."""
    with ExitStack() as stack:
        with suppress(FileNotFoundError):  # no directory: a killed process had begun to remove it
            held = machinery.records(container_id).held(max(0.0, deadline - time.monotonic()))
            stack.enter_context(held)
        machinery.forget(container_id)


def discard(machinery: Machinery, container_id: str) -> None:
    """Stop and remove, whatever its state, if it is still there. For the end of a ``with``, and to undo."""
    with suppress(ContainerNotFoundError):
        spec = spec_of(machinery, container_id)
        try:
            if not spec.auto_remove:
                finish(stop(machinery, container_id, spec.name, spec.stop_signal, 10.0))
        finally:
            remove(machinery, container_id, spec.name, force=True)


def forget_row(machinery: Machinery, container_id: str) -> None:
    forget_record(machinery.state, machinery.root, container_id)
