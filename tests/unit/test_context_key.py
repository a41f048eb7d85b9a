"""Keys of COPY and ADD: equal for equal results, different for others; and nothing is read twice."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lxcwrap.build import filedigests
from lxcwrap.build.contentkey import key
from lxcwrap.build.context import Source
from lxcwrap.build.filedigests import FileDigests
from lxcwrap.build.placement import InlineFile, Placement
from lxcwrap.digests import Digest

from .copytree import Copying, make

TREE = {"d/a": "one", "d/b": "two", "d/s/c": "three", "d/link": "->a", "d/empty": None}
ALL = Placement(sources=("d",), destination="/x/")


@pytest.fixture
def copying(tmp_path: Path) -> Copying:
    copying = Copying(tmp_path)
    make(copying.context, TREE)
    return copying


def key_of(copying: Copying, placement: Placement = ALL, working_dir: str = "/") -> Digest:
    with copying.source() as source:
        return key(source, placement, working_dir=working_dir)


def _relink(link: Path, text: str) -> None:
    link.unlink()
    link.symlink_to(text)


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: (root / "d/a").write_text("six"),
    "mode": lambda root: (root / "d/a").chmod(0o755),
    "mode of a directory": lambda root: (root / "d/s").chmod(0o700),
    "name": lambda root: (root / "d/a").rename(root / "d/a2"),
    "place": lambda root: (root / "d/a").rename(root / "d/s/a"),
    "link": lambda root: _relink(root / "d/link", "b"),
    "kind": lambda root: (root / "d/link").rename(root / "d/old") and (root / "d/link").write_text("one"),
    "new file": lambda root: (root / "d/new").write_text(""),
    "new directory": lambda root: (root / "d/new").mkdir(),
    "deletion": lambda root: (root / "d/empty").rmdir(),
    "swap": lambda root: ((root / "d/a").write_text("two"), (root / "d/b").write_text("one")),
    "attribute": lambda root: os.setxattr(root / "d/a", "user.x", b"y"),
    "attribute of a directory": lambda root: os.setxattr(root / "d/s", "user.x", b"y"),
    "hard link": lambda root: os.link(root / "d/a", root / "d/c"),
    "ignored": lambda root: (root / ".dockerignore").write_text("d/a"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_result_changes_the_key(copying: Copying, change: str) -> None:
    """In each way a file can differ."""
    before = key_of(copying)
    CHANGES[change](copying.context)
    assert key_of(copying) != before


def test_times_and_the_inodes_do_not_matter(copying: Copying) -> None:
    """A copy of the context has the same key; so has one without the database."""
    before = key_of(copying)
    shutil.copytree(copying.context, copying.context.with_name("other"), symlinks=True)
    shutil.rmtree(copying.context)
    copying.context.with_name("other").rename(copying.context)
    for path in copying.context.rglob("*"):
        os.utime(path, (5, 5), follow_symlinks=False)
    (copying.context / "elsewhere").write_text("")
    assert key_of(copying) == before
    copying.database.unlink(missing_ok=True)
    assert key_of(copying) == before


def test_what_is_asked_for_is_in_the_key(copying: Copying) -> None:
    """Each of these makes another result."""
    asked = [
        ALL,
        Placement(sources=("d",), destination="/y/"),
        Placement(sources=("d",), destination="x/"),
        Placement(sources=("d",), destination="/x/", chown="1"),
        Placement(sources=("d",), destination="/x/", chmod="700"),
        Placement(sources=("d",), destination="/x/", link=True),
        Placement(sources=("d",), destination="/x/", parents=True),
        Placement(sources=("d",), destination="/x/", add=True),
        Placement(sources=("d",), destination="/x/", exclude=("b",)),
        Placement(sources=("d/a",), destination="/x/"),
        Placement(sources=("d/a",), destination="/x"),
        Placement(sources=("d/b",), destination="/x/"),
        Placement(sources=("d/a", "d/b"), destination="/x/"),
        Placement(sources=("d/b", "d/a"), destination="/x/"),
        Placement(inline=(InlineFile("a", b"1"),), destination="/x/"),
        Placement(inline=(InlineFile("a", b"2"),), destination="/x/"),
        Placement(inline=(InlineFile("b", b"1"),), destination="/x/"),
        Placement(sources=("http://h/a",), destination="/x/", add=True, checksum="sha256:" + "0" * 64),
        Placement(sources=("http://h/a",), destination="/x/", add=True, checksum="sha256:" + "1" * 64),
    ]
    keys = [key_of(copying, placement, "/w") for placement in asked]
    assert len(set(keys)) == len(keys)
    mirror = Placement(sources=("https://i/a",), destination="/x/", add=True, checksum="sha256:" + "0" * 64)
    assert key_of(copying, mirror) == keys[-2]
    assert key_of(copying, asked[0], "/w") == key_of(copying, asked[0], "/v")


# --- what is remembered -------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each file that is read."""
    read, seen = filedigests._read, list[int]()
    monkeypatch.setattr(filedigests, "_read", lambda opener: seen.append(1) or read(opener))  # type: ignore[func-returns-value]
    return seen


