"""Many values of one kind as a table: `display.table`."""

from __future__ import annotations

import shlex
from functools import singledispatch
from typing import Any, Final

from attrs import asdict, fields

from ..events import Event, Exited, OutOfMemory, Started
from ..netspecs import PortBinding
from ..results import Change, HealthResult, LogLine, Process, Stats
from ..shown import Shown
from . import words
from .blocks import Cell, Page, Table, Tone
from .containers import port
from .written import as_text

_CHANGES: Final[dict[str, Tone]] = {"added": "good", "modified": "busy", "deleted": "bad"}


class Listing(Shown):
    """A table of values; printed, as text."""

    __slots__ = ("_things",)

    def __init__(self, things: tuple[object, ...]) -> None:
        self._things = things

    def _page(self) -> Page:
        if not self._things:
            return [Table(heads=(), rows=(), empty="nothing")]
        rows = [_cells(each) for each in self._things]
        return [Table(heads=_heads(self._things[0]), rows=rows)]

    def __str__(self) -> str:
        return as_text(self._page())

    def __repr__(self) -> str:
        return f"<table of {len(self._things)}>"


@singledispatch
def _heads(value: object) -> tuple[str, ...]:
    raise TypeError(f"table: values such as {type(value).__name__} have no columns")


@singledispatch
def _cells(value: object) -> tuple[Cell, ...]:
    raise TypeError(f"table: values such as {type(value).__name__} have no columns")


@_heads.register
def _(value: Process) -> tuple[str, ...]:
    return ("PID", "User", "State", "CPU", "Memory", "Started", "Command", "PID outside")


@_cells.register
def _(value: Process) -> tuple[Cell, ...]:
    command = shlex.join(value.argv)
    return (
        Cell(str(value.pid), "number"),
        Cell(str(value.user)),
        Cell(value.state),
        Cell(words.duration(value.cpu_s), "number"),
        Cell(words.size(value.rss), "number"),
        Cell(words.ago(value.started_at), "dim"),
        Cell(command, "code", hint=command),
        Cell(str(value.host_pid), "number"),
    )


@_heads.register
def _(value: Change) -> tuple[str, ...]:
    return ("Change", "Path")


@_cells.register
def _(value: Change) -> tuple[Cell, ...]:
    return Cell(value.kind, "state", tone=_CHANGES[value.kind]), Cell(value.path, "code", hint=value.path)


@_heads.register(LogLine)
def _(value: Any) -> tuple[str, ...]:
    return ("Time", "Stream", "Text")


@_cells.register(LogLine)
def _(value: Any) -> tuple[Cell, ...]:
    return (
        Cell(words.clock(value.time), "dim"),
        Cell(value.stream, "dim"),
        Cell(value.text, "code", hint=value.text),
    )


@_heads.register(HealthResult)
def _(value: Any) -> tuple[str, ...]:
    return ("Probe", "Exit code", "Took", "Output")


@_cells.register(HealthResult)
def health_cells(value: HealthResult) -> tuple[Cell, ...]:
    output = value.output.strip()
    return (
        Cell(words.clock(value.started_at), "dim"),
        Cell("too slow" if value.exit_code is None else str(value.exit_code), "number"),
        Cell(words.duration((value.ended_at - value.started_at).total_seconds()), "number"),
        Cell(output, "code", hint=output),
    )


@_heads.register
def _(value: Stats) -> tuple[str, ...]:
    return ("Time", "CPU", "CPU time", "Memory", "Processes", "Received", "Sent", "Read", "Written")


@_cells.register
def _(value: Stats) -> tuple[Cell, ...]:
    sizes = (value.rx_bytes, value.tx_bytes, value.read_bytes, value.write_bytes)
    return (
        Cell(words.clock(value.time), "dim"),
        Cell(words.share(value.cpu_share), "number"),
        Cell(words.duration(value.cpu_s), "number"),
        Cell(words.size(value.memory_usage), "number"),
        Cell(str(value.pids), "number"),
        *(Cell(words.size(size), "number") for size in sizes),
    )


@_heads.register
def _(value: Event) -> tuple[str, ...]:
    return ("Time", "Event", "Of", "")


@_cells.register
def event_cells(event: Event) -> tuple[Cell, ...]:
    """When, what, to whom, and the rest."""
    facts = {each.name: getattr(event, each.name) for each in fields(type(event))}
    when, whose = facts.pop("time"), ""
    for key in ("name", "network", "volume", "image_id", "container_id"):
        whose = whose or str(facts.get(key) or "").removeprefix("sha256:")
    kind = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__)
    more = (
        f"{key} {_said(value)}" for key, value in facts.items() if not key.endswith("id") and value != whose
    )
    return (
        Cell(words.clock(when), "dim"),
        Cell(kind.strip(), "state", tone=_tone(event)),
        Cell(whose if len(whose) < 64 else whose[:12], "name"),
        Cell(", ".join(more).replace("_", " ")),
    )


def _tone(event: Event) -> Tone:
    failed = isinstance(event, OutOfMemory) or getattr(event, "status", "") == "unhealthy"
    failed |= isinstance(event, Exited) and event.exit_code != 0
    return "bad" if failed else "good" if isinstance(event, Started) else "idle"


def _said(value: object) -> str:
    return port(asdict(value)) if isinstance(value, PortBinding) else str(value)
