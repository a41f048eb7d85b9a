"""The patterns of ``${name#pattern}``, ``${name%pattern}`` and ``${name/pattern/text}``, in bounded time.

``*`` is any text, ``?`` any character; a backslash takes the meaning of these and of itself away, and lets
``/`` and ``}`` be written. There are no brackets. Source: Dockerfile reference, "Environment replacement".
"""

from __future__ import annotations

import re
from typing import Final

MAX_PATTERN: Final = 1024

Segments = list[list[str]]
"""What stands between the stars: a regular expression for each of its characters."""


def parse(pattern: str) -> Segments:
    """Raises ValueError: what is wrong with the pattern."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"the pattern has more than {MAX_PATTERN} characters")
    segments: Segments = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "*":
            segments.append([])
        elif character == "?":
            segments[-1].append(".")
        else:
            if character == "\\":
                character = next(characters, "")
                if character not in ("*", "?", "\\", "/", "}"):
                    raise ValueError(f"in a pattern, '\\{character}' means nothing: double the backslash")
            segments[-1].append(re.escape(character))
    return segments


def _expression(segments: Segments, *, longest: bool) -> re.Pattern[str]:
    # A segment found early never spoils what follows, so none is tried twice (atomic groups): no pattern
    # takes more than the product of both lengths. Only the last one decides how far the match reaches.
    head, *rest = ("".join(segment) for segment in segments)
    found = [f"(?>.*?{segment})" for segment in rest]
    if found and longest:
        found[-1] = f"(?>.*{rest[-1]})"
    return re.compile(head + "".join(found), re.DOTALL)


def without_prefix(value: str, segments: Segments, *, longest: bool) -> str:
    match = _expression(segments, longest=longest).match(value)
    return value[match.end() :] if match else value


def without_suffix(value: str, segments: Segments, *, longest: bool) -> str:
    mirrored = [segment[::-1] for segment in reversed(segments)]
    return without_prefix(value[::-1], mirrored, longest=longest)[::-1]


def replaced(value: str, segments: Segments, text: str, *, every: bool, max_length: int) -> str:
    """With `text` for the first match, or for every one; the longest from where it begins.

    Raises ValueError: the result would have more than `max_length` characters.
    """
    head = _expression(segments[:1], longest=True)
    rest = _expression([[], *segments[1:]], longest=True)
    pieces: list[str] = []
    copied = cursor = length = 0
    while cursor <= len(value) and (first := head.search(value, cursor)):
        # What cannot go on from the first place cannot from a later one either.
        if not (last := rest.match(value, first.end())):
            break
        start, end = first.start(), last.end()
        # Nothing right behind a match is no match of its own.
        if end > start or not pieces or start > copied:
            pieces += value[copied:start], text
            length += start - copied + len(text)
            if length > max_length:
                raise ValueError(f"the result has more than {max_length} characters")
            copied = end
            if not every:
                break
        cursor = end if end > start else end + 1
    return "".join(pieces) + value[copied:]
