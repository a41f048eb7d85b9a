"""Volumes given to containers that exist, and taken from them: at once where they run, and for their next
starts."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import evolve

from . import lifecycle
from .errors import (
    InvalidSpecError,
    KernelError,
    LxcwrapError,
    StillUsedError,
    SupervisorError,
    WrongStateError,
)
from .machinery import Machinery
from .specjson import spec_to_json
from .specs import Mount, State
from .supervisor.plan import plan_mounts
from .supervisor.records import Record

_IDLE_S = 10.0  # of waiting for a start or an end that is under way

Mounts = Sequence[Mount]


def attach(machinery: Machinery, container_id: str, mount: Mount) -> None:
    """Raises InvalidSpecError: something else is mounted there; VolumeNotFoundError, WrongStateError,
    KernelError; then nothing has changed."""
    _check(machinery, container_id, "attach a volume to")

    def without(mounts: Mounts) -> Iterable[Mount]:
        return (each for each in mounts if each != mount)

    # The record is first: what is mounted in a container is never thought to be unused.
    _record(machinery, container_id, lambda mounts: (*mounts, mount))
    try:
        _settle(machinery, container_id, mount, unmount=False)
    except BaseException:
        with suppress(LxcwrapError):
            _settle(machinery, container_id, mount, unmount=True)
        _record(machinery, container_id, without)
        raise


def detach(machinery: Machinery, container_id: str, volume: str, target: str | None) -> None:
    """Raises InvalidSpecError: it is not there; StillUsedError: processes have it open; WrongStateError."""
    name = _check(machinery, container_id, "detach a volume from")
    mounts = [
        mount
        for mount in lifecycle.spec_of(machinery, container_id).mounts
        if (mount.kind, mount.source) == ("volume", volume) and target in (None, mount.target)
    ]
    if not mounts:
        where = f" at {target}" if target else ""
        raise InvalidSpecError(f"{name} does not have the volume {volume!r}{where}")
    for mount in reversed(mounts):
        _detach(machinery, container_id, mount)


def _detach(machinery: Machinery, container_id: str, mount: Mount) -> None:
    run = _settle(machinery, container_id, mount, unmount=True)
    _record(machinery, container_id, lambda mounts: (each for each in mounts if each != mount))
    try:
        _settle(machinery, container_id, mount, unmount=True, done=run)  # if it was started meanwhile
    except BaseException:
        _record(machinery, container_id, lambda mounts: (*mounts, mount))
        raise


def _check(machinery: Machinery, container_id: str, operation: str) -> str:
    """Its name. Raises WrongStateError while it is being made."""
    name = str(lifecycle.row(machinery, container_id)["name"])
    state = lifecycle.look(machinery, container_id).state
    if state is State.CREATING:
        raise WrongStateError(name, state, operation)
    return name


def _record(machinery: Machinery, container_id: str, edit: Callable[[Mounts], Iterable[Mount]]) -> None:
    """What it will have mounted at its next start."""
    with machinery.state.transaction() as change:
        spec = lifecycle.spec_of(machinery, container_id)
        spec = evolve(spec, mounts=tuple(edit(spec.mounts)))
        machinery.volume_store.use(change, container_id, spec.volumes)
        records = machinery.records(container_id)
        plan = records.read("plan") or {}
        mounts = plan_mounts(spec, Path(plan["disk"]), machinery.root.volumes)
        records.write("plan", {**plan, "mounts": mounts})
        change.execute("UPDATE containers SET spec = ? WHERE id = ?", (spec_to_json(spec), container_id))


def _settle(
    machinery: Machinery, container_id: str, mount: Mount, *, unmount: bool, done: Record | None = None
) -> Record | None:
    """Mount or unmount in the container if it runs, or will without having seen the present record. In which
    run that was. done: the run in which it need not be."""
    deadline = time.monotonic() + _IDLE_S
    while True:
        run = lifecycle.look(machinery, container_id)
        if run.state.is_alive:
            if run.run == done or _remount(machinery, container_id, run, mount, unmount=unmount):
                return run.run
        else:
            with suppress(BlockingIOError), lifecycle.held(machinery, container_id, 0.1):
                return None  # whoever starts it from now on reads the record
        if time.monotonic() > deadline:
            raise SupervisorError("its start or end does not come to an end", "try again")


def _remount(
    machinery: Machinery, container_id: str, run: lifecycle.Run, mount: Mount, *, unmount: bool
) -> bool:
    """Whether it has been done, or was before; False: that run has ended."""
    record, spec = lifecycle.row(machinery, container_id), lifecycle.spec_of(machinery, container_id)
    (planned,) = plan_mounts(evolve(spec, mounts=(mount,)), machinery.root.path, machinery.root.volumes)
    message = {
        "op": "remount",
        "bundle": str(machinery.bundle(container_id)),
        "pid": run.run["init_pid"],
        "start": run.run["init_start"],
        "idmap": list(machinery.idmap(record["slot"])),
        "mount": planned,
        "unmount": unmount,
    }
    what = f"{'unmount' if unmount else 'mount'} of volume {mount.source} at {mount.target} in {spec.name}"
    with machinery.supervisor.ask(message, what=what) as conversation:
        answer, _ = conversation.receive()
    number = answer.get("errno")
    if number == errno.EBUSY:
        raise StillUsedError("volume", mount.source, [f"processes in {spec.name}"])
    if number not in (None, errno.ESRCH):
        raise KernelError(number, f"{what}: {answer['error']}")
    return number is None
