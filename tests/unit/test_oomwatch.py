"""When it is told that a container has lost processes for want of memory."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap.supervisor import oomwatch
from lxcwrap.supervisor.oomwatch import OomWatch


class Kernel:
    """Both descriptors of cgroup v1, and a clock."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "memory.oom_control"
        self.kills(0)
        self.fds = [os.open(self.file, os.O_RDONLY), os.eventfd(0)]
        self.now = 100.0

    def kills(self, count: int) -> None:
        self.file.write_text(f"oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n")

    def monotonic(self) -> float:
        return self.now

    def alarm(self, watch: OomWatch) -> None:
        os.eventfd_write(self.fds[1], 1)
        assert select.select([watch.fds[-1]], [], [], 0)[0]
        assert watch.hear()
        assert not select.select([watch.fds[-1]], [], [], 0)[0]

    def pass_time(self, watch: OomWatch) -> None:
        patience_ms = watch.patience_ms()
        assert patience_ms is not None
        self.now += patience_ms / 1000 + 1e-6


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    kernel = Kernel(tmp_path)
    monkeypatch.setattr(oomwatch, "time", kernel)
    yield kernel
    for fd in kernel.fds:
        os.close(fd)


def test_an_alarm_comes_before_the_kill(kernel: Kernel) -> None:
    """It is told when the kill is counted, and once."""
    watch = OomWatch(kernel.fds)
    assert watch.patience_ms() is None and not watch.has_news()
    kernel.alarm(watch)
    for _ in range(3):
        kernel.pass_time(watch)
        assert not watch.has_news()
    kernel.kills(1)
    kernel.pass_time(watch)
    assert watch.has_news() and watch.patience_ms() is None
    assert not watch.has_news() and not watch.has_more()


def test_an_alarm_without_a_kill_is_forgotten(kernel: Kernel) -> None:
    """Memory may be found yet."""
    watch = OomWatch(kernel.fds)
    kernel.alarm(watch)
    looks = 0
    while watch.patience_ms() is not None:
        kernel.pass_time(watch)
        assert not watch.has_news()
        looks += 1
    assert 1 < looks < 1000


def test_many_kills_are_told_together(kernel: Kernel) -> None:
    """At most once a second, and the last of them, too."""
    watch = OomWatch(kernel.fds)
    news = 0
    began = kernel.now
    for count in range(1, 501):
        kernel.kills(count)
        kernel.alarm(watch)
        kernel.now += 0.01
        news += watch.has_news()
    while watch.patience_ms() is not None:
        kernel.pass_time(watch)
        news += watch.has_news()
    assert watch.told == 500
    assert news <= kernel.now - began + 1


def test_where_nobody_counts_there_is_no_news() -> None:
    """As without a controller for memory."""
    watch = OomWatch([])
    assert watch.count() == 0 and not watch.has_news() and not watch.has_more()
