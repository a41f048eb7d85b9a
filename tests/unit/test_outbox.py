"""Events of changes of the records are told if, and only if, the change was made."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.storage import eventlog
from lxcwrap.storage.outbox import tell
from lxcwrap.storage.state import State

INSERT = "INSERT INTO volumes VALUES (?, '{}', 0)"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def state(root: Path) -> State:
    return State(root / "state.db")


def told(root: Path) -> list[dict[str, Any]]:
    path = root / "run" / eventlog.NAME
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def change(state: State, name: str) -> None:
    with state.transaction() as connection:
        connection.execute(INSERT, (name,))
        tell(connection, "volume_created", volume=name)


def test_a_change_is_told_when_it_was_made(state: State, root: Path) -> None:
    """In its order, and once."""
    change(state, "one")
    with state.transaction() as connection:
        tell(connection, "volume_created", volume="two")
        tell(connection, "volume_removed", volume="two")
        assert len(told(root)) == 1
    assert [(each["kind"], each["volume"]) for each in told(root)] == [
        ("volume_created", "one"),
        ("volume_created", "two"),
        ("volume_removed", "two"),
    ]
    state.deliver()
    assert len(told(root)) == 3


def test_what_was_not_made_is_not_told(state: State, root: Path) -> None:
    """As it is part of the change."""
    with pytest.raises(KeyError), state.transaction() as connection:
        tell(connection, "volume_created", volume="none")
        raise KeyError
    change(state, "one")
    assert [each["volume"] for each in told(root)] == ["one"]


@pytest.mark.parametrize("where", ["before", "after"])
def test_who_tells_may_be_killed(
    state: State, root: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next change tells it, or who looks for it; once, or after the event was written twice."""

    def killed(path: Path, lines: str) -> None:
        if where == "after":
            append(path, lines)
        os.kill(os.getpid(), signal.SIGKILL)

    append = eventlog.append
    if (child := os.fork()) == 0:
        monkeypatch.setattr(eventlog, "append", killed)
        change(State(root / "state.db"), "one")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    written = ["one"] if where == "after" else []
    assert [each["volume"] for each in told(root)] == written
    state.deliver()
    assert [each["volume"] for each in told(root)] == [*written, "one"]
    change(state, "two")
    assert [each["volume"] for each in told(root)] == [*written, "one", "two"]


def test_a_log_that_cannot_be_written_delays_events_only(state: State, root: Path) -> None:
    """They are told when it can be."""
    (root / "run").rename(root / "elsewhere")
    change(state, "one")
    (root / "elsewhere").rename(root / "run")
    change(state, "two")
    assert [each["volume"] for each in told(root)] == ["one", "two"]


def test_a_disk_that_is_full_delays_events_only(
    state: State, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has cut off is told once more, in full; what comes next is whole."""

    def full(fd: int, data: bytes) -> int:
        return write(fd, data[:20])

    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        change(state, "one")
    change(state, "two")
    cut, *lines = (root / "run" / eventlog.NAME).read_text().splitlines()
    assert len(cut) == 20
    assert [json.loads(line)["volume"] for line in lines] == ["one", "two"]
