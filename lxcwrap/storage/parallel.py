"""Several things done side by side, of which either all succeed or none goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class StoppedError(BaseException):
    """Raised where work is given up because other work has failed. Never leaves `side_by_side`."""


class Stop:
    """Tells those who work side by side to end. `on_stop`: ends what they may be waiting for."""

    def __init__(self, on_stop: Callable[[], object] | None = None) -> None:
        self._event = threading.Event()
        self._on_stop = on_stop

    def set(self) -> None:
        self._event.set()
        if self._on_stop:
            self._on_stop()

    def check(self) -> None:
        """Raises StoppedError if it is set."""
        if self._event.is_set():
            raise StoppedError

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, until it is set."""
        for item in items:
            self.check()
            yield item


def side_by_side(tasks: Iterable[Callable[[], object]], *, threads: int, stop: Stop) -> None:
    """
    Do all `tasks`, `threads` of them at a time, the first ones first.

    When one raises, or the caller is interrupted, `stop` is set, what was not begun is left out, and the
    first error is raised as soon as all threads have ended.
    """
    from concurrent.futures import ThreadPoolExecutor, as_completed

    with ThreadPoolExecutor(threads, thread_name_prefix="lxcwrap-transfer") as pool:
        try:
            for future in as_completed([pool.submit(task) for task in tasks]):
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop.set()
            raise
