"""An image of what a container has written; while that is read, nothing writes."""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from attrs import evolve

from . import lifecycle
from .errors import FormatError, KernelError, SupervisorError, WrongStateError
from .imagechanges import ImageChanges, changed
from .machinery import Machinery
from .oci import History, Reference
from .results import Change
from .specs import ContainerSpec, State
from .storage import commit as storage
from .storage import disks
from .storage.packing import parse_compression
from .storage.upperdiff import changes
from .supervisor.client import Conversation
from .supervisor.plan import mount_points

_IDLE_S = 10.0  # of waiting for who has the files of a container that does not run


def commit(
    machinery: Machinery,
    container_id: str,
    wanted: ImageChanges,
    by: History,
    compression: str,
    pause: bool,
    references: Sequence[Reference],
) -> str:
    """The id of the new image; `by` is signed and commented already. See `Container.commit`."""
    record, spec = lifecycle.row(machinery, container_id), lifecycle.spec_of(machinery, container_id)
    config = changed(machinery.image_store.config(spec.image_id), wanted)
    kind = parse_compression(compression)
    with (
        _at_rest(machinery, container_id, spec.name, pause=pause),
        _upper(machinery, container_id, spec) as upper,
    ):
        try:
            return storage.commit(
                machinery.image_store,
                spec.image_id,
                upper,
                config=evolve(config, author=by.author or config.author),
                history=evolve(by, created_by=shlex.join(spec.argv)),
                ids=machinery.idmap(record["slot"]),
                mount_points=_mount_points(machinery, container_id),
                compression=kind,
                references=references,
            )
        except (FileNotFoundError, FormatError):
            lifecycle.row(machinery, container_id)  # says it better, if it was removed meanwhile
            raise


def diff(machinery: Machinery, container_id: str) -> tuple[Change, ...]:
    """What it has written, against its image."""
    record, spec = lifecycle.row(machinery, container_id), lifecycle.spec_of(machinery, container_id)
    with _upper(machinery, container_id, spec) as upper:
        return changes(
            upper,
            machinery.image_store.lower_dirs(record["image_id"]),
            ids=machinery.idmap(record["slot"]),
            ignore=_mount_points(machinery, container_id),
        )


@contextmanager
def _upper(machinery: Machinery, container_id: str, spec: ContainerSpec) -> Iterator[Path]:
    """What it has written."""
    bundle = machinery.bundle(container_id)
    if spec.limits.disk is None:
        yield bundle / "upper"
        return
    with disks.opened(str(bundle / "disk")) as fd:
        yield Path(f"/proc/self/fd/{fd}/upper")


def _mount_points(machinery: Machinery, container_id: str) -> Collection[str]:
    plan = machinery.records(container_id).read("plan")
    return mount_points(plan) if plan else ()


@contextmanager
def _at_rest(machinery: Machinery, container_id: str, name: str, *, pause: bool) -> Iterator[None]:
    """None of its processes runs within, unless `pause` is False, and it is not started."""
    deadline = time.monotonic() + _IDLE_S
    with ExitStack() as stack:
        while not _hold(
            stack, machinery, container_id, name, pause=pause
        ):  # it has started or ended just now
            if time.monotonic() > deadline:
                raise SupervisorError(f"{name}: its files are in use", "try again")
        yield


def _hold(stack: ExitStack, machinery: Machinery, container_id: str, name: str, *, pause: bool) -> bool:
    """Keep it as it is until `stack` ends; False if it changes its state."""
    state = lifecycle.look(machinery, container_id).state
    if state is State.CREATING:
        raise WrongStateError(name, state, "commit")
    if state.is_alive:
        return not pause or _freeze(stack, machinery, container_id, name)
    try:
        stack.enter_context(machinery.records(container_id).held(0.1))
    except BlockingIOError:
        return False
    return True


def _freeze(stack: ExitStack, machinery: Machinery, container_id: str, name: str) -> bool:
    message = {"op": "freeze", "id": container_id, "bundle": str(machinery.bundle(container_id))}
    conversation = stack.enter_context(machinery.supervisor.ask(message, what=f"pause of {name}"))
    answer, _ = conversation.receive()
    if "error" in answer:
        lifecycle.row(machinery, container_id)
        if answer["errno"] == errno.ENOENT:
            return False
        raise KernelError(answer["errno"], f"pause {name}")
    stack.callback(_thaw, conversation)
    return True


def _thaw(conversation: Conversation) -> None:
    conversation.finish()
    conversation.receive()  # it runs again
