"""The leak check itself: it names what was left, and says nothing when nothing was."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lxcwrap.storage.state import State
from tests import leaks


@contextmanager
def a_descriptor(base: Path) -> Iterator[str]:
    with open("/dev/null") as file:
        yield f"descriptor {file.fileno()} -> /dev/null"


@contextmanager
def a_process(base: Path) -> Iterator[str]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield f"process {process.pid} sleep (sleep 60)"
        process.kill()


@contextmanager
def a_thread(base: Path) -> Iterator[str]:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, name="forgotten")
    thread.start()
    yield "thread forgotten"
    end.set()
    thread.join()


@contextmanager
def a_directory(base: Path) -> Iterator[str]:
    (base / "one" / "containers" / "abc").mkdir(parents=True)
    yield f"file {base}/one/containers/abc"


@contextmanager
def a_row(base: Path) -> Iterator[str]:
    state = State(base / "shared" / "state.db")
    with state.transaction() as change:
        change.execute("INSERT INTO images VALUES ('sha256:1', 'sha256:2', 0)")
    state.close()
    yield "row in images: sha256:1"


Leaver = Callable[[Path], AbstractContextManager[str]]


@pytest.mark.parametrize("leave", [a_descriptor, a_process, a_thread, a_directory, a_row])
def test_a_leftover_is_named(leave: Leaver, tmp_path: Path) -> None:
    """Whatever a test leaves behind fails it, by name."""
    (tmp_path / "shared").mkdir()
    before = leaks.snapshot(tmp_path)
    with leave(tmp_path) as trace, pytest.raises(AssertionError) as failure:
        leaks.assert_same(before, tmp_path, grace_s=0.05)
    assert f"  {trace}" in str(failure.value).splitlines()


def test_what_ends_a_little_later_is_no_leak(tmp_path: Path) -> None:
    """The kernel may take a moment to end things."""
    before = leaks.snapshot(tmp_path)
    descriptor = os.open("/dev/null", os.O_RDONLY)
    timer = threading.Timer(0.1, os.close, [descriptor])
    timer.start()
    leaks.assert_same(before, tmp_path, grace_s=3.0)
