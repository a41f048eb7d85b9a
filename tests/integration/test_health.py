"""Health checks, which run as long as the container does, and waiting until it is ready."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import (
    Container,
    HealthCheck,
    Host,
    InvalidSpecError,
    NotReadyError,
    RestartPolicy,
    TimeoutExpired,
    WrongStateError,
    ready,
)
from lxcwrap.drivers.pidfd import start_time
from tests.polling import eventually

SERVE = "mkdir /www; sleep 0.1; echo ok >/www/page; httpd -p 80 -h /www; echo up; sleep 1000"


def _status(container: Container) -> str:
    health = container.health
    return health.status if health else ""


def _prober(container: Container) -> int:
    """Its process id: of the monitor's children the one that is no runner."""
    record: Any = container._machinery.records(container.id).read("run")
    children = Path(f"/proc/{record['monitor']}/task/{record['monitor']}/children").read_text().split()
    for pid in children:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/comm").read_text() == "lxcwrap-prober\n":
                return int(pid)
    return 0


@pytest.mark.parametrize(
    "check",
    [
        HealthCheck.command(["test", "-e", "/www/page"], interval_s=0.05),
        HealthCheck.shell("test -e /www/page && echo fine", interval_s=0.05),
        HealthCheck.http(80, "/page", interval_s=0.05),
    ],
    ids=["command", "shell", "http"],
)
def test_it_follows_what_is_probed(host: Host, check: HealthCheck) -> None:
    """Starting, healthy, after three failures unhealthy, and healthy again after one success."""
    with host.containers.launch("busybox", sh=SERVE, health=check) as container:
        assert _status(container) == "starting"
        container.wait_ready(timeout_s=5)
        container.exec(["rm", "/www/page"])
        eventually(lambda: _status(container) == "unhealthy")
        health = container.health
        assert health and health.failing_streak >= 3 and health.results[-1].exit_code == 1
        container.exec(["touch", "/www/page"])
        eventually(lambda: _status(container) == "healthy")


def test_a_port_is_enough_for_tcp(host: Host) -> None:
    """A connection is made within the container's own network, which has no way in."""
    check = HealthCheck.tcp(80, interval_s=0.05)
    with host.containers.launch("busybox", sh=SERVE, health=check) as container:
        container.wait_ready(timeout_s=5)


def test_a_slow_probe_is_killed_and_its_output_bounded(host: Host) -> None:
    """What takes too long has failed; of a flood of output the beginning is kept."""
    check = HealthCheck.shell("yes | head -c 1000000; sleep 77", interval_s=0.05, timeout_s=0.2, retries=1)
    with host.containers.launch("busybox", ["sleep", "1000"], health=check) as container:
        eventually(lambda: _status(container) == "unhealthy")
        health = container.health
        assert health and health.results[-1].exit_code is None
        assert len(health.results[-1].output) < 5000
        eventually(lambda: sum("77" in process.argv for process in container.top()) <= 1)


def test_failures_do_not_count_while_it_starts(host: Host) -> None:
    """In its start period it stays as it is; after it failures count."""
    timing = {"start_period_s": 3.0, "start_interval_s": 0.02, "interval_s": 0.02, "retries": 1}
    check = HealthCheck.command(["false"], **timing)
    with host.containers.launch("busybox", ["sleep", "1000"], health=check) as container:
        eventually(lambda: container.health and len(container.health.results) > 1)
        health = container.health
        assert health and (health.status, health.failing_streak) == ("starting", 0)
        eventually(lambda: _status(container) == "unhealthy")


