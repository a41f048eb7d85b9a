"""The fakes: what tests may rely on beyond what tests/conformance says of them and the real ones."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import lxcwrap
from lxcwrap.drivers import AttachRefused, StartRefused
from lxcwrap.drivers.fake import FakeCgroups, FakeDriver
from lxcwrap.testing import fake_host

CONFIG = (("lxc.rootfs.path", "dir:/"), ("lxc.environment", "A=b"))


@pytest.mark.parametrize("number", range(1, 5))
def test_the_driver_fails_on_the_call_it_is_told(tmp_path: Path, number: int) -> None:
    """On that alone, and records all."""
    driver = FakeDriver(str(tmp_path), fail_at=number)
    for call in range(1, 5):
        if call == number:
            with pytest.raises(StartRefused):
                driver.start("web", CONFIG, ["/bin/true"], keep_fds=())
        else:
            assert driver.start("web", CONFIG, ["/bin/exit", "4"], keep_fds=()) == 4
    assert driver.calls == [("start", "web")] * 4
    with pytest.raises(AttachRefused):
        driver.attach("web", ["true"], env=(), stdio=(0, 1, 2))
    assert driver.calls[-1] == ("attach", "web") and not os.listdir(tmp_path)


def test_cgroups_of_nothing(tmp_path: Path) -> None:
    """What does not run has no processes, and its questions are FileNotFoundError as the real ones' are."""
    cgroups = FakeCgroups(tmp_path)
    assert cgroups.pids("web") == [] and not cgroups.exists("web") and not cgroups.is_frozen("web")
    asks: tuple[Callable[[], object], ...] = (
        lambda: cgroups.set_frozen("web", True),
        lambda: cgroups.apply_limits("web", {"pids": 1}),
        lambda: cgroups.read_stats("web"),
    )
    for ask in asks:
        with pytest.raises(FileNotFoundError):
            ask()
    assert cgroups.kill_all("web") and cgroups.remove("web") and cgroups.sweep("web")


def test_a_program_under_test(tmp_path: Path) -> None:
    """How users test theirs: on the default host, with programs of their own, and no root."""

    def deploy() -> str:
        with lxcwrap.default_host().containers.launch("shop:1", ["server", "8080"], name="shop") as shop:
            return next(line.text for line in shop.log_lines(follow=True, timeout_s=10))

    programs = {"server": "import sys, time; print('port', sys.argv[1], flush=True); time.sleep(60)"}
    with fake_host(tmp_path / "root", programs=programs, images=["shop:1"]) as host:
        assert deploy() == "port 8080"
        assert len(host.containers) == 0 and host.images["shop:1"].tags == ("shop:1",)


def test_the_host_ends_what_a_test_left(tmp_path: Path) -> None:
    """Containers, its own process, threads and descriptors."""
    with fake_host(tmp_path / "warm"):
        pass
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    with pytest.raises(KeyError), fake_host(tmp_path / "root") as host:
        pid = host.containers.launch("busybox", ["sleep", "60"]).init_pid
        raise KeyError
    assert not os.listdir(tmp_path / "root/containers") and not os.path.exists(f"/proc/{pid}")
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before


def test_there_are_no_terminals(tmp_path: Path) -> None:
    """Refused, not pretended."""
    with fake_host(tmp_path / "root") as host, pytest.raises(lxcwrap.StartError, match="terminals"):
        host.containers.launch("busybox", ["sleep", "60"], tty=True)
