"""What happens to containers is told, whoever does it; and what they use, as it changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

from lxcwrap import (
    HealthCheck,
    Host,
    InvalidSpecError,
    Limits,
    RestartPolicy,
    WrongStateError,
    events,
)
from lxcwrap.storage import eventlog
from lxcwrap.supervisor import journal


def _kinds(found: list[events.Event]) -> list[str]:
    return [type(event).__name__ for event in found]


def test_a_life_is_told_in_order(fresh_host: Host) -> None:
    """Each step, with the name that it had; also to who asks later, from a time on."""
    before = datetime.now(UTC)
    following = fresh_host.events(kinds=events.ContainerEvent, timeout_s=0.2)
    container = fresh_host.containers.launch("busybox", ["sleep", "1000"], name="first_1")
    container.pause()
    container.unpause()
    container.update(Limits(pids=50))
    container.rename("second")
    exit_code = container.stop()
    container.remove()
    found = list(following)
    kinds = "Created Started Paused Unpaused Updated Renamed Exited Removed"
    assert _kinds(found) == kinds.split()
    of = [(event.container_id, event.name) for event in found if isinstance(event, events.ContainerEvent)]
    assert of == [(container.id, "first_1")] * 5 + [(container.id, "second")] * 3
    ended = found[-2]
    assert isinstance(ended, events.Exited) and ended.exit_code == exit_code
    later = list(fresh_host.events(kinds=events.ContainerEvent, since=before, follow=False))
    assert _kinds(later) == kinds.split()
    assert list(fresh_host.events(since=datetime.now(UTC), follow=False)) == []


def test_other_processes_are_heard(fresh_host: Host) -> None:
    """Another program's run(), at once when it happens."""
    code = "import sys, lxcwrap; lxcwrap.Host(sys.argv[1]).containers.run('busybox', ['true'])"
    following = fresh_host.events(kinds=events.ContainerEvent, timeout_s=30)
    with subprocess.Popen([sys.executable, "-c", code, fresh_host.root]) as program:
        found = [next(following) for _ in range(4)]
        assert _kinds(found) == ["Created", "Started", "Exited", "Removed"]
        assert program.wait() == 0


def test_what_goes_on_by_itself_is_told(fresh_host: Host) -> None:
    """Health that changes, an end by a killed monitor, a restart; of one container among others."""
    options: Any = {
        "health": HealthCheck.command(["true"], interval_s=0.05),
        "restart": RestartPolicy.always(),
    }
    with (
        fresh_host.containers.launch("busybox", ["sleep", "1000"]) as other,
        fresh_host.containers.launch("busybox", ["sleep", "1000"], **options) as container,
    ):
        following = fresh_host.events(container=container, timeout_s=10)
        container.wait_ready(timeout_s=5)
        other.stop(timeout_s=0)
        record: Any = container._machinery.records(container.id).read("run")
        os.kill(record["monitor"], signal.SIGKILL)
        found = [next(following) for _ in range(4)]
        assert _kinds(found) == ["HealthChanged", "Exited", "Started", "Restarted"]
        assert isinstance(found[0], events.HealthChanged) and found[0].status == "healthy"
        assert isinstance(found[3], events.Restarted) and found[3].count == 1


def test_want_of_memory_is_told(fresh_host: Host) -> None:
    """Before the end that it led to."""
    eat = "x=a; while true; do x=$x$x; done"
    following = fresh_host.events(kinds=events.ContainerEvent, timeout_s=20)
    fresh_host.containers.run("busybox", sh=eat, limits=Limits(memory="16MiB", swap=0), check=False)
    assert "OutOfMemory" in _kinds([next(following) for _ in range(4)])


def test_the_log_is_bounded(fresh_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full file is put aside, and nobody who follows misses an event."""
    monkeypatch.setattr(eventlog, "_MOST", 2000)
    following = fresh_host.events(timeout_s=0.2)
    for _ in range(100):
        journal.note(fresh_host.root, "updated", "0" * 64)
        assert isinstance(next(following), events.Updated)
    sizes = [(fresh_host.root / "run" / name).stat().st_size for name in (eventlog.NAME, f"{eventlog.NAME}.1")]
    assert max(sizes) < 2200


def test_an_interrupted_line_is_no_harm(fresh_host: Host) -> None:
    """What a full disk cut off is left out; what comes after is told."""
    with open(fresh_host.root / "run" / eventlog.NAME, "a") as file:
        file.write('{"time": 1.0, "kind": "upd\n')
    journal.note(fresh_host.root, "updated", "0" * 64)
    found = list(fresh_host.events(since=datetime.fromtimestamp(0, UTC), follow=False))
    assert _kinds(found) == ["Updated"]


# --- what is used ---


def test_stats_come_as_a_stream(host: Host) -> None:
    """One busy process takes most of one processor, an idle container nothing; the stream ends with it."""
    busy = "while true; do :; done"
    limits = Limits(cpus=0.5)
    container = host.containers.launch("busybox", sh=busy, limits=limits)
    stream = container.stats_stream(interval_s=0.25)
    first, second = next(stream), next(stream)
    assert first.cpu_share is None
    assert second.cpu_share is not None and 0.1 < second.cpu_share < 0.9
    assert second.time > first.time and second.pids >= 1
    container.stop(timeout_s=0)
    assert list(stream) == []
    with pytest.raises(WrongStateError):
        container.stats_stream()
    container.start()
    with pytest.raises(InvalidSpecError):
        container.stats_stream(interval_s=0)
    container.remove(force=True)
