"""kill -9 of any process of ours between any two lines leaves a clean host and a consistent store."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap import Container, Host, LxcwrapError, State
from lxcwrap.supervisor.records import Records
from tests import faults
from tests.faults import assert_clean
from tests.polling import eventually

# Every how many lines one is struck. 1 tries them all, in some minutes.
STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "17"))
NAME = "victim"


@pytest.fixture(scope="module")
def host(roots: Path) -> Iterator[Host]:
    """A host of this module's own, with the default image made."""
    with faults.known_ids(), Host(roots / "faults") as host:
        host.containers.run("busybox", ["true"])
        with Host(host.root), Host(host.root):  # SQLite keeps descriptors it closed for the next time
            assert_clean(host.root)
        yield host
        host.close(stop_server=True)


@pytest.fixture(autouse=True)
def bystander(host: Host) -> Iterator[Container]:
    """Not concerned: it must go on running, and stop as always."""
    with host.containers.launch("busybox", ["sleep", "1000"], name="bystander") as container:
        yield container
        assert container.exec(["echo", "alive"]).stdout == "alive\n"
        assert container.stop() == 128 + signal.SIGTERM
    assert list(host.containers) == []
    host._machinery.supervisor.stop()


def _launched(host: Host) -> Container:
    return host.containers.launch("busybox", ["sleep", "1000"], name=NAME)


def _finish(host: Host) -> None:
    """What is there of the victim can be removed, its name used again, and its image."""
    assert_clean(host.root)
    if container := host.containers.get(NAME):
        container.remove(force=True)
    assert host.containers.run("busybox", ["echo", "again"], name=NAME).stdout == "again\n"


# --- the caller -----------------------------------------------------------------------------------------


def _nothing(host: Host) -> None:
    pass


def _created(host: Host) -> None:
    host.containers.create("busybox", ["sleep", "1000"], name=NAME)


CALLER = {
    "create": (_nothing, _created),
    "run": (_nothing, lambda host: host.containers.run("busybox", ["true"], name=NAME)),
    "launch": (_nothing, _launched),
    "start": (_created, lambda host: host.containers[NAME].start()),
    "exec": (_launched, lambda host: host.containers[NAME].exec(["true"])),
    "stop": (_launched, lambda host: host.containers[NAME].stop()),
    "remove": (_launched, lambda host: host.containers[NAME].remove(force=True)),
}


@pytest.mark.parametrize("operation", CALLER)
def test_the_caller_may_be_killed_at_any_line(
    host: Host, operation: str, record_property: Callable[[str, object], None]
) -> None:
    """The next host completes or undoes what it had begun; what ran before goes on running."""
    prepare, act = CALLER[operation]
    n = 1
    while True:
        prepare(host)
        with Host(host.root) as callers:
            was_struck = faults.killed_at(n, lambda: act(callers))
        _finish(host)
        if not was_struck:
            break
        n += STRIDE
    print(f"{operation}: {n // STRIDE} points of {n} lines")


# --- the supervisor's processes --------------------------------------------------------------------------


def _a_life(host: Host) -> None:
    with _launched(host) as container:
        container.exec(["true"])
        container.stop()


def _a_run(host: Host) -> None:
    host.containers.run("busybox", ["true"], name=NAME)


SUPERVISOR = {
    "the server": ("server", _a_life),
    "a newborn": ("child", _a_life),
    "the nursery": ("nursery", _a_life),
    "the monitor": ("monitor", _a_life),
    "the monitor of a run": ("monitor", _a_run),
    "the starter": ("starter", _a_life),
    "the runner": ("runner", _a_life),
    "an executor": ("executor", _a_life),
}


@pytest.mark.parametrize("who", SUPERVISOR)
def test_a_process_of_the_supervisor_may_be_killed_at_any_line(host: Host, who: str) -> None:
    """Its caller gets an answer or an error of ours, and never waits for ever; the rest goes on."""
    role, act = SUPERVISOR[who]
    n = 1
    with faults.armed_server(host) as (set_fault, was_struck):
        error: LxcwrapError | None = None
        while True:
            set_fault(role, n)
            try:
                act(host)
            except LxcwrapError as caught:
                error = caught
            if not was_struck():
                break
            _finish(host)
            error, n = None, n + STRIDE
    assert error is None
    print(f"{who}: {n // STRIDE} points of {n} lines")
