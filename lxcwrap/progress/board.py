"""What a display shows: events in, lines out. Pure; the time is given.

Some lines are final (output of build steps, steps that are done): each is taken once, to scroll. The others
are live: what is under way now.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from typing import Final

from .events import ProgressEvent, StepFinished, StepOutput, StepStarted, TransferProgress

MAX_LIVE: Final = 10
"""How many live lines there are at most."""

_MAX_WAITING: Final = 1000  # final lines that nobody has taken; older ones are left out
_MAX_PARTIAL: Final = 4096
_BAR: Final = 20
_ENDED: Final = ("present", "mounted", "done", "failed")
_SEQUENCES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)?", re.DOTALL)
# What a build writes comes from strangers: it must not steer the terminal, nor turn text around.
_CONTROLS: Final = re.compile("[\0-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text that a terminal shows and does not obey."""
    text = _CONTROLS.sub("", _SEQUENCES.sub("", text)).expandtabs()
    return (
        text if text.isascii() else text.encode(errors="replace").decode()
    )  # names of files may be no UTF-8


def cells(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fitted(text: str, columns: int) -> str:
    """As much of the text as `columns` hold."""
    if cells(text) <= columns:
        return text
    kept, width = [], 0
    for character in text:
        width += _cell(character)
        if width > columns - 3:
            break
        kept.append(character)
    return ("".join(kept) + "...")[: max(columns, 0)]


def _size(*counts: int) -> str:
    """Bytes in one unit: ``1.5 MB``, and ``1.5/40.0 MB`` for two."""
    unit, name = (1e6, "MB") if max(counts) < 1e9 else (1e9, "GB")
    return f"{'/'.join(f'{count / unit:.1f}' for count in counts)} {name}"


def _time(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Board:
    """Takes events, and tells the lines to show. `now` is in seconds, of any clock that only goes forward."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self._transfers: dict[tuple[str, str], TransferProgress] = {}
        self._steps: dict[int, tuple[str, float]] = {}
        self._partial: dict[tuple[int, str], str] = {}
        self._final: deque[str] = deque(maxlen=_MAX_WAITING)
        self._left_out = 0

    def add(self, event: ProgressEvent, now: float) -> None:
        match event:
            case TransferProgress():
                self._transfers[event.operation, event.item] = event
            case StepStarted():
                stage = f"{event.stage} " if event.stage else ""
                title = clean(f"[{stage}{event.step}/{event.total}] {event.instruction}".replace("\n", " "))
                self._steps[event.step] = title, now
            case StepOutput():
                self._write(event)
            case StepFinished():
                self._finish(event)

    def _write(self, event: StepOutput) -> None:
        key = event.step, event.stream
        *lines, rest = (self._partial.get(key, "") + event.text).split("\n")
        if len(rest) > _MAX_PARTIAL:
            lines, rest = [*lines, rest], ""
        self._partial[key] = rest
        for line in lines:
            self._say(event.step, line)

    def _say(self, step: int, line: str) -> None:
        # What a program wrote over itself has been replaced.
        self._end(clean(f"[{step}] {line.rstrip(chr(13)).rpartition(chr(13))[2]}"))

    def _end(self, line: str) -> None:
        self._left_out += len(self._final) == _MAX_WAITING
        self._final.append(line)

    def _finish(self, event: StepFinished) -> None:
        for key in [key for key in self._partial if key[0] == event.step]:
            if rest := self._partial.pop(key):
                self._say(event.step, rest)
        title, _ = self._steps.pop(event.step, (f"[{event.step}]", 0.0))
        self._end(f"{title}  {'cached' if event.cached else f'{event.duration_s:.1f} s'}")

    def take_final(self) -> list[str]:
        """The lines that are final since the last call."""
        lines = [*([f"... {self._left_out} lines left out"] if self._left_out else []), *self._final]
        self._final.clear()
        self._left_out = 0
        return lines

    def live(self, now: float) -> list[str]:
        """The lines of what is under way."""
        transfers = self._transfers.values()
        active = [event for event in transfers if event.phase in ("transferring", "unpacking")]
        lines = [
            *([self._summary(now)] if transfers else []),
            *(f"{title}  {_time(now - begun)}" for title, begun in self._steps.values()),
            *map(self._transfer, active),
        ]
        more = len(lines) - MAX_LIVE
        return lines if more <= 0 else [*lines[: MAX_LIVE - 1], f"... and {more + 1} more"]

    def _summary(self, now: float) -> str:
        transfers = self._transfers.values()
        operation = next(iter(transfers)).operation
        ended = sum(event.phase in _ENDED for event in transfers)
        size = sum(event.done_bytes for event in transfers)
        return f"{operation}  {ended}/{len(transfers)}  {_size(size)}  {_time(now - self._begun)}"

    @staticmethod
    def _transfer(event: TransferProgress) -> str:
        item = clean(event.item.partition(":")[2] or event.item)[:12]
        if not event.total_bytes:
            return f"  {item}  {_size(event.done_bytes)}  {event.phase}"
        full = min(_BAR, _BAR * event.done_bytes // event.total_bytes)
        bar = "#" * full + "." * (_BAR - full)
        return f"  {item}  [{bar}]  {_size(event.done_bytes, event.total_bytes)}  {event.phase}"
