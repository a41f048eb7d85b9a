"""What is shown of long work, where, and when."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import TextIO

import pytest

from lxcwrap.progress import (
    Phase,
    ProgressEvent,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferProgress,
    reporting,
    views,
)
from lxcwrap.progress import display as display_module
from lxcwrap.progress.board import MAX_LIVE, Board, cells, clean, fitted


def step(number: int = 1, *, stage: str = "", instruction: str = "RUN make") -> StepStarted:
    return StepStarted(step=number, total=3, stage=stage, instruction=instruction)


def output(text: str, number: int = 1) -> StepOutput:
    return StepOutput(step=number, stream="stdout", text=text)


def done(number: int = 1, *, cached: bool = False) -> StepFinished:
    return StepFinished(step=number, cached=cached, duration_s=1.25)


def transfer(
    item: str, done_bytes: int, total: int | None = 40_000_000, phase: Phase = "transferring"
) -> TransferProgress:
    return TransferProgress(
        operation="pull", item=item, phase=phase, done_bytes=done_bytes, total_bytes=total
    )


# --- what is shown --------------------------------------------------------------------------------------


def board(*events: ProgressEvent) -> Board:
    made = Board(0.0)
    for event in events:
        made.add(event, 1.0)
    return made


def test_steps_under_way_are_live() -> None:
    """Each has a line with how long it has taken; when it is done, that line is final."""
    shown = board(step(1, stage="base"), step(2))
    assert shown.live(66.0) == ["[base 1/3] RUN make  1 min 05 s", "[2/3] RUN make  1 min 05 s"]
    shown.add(done(1), 2.0)
    shown.add(done(2, cached=True), 2.0)
    assert shown.live(3.0) == []
    assert shown.take_final() == ["[base 1/3] RUN make  1.2 s", "[2/3] RUN make  cached"]
    assert shown.take_final() == []


def test_output_is_shown_by_lines() -> None:
    """A line is final when it is whole, or its step done; of what was overwritten, the last stays."""
    shown = board(step(), output("a\nb"), output("c\n10%\r20%\r\n"), output("x", 2), output("rest"))
    assert shown.take_final() == ["[1] a", "[1] bc", "[1] 20%"]
    shown.add(done(), 1.0)
    assert shown.take_final() == ["[1] rest", "[1/3] RUN make  1.2 s"]


def test_transfers_are_summed_up() -> None:
    """One line for all, and one for each that moves."""
    shown = board(
        transfer("sha256:" + "ab" * 32, 10_000_000),
        transfer("sha256:" + "cd" * 32, 40_000_000, phase="unpacking"),
        transfer("sha256:ef", 5_000_000, total=None),
        transfer("sha256:01", 0, phase="waiting"),
        transfer("sha256:02", 0, phase="present"),
        transfer("sha256:03", 2_000_000_000, total=2_000_000_000, phase="done"),
    )
    assert shown.live(4.0) == [
        "pull  2/6  2.1 GB  4 s",
        "  abababababab  [#####...............]  10.0/40.0 MB  transferring",
        "  cdcdcdcdcdcd  [####################]  40.0/40.0 MB  unpacking",
        "  ef  5.0 MB  transferring",
    ]


def test_live_lines_are_few() -> None:
    """However much is under way, and however much is written."""
    shown = board(*(transfer(f"sha256:{number}", 1) for number in range(100)))
    assert len(shown.live(1.0)) == MAX_LIVE
    assert shown.live(1.0)[-1] == "... and 92 more"
    shown = board(output("x\n" * 5000), output("y" * 100_000))
    final = shown.take_final()
    assert final[0] == "... 4001 lines left out"
    assert len(final) == 1001


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttab", "plain   tab"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07a\x1b]8;;x\x1b\\b", "ab"),
        ("\x1b[2J\x1b[H\x1bcgone", "gone"),
        ("a\x07\x08\x9b2J", "a2J"),
        ("\u202eabc", "abc"),
        ("cut off \x1b[3", "cut off 3"),
        ("漢字 é", "漢字 é"),
        (os.fsdecode(b"a\xff"), "a?"),
    ],
)
def test_a_build_cannot_steer_the_terminal(text: str, shown: str) -> None:
    """Control characters and sequences are left out."""
    assert clean(text) == shown


@pytest.mark.parametrize(
    ("text", "columns", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc..."),
        ("漢字漢字", 7, "漢字..."),
        ("e\u0301" * 4, 4, "e\u0301" * 4),
        ("abcdef", 2, ".."),
        ("abcdef", 0, ""),
        ("", 0, ""),
    ],
)
def test_lines_fit(text: str, columns: int, shown: str) -> None:
    """Wide characters take two columns, combining ones none."""
    assert fitted(text, columns) == shown
    assert cells(fitted(text, columns)) <= columns


# --- where and when -------------------------------------------------------------------------------------


class Screen:
    """A terminal: a pty whose far end is read, and what its window then shows."""

    def __init__(self, columns: int = 60, rows: int = 12) -> None:
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.columns = columns
        self.stream: TextIO = open(slave, "w", encoding="utf-8", closefd=True)  # noqa: SIM115
        self.written = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.written += os.read(self.master, 65536).decode()
            except OSError:
                return

    def close(self) -> None:
        self.stream.close()
        self._reader.join()
        os.close(self.master)

    def lines(self) -> list[str]:
        """What stands there now, for the few sequences that we use."""
        lines, row = [""], 0
        for up, text in re.findall(r"\x1b\[(\d+)A\r\x1b\[J|([^\x1b\n]*\n)", self.written):
            if up:
                row -= int(up)
                del lines[row:]
            else:
                lines[row:] = [text[:-1]]
                row += 1
        return lines[:row]

    def wait_for(self, condition: Callable[[list[str]], bool]) -> None:
        end = time.monotonic() + 20
        while not condition(self.lines()):
            assert time.monotonic() < end, self.lines()
            time.sleep(0.01)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    """A terminal as stderr, with little delay."""
    made = Screen()
    # pytest sets sys.stderr anew between this and the test.
    monkeypatch.setattr(views, "sys", SimpleNamespace(stderr=made.stream, modules=sys.modules))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(display_module, "DELAY_S", 0.05)
    yield made
    made.close()


def test_long_work_is_shown_in_a_terminal(screen: Screen) -> None:
    """Live lines are redrawn in place and gone at the end; output stays."""
    with reporting(None) as report:
        report(step())
        report(output("hello\n"))
        screen.wait_for(lambda lines: lines[:1] == ["[1] hello"] and lines[1:2] == ["[1/3] RUN make  0 s"])
        report(output("again\nand 漢字\n"))
        screen.wait_for(lambda lines: lines[1:3] == ["[1] again", "[1] and 漢字"] and len(lines) == 4)
        report(done())
    expected = ["[1] hello", "[1] again", "[1] and 漢字", "[1/3] RUN make  1.2 s"]
    screen.wait_for(lambda lines: lines == expected)


def test_lines_are_no_wider_than_the_terminal(screen: Screen) -> None:
    """Nor more than fit; a window made narrower is cleared of what it broke."""
    with reporting(True) as report:
        for number in range(30):
            report(step(number, instruction="RUN " + "x" * 100))
        screen.wait_for(lambda lines: len(lines) == MAX_LIVE)
        assert max(map(len, screen.lines())) < screen.columns
        fcntl.ioctl(screen.stream, termios.TIOCSWINSZ, struct.pack("HHHH", 5, 30, 0, 0))
        report(step(0, instruction="RUN new"))
        screen.wait_for(lambda lines: "\x1b[19A" in screen.written)  # nine broken in two, and one short
        screen.wait_for(lambda lines: len(screen.written.rpartition("\x1b[J")[2].splitlines()) == 3)


def test_short_work_is_not_shown(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing at all is written before the delay is over."""
    monkeypatch.setattr(display_module, "DELAY_S", 60.0)
    with reporting(None) as report:
        report(step())
        report(output("hello\n"))
    assert screen.written == ""


