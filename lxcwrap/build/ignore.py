"""Patterns that select paths, by the rules of .dockerignore: also those of ``--exclude`` and ``--parents``.

The last pattern that fits a path, or a directory it is in, decides; ``!`` before a pattern makes it an
exception. Source: Dockerfile reference, ".dockerignore files"; moby/patternmatcher.

>>> patterns = Patterns(["*.log", "!keep.log"])
>>> patterns.match("a.log"), patterns.match("keep.log")
(True, False)
"""

from __future__ import annotations

import itertools
import posixpath
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from ..errors import DockerfileError, InvalidSpecError
from .globbing import compiled, expression

MAX_PATTERNS = 10_000


class _Pattern(NamedTuple):
    text: str
    exception: bool
    regex: str

    @property
    def names(self) -> list[str]:
        """Its names down to the first that may stand for several."""
        return list(itertools.takewhile(lambda name: "**" not in name, self.text.split("/")))


class Patterns:
    """An ordered list of patterns. Raises InvalidSpecError: one is malformed."""

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self._patterns = [pattern for text in patterns if (pattern := _parse(text))]
        if len(self._patterns) > MAX_PATTERNS:
            raise InvalidSpecError(f"more than {MAX_PATTERNS} patterns")
        # The last one decides, so they are tried from there; neighbours of one kind as one expression.
        self._runs = [
            (exception, re.compile("|".join(pattern.regex for pattern in run), re.DOTALL))
            for exception, run in itertools.groupby(
                reversed(self._patterns), lambda pattern: pattern.exception
            )
        ]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def match(self, path: str) -> bool:
        """Whether `path` is selected: relative, without ``.`` and ``..``."""
        for exception, run in self._runs:
            if run.match(path):
                return not exception
        return False

    def may_match_below(self, directory: str, *, exceptions: bool) -> bool:
        """Whether a pattern could select something in `directory`; or else, an exception take it out."""
        names = directory.split("/")
        return any(
            _reaches_below(pattern, names) for pattern in self._patterns if pattern.exception == exceptions
        )


def _parse(text: str) -> _Pattern | None:
    text = text.strip()
    if not text:
        return None
    text = _clean(text)
    exception = text.startswith("!")
    text = text.removeprefix("!") if exception else text
    if not text:
        raise InvalidSpecError("pattern '!': nothing follows the exclamation mark")
    return _Pattern(text, exception, expression(text, deep=True))


def _clean(path: str) -> str:
    """As Go's filepath.Clean, which knows no names that begin with two slashes."""
    path = posixpath.normpath(path)
    return path[1:] if path.startswith("//") else path


def _reaches_below(pattern: _Pattern, names: list[str]) -> bool:
    own = pattern.names
    if len(own) <= len(names) and "**" not in pattern.text:
        return False
    return all(_fits(mine, name) for mine, name in zip(own, names, strict=False))


@lru_cache(maxsize=4096)
def _fits(pattern: str, name: str) -> bool:
    try:
        return compiled(pattern).match(name) is not None
    except InvalidSpecError:  # cut out of brackets that hold a slash
        return True


def parse(text: str, file: str) -> Patterns:
    """The patterns of a .dockerignore. Raises DockerfileError: one is malformed, in which line of `file`."""
    patterns: list[str] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.startswith("#") or not (pattern := line.strip()):
            continue
        mark = "!" if pattern.startswith("!") else ""
        pattern = pattern.removeprefix("!").strip() if mark else pattern
        if pattern:
            pattern = _clean(pattern)
            pattern = pattern[1:] if len(pattern) > 1 and pattern[0] == "/" else pattern
        patterns.append(mark + pattern)
        try:
            _parse(patterns[-1])
        except InvalidSpecError as error:
            raise DockerfileError(file, number, 1, str(error)) from None
    return Patterns(patterns)
