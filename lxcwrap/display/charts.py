"""What containers used over time, drawn: SVG of our own, so that nothing else is needed to see it.

A point is written once, in seconds and bytes; the drawing is moved and scaled instead: one more costs next
to nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from math import floor, log10
from typing import Final, NamedTuple

from ..errors import InvalidSpecError
from ..results import Stats
from ..shown import Shown
from . import words
from .blocks import Cell, Drawing, Page, Table, Tone
from .markup import Html, text
from .written import as_file

_BARS: Final = "▁▂▃▄▅▆▇█"
_WIDTH, _HEIGHT, _GAP = 372, 64, 36  # of a panel's plot, and between two
_SPARK_WIDTH, _SPARK_HEIGHT = 96, 18
_TEXT_BARS: Final = 24


class Curve:
    """One figure over time. `points` are as SVG wants them."""

    def __init__(self, kept: int | None) -> None:
        self.values = deque[float](maxlen=kept)
        self.points = deque[str](maxlen=kept)

    def add(self, seconds: float, value: float) -> None:
        self.values.append(value)
        self.points.append(f"{seconds:.2f},{value:.4g}")

    @property
    def now(self) -> float:
        return self.values[-1] if self.values else 0.0

    @property
    def top(self) -> float:
        return max(self.values, default=0.0)

    def bars(self, top: float) -> str:
        """In characters, the newest last."""
        values = list(self.values)[-_TEXT_BARS:]
        return "".join(_BARS[min(7, int(8 * value / top))] if top > 0 else _BARS[0] for value in values)


class Track:
    """The samples of one container, and their curves; with `kept` the last so many."""

    def __init__(self, name: str, kept: int | None = None) -> None:
        self.name = name
        self.tone: Tone = "good"
        self.samples = deque[Stats](maxlen=kept)
        self.times = deque[float](maxlen=kept)  # seconds since the first
        self.cpu, self.memory, self.rx, self.tx, self.read, self.write = (Curve(kept) for _ in range(6))
        self._began: datetime | None = None

    def add(self, stats: Stats) -> None:
        self._began = self._began or stats.time
        seconds = (stats.time - self._began).total_seconds()
        if self.samples:
            self._add_rates(seconds, self.samples[-1], stats)
        self.memory.add(seconds, stats.memory_usage)
        self.times.append(seconds)
        self.samples.append(stats)

    def _add_rates(self, seconds: float, before: Stats, now: Stats) -> None:
        passed_s = max((now.time - before.time).total_seconds(), 1e-3)
        for curve, counter in (
            (self.cpu, now.cpu_s - before.cpu_s),
            (self.rx, now.rx_bytes - before.rx_bytes),
            (self.tx, now.tx_bytes - before.tx_bytes),
            (self.read, now.read_bytes - before.read_bytes),
            (self.write, now.write_bytes - before.write_bytes),
        ):
            curve.add(seconds, max(0.0, counter / passed_s))  # less than before: it was started anew


def _nice(top: float, base: int) -> float:
    """A round number that is not less; of powers of `base`."""
    if top <= 0:
        return 1.0
    unit = 1.0 if base == 10 else 1024.0 ** floor(log10(top) / log10(1024))
    power = unit * 10.0 ** floor(log10(top / unit))
    return next((step * power for step in (1, 2, 5) if step * power >= top), 10 * power)


# --- panels: one container ---


class _Line(NamedTuple):
    curve: Curve
    colour: int
    said: str


class _Panel(NamedTuple):
    title: str
    lines: Sequence[_Line]
    write: Callable[[float], str]
    least: float  # what the scale reaches at least
    base: int


def _rate(value: float) -> str:
    return f"{words.size(value)}/s"


def _panels(track: Track) -> list[_Panel]:
    last = track.samples[-1]
    limit = f" of {words.size(last.memory_limit)}" if last.memory_limit else ""
    cpu, memory = words.share(track.cpu.now), words.size(track.memory.now) + limit
    return [
        _Panel("CPU", [_Line(track.cpu, 1, cpu)], lambda value: f"{value:g}", 0.1, 10),
        _Panel("Memory", [_Line(track.memory, 3, memory)], words.size, 1 << 20, 1024),
        _Panel("Network", _pair(track.rx, "in", track.tx, "out"), _rate, 1024, 1024),
        _Panel("Disk", _pair(track.read, "read", track.write, "written"), _rate, 1024, 1024),
    ]


def _pair(first: Curve, first_name: str, second: Curve, second_name: str) -> list[_Line]:
    return [
        _Line(first, 1, f"{first_name} {_rate(first.now)}"),
        _Line(second, 2, f"{second_name} {_rate(second.now)}"),
    ]


def drawn(track: Track, left: str, right: str) -> Html:
    """Four panels, two by two. left, right: what stands at the ends of the time axis."""
    began, ended = track.times[0], max(track.times[-1], track.times[0] + 1)
    panels = []
    for number, panel in enumerate(_panels(track)):
        x, y = number % 2 * (_WIDTH + 3 * _GAP), number // 2 * (_HEIGHT + 2 * _GAP)
        panels.append(
            f'<g transform="translate({x},{y + 22})">{_panel(panel, began, ended, left, right)}</g>'
        )
    width, height = 2 * _WIDTH + 4 * _GAP + 30, 2 * _HEIGHT + 3 * _GAP + 10
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">{"".join(panels)}</svg>'
    )


def _panel(panel: _Panel, began: float, ended: float, left: str, right: str) -> str:
    top = _nice(max(panel.least, *(line.curve.top for line in panel.lines)), panel.base)
    x, y = _WIDTH / (ended - began), _HEIGHT / top
    scale = f"translate({-began * x:.2f},{_HEIGHT}) scale({x:.5g},{-y:.5g})"
    several = len(panel.lines) > 1
    heads = "".join(
        f'<tspan dx="{10 if number else 0}" class="{f"lx-p{line.colour}" if several else "lx-strong"}">'
        f"{text(line.said)}</tspan>"
        for number, line in enumerate(panel.lines)
    )
    curves = "".join(_curve(line) for line in panel.lines)
    middle = _HEIGHT / 2
    return (
        f'<text y="-8">{text(panel.title)}</text><text x="{_WIDTH}" y="-8" text-anchor="end">{heads}</text>'
        f'<path class="lx-rule" d="M0,.5H{_WIDTH}M0,{middle + 0.5}H{_WIDTH}M0,{_HEIGHT + 0.5}H{_WIDTH}"/>'
        f'<g transform="{scale}">{curves}</g>'
        f'<text x="{_WIDTH + 6}" y="4">{text(panel.write(top))}</text>'
        f'<text x="{_WIDTH + 6}" y="{_HEIGHT + 4}">0</text>'
        f'<text y="{_HEIGHT + 16}">{text(left)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 16}" text-anchor="end">{text(right)}</text>'
    )


def _curve(line: _Line) -> str:
    points = line.curve.points
    if len(points) < 2:
        return ""
    joined, first, last = " ".join(points), points[0].partition(",")[0], points[-1].partition(",")[0]
    return (
        f'<polygon class="lx-f{line.colour}" points="{first},0 {joined} {last},0"/>'
        f'<polyline class="lx-l{line.colour}" points="{joined}"/>'
    )


def in_words(track: Track) -> str:
    """The same as text."""
    lines = []
    for panel in _panels(track):
        top = _nice(max(panel.least, *(line.curve.top for line in panel.lines)), panel.base)
        lines += [f"{panel.title:8} {line.curve.bars(top):{_TEXT_BARS}}  {line.said}" for line in panel.lines]
    return "\n".join(lines)


# --- sparks: many containers ---


def sparks(tracks: Iterable[Track]) -> Table:
    """A line for each, with a spark for processor and memory."""
    rows = [_spark_row(track) for track in tracks]
    heads = ("Name", "State", "CPU", "Memory", "Network in", "out", "Processes")
    return Table(heads=heads, rows=rows, empty="no containers")


def _spark_row(track: Track) -> tuple[Cell, ...]:
    if not track.samples:
        return (
            Cell(track.name, "name"),
            Cell("not running", "state", tone="idle"),
            *(Cell("") for _ in range(5)),
        )
    last = track.samples[-1]
    limit = f" / {words.size(last.memory_limit)}" if last.memory_limit else ""
    said = {"good": "running", "busy": "paused"}.get(track.tone, "ended")
    return (
        Cell(track.name, "name"),
        Cell(said, "state", tone=track.tone),
        Cell(words.share(track.cpu.now), drawing=_spark(track, track.cpu, 1, 0.1)),
        Cell(words.size(track.memory.now) + limit, drawing=_spark(track, track.memory, 3, 1 << 20)),
        Cell(_rate(track.rx.now), "number"),
        Cell(_rate(track.tx.now), "number"),
        Cell(str(last.pids), "number"),
    )


def _spark(track: Track, curve: Curve, colour: int, least: float) -> Html:
    began, ended, top = track.times[0], max(track.times[-1], track.times[0] + 1), max(least, curve.top) * 1.05
    x, y = _SPARK_WIDTH / (ended - began), _SPARK_HEIGHT / top
    return Html(
        f'<svg width="{_SPARK_WIDTH}" height="{_SPARK_HEIGHT}" aria-hidden="true">'
        f'<path class="lx-rule" d="M0,{_SPARK_HEIGHT - 0.5}H{_SPARK_WIDTH}"/>'
        f'<g transform="translate({-began * x:.2f},{_SPARK_HEIGHT - 0.5}) scale({x:.5g},{-y:.5g})">'
        f'<polyline class="lx-l{colour}" points="{" ".join(curve.points)}"/></g></svg>'
    )


# --- after the fact ---


class Figure(Shown):
    """What a container used, from the first to the last of `samples`. A notebook shows it; ``str()`` is the
    same in characters."""

    __slots__ = ("_track", "samples")

    def __init__(self, samples: tuple[Stats, ...]) -> None:
        if len(samples) < 2:
            raise InvalidSpecError(f"a plot of {len(samples)} samples: it takes two at least")
        self.samples = samples
        self._track = Track("")
        for before, sample in pairwise((samples[0], *samples)):
            if sample.time < before.time:
                raise InvalidSpecError("a plot of samples that are not in the order of their time")
            self._track.add(sample)

    def _page(self) -> Page:
        return [Drawing(svg=self._drawing(), text=str(self))]

    def _drawing(self) -> Html:
        first, last = self.samples[0].time, self.samples[-1].time
        return drawn(self._track, words.clock(first), words.clock(last))

    @property
    def svg(self) -> str:
        """The drawing with its colours, to be written into a file."""
        return as_file(self._drawing())

    def __str__(self) -> str:
        return in_words(self._track)

    def __repr__(self) -> str:
        return f"<Figure of {len(self.samples)} samples>"