def settled(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the files had been changed long ago."""
    monkeypatch.setattr(filedigests, "_SETTLED_NS", -(10**9))


def test_nothing_is_read_twice(copying: Copying, reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a second build, nor by a second step; only what has changed is."""
    settled(copying, monkeypatch)
    first = key_of(copying)
    assert len(reads) == 3
    assert key_of(copying) == first
    assert len(reads) == 3
    (copying.context / "d/a").write_text("two")
    assert key_of(copying) != first
    assert len(reads) == 4


def test_what_was_changed_just_now_is_read_again(copying: Copying, reads: list[int]) -> None:
    """A change within one tick of the clock would leave the same times."""
    for content in ("aaa", "bbb", "ccc"):
        (copying.context / "d/a").write_text(content)
        key_of(copying)
    assert len(reads) == 9


def test_a_file_with_its_old_time_is_not_taken_for_the_old(
    copying: Copying, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change time cannot be set back."""
    settled(copying, monkeypatch)
    before = key_of(copying)
    path = copying.context / "d/a"
    time.sleep(0.02)
    path.write_text("six")
    os.utime(path, (1000, 1000))
    assert key_of(copying) != before


@pytest.mark.parametrize("damage", [b"", b"no database at all" * 100])
def test_a_damaged_database_costs_time_only(
    copying: Copying, reads: list[int], monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    """It is made anew."""
    settled(copying, monkeypatch)
    before = key_of(copying)
    for path in copying.database.parent.glob("digests.db*"):
        path.unlink()
    copying.database.write_bytes(damage)
    assert [key_of(copying) for _ in range(3)] == [before] * 3
    assert len(reads) <= 9
    known = len(reads)
    assert key_of(copying) == before
    assert len(reads) == known


def test_a_locked_database_costs_time_only(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another build may be writing."""
    settled(copying, monkeypatch)
    before = key_of(copying)
    (copying.context / "d/a").chmod(0o600)
    (copying.context / "d/a").chmod(0o644)
    other = sqlite3.connect(copying.database)
    other.execute("BEGIN IMMEDIATE")
    assert key_of(copying) == before
    other.close()


def test_a_database_that_grows_is_begun_anew(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a bound."""
    settled(copying, monkeypatch)
    before = key_of(copying)
    monkeypatch.setattr(filedigests, "MAX_BYTES", 1)
    assert key_of(copying) == before


def test_trees_that_never_change_are_not_opened_again(copying: Copying) -> None:
    """What `identity` names is known by that."""
    opened: list[int] = []

    def root() -> int:
        opened.append(os.open(copying.context, os.O_RDONLY))
        return opened[-1]

    keys = set()
    for _ in range(3):
        with FileDigests(copying.database) as digests:
            keys.add(key(Source(root, name="stage", digests=digests, owner=None, identity="sha256:1"), ALL))
    assert (len(keys), len(opened)) == (1, 1)
    with FileDigests(copying.database) as digests:
        key(Source(root, name="stage", digests=digests, owner=None, identity="sha256:2"), ALL)
    assert len(opened) == 2
    for fd in opened:
        os.close(fd)
