"""The life of containers: states, names, and the ways to end one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from lxcwrap import Container, Host, Limits, State
from lxcwrap.errors import (
    ContainerNotFoundError,
    ImageNotFoundError,
    InvalidSpecError,
    NameInUseError,
    StartError,
    TimeoutExpired,
    WrongStateError,
)
from tests.polling import eventually

FOREVER = ["sleep", "1000"]


@pytest.fixture
def container(host: Host) -> Iterator[Container]:
    """One that was created and never started."""
    with host.containers.create("busybox", FOREVER) as container:
        yield container


@pytest.fixture
def running(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", FOREVER) as container:
        yield container


def test_the_states_of_a_life(container: Container) -> None:
    """Created, running, paused, running, stopped, and running again; each with the facts it has."""
    assert (container.state, container.init_pid, container.started_at) == (State.CREATED, None, None)
    assert (container.exit_code, container.finished_at, container.error) == (None, None, None)
    assert container.start() is container
    assert (container.state, bool(container.init_pid)) == (State.RUNNING, True)
    assert abs(datetime.now(UTC) - (container.started_at or datetime.min)) < timedelta(seconds=30)
    container.pause()
    assert (container.state, container.exit_code) == (State.PAUSED, None)
    container.unpause()
    assert (container.state, container.exit_code) == (State.RUNNING, None)
    assert container.stop() == 128 + signal.SIGTERM
    assert (container.state, container.init_pid) == (State.STOPPED, None)
    assert container.exit_code == 128 + signal.SIGTERM and not container.oom_killed
    assert container.finished_at and container.started_at and container.finished_at >= container.started_at
    container.start()
    assert container.state == State.RUNNING and container.exit_code is None and container.finished_at is None


def test_what_was_written_stays_over_a_restart(running: Container) -> None:
    """And the process is another one."""
    before = running.init_pid
    running.exec(sh="echo kept > /root/file")
    assert running.restart() is running
    assert running.exec(["cat", "/root/file"]).stdout == "kept\n"
    assert running.init_pid not in (None, before)


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        ("start", lambda each: each.start()),
        ("pause", lambda each: each.pause() or each.pause()),
        ("unpause", lambda each: each.unpause()),
        ("remove", lambda each: each.remove()),
    ],
)
def test_a_running_container_refuses(running: Container, operation: str, act: object) -> None:
    """Starting twice, pausing twice, unpausing what is not paused, removing without force."""
    with pytest.raises(WrongStateError) as error:
        act(running)  # type: ignore[operator]  # a lambda above
    assert (error.value.container, error.value.operation) == (running.name, operation)
    assert error.value.state == running.state


@pytest.mark.parametrize("operation", ["kill", "pause", "unpause", "wait", "stats", "top"])
@pytest.mark.parametrize("was_started", [False, True])
def test_what_needs_a_running_container_says_so(
    container: Container, operation: str, was_started: bool
) -> None:
    """Of one that was never started, and of one that has stopped; the end of the latter can be waited for."""
    if was_started:
        container.start().stop()
    if operation == "wait" and was_started:
        assert container.wait() == 143
        return
    with pytest.raises(WrongStateError) as error:
        getattr(container, operation)()
    assert error.value.state == (State.STOPPED if was_started else State.CREATED)


def test_stop_is_idempotent(container: Container) -> None:
    """Of one never started too; the exit code stays."""
    assert container.stop() is None
    container.start()
    assert [container.stop(), container.stop()] == [143, 143]


def test_stop_ends_at_once_what_has_no_handler(running: Container) -> None:
    """PID 1 is our init, so the default action of TERM applies to the main process."""
    began = time.monotonic()
    running.stop(timeout_s=20)
    assert time.monotonic() - began < 5


def test_stop_kills_what_does_not_heed_its_signal(host: Host) -> None:
    """After the time given."""
    with host.containers.launch("busybox", sh="trap '' TERM; echo ready; while :; do sleep 1; done") as deaf:
        eventually(lambda: "ready" in deaf.logs())
        assert deaf.stop(timeout_s=0.1) == 128 + signal.SIGKILL


def test_a_paused_container_can_be_stopped_and_killed(running: Container) -> None:
    """It is thawed for that, as frozen processes take no signals."""
    running.pause()
    assert running.stop() == 143
    running.start().pause()
    running.kill()
    assert running.wait(timeout_s=10) == 137


def test_kill_sends_any_signal_to_the_main_process(host: Host) -> None:
    """By name or number; the process decides."""
    script = "trap 'echo hup' HUP; trap 'exit 5' USR1; echo ready; while :; do sleep 0.01; done"
    with host.containers.launch("busybox", sh=script) as container:
        eventually(lambda: "ready" in container.logs())
        container.kill("HUP")
        eventually(lambda: "hup" in container.logs())
        assert container.state == State.RUNNING
        container.kill(signal.SIGUSR1)
        assert container.wait(timeout_s=10) == 5


def test_an_unknown_signal_is_refused(running: Container) -> None:
    """And nothing is sent."""
    for wrong in ("NOPE", 0, 65, -1):
        with pytest.raises(InvalidSpecError):
            running.kill(wrong)
    assert running.state == State.RUNNING


def test_wait_gives_up_after_its_time_and_the_container_goes_on(running: Container) -> None:
    """The error is a TimeoutError too."""
    with pytest.raises(TimeoutExpired) as error:
        running.wait(timeout_s=0.05)
    assert isinstance(error.value, TimeoutError) and error.value.timeout_s == 0.05
    assert running.state == State.RUNNING


def test_many_may_wait_for_one_end(running: Container) -> None:
    """All get its exit code, also when it is removed at once."""
    codes: list[int | None] = []
    threads = [threading.Thread(target=lambda: codes.append(running.wait(timeout_s=20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    running.remove(force=True)
    for thread in threads:
        thread.join()
    assert codes == [137] * 4


def test_a_container_ends_with_its_main_process(host: Host) -> None:
    """And takes with it what that left in the background."""
    with host.containers.launch("busybox", sh="sleep 1000 & exit 7") as container:
        assert container.wait(timeout_s=10) == 7
        assert container.state == State.STOPPED


def test_remove_makes_everything_raise_not_found(host: Host) -> None:
    """With the container's name; that is free again."""
    container = host.containers.create("busybox", FOREVER, name="shortlived")
    bundle = host.root / "containers" / container.id
    container.remove()
    assert not bundle.exists() and "shortlived" not in host.containers
    for act in (lambda: container.state, lambda: container.name, container.start, container.stop,
                container.remove, container.logs, container.diff, lambda: container.exec(["true"]),
                container.wait, container.kill, lambda: container.update(Limits(pids=9)),
                lambda: container.path("/").exists(), lambda: container.rename("other")):  # fmt: skip
        with pytest.raises(ContainerNotFoundError):
            act()
    assert "removed" in repr(container)
    host.containers.create("busybox", FOREVER, name="shortlived").remove()