@pytest.mark.parametrize(("progress", "term"), [(False, "xterm"), (None, "dumb")])
def test_silence(screen: Screen, monkeypatch: pytest.MonkeyPatch, progress: bool | None, term: str) -> None:
    """When told so, and where lines cannot be replaced."""
    monkeypatch.setenv("TERM", term)
    with reporting(progress) as report:
        report(step())
        time.sleep(0.2)
    assert screen.written == ""


def test_no_terminal_no_bar(capfd: pytest.CaptureFixture[str]) -> None:
    """Into files and pipes nothing is written, and no thread is made for it."""
    with reporting(None) as report:
        report(step())
        assert not [thread for thread in threading.enumerate() if thread.name == "lxcwrap-progress"]
    assert capfd.readouterr() == ("", "")


def test_a_terminal_is_not_drawn_without_need(screen: Screen) -> None:
    """A flood of events makes ten drawings a second, and none if nothing changes."""
    with reporting(None) as report:
        begin = time.monotonic()
        while time.monotonic() - begin < 0.6:
            report(transfer("sha256:a", int((time.monotonic() - begin) * 1e7)))
    assert 1 <= screen.written.count("\x1b[J") <= 10


def test_a_lost_terminal_is_no_failure(screen: Screen) -> None:
    """Work goes on when what it is shown on goes away."""
    with reporting(None) as report:
        report(step())
        screen.wait_for(bool)
        screen.stream.close()
        report(output("x\n"))
        time.sleep(0.3)
        report(done())


