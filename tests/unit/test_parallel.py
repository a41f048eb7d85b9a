"""Work done side by side: all of it, or none goes on."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from lxcwrap.storage.parallel import Stop, side_by_side


def test_all_is_done_by_so_many_threads_at_most() -> None:
    """In the order given, as far as threads are free."""
    begun: list[int] = []
    threads = set()

    def task(number: int) -> None:
        begun.append(number)
        threads.add(threading.get_ident())

    side_by_side([partial(task, number) for number in range(20)], threads=3, stop=Stop())
    assert sorted(begun) == list(range(20))
    assert len(threads) <= 3


def test_the_first_failure_ends_the_others() -> None:
    """Those that wait are woken, those that look are told, those not begun are left out."""
    woken = threading.Event()
    stop = Stop(woken.set)
    began = time.monotonic()
    seen: list[str] = []

    def wait() -> None:
        assert woken.wait(10)
        raise OSError("hung up")

    def work() -> None:
        for _ in stop.watch(iter(lambda: time.sleep(0.001), "never")):
            pass

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        side_by_side([wait, work, fail, lambda: seen.append("begun")], threads=3, stop=stop)
    assert time.monotonic() - began < 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lxcwrap-transfer")]


def test_nothing_to_do_is_done() -> None:
    """At once."""
    side_by_side([], threads=3, stop=Stop())
