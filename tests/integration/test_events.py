"""What happens to containers is told, whoever does it; and what they use, as it changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import pytest

from lxcwrap import (
    HealthCheck,
    Host,
    InvalidSpecError,
    Limits,
    Mount,
    Port,
    RestartPolicy,
    WrongStateError,
    events,
    ready,
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
    for now in (datetime.now(UTC), datetime.now()):
        assert list(fresh_host.events(since=now, follow=False)) == []


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


def test_want_of_memory_is_told_when_it_comes(fresh_host: Host) -> None:
    """While the container goes on; again when it comes again; not once more at the end."""
    eat = "x=a; while true; do x=$x$x; done"
    limits = Limits(memory="16MiB", swap=0)
    with fresh_host.containers.launch("busybox", ["sleep", "1000"], limits=limits) as container:
        following = fresh_host.events(kinds=(events.OutOfMemory, events.Exited), timeout_s=60)
        for _ in range(2):
            assert container.exec(sh=eat, check=False).exit_code == 128 + signal.SIGKILL
            assert isinstance(next(following), events.OutOfMemory) and container.oom_killed
        container.stop(timeout_s=0)
        assert isinstance(next(following), events.Exited)


def test_the_log_is_bounded(fresh_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full file is put aside, and nobody who follows misses an event."""
    monkeypatch.setattr(eventlog, "_MOST", 2000)
    following = fresh_host.events(timeout_s=0.2)
    for _ in range(100):
        journal.note(fresh_host.root, "updated", "0" * 64)
        assert isinstance(next(following), events.Updated)
    sizes = [
        (fresh_host.root / "run" / name).stat().st_size for name in (eventlog.NAME, f"{eventlog.NAME}.1")
    ]
    assert max(sizes) < 2200


def test_an_interrupted_line_is_no_harm(fresh_host: Host) -> None:
    """What a full disk cut off is left out; what comes after is told."""
    with open(fresh_host.root / "run" / eventlog.NAME, "a") as file:
        file.write('{"time": 1.0, "kind": "upd\n')
    journal.note(fresh_host.root, "updated", "0" * 64)
    found = list(fresh_host.events(since=datetime.fromtimestamp(0, UTC), follow=False))
    assert _kinds(found) == ["Updated"]


# --- images, networks, volumes ---


def _facts(found: Iterable[events.Event]) -> list[tuple[object, ...]]:
    """Class, and all but the time."""
    return [(type(event), *list(attrs.asdict(event, recurse=False).values())[1:]) for event in found]


def test_networks_and_ports_are_told(fresh_host: Host) -> None:
    """Those that a container is made with and those it gets later; what is taken, and what ends with it."""
    following = fresh_host.events(
        kinds=(events.NetworkEvent, events.Published, events.Unpublished), timeout_s=0.2
    )
    net, more = fresh_host.networks.create("first"), fresh_host.networks.create("second")
    container = fresh_host.containers.create(
        "busybox", ["true"], name="web", network=net, publish=[Port(80, host_ip="127.0.0.1")]
    )
    more.connect(container)
    bindings = (*container.ports, *container.publish(Port(81, host_ip="127.0.0.1")))
    container.unpublish(bindings[1])
    more.disconnect(container)
    container.remove()
    for network in (net, more):
        network.remove()
    me, on = (container.id, "web"), {net: (net.id, "first"), more: (more.id, "second")}
    assert {(kind, *sorted(map(str, facts))) for kind, *facts in _facts(following)} == {
        (kind, *sorted(map(str, facts)))
        for kind, *facts in [
            (events.NetworkCreated, *on[net]),
            (events.NetworkCreated, *on[more]),
            (events.Connected, *me, *on[net]),
            (events.Published, *me, bindings[0]),
            (events.Connected, *me, *on[more]),
            (events.Published, *me, bindings[1]),
            (events.Unpublished, *me, bindings[1]),
            (events.Disconnected, *me, *on[more]),
            (events.Unpublished, *me, bindings[0]),
            (events.Disconnected, *me, *on[net]),
            (events.NetworkRemoved, *on[net]),
            (events.NetworkRemoved, *on[more]),
        ]
    }


