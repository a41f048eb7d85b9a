"""Patterns of paths: Go's filepath.Match, and ``**``."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.build.globbing import MAX_PATTERN, expression, has_wildcards, match
from lxcwrap.errors import InvalidSpecError

# As documented for Go's filepath.Match.
MATCHES = """
abc abc yes
* abc yes
*c abc yes
a* a yes
a* abc yes
a* ab/c no
a*/b abc/b yes
a*/b a/c/b no
a*b*c*d*e*/f axbxcxdxe/f yes
a*b*c*d*e*/f axbxcxdxexxx/f yes
a*b*c*d*e*/f axbxcxdxe/xxx/f no
a*b*c*d*e*/f axbxcxdxexxx/fff no
a*b?c*x abxbbxdbxebxczzx yes
a*b?c*x abxbbxdbxebxczzy no
ab[c] abc yes
ab[b-d] abc yes
ab[e-g] abc no
ab[^c] abc no
ab[^b-d] abc no
ab[^e-g] abc yes
a\\*b a*b yes
a\\*b ab no
a?b a☺b yes
a[^a]b a☺b yes
a???b a☺b no
[b-é]* ç yes
*[b-é] A no
a?b a/b no
a*b a/b no
[\\]a] ] yes
[\\-] - yes
[x\\-] x yes
[x\\-] - yes
[x\\-] z no
[\\-x] - yes
[\\-x] a no
*x xxx yes
** a/b no
[b-a] a no
[^b-a] a yes
a] a] yes
{a,b} {a,b} yes
a.c abc no
[[] [ yes
[a[] [ yes
arr[[]0].txt arr[0].txt yes
""".split("\n")[1:-1]

MALFORMED = [
    "[]a]",
    "[-]",
    "[x-]",
    "[-x]",
    "\\",
    "[a-b-c]",
    "[",
    "[^",
    "[^bc",
    "a[",
    "[]",
    "[^]",
    "[!-]",
    "a\\",
]


@pytest.mark.parametrize("row", MATCHES)
def test_matches_as_go_does(row: str) -> None:
    """The cases of Go's own test of filepath.Match, and more of its kind."""
    pattern, name, expected = row.split(" ")
    assert match(pattern, name) == (expected == "yes")


@pytest.mark.parametrize("pattern", [*MALFORMED, "x" * (MAX_PATTERN + 1)])
def test_malformed_patterns_are_refused(pattern: str) -> None:
    """What Go calls ErrBadPattern."""
    with pytest.raises(InvalidSpecError):
        match(pattern, "a")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a*", True), ("a\\*", False), ("[", True), ("a?", True), ("a]", False), ("\\", False)],
)
def test_wildcards_are_seen(text: str, expected: bool) -> None:
    """An escaped one is none."""
    assert has_wildcards(text) == expected


# --- against a slow matcher ---------------------------------------------------------------------------------

MEMBERS = st.sampled_from(["a", "b", "a-c", "c-a", "ab", "\\]"])
SETS = st.builds("[{}{}]".format, st.sampled_from(["", "^/"]), MEMBERS)
PIECES = st.one_of(st.sampled_from(["a", "b", "/", "*", "?", "\\*", "\\a", "."]), SETS)
NAMES = st.text("abc/.]*", max_size=12)


def slow_match(pattern: str, name: str, *, deep: bool = False) -> bool:
    """All ways to read the pattern, tried one after the other. deep: ``**`` as patternmatcher has it."""
    if not pattern:
        return not name
    if deep and pattern.startswith("**"):
        rest = pattern[2:].removeprefix("/")
        if not rest:
            return True
        ends = [0, *(at + 1 for at, character in enumerate(name) if character == "/")]
        return any(slow_match(rest, name[end:], deep=True) for end in ends)
    first, rest = pattern[0], pattern[1:]
    if first == "*":
        component = name.split("/")[0]
        return any(slow_match(rest, name[end:], deep=deep) for end in range(len(component) + 1))
    if first == "?":
        return name[:1] not in ("", "/") and slow_match(rest, name[1:], deep=deep)
    if first == "[":
        members, rest = slow_set(rest)
        return name[:1] != "" and members(name[0]) and slow_match(rest, name[1:], deep=deep)
    if first == "\\":
        first, rest = rest[0], rest[1:]
    return name.startswith(first) and slow_match(rest, name[len(first) :], deep=deep)


def slow_set(text: str) -> tuple[Callable[[str], bool], str]:
    """What is between brackets, as a predicate, and what follows them."""
    negated, text = text.startswith("^"), text.removeprefix("^")
    ranges: list[tuple[str, str]] = []
    while not text.startswith("]") or not ranges:
        low, text = (text[1], text[2:]) if text[0] == "\\" else (text[0], text[1:])
        high, text = (text[1], text[2:]) if text[0] == "-" else (low, text)
        ranges.append((low, high))
    return lambda character: any(low <= character <= high for low, high in ranges) != negated, text[1:]


@given(st.lists(PIECES, max_size=8).map("".join), NAMES)
def test_agrees_with_a_slow_matcher(pattern: str, name: str) -> None:
    """Taking the first place that fits loses nothing."""
    assert match(pattern, name) == slow_match(pattern, name)


DEEP = st.lists(st.one_of(PIECES, st.sampled_from(["**/", "/**/", "**", "a/", "b/"])), max_size=7).map(
    "".join
)


@given(DEEP, NAMES)
def test_agrees_with_a_slow_matcher_on_deep_patterns(pattern: str, name: str) -> None:
    """Also with ``**``, in place of names or beside other characters: the path, or a directory it is in."""
    ends = [at for at, character in enumerate(name) if character == "/"] + [len(name)]
    if re.fullmatch(r"\*\*[^*?\[\]\\/][^*?\[\]\\]*", pattern):  # patternmatcher takes it for an end
        expected = any(name[:end].endswith(pattern[2:]) for end in ends)
    else:
        expected = any(slow_match(pattern, name[:end], deep=True) for end in ends)
    try:
        regex = expression(pattern, deep=True)
    except InvalidSpecError:
        assert pattern.count("*") > 4  # too many for one that cannot be bounded
    else:
        assert (re.compile(regex, re.DOTALL).match(name) is not None) == expected


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*a" * 60 + "b", "a" * 255),
        ("**/a*/" * 40 + "b", "a/" * 1000),
        ("a**b**c*d*x", "abcd/" * 200),
        ("[^x]*" * 100 + "x", "a" * 255),
    ],
)
def test_no_pattern_takes_long(pattern: str, name: str) -> None:
    """Nested repetitions are no weapon."""
    begin = time.process_time()
    assert re.compile(expression(pattern, deep=True), re.DOTALL).match(name) is None
    assert time.process_time() - begin < 1
