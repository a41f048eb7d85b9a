"""Patterns of paths as Go's filepath.Match has them, with ``**`` where .dockerignore allows it.

``*`` is any text within a name, ``?`` one character of a name, ``[a-z]`` and ``[^a-z]`` a character in or out
of ranges; a backslash takes the meaning of the next character away. ``**/`` is any number of directories,
``**`` at the end everything. Source: Go, path/filepath.Match; moby/patternmatcher, for ``**``.

No pattern takes long: after each wildcard the first place that fits is kept and not tried again, wherever a
later one could not do better.

>>> match("*.[ch]", "main.c"), match("*.[ch]", "src/main.c")
(True, False)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from ..errors import InvalidSpecError

MAX_PATTERN: Final = 4096
_MAX_LOOSE: Final = 4  # wildcards in a pattern that has ** beside other characters: time grows by their power
_END: Final = r"(?=/|\Z)"
_MEMBER: Final = r"(?:\\.|[^\\\]-])"
_SET: Final = re.compile(rf"\[(\^?+)((?:{_MEMBER}(?:-{_MEMBER})?)+)\]", re.DOTALL)
_RANGE: Final = re.compile(r"(\\.|[^\\])(?:-(\\.|[^\\]))?", re.DOTALL)
_DEEP: Final = re.compile(r"\*\*/?")


def has_wildcards(text: str) -> bool:
    """Whether an unescaped ``*``, ``?`` or ``[`` is in it."""
    return bool(re.search(r"[*?[]", re.sub(r"\\.?", "", text, flags=re.DOTALL)))


def match(pattern: str, path: str) -> bool:
    """Whether all of `path` matches. Raises InvalidSpecError: the pattern is malformed."""
    return compiled(pattern).match(path) is not None


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(expression(pattern, deep=False) + r"\Z", re.DOTALL)


class _Token(NamedTuple):
    """ "deep": ``**/`` in place of names; "loose": ``**`` beside other characters; "rest": at the end."""

    kind: Literal["text", "one", "star", "deep", "loose", "rest"]
    regex: str = ""


def expression(pattern: str, *, deep: bool) -> str:
    """A regular expression (DOTALL) of what matches; that ends where a name does, at a slash or at the end.

    deep: ``**`` has its meaning. Raises InvalidSpecError: the pattern is malformed, or could take too long.
    """
    if len(pattern) > MAX_PATTERN:
        raise InvalidSpecError(f"pattern {pattern[:80]!r}...: has more than {MAX_PATTERN} characters")
    tokens = list(_tokens(pattern, deep))
    kinds = [token.kind for token in tokens]
    if kinds[:1] == ["loose"] and set(kinds[1:]) == {"text"} and "\\" not in pattern:
        # patternmatcher does not take ``**.log`` for what its parts say, but for all that ends so.
        return ".*" + "".join(token.regex for token in tokens) + _END
    end = _END
    if kinds[-1:] == ["rest"]:
        tokens.pop()
        end = ""
    return (_loose(pattern, tokens) if "loose" in kinds else _tidy(tokens)) + end


def _tokens(pattern: str, deep: bool) -> Iterator[_Token]:
    at = 0
    while at < len(pattern):
        character = pattern[at]
        if deep and (stars := _DEEP.match(pattern, at)):
            whole_name = stars[0] == "**/" and (at == 0 or pattern[at - 1] == "/")
            at = stars.end()
            yield _Token("rest" if at == len(pattern) else "deep" if whole_name else "loose")
        elif character == "[":
            if not (found := _SET.match(pattern, at)):
                raise InvalidSpecError(
                    f"pattern {pattern!r}: the brackets at character {at + 1} are malformed"
                )
            yield _Token("one", _set(found[2], negated=bool(found[1])))
            at = found.end()
        elif character == "\\":
            if at + 1 == len(pattern):
                raise InvalidSpecError(f"pattern {pattern!r}: nothing follows the backslash at its end")
            yield _Token("text", re.escape(pattern[at + 1]))
            at += 2
        else:
            kind = {"*": _Token("star"), "?": _Token("one", "[^/]")}
            yield kind.get(character) or _Token("text", re.escape(character))
            at += 1


def _set(members: str, *, negated: bool) -> str:
    ranges = []
    for low, high in _RANGE.findall(members):
        first, last = low[-1], (high or low)[-1]
        if first <= last:  # else nothing is in it
            ranges.append(f"{re.escape(first)}-{re.escape(last)}")
    if not ranges:
        return "." if negated else "(?!)"
    return f"[{'^' if negated else ''}{''.join(ranges)}]"


def _tidy(tokens: Sequence[_Token]) -> str:
    """Each ``**`` stands for whole names: what is between two of them is taken where it comes first."""
    first, *rest = (_unit(unit) for unit in _split(tokens, "deep"))
    found = [f"(?>(?:.*?/)??{unit})" for unit in rest[:-1]] + [f"(?:.*/)?{unit}" for unit in rest[-1:]]
    return first + "".join(found)


def _unit(tokens: Sequence[_Token]) -> str:
    """Names and slashes: what is between two ``*`` is taken where it comes first in the name."""
    first, *rest = ("".join(token.regex for token in chunk) for chunk in _split(tokens, "star"))
    found = [f"(?>[^/]*?{chunk})" for chunk in rest[:-1]] + [f"[^/]*{chunk}" for chunk in rest[-1:]]
    return first + "".join(found)


def _loose(pattern: str, tokens: Sequence[_Token]) -> str:
    if sum(token.kind in ("deep", "loose", "star") for token in tokens) > _MAX_LOOSE:
        raise InvalidSpecError(f"pattern {pattern!r}: has ** beside other characters, and too many wildcards")
    regex = {"deep": "(?:.*/)?", "loose": "(?:.*/)?", "star": "[^/]*"}
    return "".join(regex.get(token.kind, token.regex) for token in tokens)


def _split(tokens: Sequence[_Token], kind: str) -> list[list[_Token]]:
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        if token.kind == kind:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
