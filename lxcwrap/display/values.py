"""Results as they are shown, and which page is whose."""

from __future__ import annotations

import shlex
from functools import singledispatch
from typing import Any, Final

from ..events import Event
from ..results import Completed, DiskUsage, Health, LogLine, Pruned, Stats
from . import words
from .blocks import Block, Cell, Facts, Output, Page, Table, Tone
from .containers import usage

_MAX_LINES: Final = 1000  # of an output, each way from its middle


def page(thing: Any) -> Page:
    """What says how it is shown itself, or a result that this module knows."""
    own = getattr(thing, "_page", None)
    shown: Page = own() if own else _page(thing)
    return shown


@singledispatch
def _page(value: object) -> Page:
    raise TypeError(f"{type(value).__name__} has no display")


@_page.register
def _(done: Completed) -> Page:
    failed = done.exit_code != 0
    facts = (
        ("exit code", Cell(f"{done.exit_code}{', out of memory' if done.oom_killed else ''}")),
        ("took", Cell(words.duration(done.duration_s))),
    )
    blocks: list[Block] = [
        Facts(title=Cell(shlex.join(done.argv), tone="bad" if failed else "good"), facts=facts)
    ]
    lines = [*_lines(done.stdout, ""), *_lines(done.stderr, "bad")]
    return [*blocks, Output(lines=lines)] if lines else blocks


def _lines(text: str, tone: Tone) -> list[tuple[str, str, Tone]]:
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    left_out = len(lines) - 2 * _MAX_LINES
    if left_out > 0:
        lines[_MAX_LINES:-_MAX_LINES] = [f"... {left_out} lines left out ..."]
    return [("", line, tone) for line in lines]


@_page.register
def _(stats: Stats) -> Page:
    pressure = stats.pressure
    waits = f"{pressure.cpu:.0%} cpu, {pressure.memory:.0%} memory, {pressure.io:.0%} io" if pressure else ""
    facts = (
        *usage(stats),
        ("throttled", Cell(words.duration(stats.throttled_s) if stats.throttled_s else "")),
        ("swap", Cell(words.size(stats.swap_usage) if stats.swap_usage else "")),
        ("out of memory", Cell(words.count(stats.oom_kills, "time") if stats.oom_kills else "")),
        ("waiting", Cell(waits)),
    )
    return [Facts(title=Cell("Stats"), note=words.clock(stats.time), facts=facts)]


@_page.register
def _(usage: DiskUsage) -> Page:
    most = max(usage.total, 1)
    kinds = ("blobs", "layers", "containers", "volumes", "logs", "build_cache", "trash", "other")
    sizes = [(kind.replace("_", " "), getattr(usage, kind)) for kind in kinds]
    rows = [(Cell(kind), Cell(words.size(size), "number", share=size / most * 0.899)) for kind, size in sizes]
    images = [
        (
            Cell(", ".join(image.tags) or image.id[7:19], "name"),
            Cell(words.size(image.blobs), "number"),
            Cell(words.size(image.unique), "number"),
            Cell(str(image.containers), "number"),
        )
        for image in usage.images
    ]
    return [
        Table(title="Disk usage", note=words.size(usage.total), heads=("Kind", "On disk"), rows=rows),
        Table(heads=("Image", "Stored", "Its own", "Containers"), rows=images, empty="no images"),
    ]


@_page.register
def _(pruned: Pruned) -> Page:
    facts = (
        ("freed", Cell(words.size(pruned.freed))),
        ("images", Cell(str(len(pruned.images)))),
        ("build steps", Cell(str(pruned.build_steps))),
    )
    return [Facts(title=Cell("Pruned"), facts=facts)]


@_page.register
def _(health: Health) -> Page:
    tones: dict[str, Tone] = {"healthy": "good", "unhealthy": "bad"}
    note = f"failed {words.count(health.failing_streak, 'time')} in a row" if health.failing_streak else ""
    from .listing import Listing

    probes = Listing(health.results)._page()
    return [
        Facts(title=Cell(health.status, tone=tones.get(health.status, "busy")), note=note),
        *(probes if health.results else ()),
    ]


@_page.register
def _(event: Event) -> Page:
    from .listing import Listing

    return Listing((event,))._page()


def log_line(line: LogLine) -> tuple[str, str, Tone]:
    return words.clock(line.time), line.text, "bad" if line.stream == "stderr" else ""
