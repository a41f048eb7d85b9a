"""Rates of networks, changed while containers run: see `Rate`. All take a `Machinery` and ids."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from attrs import evolve

from . import lifecycle, networking
from .errors import ContainerNotFoundError, InvalidSpecError, LxcwrapError
from .machinery import Machinery
from .net import rates
from .netspecs import Rate, RateOption, as_rate
from .specs import Limits
from .storage.outbox import tell


def limit(machinery: Machinery, network_id: str, container_id: str | None, rate: RateOption | None) -> None:
    """See `Network.limit`."""
    network = machinery.network_store.row(network_id)
    if container_id and not networking.wire_of(machinery, container_id, network_id):
        name = lifecycle.spec_of(machinery, container_id).name
        raise InvalidSpecError(f"{name} is not on network {network['name']}")
    with _limited(machinery, network_id, container_id, as_rate(rate)):
        pass


def update(machinery: Machinery, container_id: str, limits: Limits) -> None:
    """See `Container.update`."""
    if not isinstance(limits, Limits) or limits.network_rate is None:
        return lifecycle.update(machinery, container_id, limits)
    spec = lifecycle.spec_of(machinery, container_id)
    evolve(spec, limits=limits)  # raises InvalidSpecError: it has no network of its own
    with _limited(machinery, None, container_id, limits.network_rate):
        lifecycle.update(machinery, container_id, limits)


@contextmanager
def _limited(
    machinery: Machinery, network_id: str | None, container_id: str | None, rate: Rate | None
) -> Iterator[None]:
    """With this rate, in the records and the kernel; with that of before if the block fails, or the kernel
    does. Of a network, a container, or a container on a network."""
    machinery.kernel_networks.check_rates(rate)
    before, concerned = _record_rate(machinery, network_id, container_id, rate)
    try:
        for each in concerned:
            _limit_links(machinery, each)
        yield
    except BaseException:
        with suppress(LookupError):
            _record_rate(machinery, network_id, container_id, before)
        for each in concerned:
            with suppress(LxcwrapError):
                _limit_links(machinery, each)
        raise


def _record_rate(
    machinery: Machinery, network_id: str | None, container_id: str | None, rate: Rate | None
) -> tuple[Rate | None, list[str]]:
    """What it was, and the containers that are concerned: all that have read it before."""
    store = machinery.network_store
    with machinery.state.transaction() as change:
        before = store.change_rate(change, network_id, container_id, rate)
        concerned = [each for each, _ in store.users(network_id)] if network_id else []
        if container_id:
            concerned = [container_id]
        for each in concerned:
            rates.begin_change(str(machinery.bundle(each)))
            if network_id:  # else that is told of all its limits
                tell(change, "updated", id=each)
    return before, concerned


def _limit_links(machinery: Machinery, container_id: str) -> None:
    def act(netns_fd: int) -> None:
        machinery.kernel_networks.limit(netns_fd, machinery.network_store.wires(container_id))

    with suppress(ContainerNotFoundError, FileNotFoundError):  # it has gone, or is not quite there
        if machinery.network_store.wires(container_id):
            with networking.changing(machinery, container_id):
                networking.settle(machinery, container_id, act)
        rates.end_change(str(machinery.bundle(container_id)))
