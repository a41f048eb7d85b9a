"""The records in SQLite: all of a change or nothing, from any thread and process, of older versions too."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lxcwrap.errors import UnsupportedError
from lxcwrap.storage import state as module
from lxcwrap.storage.state import MIGRATIONS, State

INSERT = "INSERT INTO images VALUES (?, 'm', 0)"
COUNT = "SELECT count(*) FROM images"


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state.db")


def count(state: State) -> int:
    return int(state.connection.execute(COUNT).fetchone()[0])


def container(
    image: str, name: str = "web", slot: int | None = 0, phase: str = "created"
) -> tuple[object, ...]:
    return (name * 8, name, image, phase, slot, "{}", 0.0, 1, 1)


def add_container(state: State, *values: object) -> None:
    with state.transaction() as change:
        change.execute("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", values)


# --- changes --------------------------------------------------------------------------------------------


def test_a_change_is_seen_when_it_is_whole(state: State, tmp_path: Path) -> None:
    """Others see the old or the new, never a part."""
    other = State(tmp_path / "state.db")
    with state.transaction() as change:
        change.execute(INSERT, ("a",))
        assert count(other) == 0
        change.execute(INSERT, ("b",))
    assert count(other) == 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failed_change_leaves_nothing(state: State, error: type[BaseException]) -> None:
    """Whatever ended it."""
    with pytest.raises(error), state.transaction() as change:
        change.execute(INSERT, ("a",))
        raise error
    assert count(state) == 0
    with state.transaction() as change:  # and the next one works
        change.execute(INSERT, ("a",))
    assert count(state) == 1


def test_names_and_slots_are_unique(state: State) -> None:
    """Two containers never have one name or one id range; any number have none."""
    with state.transaction() as change:
        change.execute(INSERT, ("i",))
    add_container(state, *container("i", "web", 0))
    add_container(state, *container("i", "a", None))
    add_container(state, *container("i", "b", None))
    for wrong in (container("i", "c", 0), ("x", *container("i", "web", 9)[1:])):
        with pytest.raises(sqlite3.IntegrityError):
            add_container(state, *wrong)


def test_an_image_in_use_cannot_go(state: State) -> None:
    """Foreign keys are on, in every connection; tags go with their image."""
    with state.transaction() as change:
        change.execute(INSERT, ("i",))
        change.execute("INSERT INTO tags VALUES ('app:1', 'i')")
    add_container(state, *container("i"))
    for each in (state, State(state._path)):
        with pytest.raises(sqlite3.IntegrityError):
            each.connection.execute("DELETE FROM images")
    state.connection.execute("DELETE FROM containers")
    state.connection.execute("DELETE FROM images")
    assert state.connection.execute("SELECT count(*) FROM tags").fetchone()[0] == 0


def test_what_cannot_be_is_refused(state: State) -> None:
    """Unknown images, phases and types."""
    with state.transaction() as change:
        change.execute(INSERT, ("i",))
    for wrong in (container("none"), container("i", phase="running"), container("i", slot="x")):  # type: ignore[arg-type]
        with pytest.raises(sqlite3.IntegrityError):
            add_container(state, *wrong)


# --- threads and processes ------------------------------------------------------------------------------


def test_threads_have_connections_of_their_own(state: State) -> None:
    """And wait for one another: no change is lost, none fails for being at the same time."""
    seen = set()

    def work(number: int) -> None:
        seen.add(id(state.connection))
        for step in range(5):
            with state.transaction() as change:
                found = change.execute(COUNT).fetchone()[0]
                change.execute(INSERT, (f"{found} {number} {step}",))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert count(state) == 40
    numbers = {int(row[0].split()[0]) for row in state.connection.execute("SELECT id FROM images")}
    assert numbers == set(range(40))  # each read what the one before had written


def test_the_connection_of_a_thread_ends_with_it(state: State) -> None:
    """A notebook makes many threads: none leaves its files open."""
    state.connection.execute(COUNT)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        thread = threading.Thread(target=lambda: count(state))
        thread.start()
        thread.join()
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def _insert_many(path: Path, number: int) -> None:
    state = State(path)
    for step in range(10):
        with state.transaction() as change:
            change.execute(INSERT, (f"{number} {step}",))


def test_processes_open_a_new_store_at_once(tmp_path: Path) -> None:
    """Each finds it whole: the migration is done once."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_insert_many, args=(tmp_path / "state.db", number)) for number in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
        worker.close()
    assert count(State(tmp_path / "state.db")) == 40


def test_a_forked_child_does_not_touch_its_parents_connection(state: State) -> None:
    """SQLite's must not cross fork: the child gets one of its own, and the parent's lives on."""
    parents = state.connection
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with state.transaction() as change:
                change.execute(INSERT, ("child",))
            status = 0 if state.connection is not parents else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert state.connection is parents and count(state) == 1


def test_close_and_go_on(state: State) -> None:
    """After `close` it opens again when it is used."""
    assert count(state) == 0
    state.close()
    state.close()
    assert count(state) == 0


# --- versions -------------------------------------------------------------------------------------------


def test_a_new_store_has_the_newest_version(state: State) -> None:
    """WAL, so that readers never wait for writers."""
    assert state.connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert state.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"


def test_an_older_store_is_brought_forward(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that is in it."""
    with state.transaction() as change:
        change.execute(INSERT, ("a",))
    state.close()
    more = ("CREATE TABLE extra (x TEXT);\nINSERT INTO extra VALUES ('semi;colon');\n", "DROP TABLE extra;\n")
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *more[:1]))
    newer = State(state._path)
    assert newer.connection.execute("SELECT x FROM extra").fetchone()[0] == "semi;colon"
    monkeypatch.setattr(module, "MIGRATIONS", (*MIGRATIONS, *more))
    newest = State(state._path)
    assert newest.connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 2
    assert count(newest) == 1


def test_a_failed_migration_changes_nothing(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its statements or none, and the version stays."""
    state.connection.execute(COUNT)
    monkeypatch.setattr(
        module, "MIGRATIONS", (*MIGRATIONS, "CREATE TABLE extra (x);\nCREATE TABLE images (y);\n")
    )
    with pytest.raises(sqlite3.OperationalError):
        _ = State(state._path).connection
    assert state.connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    assert not state.connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'extra'").fetchall()


def test_a_store_of_a_later_version_is_refused(state: State) -> None:
    """Rather than being misunderstood."""
    state.connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    state.close()
    with pytest.raises(UnsupportedError):
        _ = State(state._path).connection


def test_a_forgotten_store_is_closed(tmp_path: Path) -> None:
    """By the garbage collector, in silence; Python 3.13 warns of connections that are left open."""
    cycle: list[object] = [State(tmp_path / "forgotten.db")]
    cycle.append((cycle, cycle[0].connection))  # type: ignore[attr-defined]
    del cycle
    gc.collect()
    assert not [path for path in Path("/proc/self/fd").iterdir() if "forgotten.db" in os.path.realpath(path)]
