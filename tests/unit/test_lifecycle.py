"""One container's life on a fake host: states, ends, signals, commands, limits, removal, refusals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lxcwrap import PIPE, Container, Host, Limits, State
from lxcwrap.errors import (
    CallError,
    CommandFailedError,
    ContainerNotFoundError,
    ExecError,
    StartError,
    SupervisorError,
    TimeoutExpired,
    WrongStateError,
)
from lxcwrap.supervisor.fake import FakeSupervisor
from lxcwrap.testing import fake_host
from tests.polling import eventually
from tests.unit import called

PROGRAMS = {
    "serve": "import time; print('ready', flush=True); time.sleep(60)",
    "stubborn": """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(60)
""",
    "reload": """
import os, signal, time
signal.signal(signal.SIGHUP, lambda *_: os.write(1, b"reloaded\\n"))
print("ready", flush=True)
while True: time.sleep(60)
""",
    "warn": "import sys; print('out', flush=True); print('err', file=sys.stderr); raise SystemExit(3)",
}


@pytest.fixture(scope="module")
def shared(roots: Path) -> Iterator[Host]:
    with fake_host(roots / os.urandom(4).hex(), programs=PROGRAMS) as host:
        yield host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    """With no container in it, before and after."""
    yield shared
    for container in shared.containers:
        container.remove(force=True)
    eventually(lambda: not os.listdir(shared.root / "containers"))


@pytest.fixture
def web(host: Host) -> Container:
    """It runs and has said so."""
    container = host.containers.launch("busybox", ["serve"], name="web", labels={"a": "b"})
    eventually(lambda: container.logs() == "ready\n")
    return container


# --- states ---------------------------------------------------------------------------------------------


def state(web: Container) -> State:
    """Its state now: type checkers think that a property stays as it was asserted to be."""
    return web.state


def test_a_whole_life(host: Host) -> None:
    """Created, running, paused, running, stopped, running again; what is known at each time."""
    web = host.containers.create("busybox", ["serve"], name="web")
    assert state(web) == State.CREATED and web.exit_code is None
    began = datetime.now(UTC)
    assert web.start() is web and state(web) == State.RUNNING
    assert web.started_at is not None and abs((web.started_at - began).total_seconds()) < 5
    assert web.init_pid is not None and os.path.exists(f"/proc/{web.init_pid}") and web.finished_at is None
    web.pause()
    assert state(web) == State.PAUSED and web.init_pid is not None
    web.unpause()
    assert state(web) == State.RUNNING
    assert web.stop() == 128 + signal.SIGTERM
    assert state(web) == State.STOPPED
    assert {"code": web.exit_code, "pid": web.init_pid} == {"code": 143, "pid": None}
    assert web.finished_at is not None and web.finished_at >= web.started_at and not web.oom_killed
    first = web.started_at
    web.restart()
    assert state(web) == State.RUNNING and web.exit_code is None and web.started_at > first
    web.remove(force=True)
    for ask in (
        lambda: web.state,
        lambda: web.name,
        lambda: web.spec,
        web.start,
        web.stop,
        lambda: web.exec(["true"]),
    ):
        with pytest.raises(ContainerNotFoundError):
            ask()
    assert "removed" in repr(web)


ACTS: dict[str, Callable[[Container], object]] = {
    "start": Container.start,
    "kill": Container.kill,
    "pause": Container.pause,
    "unpause": Container.unpause,
    "wait": lambda web: web.wait(timeout_s=0.02),
    "remove": Container.remove,
    "exec": lambda web: web.exec(["true"]),
    "popen": lambda web: web.popen(["true"]),
    "call": lambda web: web.call(os.getpid),
    "stats": Container.stats,
    "top": Container.top,
}
REFUSED = {
    State.CREATED: {"kill", "pause", "unpause", "wait", "exec", "popen", "call", "stats", "top"},
    State.RUNNING: {"start", "unpause", "remove"},
    State.PAUSED: {"start", "pause", "remove", "exec", "popen", "call"},
    State.STOPPED: {"kill", "pause", "unpause", "exec", "popen", "call", "stats", "top"},
}


@pytest.mark.parametrize("state", REFUSED)
def test_what_a_state_refuses(host: Host, state: State) -> None:
    """WrongStateError with the facts; the state stays."""
    web = host.containers.create("busybox", ["serve"], name="web")
    if state != State.CREATED:
        web.start()
    if state == State.PAUSED:
        web.pause()
    if state == State.STOPPED:
        web.stop()
    for act in sorted(REFUSED[state]):
        with pytest.raises(WrongStateError) as caught:
            ACTS[act](web)
        assert (caught.value.container, caught.value.state) == ("web", state), act
        assert web.state == state, act


def test_every_act_is_refused_somewhere() -> None:
    """So that the table above speaks of all."""
    assert set().union(*REFUSED.values()) == set(ACTS)


# --- ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3, 125, 255])
def test_the_exit_code_is_exact(host: Host, code: int) -> None:
    """From wait, stop, and afterwards."""
    web = host.containers.launch("busybox", ["exit", str(code)])
    assert web.wait(timeout_s=10) == web.exit_code == web.stop() == web.wait() == code
    assert web.error is None


def test_wait_ends_in_time(web: Container) -> None:
    """The container goes on."""
    with pytest.raises(TimeoutExpired):
        web.wait(timeout_s=0.05)
    assert web.state == State.RUNNING


def test_many_wait_for_one_end(web: Container) -> None:
    """All are told the same, though it removes its traces at once."""
    found: list[int | None] = []
    threads = [threading.Thread(target=lambda: found.append(web.wait(timeout_s=10))) for _ in range(5)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    web.kill()
    for thread in threads:
        thread.join()
    assert found == [137] * 5


def test_stop_kills_who_does_not_listen(host: Host) -> None:
    """After the time it was given."""
    web = host.containers.launch("busybox", ["stubborn"])
    eventually(lambda: web.logs() == "on\n")
    began = time.monotonic()
    assert web.stop(timeout_s=0.1) == 137
    assert 0.1 <= time.monotonic() - began < 5


def test_stop_and_kill_a_paused_one(host: Host) -> None:
    """It must run again to be ended."""
    for end in (Container.stop, Container.kill):
        web = host.containers.launch("busybox", ["serve"])
        web.pause()
        end(web)
        assert web.wait(timeout_s=5) in (137, 143)


def test_stop_uses_the_stop_signal(host: Host) -> None:
    """The image's, or the caller's."""
    web = host.containers.launch("busybox", ["serve"], stop_signal="QUIT")
    assert web.stop() == 128 + signal.SIGQUIT


def test_stopping_a_stopped_one_changes_nothing(web: Container) -> None:
    """It tells the exit code again."""
    assert web.stop() == 143
    finished = web.finished_at
    assert web.stop() == 143 and web.finished_at == finished


def test_kill_sends_any_signal(host: Host) -> None:
    """To the main process, which may live on."""
    web = host.containers.launch("busybox", ["reload"])
    eventually(lambda: "ready" in web.logs())
    for signal_name in ("HUP", "SIGHUP", 1):
        web.kill(signal_name)
    eventually(lambda: "reloaded" in web.logs())
    assert web.state == State.RUNNING


def test_a_command_that_is_not_there(host: Host) -> None:
    """StartError names it; the container can be looked at, and started again."""
    web = host.containers.create("busybox", ["nonesuch"], name="web")
    for _ in range(2):
        with pytest.raises(StartError, match="nonesuch") as caught:
            web.start()
        assert caught.value.container == "web"
        assert web.wait(timeout_s=5) == 127 and web.state == State.STOPPED


def test_a_damaged_directory_is_told(host: Host) -> None:
    """And can be removed."""
    web = host.containers.create("busybox", ["serve"], name="web")
    (host.root / "containers" / web.id / "plan.json").unlink()
    with pytest.raises((StartError, SupervisorError)):
        web.start()
    web.remove(force=True)
    assert len(host.containers) == 0


def test_starts_at_once_start_once(host: Host) -> None:
    """One wins; the others are told that it runs."""
    web = host.containers.create("busybox", ["serve"], name="web")
    results: list[str] = []

    def start() -> None:
        try:
            web.start()
            results.append("started")
        except (WrongStateError, StartError, SupervisorError) as error:
            results.append(type(error).__name__)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("started") == 1 and web.state == State.RUNNING


def test_auto_remove(host: Host) -> None:
    """It removes itself at its end, whoever waits learns how it ended."""
    web = host.containers.launch("busybox", ["serve"], auto_remove=True)
    threading.Timer(0.05, web.kill).start()
    assert web.wait(timeout_s=10) == 137
    eventually(lambda: len(host.containers) == 0)
    eventually(lambda: not os.listdir(host.root / "containers"))


def test_removing_by_force(web: Container, host: Host) -> None:
    """Running or paused; twice is once too often."""
    web.pause()
    web.remove(force=True)
    with pytest.raises(ContainerNotFoundError):
        web.remove(force=True)
    assert not os.listdir(host.root / "containers")


# --- commands inside ------------------------------------------------------------------------------------


def test_exec(web: Container) -> None:
    """As run."""
    done = web.exec(["echo", "a", "b"])
    assert (done.stdout, done.exit_code, done.argv) == ("a b\n", 0, ("echo", "a", "b"))
    assert web.exec(["cat"], input=b"\xff").stdout_bytes == b"\xff"
    assert web.exec(["env"], env={"A": "b"}).stdout.count("A=b\n") == 1
    with pytest.raises(CommandFailedError) as caught:
        web.exec(["warn"])
    assert (caught.value.exit_code, caught.value.stderr, caught.value.container) == (3, "err\n", "web")
    assert web.exec(["nonesuch"], check=False).exit_code == 127


def test_exec_is_killed_when_its_time_is_over(web: Container) -> None:
    """With its output until then; the container goes on."""
    with pytest.raises(TimeoutExpired) as caught:
        web.exec(["serve"], timeout_s=0.3)
    assert caught.value.stdout == "ready\n" and web.state == State.RUNNING


def test_exec_wants_one_command(web: Container) -> None:
    """A list or a line, not both, not none."""
    for arguments in ({}, {"argv": ["x"], "sh": "y"}, {"argv": "true"}):
        with pytest.raises(TypeError):
            web.exec(**arguments)


def test_popen(web: Container) -> None:
    """Real files, a real pid."""
    with web.popen(["cat"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin and process.stdout and os.path.exists(f"/proc/{process.pid}")
        process.stdin.write(b"x")
        process.stdin.close()
        assert process.stdout.read() == b"x"
    assert process.wait() == 0


def test_commands_end_with_their_container(web: Container) -> None:
    """Nothing goes on in what has ended."""
    with web.popen(["serve"]) as process:
        web.stop()
        assert process.wait(timeout_s=10) == 137


def test_call(web: Container) -> None:
    """A function's result, its exception with a note; what cannot be sent is a CallError."""
    assert web.call(called.echo, 1, b=2) == ((1,), {"b": 2})
    with pytest.raises(KeyError) as caught:
        web.call(called.fail, KeyError("x"))
    assert caught.value.__notes__
    with pytest.raises(CallError):
        web.call(called.custom)


