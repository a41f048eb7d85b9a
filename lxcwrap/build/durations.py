"""Durations as Go writes them: ``1m30s``, ``1.5h``, ``250ms``."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

_UNITS: Final = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_PART: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(ns|us|µs|μs|ms|s|m|h)")
_LONGEST_S: Final = Fraction(2**63 - 1, 10**9)


def parse_duration(text: str) -> float:
    """Seconds. Raises ValueError: malformed, negative, or more than Go's 2**63 ns."""
    total, position = Fraction(0), 0
    while position < len(text) and (part := _PART.match(text, position)):
        total += Fraction(part[1]) * _UNITS[part[2]]
        position = part.end()
        if total > _LONGEST_S:
            raise ValueError(f"{text[:40]!r} is too long a time")
    if text != "0" and (not text or position < len(text)):
        raise ValueError(f"{text[:40]!r} is no time: write 30s, 1m30s or 500ms")
    return float(total)
