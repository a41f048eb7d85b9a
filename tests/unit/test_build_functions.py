"""The digest of a function, for steps that call one: what it does counts, and not how it is written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest

from lxcwrap.build.functions import function_digest

HEADER = "import json, os\nLIMIT = 3\nLOCK = __import__('threading').Lock()\n"
MAIN = """
def helper(x):
    return x * 2

class Shape:
    sides = 4
    def area(self):
        return self.sides

def main(a=1, *, b=2):
    '''Says what it does.'''
    inner = lambda y: y + LIMIT
    return helper(a) + inner(b) + Shape().area() + len(json.dumps([a]))
"""


def digest(source: str, *args: Any, **kwargs: Any) -> str:
    """Of `main` in a module of this source."""
    module: dict[str, Any] = {"__name__": "app"}
    exec(compile(HEADER + source, "app.py", "exec"), module)
    return function_digest(module["main"], args, kwargs)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\ndef helper", "\n\n# a comment\n\ndef helper"),
        ("return x * 2", "return (x *  2)  # twice"),
        ("def helper", "def unrelated():\n    return 9\n\ndef helper"),
    ],
)
def test_the_way_it_is_written_does_not_count(old: str, new: str) -> None:
    """Nor what it does not use."""
    assert digest(MAIN) == digest(MAIN.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(a) +", "helper(a) -"),
        ("return x * 2", "return x * 3"),
        ("y + LIMIT", "y - LIMIT"),
        ("a=1", "a=2"),
        ("b=2", "b=3"),
        ("sides = 4", "sides = 5"),
        ("return self.sides", "return -self.sides"),
        ("[a]", "(a,)"),
        ("\nclass", "\nLIMIT = 4\nclass"),
        ("json.dumps", "os.fspath"),
    ],
)
def test_what_it_does_counts(old: str, new: str) -> None:
    """In itself, and in what it names, however far away."""
    assert old in MAIN
    assert digest(MAIN) != digest(MAIN.replace(old, new))


def test_arguments_count() -> None:
    """By value; sets and dicts whatever their order in memory."""
    assert digest(MAIN, 1) != digest(MAIN, 2) != digest(MAIN, a=2)
    assert digest(MAIN, 1) != digest(MAIN, "1") != digest(MAIN, True)
    assert digest(MAIN, {"a", "b"}) == digest(MAIN, {"b", "a"})
    assert digest(MAIN, Path("/a")) == digest(MAIN, Path("/a")) != digest(MAIN, Path("/b"))
    assert digest(MAIN, [1, (2, {"k": b"v"})]) == digest(MAIN, [1, (2, {"k": b"v"})])


def test_what_is_closed_over_counts() -> None:
    """Also a cell that is still empty, and one that leads back."""

    def make(step: int) -> Callable[[], int]:
        def count(n: int = 0) -> int:
            return n if n > 9 else count(n + step)

        if step > 5:
            later = 1
        return lambda: count() + later

    assert function_digest(make(1), (), {}) == function_digest(make(1), (), {})
    assert function_digest(make(1), (), {}) != function_digest(make(2), (), {})


def test_what_cannot_be_pickled_counts_by_its_type() -> None:
    """A lock is a lock."""
    assert digest(MAIN, Lock()) == digest(MAIN, Lock()) != digest(MAIN, SimpleNamespace(a=lambda: 1))


def test_functions_of_the_standard_library_count_by_name() -> None:
    """As do builtin ones, and methods by what they belong to."""
    digests = {
        function_digest(function, (), {})
        for function in (os.listdir, os.makedirs, os.getcwd, print, Path("/a").mkdir, Path("/b").mkdir)
    }
    assert len(digests) == 6


def test_another_process_comes_to_the_same() -> None:
    """Hashes of texts differ between processes; digests do not."""
    program = """
from tests.unit.test_build_functions import digest, MAIN
print(digest(MAIN, {"a", "b", "c", "d"}, {"x": 1}))
"""
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PATH": os.environ["PATH"]},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(answers) == 1