def test_attach_wants_a_terminal(web: Container) -> None:
    """ExecError otherwise, before anything is started."""
    with pytest.raises((ExecError, OSError)):
        web.attach()


def test_the_supervisor_dies(web: Container, host: Host) -> None:
    """An error at once, no waiting for ever; the container is not touched."""
    supervisor = host.containers._machinery.supervisor
    assert isinstance(supervisor, FakeSupervisor)
    supervisor.fail_at = len(supervisor.requests) + 1
    with pytest.raises(CallError):
        web.call(os.getpid)
    assert web.exec(["true"]).exit_code == 0


def test_files_of_the_host_are_never_touched(web: Container) -> None:
    """The fake has no root of its own: access is refused, also while it runs."""
    with pytest.raises(SupervisorError):
        web.path("/etc/hostname").read_text()
    web.stop()
    with pytest.raises(SupervisorError):
        web.path("/etc/hostname").read_text()


# --- limits, logs ---------------------------------------------------------------------------------------


def test_update_merges(web: Container) -> None:
    """What is not named keeps what was set; stopped ones take it at their next start."""
    web.update(Limits(pids=9))
    web.update(Limits(memory="64MiB"))
    assert (web.spec.limits.pids, web.spec.limits.memory) == (9, 64 << 20)
    assert (web.stats().pids_limit, web.stats().memory_limit) == (9, 64 << 20)
    web.stop()
    web.update(Limits(pids=8))
    assert web.spec.limits.pids == 8 and dict(web.labels) == {"a": "b"}
    with pytest.raises(TypeError):
        web.update({"pids": 1})  # type: ignore[arg-type]  # on purpose


def test_logs_have_both_streams(host: Host) -> None:
    """With times, and apart if wanted; they stay after the end and are of all runs."""
    web = host.containers.launch("busybox", ["warn"])
    web.wait(timeout_s=10)
    assert sorted(web.logs().split()) == ["err", "out"] and web.logs(stream="stderr") == "err\n"
    assert {line.stream for line in web.log_lines()} == {"stdout", "stderr"}
    assert [line.text for line in web.log_lines(follow=True, stream="stdout")] == ["out"]
    web.start().wait(timeout_s=10)
    assert web.logs(stream="stdout") == "out\nout\n"


def test_the_process_table(web: Container) -> None:
    """PID 1 of the container, as the host sees it."""
    (process,) = web.top()
    assert process.host_pid == web.init_pid and web.stats().pids == 1