def test_a_killed_prober_is_replaced_and_none_outlives_the_container(fresh_host: Host) -> None:
    """Its monitor forks another, without caller and fork-server; with the container it ends."""
    check = HealthCheck.command(["test", "-e", "/ok"], interval_s=0.05)
    container = fresh_host.containers.launch("busybox", ["sleep", "1000"], health=check)
    server = fresh_host._machinery.supervisor.pid()
    assert server
    os.kill(server, signal.SIGKILL)
    eventually(lambda: not start_time(server))  # one that ends might still take a request
    eventually(lambda: _prober(container))
    first = _prober(container)
    os.kill(first, signal.SIGKILL)
    eventually(lambda: _prober(container) not in (0, first))
    container.exec(["touch", "/ok"])
    eventually(lambda: _status(container) == "healthy")
    last = _prober(container)
    container.stop(timeout_s=0)
    assert not os.path.exists(f"/proc/{last}")
    assert _status(container) == "healthy"
    container.start()
    assert _status(container) == "starting"
    container.remove(force=True)


def test_a_restarted_container_is_probed(host: Host) -> None:
    """Restarts are starts."""
    check = HealthCheck.command(["true"], interval_s=0.05)
    options: Any = {"health": check, "restart": RestartPolicy.always()}
    with host.containers.launch("busybox", ["sleep", "1000"], **options) as container:
        container.wait_ready(timeout_s=5)
        assert container.init_pid
        os.kill(container.init_pid, signal.SIGKILL)
        eventually(lambda: container.restart_count == 1)
        container.wait_ready(timeout_s=5)


def test_the_image_may_say_how(host: Host, tmp_path: Path) -> None:
    """Its health check is used, unless the caller gives one, or none."""
    (tmp_path / "Dockerfile").write_text("FROM busybox\nHEALTHCHECK --interval=50ms CMD test -e /ok\n")
    image = host.images.build(tmp_path, tags=["with-health:1"])
    try:
        with host.containers.launch(image, ["sleep", "1000"]) as container:
            assert container.spec.health == HealthCheck.shell("test -e /ok", interval_s=0.05)
            container.exec(["touch", "/ok"])
            container.wait_ready(timeout_s=5)
        with host.containers.launch(image, ["sleep", "1000"], health=HealthCheck.none()) as container:
            assert container.health is None
    finally:
        image.remove()


# --- ready ---


def test_ready_when_all_of_it_holds(host: Host) -> None:
    """Conditions of each kind, alone and together."""
    with host.containers.launch("busybox", sh=SERVE) as container:
        assert container.wait_ready(ready.http(80, "/page"), timeout_s=5) is container
        container.wait_ready(ready.http(80, "/none", status=404))
        checks = (ready.tcp(80), ready.log("^up$"), ready.command(["test", "-e", "/www/page"]))
        container.wait_ready(ready.all(*checks), timeout_s=5)


def test_its_end_ends_the_waiting(host: Host) -> None:
    """At once, with how it ended and the last it wrote."""
    container = host.containers.launch("busybox", sh="echo no configuration; sleep 0.2; exit 3")
    began = time.monotonic()
    with pytest.raises(NotReadyError) as caught:
        container.wait_ready(ready.tcp(80))
    assert time.monotonic() - began < 5
    assert (caught.value.exit_code, caught.value.log_tail) == (3, "no configuration\n")
    container.remove()


def test_waiting_has_an_end(host: Host) -> None:
    """The time is kept also when a server takes the connection and says nothing."""
    silent = "echo waiting; nc -l -p 80 -e sleep 1000; sleep 1000"
    with host.containers.launch("busybox", sh=silent) as container:
        began = time.monotonic()
        with pytest.raises(TimeoutExpired) as caught:
            container.wait_ready(ready.http(80), timeout_s=0.4)
        assert 0.4 <= time.monotonic() - began < 3
        assert caught.value.stdout == "waiting\n"


def test_what_cannot_become_ready_is_refused(host: Host) -> None:
    """One without a health check and condition, and one that was never started."""
    container = host.containers.create("busybox", ["true"])
    with pytest.raises(InvalidSpecError):
        container.wait_ready()
    with pytest.raises(WrongStateError):
        container.wait_ready(ready.tcp(80))
    container.remove()
    with pytest.raises(InvalidSpecError):
        ready.http(80, "no slash")
    with pytest.raises(InvalidSpecError):
        ready.tcp(0)
