"""COPY of any tree: all of it arrives, and equal trees have equal keys."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.build.contentkey import key
from lxcwrap.build.ignore import Patterns
from lxcwrap.build.placement import Placement

from .copytree import Copying, look, make

NAMES = st.sampled_from(["a", "b", "c.txt", "ü", "x y", "-", "*"])
DIRECTORIES = st.lists(NAMES, max_size=3).map("/".join)
CONTENTS = st.sampled_from(["", "text", "->a", "->../b", "->/c.txt", None])


@st.composite
def trees(draw: st.DrawFn) -> dict[str, str | None]:
    """Files, links and directories, none of them in the way of another."""
    tree: dict[str, str | None] = {}
    for directory, name in draw(st.lists(st.tuples(DIRECTORIES, NAMES), max_size=8)):
        path = f"{directory}/{name}".lstrip("/")
        taken = any(path.startswith(f"{other}/") and tree[other] is not None for other in tree)
        if not taken and not any(other.startswith(f"{path}/") or other == path for other in tree):
            tree[path] = draw(CONTENTS)
    return tree


def _fresh() -> Copying:
    return Copying(Path(tempfile.mkdtemp(prefix="copy-")))


def _drop(copying: Copying) -> None:
    shutil.rmtree(copying.context.parent)


@settings(max_examples=60, deadline=None)
@given(trees())
def test_all_arrives(tree: dict[str, str | None]) -> None:
    """Whatever the names, and a second time over itself."""
    copying = _fresh()
    try:
        make(copying.context, tree)
        expected = look(copying.context)
        assert copying.copy(".", to="/") == expected
        assert copying.copy(".", to="/") == expected
    finally:
        _drop(copying)


@settings(max_examples=60, deadline=None)
@given(trees(), trees())
def test_keys_are_equal_for_equal_trees_only(one: dict[str, str | None], two: dict[str, str | None]) -> None:
    """Names, kinds and contents; where they lie does not matter."""
    first, second = _fresh(), _fresh()
    keys, looks = [], []
    placement = Placement(sources=(".",), destination="/")
    try:
        for copying, tree in ((first, one), (second, two)):
            make(copying.context, tree)
            looks.append(look(copying.context))
            with copying.source() as source:
                keys.append(key(source, placement))
        assert (keys[0] == keys[1]) == (looks[0] == looks[1])
    finally:
        _drop(first)
        _drop(second)


PATTERNS = st.lists(
    st.sampled_from(["*", "a", "!a", "**/b", "!**/b", "a/*", "!a/b", "*.txt", "!a/a/*"]), max_size=4
)


@settings(max_examples=60, deadline=None)
@given(trees(), PATTERNS)
def test_exactly_what_is_not_ignored_arrives(tree: dict[str, str | None], patterns: list[str]) -> None:
    """Files and links one by one, and the directories on their way."""
    copying = _fresh()
    try:
        make(copying.context, tree)
        rules = Patterns([*patterns, ".dockerignore"])
        expected = {name for name, content in look(copying.context).items() if content is not None}
        (copying.context / ".dockerignore").write_text("\n".join([*patterns, ".dockerignore"]))
        found = copying.copy(".", to="/")
        files = {name for name, content in found.items() if content is not None}
        assert files == {name for name in expected if not rules.match(name)}
        empty = {name for name in found if not any(other.startswith(f"{name}/") for other in found)} - files
        assert not any(rules.match(name) for name in empty)
    finally:
        _drop(copying)
