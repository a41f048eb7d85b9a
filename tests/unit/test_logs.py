"""Logs: what a container wrote comes back, whatever happened to the writer meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from lxcwrap.errors import FormatError, InvalidSpecError, TimeoutExpired
from lxcwrap.results import LogLine
from lxcwrap.storage import logreader, logs
from lxcwrap.storage.logreader import read_lines, read_text
from lxcwrap.storage.logs import BLOCK_SIZE, STDERR, STDOUT, LogWriter


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    writer = LogWriter(tmp_path / "logs", max_bytes=16 << 20, max_files=3)
    yield writer
    writer.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "logs"


def texts(directory: Path, tail: int | None = None) -> list[str]:
    return [line.text for line in read_lines(directory, tail=tail)]


def newest(directory: Path) -> Path:
    return max(directory.iterdir())


def test_lines_come_back_with_stream_and_time(writer: LogWriter, directory: Path) -> None:
    """Each line has its stream, its text without newline, and the time it was read, in UTC."""
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    writer.add(STDOUT, b"one\ntwo\n")
    writer.add(STDERR, b"bad\n")
    lines = list(read_lines(directory))
    assert [(line.stream, line.text) for line in lines] == [
        ("stdout", "one"),
        ("stdout", "two"),
        ("stderr", "bad"),
    ]
    assert all(before <= line.time <= datetime.now(UTC) and line.time.tzinfo is UTC for line in lines)


def test_log_line_is_immutable() -> None:
    """A LogLine is a value."""
    line = LogLine(datetime.now(UTC), "stdout", "x")
    with pytest.raises(AttributeError):
        line.text = "y"  # type: ignore[misc]


def test_a_line_spans_frames_and_other_streams(writer: LogWriter, directory: Path) -> None:
    """Pieces are joined per stream; a line's place is where its end came."""
    writer.add(STDOUT, b"he")
    writer.add(STDERR, b"oops\n")
    writer.add(STDOUT, b"llo\n")
    assert [(line.stream, line.text) for line in read_lines(directory)] == [
        ("stderr", "oops"),
        ("stdout", "hello"),
    ]


def test_only_newlines_end_lines(writer: LogWriter, directory: Path) -> None:
    """Carriage returns, form feeds and unicode separators are text; empty lines are lines."""
    writer.add(STDOUT, "a\rb\x0c\u2028c\x85\n\n\n".encode())
    assert texts(directory) == ["a\rb\x0c\u2028c\x85", "", ""]


def test_bytes_that_are_no_utf8_are_replaced(writer: LogWriter, directory: Path) -> None:
    """A character cut by a read is whole again; a broken one never eats the newline after it."""
    writer.add(STDOUT, b"\xe2\x82")
    writer.add(STDOUT, b"\xac\n\xff\n\xe2\x82\nend\n")
    assert texts(directory) == ["€", "\ufffd", "\ufffd", "end"]


def test_unfinished_line_is_given_at_the_end(writer: LogWriter, directory: Path) -> None:
    """A prompt without newline is part of the log, and its text has no newline added."""
    writer.add(STDOUT, b"hello\nlogin: ")
    assert texts(directory) == ["hello", "login: "]
    assert texts(directory, tail=1) == ["login: "]
    assert read_text(directory) == "hello\nlogin: "
    assert read_text(directory, tail=0) == ""


def test_text_is_what_was_written(writer: LogWriter, directory: Path) -> None:
    """read_text joins lines with their newlines."""
    writer.add(STDOUT, b"a\n\nb\n")
    assert read_text(directory) == "a\n\nb\n"
    assert read_text(directory, tail=2) == "\nb\n"


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    """A container that was never started has an empty log."""
    assert texts(tmp_path / "none") == [] and read_text(tmp_path / "none", tail=3) == ""
    assert list(read_lines(tmp_path / "none", follow=True, is_finished=lambda: True)) == []


@pytest.mark.parametrize("wrong", [{"tail": -1}, {"stream": "stdin"}])
def test_wrong_arguments_are_refused_at_once(directory: Path, wrong: dict[str, object]) -> None:
    """The call raises, not the first iteration."""
    with pytest.raises(InvalidSpecError):
        read_lines(directory, **wrong)  # type: ignore[arg-type]