def test_force_removes_whatever_the_state(host: Host) -> None:
    """Running or paused."""
    for act in (lambda each: None, Container.pause):
        container = host.containers.launch("busybox", FOREVER)
        act(container)
        container.remove(force=True)
        assert container.id not in host.containers


def test_a_with_block_stops_and_removes(host: Host) -> None:
    """Also when it fails, and when the container has been removed inside."""
    with pytest.raises(ZeroDivisionError), host.containers.launch("busybox", FOREVER) as container:
        1 / 0  # noqa: B018
    assert container.id not in host.containers
    with host.containers.launch("busybox", FOREVER) as container:
        container.remove(force=True)


def test_auto_remove_removes_at_the_end(host: Host) -> None:
    """By itself, and `wait` still tells how it ended; a ``with`` around it does no harm."""
    script = "while ! test -e /go; do sleep 0.01; done; exit 9"
    with host.containers.launch("busybox", sh=script, auto_remove=True) as container:
        with container.popen(["sh", "-c", "sleep 0.5; touch /go"]):
            assert container.wait(timeout_s=10) == 9
        eventually(lambda: container.id not in host.containers)
    with host.containers.launch("busybox", FOREVER, auto_remove=True) as container:
        assert container.stop() == 143
        eventually(lambda: not (host.root / "containers" / container.id).exists())


