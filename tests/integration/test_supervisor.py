"""The fork-server and what it forks, as its callers meet them."""

from __future__ import annotations

import os
import threading
from contextlib import suppress

import pytest

from lxcwrap import Host, SupervisorError
from lxcwrap.supervisor.client import Supervisor


def test_requests_that_make_no_sense_do_not_end_the_server(host: Host) -> None:
    """Nor does a caller that is gone before its answer: each is answered by the end of its connection."""
    supervisor = Supervisor(host.root)
    supervisor.ask({"op": "hello", "retire": False}, what="hello").close()
    pid = supervisor.pid()
    assert pid
    nonsense: tuple[dict[str, object], ...] = (
        {},
        {"op": 1},
        {"op": "hello"},
        {"op": "launch"},
        {"op": "exec", "id": "x" * 64},
        {"op": "exec", "id": "../.."},
        {"op": "call"},
        {"op": "mount", "plan": {}},
    )
    for request in nonsense:
        supervisor.ask(request, what="nonsense").close()
        with supervisor.ask(request, what="nonsense") as conversation, suppress(SupervisorError):
            conversation.receive()
    assert supervisor.pid() == pid


@pytest.mark.parametrize("tty", [False, True])
def test_a_command_that_ends_at_once_has_been_started_and_its_end_is_known(host: Host, tty: bool) -> None:
    """However its processes are scheduled: the start is told before the end, the end recorded after it."""
    for _ in range(10):
        with host.containers.launch("busybox", sh="echo said; exit 6", tty=tty) as container:
            assert container.wait(timeout_s=10) == 6
            assert container.error is None
            assert container.logs().split() == ["said"]


def test_remains_are_cleared_though_an_end_is_just_being_recorded(fresh_host: Host) -> None:
    """A killed removal leaves a directory without a row, whose lock an undertaker may hold for a moment."""
    container = fresh_host.containers.create("busybox", ["true"])
    machinery = fresh_host._machinery
    with machinery.state.transaction() as change:
        change.execute("DELETE FROM containers WHERE id = ?", (container.id,))
    lock = machinery.records(container.id).hold(0)
    threading.Timer(0.2, os.close, (lock,)).start()
    with Host(fresh_host.root):
        assert not machinery.bundle(container.id).exists()
