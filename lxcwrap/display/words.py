"""Figures in words: sizes, times, shares."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_OLD_S: Final = 10 * 365 * 86400
_SPANS: Final = ((86400 * 365, "y"), (86400, "d"), (3600, "h"), (60, "min"))


def size(count: float | None) -> str:
    """Bytes, with three digits: ``52.3 MiB``."""
    if count is None:
        return ""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1024, unit + 1
    digits = 0 if unit == 0 or count >= 99.95 else 1
    return f"{f'{count:.{digits}f}'.removesuffix('.0')} {_UNITS[unit]}"


def span(seconds: float) -> str:
    """A time that has passed, in its largest unit: ``5 min``."""
    for length, unit in _SPANS:
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def duration(seconds: float) -> str:
    """How long work took: ``12 ms``, ``3.2 s``."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


def ago(moment: datetime | None) -> str:
    """As `span`; of what is very old, such as the time that reproducible images have, the date."""
    if moment is None:
        return ""
    passed_s = (datetime.now(UTC) - moment).total_seconds()
    return f"{span(passed_s)} ago" if passed_s < _OLD_S else moment.strftime("%Y-%m-%d")


def clock(moment: datetime) -> str:
    """The time of day here."""
    return moment.astimezone().strftime("%H:%M:%S")


def share(value: float | None) -> str:
    """Processors' worth of time, or a part of a whole."""
    return "" if value is None else f"{value:.2f}"


def count(number: int, thing: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