def test_found_by_name_id_and_unique_prefix(host: Host, container: Container) -> None:
    """As a mapping; containers are equal when they are the same one."""
    containers = host.containers
    for key in (container.name, container.id, container.id[:8], container):
        assert containers[key] == container and key in containers
    assert len({container, containers[container.id]}) == 1
    assert containers.get("nobody") is None and "nobody" not in containers and 7 not in containers
    with pytest.raises(ContainerNotFoundError) as error:
        containers["nobody"]
    assert isinstance(error.value, KeyError) and error.value.container == "nobody"
    for pattern in ("", "%", "_", container.id[:1] + "%"):
        assert pattern not in containers


def test_a_prefix_of_two_ids_is_told_apart_from_none(host: Host) -> None:
    """Two containers whose ids begin alike: the short prefix finds neither."""
    made: dict[str, Container] = {}
    try:
        for _ in range(300):
            new = host.containers.create("busybox", FOREVER)
            made.setdefault(new.id[:2], new)
            if made[new.id[:2]] != new:
                break
        with pytest.raises(ContainerNotFoundError) as error:
            host.containers[new.id[:2]]
        assert set(error.value.candidates) == {new.id, made[new.id[:2]].id}
        assert host.containers[new.id[:10]] == new
    finally:
        host.containers.prune()


def test_list_is_newest_first_and_by_state(host: Host) -> None:
    """Length, iteration and list agree."""
    with (
        host.containers.create("busybox", FOREVER) as first,
        host.containers.launch("busybox", FOREVER) as second,
    ):
        assert host.containers.list() == list(host.containers) == [second, first]
        assert len(host.containers) == 2
        assert host.containers.list(state=State.RUNNING) == [second]
        assert host.containers.list(state=State.CREATED) == [first]


def test_prune_removes_what_does_not_run(host: Host, running: Container) -> None:
    """And names it."""
    stopped = host.containers.create("busybox", ["true"], name="done")
    stopped.start().wait()
    host.containers.create("busybox", name="never")
    assert sorted(host.containers.prune()) == ["done", "never"]
    assert list(host.containers) == [running]


def test_names_are_unique_and_can_be_changed_at_any_time(host: Host, running: Container) -> None:
    """The old name is free afterwards; a taken or a bad one is refused and changes nothing."""
    with host.containers.create("busybox", FOREVER, name="first"):
        with pytest.raises(NameInUseError) as error:
            host.containers.create("busybox", FOREVER, name="first")
        assert (error.value.kind, error.value.name) == ("container", "first")
        before = running.name
        for wrong, kind in (("first", NameInUseError), ("-x", InvalidSpecError), ("a/b", InvalidSpecError)):
            with pytest.raises(kind):
                running.rename(wrong)
        assert running.name == before
        running.rename("second")
        assert running.name == running.spec.name == "second" and host.containers["second"] == running
        running.rename("second")
        assert before not in host.containers or host.containers[before] == running  # the id's prefix


@pytest.mark.parametrize("name", ["..", ".", "-a", "a b", "a/b", "x" * 129, "é", "a\n"])
def test_a_bad_name_is_refused_before_anything_is_made(host: Host, name: str) -> None:
    """With nothing left."""
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", FOREVER, name=name)
    assert len(host.containers) == 0


def test_an_unknown_image_is_refused(host: Host) -> None:
    """By a LookupError that names it."""
    with pytest.raises(ImageNotFoundError) as error:
        host.containers.launch("nowhere/nothing:1", FOREVER)
    assert error.value.reference == "nowhere/nothing:1"


@pytest.mark.parametrize("options", [{"user": "nobody-here"}, {"cwd": "/etc/passwd"}])
def test_a_launch_that_fails_leaves_nothing(host: Host, options: dict[str, str]) -> None:
    """And says which of the options it was."""
    with pytest.raises(StartError, match=next(iter(options.values()))):
        host.containers.launch("busybox", FOREVER, **options)  # type: ignore[arg-type]  # one at a time
    with pytest.raises(StartError, match="no-such-command"):
        host.containers.launch("busybox", ["no-such-command"])
    assert len(host.containers) == 0


def test_a_created_container_that_cannot_start_can_be_looked_at(host: Host) -> None:
    """It is stopped then, with the exit code a shell would give, and can be removed."""
    with host.containers.create("busybox", ["/etc/passwd"]) as container:
        with pytest.raises(StartError) as error:
            container.start()
        assert error.value.container == container.name
        eventually(lambda: container.state == State.STOPPED)
        assert container.exit_code == 126
