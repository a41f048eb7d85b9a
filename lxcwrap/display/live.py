"""What goes on being drawn in a notebook while other cells run: a thread of its own, that never keeps anyone
waiting."""

from __future__ import annotations

import logging
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final
from weakref import WeakSet

from ..errors import ContainerNotFoundError, InvalidSpecError, WrongStateError
from ..progress.views import notebook_shell
from ..results import LogLine, Stats
from ..shown import Shown
from . import words
from .blocks import Block, Cell, Drawing, Facts, Output, Page, Tone
from .charts import Figure, Track, drawn, in_words, sparks
from .values import log_line

_log = logging.getLogger(__name__)
_GONE: Final = (FileNotFoundError, ContainerNotFoundError, WrongStateError)
_REDRAW_S: Final = 0.2  # a log is not drawn more often
_running: WeakSet[Live] = WeakSet()


class Live(Shown):
    """A display that keeps itself up to date until its container ends, `stop` is called, its ``with`` block
    ends, or a cell is interrupted. Outside notebooks nothing is shown, but all is recorded."""

    __slots__ = ("__weakref__", "_ended", "_handle", "_shown_in", "_thread")

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._handle: Any = None
        self._shown_in = 0
        shell = notebook_shell()
        self._thread = threading.Thread(target=self._work, name=f"lxcwrap-{name}", daemon=True)
        if shell is not None:
            _end_when_interrupted(shell)
            self._show(shell)  # from the cell itself, so that it is this cell's
        _running.add(self)
        self._thread.start()

    def _show(self, shell: Any) -> None:
        from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

        shown_as = self._handle.display_id if self._handle else True
        self._handle = display(self._repr_mimebundle_(), raw=True, display_id=shown_as)
        self._shown_in = shell.execution_count

    def _ipython_display_(self) -> None:
        """In the cell that made it, it is there already; in another it is shown once more, alive too."""
        shell = notebook_shell()
        if shell is None:
            sys.stdout.write(self._repr_mimebundle_()["text/plain"] + "\n")
        elif shell.execution_count != self._shown_in:
            self._show(shell)

    def stop(self) -> None:
        """End it; what is shown stays."""
        self._ended.set()
        self._thread.join()

    def wait(self, timeout_s: float | None = None) -> None:
        """Until it ends by itself, as its container does. An interrupt ends it, too."""
        try:
            self._thread.join(timeout_s)
        except BaseException:
            self.stop()
            raise

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._record()
        except Exception:  # a kernel that is restarted, a root directory that went away
            _log.debug("a live display ends", exc_info=True)
        finally:
            self._ended.set()
            self._draw()

    def _draw(self) -> None:
        if self._handle is not None:
            self._handle.update(self._repr_mimebundle_(), raw=True)

    @abstractmethod
    def _record(self) -> None:
        """Look and draw, until `_ended` is set or there is nothing more."""

    @abstractmethod
    def _page(self) -> Page: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class LiveStats(Live):
    """What containers use, drawn as it changes: of one, its processor time, memory, network and disk; of
    several, a line for each. Made by `Container.live_stats` and `Containers.live_stats`."""

    __slots__ = ("_interval_s", "_looks", "_tracks")

    def __init__(
        self, looks: Sequence[tuple[str, Callable[[], Stats]]], interval_s: float, window_s: float
    ) -> None:
        if not 0 < interval_s <= window_s:
            raise InvalidSpecError(
                f"{interval_s=}, {window_s=}: the first must be over 0, and not the greater"
            )
        kept = max(2, round(window_s / interval_s) + 1)
        self._interval_s = interval_s
        self._tracks = [Track(name, kept) for name, _ in looks]
        self._looks = list(zip(self._tracks, (look for _, look in looks), strict=True))
        self._look()
        super().__init__("stats")

    @property
    def samples(self) -> tuple[Stats, ...]:
        """Those in sight, of the first container."""
        return tuple(self._tracks[0].samples) if self._tracks else ()

    def figure(self) -> Figure:
        """What is in sight now, as it stays. Raises InvalidSpecError: there are not two samples yet."""
        return Figure(self.samples)

    def _record(self) -> None:
        due = time.monotonic()
        while self._looks:
            due = max(due + self._interval_s, time.monotonic())
            if self._ended.wait(due - time.monotonic()):
                return
            self._look()
            self._draw()

    def _look(self) -> None:
        for track, look in tuple(self._looks):
            try:
                track.add(look())
            except _GONE:
                track.tone = "idle"
                self._looks.remove((track, look))

    def _page(self) -> Page:
        if len(self._tracks) != 1:
            running = f"{len(self._looks)} of {len(self._tracks)} running"
            return [Facts(title=Cell("Stats"), note=running), sparks(tuple(self._tracks))]
        (track,) = self._tracks
        if len(track.samples) < 2:
            note = "ended" if self._ended.is_set() else "waiting for a second sample"
            return [Facts(title=Cell(track.name, tone=track.tone), note=note)]
        span = f"{words.span(track.times[-1] - track.times[0])} ago"
        drawing = Drawing(svg=drawn(track, span, "now" if self._looks else "ended"), text=in_words(track))
        return [Facts(title=Cell(track.name, tone=track.tone), note=self._note()), drawing]

    def _note(self) -> str:
        if self._ended.is_set():
            return "ended" if not self._looks else "stopped"
        return f"every {self._interval_s:g} s"

    def __repr__(self) -> str:
        return f"<LiveStats of {', '.join(track.name for track in self._tracks)}: {self._note()}>"


