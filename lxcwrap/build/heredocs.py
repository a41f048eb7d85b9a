"""``<<NAME`` in a line: which documents it announces, and how they are to be read.

Source: Dockerfile reference, "Here-documents"; BuildKit, where that is silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from .words import Lexer, WordError, words_of

_HEREDOC: Final = re.compile(r"\d*<<(-?)\s*([^<]+)")


@frozen
class Announced:
    """A document to come, from a word at `offset`."""

    name: str
    expand: bool
    chomp: bool
    offset: int = 0


def announced(word: str, offset: int = 0) -> Announced | None:
    """The document a word announces, which must be all of it; None: the word is something else."""
    match = _HEREDOC.fullmatch(word)
    if not match:
        return None
    lexer = Lexer(match[2], {}, keep_variables=True)
    try:
        names = list(words_of(lexer.scan()))
    except WordError:
        return None
    return Announced(names[0], not lexer.quoted, bool(match[1]), offset) if len(names) == 1 else None


def all_announced(line: str) -> Iterator[Announced]:
    """The documents a line announces, in order."""
    if "<<" not in line:
        return
    try:
        pieces = Lexer(line, {}, keep_variables=True, keep_quotes=True).scan()
    except WordError:
        return  # not for us to judge: it may be right for the shell
    cursor = 0
    for word in words_of(pieces):
        cursor = line.index(word, cursor)
        if found := announced(word, cursor):
            yield found
        cursor += len(word)
