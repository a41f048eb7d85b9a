"""Records of one container on disk: seen whole or not at all, one holder at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import lxcwrap
from lxcwrap.supervisor.records import Records

_HOLD = """
import sys
sys.path.insert(0, sys.argv[1])
from lxcwrap.supervisor.records import Records
Records(sys.argv[2]).hold(5.0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


@contextmanager
def other_holder(records: Records) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock within the block."""
    package = str(Path(lxcwrap.__file__).parents[1])
    argv = [sys.executable, "-I", "-S", "-c", _HOLD, package, records.path]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        yield process
        process.kill()


# --- files ----------------------------------------------------------------------------------------------


def test_what_was_written_is_read(records: Records) -> None:
    """By name; None when there is none."""
    assert records.read("run") is None and not records.has("run")
    records.write("run", {"init_pid": 7, "text": "é\n"})
    assert records.read("run") == {"init_pid": 7, "text": "é\n"} and records.has("run")
    records.write("run", {"init_pid": 8})
    assert records.read("run") == {"init_pid": 8} and records.read("exit") is None


def test_a_torn_write_is_not_seen(records: Records) -> None:
    """What a killed writer left has another name."""
    records.write("run", {"init_pid": 7})
    Path(records.path, ".run.12345").write_text('{"init_pid": ')
    assert records.read("run") == {"init_pid": 7}


def test_readers_never_see_a_part(records: Records) -> None:
    """However often it is written anew."""
    stop = threading.Event()

    def write() -> None:
        for number in range(10**9):
            records.write("run", {"number": number, "filler": "x" * 10000})
            if stop.is_set():
                return

    records.write("run", {"number": 0, "filler": "x" * 10000})
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            found = records.read("run")
            assert found is not None and len(found["filler"]) == 10000
    finally:
        stop.set()
        writer.join()


def test_secrets_are_for_the_owner(records: Records) -> None:
    """A plan holds the environment."""
    records.write("plan", {"env": ["PASSWORD=x"]})
    assert Path(records.path, "plan.json").stat().st_mode & 0o077 == 0


def test_a_record_may_be_removed_twice(records: Records) -> None:
    """It is gone, whoever did it."""
    records.write("exit", {})
    records.remove("exit")
    records.remove("exit")
    assert not records.has("exit")


def test_no_directory_no_record(tmp_path: Path) -> None:
    """A removed container has none; writing there makes no directory."""
    records = Records(tmp_path / "gone")
    assert records.read("exit") is None and not records.is_held()
    with pytest.raises(FileNotFoundError):
        records.write("exit", {})
    with pytest.raises(FileNotFoundError):
        records.hold(0)


def test_the_end_can_be_read_after_the_directory_is_gone(records: Records) -> None:
    """Whoever opened exit.part while it ran: a container may remove itself at its end."""
    records.begin({"init_pid": 7})
    assert records.read("run") == {"init_pid": 7} and not records.has("exit")
    with open(f"{records.path}/exit.part", "rb") as file:
        records.end({"exit_code": 3, "error": 'said "no"', "oom_killed": False, "finished_at": 1.5})
        os.unlink(f"{records.path}/exit.json")
        assert json.loads(file.read())["exit_code"] == 3


def test_a_new_run_does_not_write_to_the_last_ones_end(records: Records) -> None:
    """Whoever still waits for the last run's end never reads of this one."""
    records.begin({"init_pid": 7})
    with open(f"{records.path}/exit.part", "rb") as last:
        records.begin({"init_pid": 8})
        records.end({"exit_code": 4})
        assert last.read() == b""
    assert records.read("exit") == {"exit_code": 4}


# --- the lock -------------------------------------------------------------------------------------------


def test_one_holds_at_a_time(records: Records) -> None:
    """A second one is told at once, or waits as long as it says; also within one process."""
    fd = records.hold(0)
    with pytest.raises(BlockingIOError):
        records.hold(0)
    began = time.monotonic()
    with pytest.raises(BlockingIOError):
        records.hold(0.05)
    assert time.monotonic() - began >= 0.05
    os.close(fd)
    os.close(records.hold(0))


def test_whether_it_is_held_is_asked_without_taking_it(records: Records) -> None:
    """Nobody is kept out by a question."""
    assert not records.is_held()
    with other_holder(records):
        assert records.is_held()
        with pytest.raises(BlockingIOError):
            records.hold(0)
    assert not records.is_held()
    os.close(records.hold(0))


def test_the_kernel_lets_go_of_a_killed_holders_lock(records: Records) -> None:
    """kill -9 leaves nothing to clear."""
    with other_holder(records) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.close(records.hold(1.0))


def test_a_waiting_holder_gets_it_when_it_is_free(records: Records) -> None:
    """Within its time."""
    with other_holder(records) as process:
        threading.Timer(0.05, process.kill).start()
        os.close(records.hold(5.0))


def test_a_refused_holder_leaves_no_descriptor(records: Records) -> None:
    """Containers are asked for often."""
    fd = records.hold(0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            records.hold(0)
        assert records.is_held()
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


def test_the_lock_lives_with_its_duplicates(records: Records) -> None:
    """A child that inherited it keeps it: liblxc's process holds it when the monitor is gone."""
    fd = records.hold(0)
    twin = os.dup(fd)
    os.close(fd)
    assert records.is_held()
    os.close(twin)
    assert not records.is_held()


def test_what_killed_processes_were_writing_is_swept_away(tmp_path: Path) -> None:
    """What living ones write is left alone, and so is what is written."""
    records = Records(tmp_path)
    records.write("plan", {"a": 1})
    with subprocess.Popen(["true"]) as gone:
        pass
    (tmp_path / f".plan.{gone.pid}").touch()
    (tmp_path / f".run.{os.getpid()}").touch()
    records.sweep()
    assert sorted(os.listdir(tmp_path)) == [f".run.{os.getpid()}", "plan.json"]