def test_an_error_leaves_a_clean_terminal(screen: Screen) -> None:
    """The live lines go away, the error comes through."""
    with pytest.raises(KeyError), reporting(None) as report:
        report(step())
        screen.wait_for(bool)
        raise KeyError
    screen.wait_for(lambda lines: lines == [])


def test_one_bar_at_a_time(screen: Screen) -> None:
    """A second one would overwrite the first."""
    with reporting(None) as report:
        report(step())
        screen.wait_for(bool)
        with reporting(None) as other:
            other(step(2, instruction="RUN other"))
            time.sleep(0.2)
    assert "other" not in screen.written


# --- callables ------------------------------------------------------------------------------------------


def test_a_callable_is_given_events_one_at_a_time() -> None:
    """From whichever thread they come; those who report wait meanwhile."""
    inside, seen = threading.Lock(), []

    def slow(event: ProgressEvent) -> None:
        assert inside.acquire(blocking=False)
        time.sleep(0.01)
        seen.append(event)
        inside.release()

    with reporting(slow) as report:
        threads = [threading.Thread(target=report, args=(step(number),)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(seen) == 5


def test_what_a_callable_raises_comes_through() -> None:
    """And the next event is given all the same."""

    def failing(event: ProgressEvent) -> None:
        raise KeyError(event)

    with reporting(failing) as report:
        for _ in range(2):
            with pytest.raises(KeyError):
                report(step())


# --- notebooks ------------------------------------------------------------------------------------------


def test_a_notebook_shows_one_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is updated in place; a shell without a kernel is a terminal like any other."""
    shown: list[str] = []
    monkeypatch.setattr(display_module, "DELAY_S", 0.0)

    class Handle:
        def update(self, data: dict[str, str], *, raw: bool) -> None:
            shown.append(data["text/plain"])

    def show(data: dict[str, str], *, raw: bool, display_id: bool) -> Handle:
        shown.append(data["text/plain"])
        return Handle()

    shell = SimpleNamespace(kernel=object())
    ipython, displays = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    displays.display = show  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", displays)

    with reporting(None) as report:
        report(step())
        end = time.monotonic() + 20
        while not shown and time.monotonic() < end:
            time.sleep(0.01)
        report(output("hello\n"))
        report(done())
    assert shown[0] == "[1/3] RUN make  0 s"
    assert shown[-1] == "[1] hello\n[1/3] RUN make  1.2 s"
    shell.kernel = None
    with reporting(None):
        assert not [thread for thread in threading.enumerate() if thread.name == "lxcwrap-progress"]
