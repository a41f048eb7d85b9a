"""A thread that shows what long work tells, when it takes long.

Whoever reports only notes the event; a slow terminal or notebook keeps nobody waiting until the end.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Final

from .board import Board
from .events import ProgressEvent
from .views import View

_log = logging.getLogger(__name__)

DELAY_S: Final = 0.5
"""How long work may take unseen."""

INTERVAL_S: Final = 0.1

_showing = threading.Lock()  # two bars in one terminal would overwrite each other


class Display:
    """Within its block, what is given to `report` is shown in `view`; of two at a time, only the first."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._board = Board(time.monotonic())
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lxcwrap-progress", daemon=True)

    def report(self, event: ProgressEvent) -> None:
        with self._lock:
            self._board.add(event, time.monotonic())

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        if self._ended.wait(DELAY_S) or not _showing.acquire(blocking=False):
            return
        try:
            self._show()
        except Exception:  # a terminal that went away, a kernel that is restarted: the work goes on
            _log.debug("progress cannot be shown", exc_info=True)
        finally:
            _showing.release()

    def _show(self) -> None:
        shown: list[str] = []
        while True:
            final, live = self._lines()
            if final or live != shown:
                self._view.draw(final, live)
                shown = live
            if self._ended.wait(INTERVAL_S):
                self._view.close(*self._lines())
                return

    def _lines(self) -> tuple[list[str], list[str]]:
        with self._lock:
            return self._board.take_final(), self._board.live(time.monotonic())
