"""Containers that are started again by policy, whoever of those concerned is killed."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lxcwrap import Container, Host, InvalidSpecError, RestartPolicy, StartError, State, WrongStateError
from tests import faults
from tests.polling import eventually


@pytest.fixture
def forever(fresh_host: Host) -> Iterator[Container]:
    """A container that is always to run."""
    container = fresh_host.containers.launch("busybox", ["sleep", "1000"], restart=RestartPolicy.always())
    yield container
    container.remove(force=True)


def _record(container: Container, name: str) -> Any:
    return container._machinery.records(container.id).read(name)


def _kill_server(host: Host) -> None:
    pid = host._machinery.supervisor.pid()
    if pid is not None:
        _kill(pid)


def _kill(pid: int) -> None:
    """And wait for its end: a request to it meanwhile would get no answer."""
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([process], [], [])
    os.close(process)


def _crash(container: Container) -> None:
    assert container.init_pid
    os.kill(container.init_pid, signal.SIGKILL)


def _await_backoff(container: Container) -> None:
    eventually(lambda: container.state is State.RESTARTING)


def _is_back(container: Container, count: int) -> None:
    eventually(lambda: container.state is State.RUNNING and container.restart_count == count)
    assert container.exec(["echo", "alive"]).stdout == "alive\n"


def test_on_failure_gives_up_after_so_many(host: Host) -> None:
    """It is started three times more, with ever longer pauses; the last exit code stays."""
    policy = RestartPolicy.on_failure(3)
    container = host.containers.launch("busybox", sh="echo try; exit 3", restart=policy)
    began = time.monotonic()
    eventually(lambda: container.state is State.STOPPED)
    assert time.monotonic() - began > 0.1 + 0.2 + 0.4
    assert (container.exit_code, container.restart_count, container.logs()) == (3, 3, "try\n" * 4)
    container.remove()


def test_on_failure_lets_success_be(host: Host) -> None:
    """Exit code 0 is no failure."""
    policy = RestartPolicy.on_failure()
    with host.containers.launch("busybox", ["true"], restart=policy) as container:
        container.wait()
        assert container.state is State.STOPPED
        assert container.restart_count == 0


def test_a_user_who_starts_it_hears_of_failure(host: Host) -> None:
    """What cannot be started at all is not tried again behind the back of who was told."""
    with pytest.raises(StartError):
        host.containers.launch("busybox", ["/nothing"], name="hopeless", restart=RestartPolicy.always())
    assert "hopeless" not in host.containers


def test_it_outlives_its_caller(fresh_host: Host) -> None:
    """A program launches it, ends, and it is restarted nevertheless."""
    code = (
        "import sys, lxcwrap; host = lxcwrap.Host(sys.argv[1]);"
        "host.containers.launch('busybox', ['sleep', '1000'], name='web',"
        " restart=lxcwrap.RestartPolicy.unless_stopped())"
    )
    subprocess.run([sys.executable, "-c", code, fresh_host.root], check=True)
    _kill_server(fresh_host)
    container = fresh_host.containers["web"]
    _crash(container)
    _is_back(container, 1)
    container.remove(force=True)


def test_it_outlives_its_monitor(forever: Container) -> None:
    """kill -9 of the monitor takes the container along: that is an end like others."""
    os.kill(_record(forever, "run")["monitor"], signal.SIGKILL)
    _is_back(forever, 1)


def test_the_server_may_be_killed_in_the_back_off(fresh_host: Host, forever: Container) -> None:
    """Who waits brings up another."""
    _crash(forever)
    _await_backoff(forever)
    _kill_server(fresh_host)
    _is_back(forever, 1)


@pytest.mark.parametrize("victim", ["init_pid", "monitor"])
def test_who_waits_may_be_killed(forever: Container, victim: str) -> None:
    """The fork-server lets another wait."""
    os.kill(_record(forever, "run")[victim], signal.SIGKILL)
    _await_backoff(forever)
    os.kill(_record(forever, "restart")["waiter"], signal.SIGKILL)
    _is_back(forever, 1)


def test_who_waits_may_be_killed_at_any_line(fresh_host: Host) -> None:
    """Also while it asks for the start, and when that was done: there is one restart, and one only."""
    n, policy = 1, RestartPolicy.always()
    with faults.armed_server(fresh_host) as (set_fault, was_struck):
        while True:
            set_fault("restarter", n)
            with fresh_host.containers.launch("busybox", ["sleep", "99"], restart=policy) as container:
                _crash(container)
                _is_back(container, 1)
            if not was_struck():
                break
            n += 6
    assert n > 20


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_user_ends_it(forever: Container, how: str) -> None:
    """What a user stops or kills stays down, until it is started."""
    getattr(forever, how)()
    forever.wait()
    assert forever.state is State.STOPPED
    time.sleep(0.3)
    assert forever.state is State.STOPPED
    forever.start()
    _crash(forever)
    _is_back(forever, 1)


def test_a_signal_that_is_no_stop_changes_nothing(forever: Container) -> None:
    """HUP may end it; then it is restarted."""
    forever.kill("HUP")
    _is_back(forever, 1)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_user_ends_it_in_the_back_off(forever: Container, how: str) -> None:
    """Nobody waits any more, and it stays down."""
    _crash(forever)
    _await_backoff(forever)
    waiter = _record(forever, "restart")["waiter"]
    with pytest.raises(WrongStateError):
        forever.kill("HUP")
    getattr(forever, how)()
    assert forever.state is State.STOPPED
    assert forever.exit_code == 128 + signal.SIGKILL
    eventually(lambda: not os.path.exists(f"/proc/{waiter}"))


def test_it_can_be_renamed_and_started_in_the_back_off(forever: Container) -> None:
    """A start by a user need not wait, and begins the count anew."""
    _crash(forever)
    _await_backoff(forever)
    forever.rename("other")
    assert forever.state is State.RESTARTING
    forever.start()
    assert (forever.state, forever.restart_count, forever.name) == (State.RUNNING, 0, "other")
    time.sleep(0.2)
    assert forever.restart_count == 0


def test_it_can_be_removed_in_the_back_off(host: Host) -> None:
    """Then nothing comes back; and no prune takes it for one that is not needed."""
    container = host.containers.launch("busybox", ["false"], restart=RestartPolicy.always())
    _await_backoff(container)
    host.containers.prune()
    container.remove()
    assert container not in host.containers


def test_stop_always_wins(host: Host) -> None:
    """At whatever moment of its restarts a user stops it, it is down afterwards, for good."""
    with host.containers.launch("busybox", ["false"], restart=RestartPolicy.always()) as container:
        for pause_s in (0.0, 0.09, 0.1, 0.105, 0.11, 0.12, 0.2, 0.3):
            time.sleep(pause_s)
            container.stop(timeout_s=0)
            assert container.state is State.STOPPED
            time.sleep(0.03)
            assert container.state is State.STOPPED
            container.start()


def test_resume_starts_what_should_run(fresh_host: Host) -> None:
    """When fork-server and monitors were killed at once, as by a reboot, the policies decide."""
    policies = {
        "always": RestartPolicy.always(),
        "stopped": RestartPolicy.always(),
        "unless": RestartPolicy.unless_stopped(),
        "unless-stopped": RestartPolicy.unless_stopped(),
        "failure": RestartPolicy.on_failure(2),
        "no": RestartPolicy.no(),
    }
    launch, created = fresh_host.containers.launch, fresh_host.containers.create
    made = {}
    for name, policy in policies.items():
        made[name] = launch("busybox", ["sleep", "99"], name=name, restart=policy)
    created("busybox", ["sleep", "99"], name="new", restart=RestartPolicy.always())
    for name in ("stopped", "unless-stopped"):
        made[name].stop(timeout_s=0)
    monitors = [_record(each, "run")["monitor"] for each in made.values() if each.state is State.RUNNING]
    _kill_server(fresh_host)
    for pid in monitors:
        _kill(pid)
    with Host(fresh_host.root) as host:
        started = {container.name for container in host.resume()}
        assert started == {"always", "stopped", "unless", "failure"}
        assert host.resume() == []
        for container in host.containers:
            container.remove(force=True)


def test_restart_and_auto_remove_exclude_each_other(host: Host) -> None:
    """One of them would be meaningless."""
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", ["true"], auto_remove=True, restart=RestartPolicy.always())
    with pytest.raises(InvalidSpecError):
        host.containers.run("busybox", ["true"], restart=RestartPolicy.always())
