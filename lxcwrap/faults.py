"""Faults for tests, each for as long as a ``with`` block lasts. All take a `Machinery` and ids."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from . import lifecycle, resting
from .drivers.netem import LONGEST_S
from .errors import (
    ConflictError,
    ContainerNotFoundError,
    InvalidSpecError,
    KernelError,
    WrongStateError,
)
from .machinery import Machinery
from .waiting import finish


@contextmanager
def frozen(machinery: Machinery, container_id: str) -> Iterator[None]:
    """See `Container.frozen`."""
    name = lifecycle.spec_of(machinery, container_id).name
    with ExitStack() as stack:
        state = lifecycle.look(machinery, container_id).state
        if not state.is_alive or not resting.freeze(stack, machinery, container_id, name):
            raise WrongStateError(name, lifecycle.look(machinery, container_id).state, "freeze")
        yield


@contextmanager
def killed(machinery: Machinery, container_id: str) -> Iterator[None]:
    """See `Container.kill9`."""
    name = lifecycle.spec_of(machinery, container_id).name
    state = lifecycle.look(machinery, container_id).state
    if not state.is_alive:
        raise WrongStateError(name, state, "kill")
    try:
        try:
            _kill(machinery, container_id, name)
        except BaseException:  # interrupted: it may be about to end, and could not be started yet
            _kill(machinery, container_id, name)
            raise
        yield
    finally:
        with suppress(ContainerNotFoundError):  # it was removed
            if not lifecycle.look(machinery, container_id).state.is_alive:
                lifecycle.start(machinery, container_id)


def _kill(machinery: Machinery, container_id: str, name: str) -> None:
    lifecycle.call_off_restart(machinery, container_id)
    finish(lifecycle.kill_and_wait(machinery, container_id, name))


@contextmanager
def delayed(
    machinery: Machinery,
    network_id: str,
    container_ids: Sequence[str] | None,
    *,
    delay_s: float,
    jitter_s: float,
    loss: float,
) -> Iterator[None]:
    """See `Network.delay`."""
    if not 0 <= jitter_s <= delay_s <= LONGEST_S or not 0 <= loss <= 1 or not (delay_s or loss):
        raise InvalidSpecError(
            f"delay_s={delay_s!r}, jitter_s={jitter_s!r}, loss={loss!r}: must be at most {LONGEST_S} s, "
            "no more than the delay, and a share from 0 to 1; and not all zero"
        )
    links = _links(machinery, network_id, container_ids)
    machinery.kernel_networks.check_delays()
    impairment = {"delay_s": delay_s, "jitter_s": jitter_s, "loss": loss}
    message = {"op": "impair", "links": links, "impairment": impairment}
    with machinery.supervisor.ask(message, what="delay of a network") as conversation:
        answer, _ = conversation.receive()
        if number := answer.get("errno"):
            if number == errno.EEXIST:
                raise ConflictError("it is delayed already: give all that is wanted at once")
            raise KernelError(number, answer["error"])
        try:
            yield
        finally:
            conversation.finish()
            conversation.receive()


def _links(machinery: Machinery, network_id: str, container_ids: Sequence[str] | None) -> list[str]:
    """On the host, of containers that run; of all on the network, or of these."""
    network = machinery.network_store.network(network_id)
    if network["driver"] != "bridge":
        raise InvalidSpecError(f"{network['name']} is a {network['driver']}: only a bridge can be delayed")
    members = {container_id: None for container_id, _ in machinery.network_store.users(network_id)}
    if strangers := [each for each in container_ids or () if each not in members]:
        name = lifecycle.spec_of(machinery, strangers[0]).name
        raise InvalidSpecError(f"{name} is not on network {network['name']}")
    links = []
    for container_id in members if container_ids is None else dict.fromkeys(container_ids):
        state = lifecycle.look(machinery, container_id).state
        if state.is_alive:
            wires = machinery.network_store.wires(container_id)
            links += [wire["link"] for wire in wires if wire["network_id"] == network_id]
        elif container_ids is not None:
            raise WrongStateError(lifecycle.spec_of(machinery, container_id).name, state, "delay")
    return links
