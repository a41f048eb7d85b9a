"""kill -9 of any process of ours between any two lines leaves a clean host and a consistent store."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap import Container, Host, LxcwrapError, State
from lxcwrap.drivers.pidfd import start_time
from tests import faults
from tests.faults import assert_clean
from tests.polling import eventually

# Every how many lines one is struck. 1 tries them all, in half an hour.
STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "89"))
NAME = "victim"


@pytest.fixture(scope="module")
def host(roots: Path) -> Iterator[Host]:
    """A host of this module's own, with the default image made."""
    with Host(roots / "faults") as host:
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
def test_the_caller_may_be_killed_at_any_line(host: Host, operation: str) -> None:
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
    print(f"{operation}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s


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
    print(f"{who}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s


# --- what is known of the end ----------------------------------------------------------------------------


def _run_of(container: Container) -> dict[str, int]:
    return container._look().run


def _kill_server(host: Host) -> None:
    pid = host._machinery.supervisor.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not start_time(pid))


def test_a_killed_monitor_takes_its_container_along_and_the_server_knows_how(host: Host) -> None:
    """It was killed, by SIGKILL."""
    with _launched(host) as container:
        os.kill(_run_of(container)["monitor"], signal.SIGKILL)
        assert container.wait(timeout_s=10) == 137
        assert (container.state, container.error) == (State.STOPPED, None)
        assert container.start().state == State.RUNNING


def test_how_a_paused_container_ended_is_known_too(host: Host) -> None:
    """It dies when it thaws."""
    with _launched(host) as container:
        container.pause()
        os.kill(_run_of(container)["monitor"], signal.SIGKILL)
        assert container.wait(timeout_s=10) == 137


@pytest.mark.parametrize("also_the_runner", [False, True])
def test_the_server_knows_the_exit_code_that_a_killed_monitor_did_not_record(
    host: Host, also_the_runner: bool
) -> None:
    """The main process ended by itself; the monitor was killed right then."""
    with host.containers.launch("busybox", sh="sleep 0.3; exit 7", name=NAME) as container:
        run = _run_of(container)
        runner = int(Path(f"/proc/{run['monitor']}/task/{run['monitor']}/children").read_text())
        os.kill(run["monitor"], signal.SIGSTOP)
        if also_the_runner:  # then nobody has taken notice of init's end
            os.kill(runner, signal.SIGSTOP)
        init = Path(f"/proc/{run['init_pid']}/stat")
        eventually(lambda: not init.exists() or ") Z " in init.read_text())
        os.kill(run["monitor"], signal.SIGKILL)
        assert container.wait(timeout_s=10) == 7
        assert_clean(host.root)


def test_the_monitor_knows_the_end_of_a_container_whose_liblxc_was_killed(host: Host) -> None:
    """The runner sits in liblxc; its death kills the container."""
    with _launched(host) as container:
        monitor = _run_of(container)["monitor"]
        os.kill(int(Path(f"/proc/{monitor}/task/{monitor}/children").read_text()), signal.SIGKILL)
        assert container.wait(timeout_s=10) == 137


@pytest.mark.parametrize("look", ["the same host", "the next host"])
def test_without_monitor_and_server_the_exit_code_is_unknown_and_said_to_be(host: Host, look: str) -> None:
    """Nobody is left who saw the end; whoever asks first clears up."""
    with _launched(host) as container:
        _kill_server(host)
        monitor = _run_of(container)["monitor"]
        os.kill(monitor, signal.SIGKILL)
        eventually(lambda: not start_time(monitor))
        if look == "the next host":
            assert_clean(host.root)
        assert container.exit_code is None
        assert "monitor was killed" in (container.error or "")
        assert container.state == State.STOPPED
        assert_clean(host.root)
        assert container.start().state == State.RUNNING


def test_a_container_outlives_its_server(host: Host) -> None:
    """Its monitor records the end and clears up by itself; another server executes in it."""
    with host.containers.launch("busybox", sh="sleep 0.4; exit 7", name=NAME) as container:
        _kill_server(host)
        assert container.exec(["echo", "hi"]).stdout == "hi\n"
        assert container.wait(timeout_s=10) == 7
        assert_clean(host.root)


def test_the_caller_of_a_run_may_be_killed_while_it_runs(host: Host) -> None:
    """The command goes on, as a child process would, and its container removes itself at the end."""
    caller = os.fork()
    if caller == 0:
        with suppress(BaseException), Host(host.root) as own:
            own.containers.run("busybox", ["sleep", "0.5"], name=NAME)
        os._exit(0)
    eventually(lambda: NAME in host.containers and host.containers[NAME].state == State.RUNNING)
    os.kill(caller, signal.SIGKILL)
    os.waitpid(caller, 0)
    with Host(host.root) as other:  # must not take it for remains
        assert other.containers[NAME].exec(["true"]).exit_code == 0
    eventually(lambda: NAME not in host.containers)
    assert_clean(host.root)


def test_one_that_was_not_started_yet_is_not_taken_for_remains(host: Host) -> None:
    """Though it would remove itself at its end, and its maker has gone."""
    maker = os.fork()
    if maker == 0:
        with Host(host.root) as own:
            own.containers.create("busybox", ["true"], name=NAME, auto_remove=True)
        os._exit(0)
    os.waitpid(maker, 0)
    assert_clean(host.root)
    assert host.containers[NAME].state == State.CREATED
    host.containers[NAME].start()
    eventually(lambda: NAME not in host.containers)


def test_an_undertaker_may_be_killed_at_any_line(host: Host) -> None:
    """Who clears up after a killed monitor and is killed, is followed by whoever looks next."""
    n, struck = 1, True
    with faults.armed_server(host) as (set_fault, was_struck):
        while struck:
            set_fault("undertaker", n)
            container = _launched(host)
            os.kill(_run_of(container)["monitor"], signal.SIGKILL)
            assert container.wait(timeout_s=10) in (137, None)
            time.sleep(0.05)
            struck = was_struck()
            _finish(host)
            n += 4 * STRIDE  # as each one waits in vain for the one that was killed