class LiveLogs(Live):
    """What a container writes, as it comes. Made by `Container.live_logs`."""

    __slots__ = ("_count", "_finished", "_lines", "_name", "_reading")

    def __init__(
        self,
        name: str,
        read: Callable[[Callable[[], bool]], Iterator[LogLine]],
        is_finished: Callable[[], bool],
        kept: int,
    ) -> None:
        """read: follows the log until what it is given says that this is over."""
        if kept < 1:
            raise InvalidSpecError(f"{kept=}: must be 1 at least")
        self._name, self._finished, self._count = name, False, 0
        self._lines = deque[LogLine](maxlen=kept)
        self._reading = read(lambda: self._ended.is_set() or is_finished())
        super().__init__("logs")

    @property
    def lines(self) -> tuple[LogLine, ...]:
        """Those in sight."""
        return tuple(self._lines)

    def _record(self) -> None:
        drawing = threading.Thread(target=self._keep_drawing, name="lxcwrap-logs-drawing", daemon=True)
        drawing.start()
        try:
            for line in self._reading:
                self._lines.append(line)
                self._count += 1
                if self._ended.is_set():
                    return
            self._finished = not self._ended.is_set()
        finally:
            self._ended.set()
            drawing.join()

    def _keep_drawing(self) -> None:
        """Not with each line: there may be thousands in a second."""
        drawn = 0
        while not self._ended.wait(_REDRAW_S):
            if (count := self._count) != drawn:
                self._draw()
                drawn = count

    def _page(self) -> Page:
        note = "ended" if self._finished else "stopped" if self._ended.is_set() else "following"
        tone: Tone = "idle" if self._ended.is_set() else "good"
        head: Block = Facts(title=Cell(self._name, tone=tone), note=note)
        return [head, Output(lines=[log_line(line) for line in tuple(self._lines)], follows=True)]

    def __repr__(self) -> str:
        return f"<LiveLogs of {self._name}: {len(self._lines)} lines>"


# --- the notebook ---


def _end_when_interrupted(shell: Any) -> None:
    """The stop button reaches the main thread alone, while a cell runs: it is heard of afterwards."""
    shell.events.register("post_run_cell", _after_cell)


def _after_cell(result: Any) -> None:
    if isinstance(result.error_in_exec, KeyboardInterrupt):
        for each in tuple(_running):
            each.stop()