def test_stream_selects_and_tail_counts_the_selected(writer: LogWriter, directory: Path) -> None:
    """tail=n with stream= gives n lines of that stream, wherever they are."""
    writer.add(STDERR, b"e1\ne2\n")
    for _ in range(40):
        writer.add(STDOUT, b"x" * 9999 + b"\n")
    assert [line.text for line in read_lines(directory, stream="stderr", tail=1)] == ["e2"]
    assert len(list(read_lines(directory, stream="stdout"))) == 40


def test_since_and_until_bound_the_time(
    writer: LogWriter, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ends belong to the span; naive times are local; a line counts by when it ended."""
    for second in range(5):
        monkeypatch.setattr(time, "time_ns", lambda second=second: (1_000_000 + second) * 10**9 + 999)
        writer.add(STDOUT, b"%d\n%d" % (second, second))
    start, stop = (datetime.fromtimestamp(1_000_000 + second, UTC) for second in (1, 3))
    assert [x.text for x in read_lines(directory, since=start, until=stop)] == ["01", "12", "23"]
    local = start.astimezone().replace(tzinfo=None)
    assert [x.text for x in read_lines(directory, since=local, until=stop, tail=2)] == ["12", "23"]


@pytest.mark.parametrize("size", [1, 10, 11, 12, 13, 14, 65506, 65517, 65518, 65524, 65525, 65526, 200_000])
def test_frames_meet_block_borders(writer: LogWriter, directory: Path, size: int) -> None:
    """Whatever is left of a block, nothing is lost at its end, and a restarted writer goes on after it."""
    expected = b""
    for number in range(5):
        data = b"%d" % number * size
        expected += data
        writer.add(STDOUT, data)
        writer.close()
        writer.__init__(directory, max_bytes=16 << 20, max_files=3)  # type: ignore[misc]
    assert read_text(directory).encode() == expected


def test_tail_enters_near_the_end(
    writer: LogWriter, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tail of a 3 MB log costs a block or two."""
    for number in range(30_000):
        writer.add(STDOUT, b"%0100d\n" % number)
    read = []

    def read_block(fd: int, offset: int) -> tuple[list[logs.Frame], int]:
        read.append(offset)
        return logs.read_block(fd, offset)

    monkeypatch.setattr(logreader, "read_block", read_block)
    assert [int(text) for text in texts(directory, tail=20)] == list(range(29_980, 30_000))
    assert len(read) <= 3


def test_tail_finds_the_beginning_of_an_old_line(writer: LogWriter, directory: Path) -> None:
    """A line begun megabytes ago on the other stream is whole in the tail."""
    writer.add(STDERR, b"begun long ago, ")
    for _ in range(60):
        writer.add(STDOUT, b"x" * 9999 + b"\n")
    writer.add(STDERR, b"ended now\n")
    assert texts(directory, tail=1) == ["begun long ago, ended now"]


def test_a_line_without_end_is_given_in_pieces(writer: LogWriter, directory: Path) -> None:
    """A container cannot fill its reader's memory with one line."""
    writer.add(STDOUT, b"x" * (5 << 20))
    pieces = texts(directory)
    assert sum(map(len, pieces)) == 5 << 20
    assert max(map(len, pieces)) <= logreader.MAX_LINE + BLOCK_SIZE
    assert len(texts(directory, tail=1)) == 1


def test_rotation_keeps_the_newest_files(tmp_path: Path) -> None:
    """No file is larger than max_bytes, no more than max_files are there, and the last lines are kept."""
    writer = LogWriter(tmp_path, max_bytes=5000, max_files=3)
    for number in range(1000):
        writer.add(STDOUT, b"line %d\n" % number)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    kept = texts(tmp_path)
    assert len(sizes) == 3 and max(sizes) <= 5000
    assert kept[-1] == "line 999" and len(kept) > 300
    assert texts(tmp_path, tail=400) == kept[-400:]
    writer.close()
    LogWriter(tmp_path, max_bytes=5000, max_files=1).close()
    assert len(list(tmp_path.iterdir())) == 1


def test_every_torn_end_is_survived(writer: LogWriter, directory: Path) -> None:
    """Wherever it is cut, the reader sees the frames before, and a new writer appends after them."""
    writer.add(STDOUT, b"first\n")
    writer.add(STDOUT, b"second\n")
    writer.close()
    path = newest(directory)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        before = texts(directory)
        assert before in ([], ["first"])
        again = LogWriter(directory, max_bytes=1 << 20, max_files=3)
        again.add(STDERR, b"after\n")
        again.close()
        assert texts(directory) == [*before, "after"]
        assert len(list(directory.iterdir())) == 1


def test_killed_writer_leaves_a_readable_log(tmp_path: Path) -> None:
    """kill -9 in the midst of writing and rotating: the lines are a gapless run, and a new writer goes on."""
    for _ in range(5):
        pid = os.fork()
        if pid == 0:
            writer = LogWriter(tmp_path, max_bytes=20_000, max_files=3)
            number = 0
            while True:
                writer.add(STDOUT, b"%d\n" % number)
                number += 1
        time.sleep(0.03)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        writer = LogWriter(tmp_path, max_bytes=20_000, max_files=3)
        writer.add(STDERR, b"end\n")
        writer.close()
        *numbers, end = texts(tmp_path, tail=500)
        assert end == "end"
        run = [int(text) for text in numbers if text != "end"]
        assert all(b in (a + 1, 0) for a, b in pairwise(run))


def test_damage_costs_one_block(writer: LogWriter, directory: Path) -> None:
    """A block of zeros, as a power cut leaves it, hides no other block."""
    for number in range(40_000):
        writer.add(STDOUT, b"%09d\n" % number)
    with newest(directory).open("r+b") as file:
        file.seek(BLOCK_SIZE)
        file.write(bytes(4096))
    numbers = {int(text) for text in texts(directory) if len(text) == 9 and text.isdecimal()}
    assert {0, 1, 39_999} < numbers and len(numbers) > 40_000 - BLOCK_SIZE // 21 - 2


def test_container_cannot_forge_frames(writer: LogWriter, directory: Path) -> None:
    """Output that looks like a frame, even at a torn end, is output."""
    forged = struct.pack("<QHB", 0, 6, STDERR) + b"forged"
    writer.add(STDOUT, forged * 20_000)
    os.truncate(newest(directory), newest(directory).stat().st_size - 3)
    assert {line.stream for line in read_lines(directory)} == {"stdout"}
    assert {line.stream for line in read_lines(directory, tail=1)} == {"stdout"}


def test_another_version_is_refused_and_left_alone(directory: Path) -> None:
    """A reader raises; a writer begins a new file beside it."""
    directory.mkdir()
    foreign = directory / "00000007"
    foreign.write_bytes(b"lxcwlog\x02whatever")
    with pytest.raises(FormatError) as caught:
        texts(directory)
    assert caught.value.what == str(foreign)
    LogWriter(directory, max_bytes=1 << 20, max_files=3).close()
    assert foreign.read_bytes() == b"lxcwlog\x02whatever" and newest(directory).name == "00000008"


def test_full_disk_drops_and_says_so(
    writer: LogWriter, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container goes on; the log stays readable and tells how much is missing."""
    writer.add(STDOUT, b"before\n")

    def full(fd: int, buffers: tuple[bytes, bytes], offset: int) -> int:
        os.pwrite(fd, buffers[0] + buffers[1][:3], offset)  # a part still fits
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", full)
        writer.add(STDOUT, b"lost\n")
        assert texts(directory) == ["before"]
        writer.add(STDOUT, b"lost too\n")
    writer.add(STDOUT, b"after\n")
    assert texts(directory) == ["before", "", "[lxcwrap: 14 bytes of output could not be stored]", "after"]


def test_pump_moves_a_pipe(writer: LogWriter, directory: Path) -> None:
    """True while the pipe is open, empty or not; False at its end."""
    reader, end = logs.open_pipe()
    assert writer.pump(reader, STDOUT)
    os.write(end, b"x" * 150_000 + b"\n")  # more than an ordinary pipe holds
    os.close(end)
    pumped = 0
    while writer.pump(reader, STDOUT):
        pumped += 1
    os.close(reader)
    assert pumped <= 4 and [len(text) for text in texts(directory)] == [150_000]


# --- follow ---------------------------------------------------------------------------------------------


def test_follow_sees_lines_soon_and_ends_with_the_container(tmp_path: Path) -> None:
    """Lines written while following arrive through rotations, in order, and then the iterator ends."""
    writer = LogWriter(tmp_path, max_bytes=4096, max_files=50)
    writer.add(STDOUT, b"old\n")
    done = threading.Event()

    def write() -> None:
        for number in range(300):
            writer.add(STDOUT, b"line %d\n" % number * 3)
            time.sleep(0.0005)
        writer.add(STDOUT, b"prompt> ")
        writer.close()
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = [line.text for line in read_lines(tmp_path, follow=True, is_finished=done.is_set, timeout_s=20)]
    thread.join()
    assert seen == ["old", *(f"line {number}" for number in range(300) for _ in range(3)), "prompt> "]
    assert len(list(tmp_path.iterdir())) >= 3


def test_follow_after_tail_misses_and_repeats_nothing(writer: LogWriter, directory: Path) -> None:
    """The lines after the tail come once each; a line half written at that moment comes whole."""
    writer.add(STDOUT, b"1\n2\n3\nhal")
    follower = read_lines(directory, tail=2, follow=True, is_finished=lambda: True)
    assert [next(follower).text, next(follower).text] == ["2", "3"]
    writer.add(STDOUT, b"f\n4\n")
    assert [line.text for line in follower] == ["half", "4"]


def test_follow_waits_for_a_log_that_does_not_exist_yet(directory: Path) -> None:
    """Following may begin before the first start."""
    calls = iter([False, False, True])

    def is_finished() -> bool:
        LogWriter(directory, max_bytes=1 << 20, max_files=1).close()
        return next(calls)

    assert list(read_lines(directory, follow=True, is_finished=is_finished)) == []


def test_follow_times_out(writer: LogWriter, directory: Path) -> None:
    """After timeout_s TimeoutExpired is raised; the lines until then were given."""
    writer.add(STDOUT, b"one\n")
    follower = read_lines(directory, follow=True, is_finished=lambda: False, timeout_s=0.02)
    assert next(follower).text == "one"
    with pytest.raises(TimeoutExpired) as caught:
        next(follower)
    assert caught.value.timeout_s == 0.02


def test_follow_ends_at_until(writer: LogWriter, directory: Path) -> None:
    """until= ends a follow though the container still runs."""
    soon = datetime.now(UTC) + timedelta(milliseconds=10)
    assert list(read_lines(directory, follow=True, until=soon, is_finished=lambda: False, timeout_s=20)) == []


def test_dropped_iterator_leaves_no_descriptor(writer: LogWriter, directory: Path) -> None:
    """Neither after break nor after Ctrl-C."""
    writer.add(STDOUT, b"one\ntwo\n")
    before = os.listdir("/proc/self/fd")
    follower = read_lines(directory, follow=True, is_finished=lambda: False)
    next(follower)
    del follower

    def interrupted() -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(read_lines(directory, follow=True, is_finished=interrupted))
    assert os.listdir("/proc/self/fd") == before


def test_slow_follower_passes_over_deleted_files(tmp_path: Path) -> None:
    """A follower overtaken by rotation goes on with the oldest line kept."""
    writer = LogWriter(tmp_path, max_bytes=4096, max_files=2)
    writer.add(STDOUT, b"0\n")
    follower = read_lines(tmp_path, follow=True, is_finished=lambda: True)
    assert next(follower).text == "0"
    for number in range(1, 5000):
        writer.add(STDOUT, b"%d\n" % number)
    writer.close()
    rest = [line.text for line in follower]
    assert rest[-1] == "4999" and len(rest) < 4000


def test_a_line_whose_beginning_was_deleted_is_not_told(directory: Path) -> None:
    """Of each stream for itself; a line that begins with the file is."""
    writer = LogWriter(directory, max_bytes=4096, max_files=1)
    writer.add(STDERR, b"begun ")
    writer.add(STDOUT, b"x" * 4092)  # into the next file
    writer.add(STDOUT, b"yyy\nwhole\n")
    writer.add(STDERR, b"ended\nnext\n")
    writer.close()
    assert [line.text for line in read_lines(directory)] == ["whole", "next"]
    assert [line.text for line in read_lines(directory, tail=5)] == ["whole", "next"]


def test_a_log_that_is_deleted_is_read_to_its_end(directory: Path) -> None:
    """By a follower that has it open."""
    writer = LogWriter(directory, max_bytes=1 << 20, max_files=2)
    writer.add(STDOUT, b"one\n")
    answers = iter([False, True])
    lines = read_lines(directory, follow=True, is_finished=lambda: next(answers))
    assert next(lines).text == "one"
    writer.add(STDOUT, b"two\n")
    writer.close()
    shutil.rmtree(directory)
    assert [line.text for line in lines] == ["two"]