def test_volumes_are_told(fresh_host: Host, tmp_path: Path) -> None:
    """Also one that is made as a container wants it."""
    following = fresh_host.events(kinds=events.VolumeEvent, timeout_s=0.2)
    container = fresh_host.containers.create("busybox", mounts=[Mount.volume("data", "/data")])
    other = fresh_host.volumes.create("other")
    other.attach(container, "/other")
    other.detach(container)
    container.remove()
    fresh_host.volumes["data"].backup(tmp_path / "data.tar")
    other.restore(tmp_path / "data.tar")
    fresh_host.volumes.prune()
    kinds = "VolumeCreated Attached VolumeCreated Attached Detached Detached VolumeBackedUp VolumeRestored"
    found = list(following)
    assert _kinds(found[:8]) == kinds.split()
    assert [event.volume for event in found[:8] if isinstance(event, events.VolumeEvent)] == [
        "data", "data", "other", "other", "other", "data", "data", "other"
    ]  # fmt: skip
    assert sorted(_facts(found[8:]), key=str) == [(events.VolumeRemoved, name) for name in ("data", "other")]


def test_images_are_told(fresh_host: Host, tmp_path: Path) -> None:
    """How they come, what they are called, when they go; nothing that changes nothing."""
    following = fresh_host.events(kinds=events.ImageEvent, timeout_s=0.2)
    image = fresh_host.images.resolve("busybox")
    image.tag("mine:1")
    image.tag("mine:1")
    image.save(tmp_path / "image.tar")
    image.untag("mine:1")
    with fresh_host.containers.launch("busybox", sh="echo x > /new; sleep 100") as container:
        container.wait_ready(ready.command(["test", "-s", "/new"]))
        committed = container.commit("mine:1")
    image.tag("mine:1")
    committed.remove()
    image.remove()
    fresh_host.images.load(tmp_path / "image.tar")
    busybox, mine = (f"docker.io/library/{name}" for name in ("busybox:latest", "mine:1"))
    assert _facts(following) == [
        (events.ImageAdded, image.id, "built"),
        (events.ImageTagged, image.id, busybox),
        (events.ImageTagged, image.id, mine),
        (events.ImageUntagged, image.id, mine),
        (events.ImageAdded, committed.id, "committed"),
        (events.ImageTagged, committed.id, mine),
        (events.ImageUntagged, committed.id, mine),
        (events.ImageTagged, image.id, mine),
        (events.ImageRemoved, committed.id),
        (events.ImageUntagged, image.id, busybox),
        (events.ImageUntagged, image.id, mine),
        (events.ImageRemoved, image.id),
        (events.ImageAdded, image.id, "loaded"),
        (events.ImageTagged, image.id, busybox),
        (events.ImageTagged, image.id, mine),
    ]


def test_all_of_one_container(fresh_host: Host) -> None:
    """What happens to it and its networks and volumes, and nothing else."""
    with fresh_host.containers.launch("busybox", ["sleep", "100"]) as other:
        container = fresh_host.containers.create("busybox", mounts=[Mount.volume("data", "/data")])
        following = fresh_host.events(container=container, timeout_s=0.2)
        other.pause()
        other.unpause()
        fresh_host.volumes.create("more").attach(container, "/more")
        container.remove()
        assert _kinds(list(following)) == ["Attached", "Detached", "Detached", "Removed"]


def test_kinds_of_a_newer_version_are_left_out(fresh_host: Host) -> None:
    """And facts that it knows more of."""
    eventlog.append(fresh_host.root, '{"time": 1.0, "kind": "unheard_of", "what": 1}\n')
    eventlog.append(fresh_host.root, '{"time": 1.0, "kind": "volume_removed", "volume": "x", "more": 1}\n')
    found = fresh_host.events(since=datetime.fromtimestamp(0, UTC), follow=False)
    assert _facts(found) == [(events.VolumeRemoved, "x")]


# --- what is used ---


def test_stats_come_as_a_stream(host: Host) -> None:
    """One busy process takes half a processor if it may have more; the stream ends with it."""
    busy = "while true; do :; done"
    with host.containers.launch("busybox", sh=busy, limits=Limits(cpus=0.5)) as container:
        stream = container.stats_stream(interval_s=0.25)
        first, second = next(stream), next(stream)
        assert first.cpu_share is None and second.cpu_share is not None
        assert second.time > first.time and second.pids >= 1
        # On a machine with much to do single values say little.
        assert any(0.02 < (each.cpu_share or 0.0) < 0.9 for each in islice(stream, 40))
        container.stop(timeout_s=0)
        assert list(stream) == []
        with pytest.raises(WrongStateError):
            container.stats_stream()
        container.start()
        with pytest.raises(InvalidSpecError):
            container.stats_stream(interval_s=0)
