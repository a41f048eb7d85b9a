"""Containers kept as they are for a while: frozen where they run, not to be started where they do not."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from . import lifecycle
from .errors import KernelError, SupervisorError, WrongStateError
from .machinery import Machinery
from .specs import State
from .supervisor.client import Conversation

_IDLE_S = 10.0  # of waiting for who has the files of a container that does not run


@contextmanager
def at_rest(
    machinery: Machinery, container_id: str, name: str, operation: str, *, pause: bool = True
) -> Iterator[None]:
    """None of its processes runs within, unless `pause` is False, and it is not started.

    Raises WrongStateError, for `operation`, while it is being made.
    """
    deadline = time.monotonic() + _IDLE_S
    with ExitStack() as stack:
        while not _hold(stack, machinery, container_id, name, operation, pause=pause):
            if time.monotonic() > deadline:  # it had started or ended just now, each time
                raise SupervisorError(f"{name}: its files are in use", "try again")
        yield


def _hold(
    stack: ExitStack, machinery: Machinery, container_id: str, name: str, operation: str, *, pause: bool
) -> bool:
    """Keep it as it is until `stack` ends; False if it changes its state."""
    state = lifecycle.look(machinery, container_id).state
    if state is State.CREATING:
        raise WrongStateError(name, state, operation)
    if state.is_alive:
        return not pause or freeze(stack, machinery, container_id, name)
    try:
        stack.enter_context(lifecycle.held(machinery, container_id, 0.1))
    except BlockingIOError:
        return False
    return True


def freeze(stack: ExitStack, machinery: Machinery, container_id: str, name: str) -> bool:
    """Keep one that runs frozen until `stack` ends; False when it has ended."""
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
