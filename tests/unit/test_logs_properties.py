"""Logs: for any output in any pieces, what is read is what was written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.storage.logreader import read_lines, read_text
from lxcwrap.storage.logs import STDERR, STDOUT, LogWriter

_piece = st.one_of(
    st.text(alphabet="ab\n\r\u20ac\U0001f600", max_size=30).map(str.encode),
    st.binary(max_size=20),
    st.integers(1, 70_000).map(lambda size: b"z" * size),
)
_output = st.lists(st.tuples(st.sampled_from([STDOUT, STDERR]), _piece), max_size=25)


def _write(directory: Path, output: list[tuple[int, bytes]]) -> None:
    for stream, data in output:  # a writer per piece: each finds the end again
        writer = LogWriter(directory, max_bytes=100_000, max_files=1000)
        writer.add(stream, data)
        writer.close()


@settings(max_examples=60, deadline=None)
@given(_output)
def test_read_gives_what_was_written(output: list[tuple[int, bytes]]) -> None:
    """Each stream alone is exactly its bytes, decoded; both together hold the same lines."""
    with tempfile.TemporaryDirectory() as name:
        _write(Path(name), output)
        lines = list(read_lines(name))
        for number, stream in ((STDOUT, "stdout"), (STDERR, "stderr")):
            written = b"".join(data for which, data in output if which == number).decode(errors="replace")
            assert read_text(name, stream=stream) == written  # type: ignore[arg-type]
            texts = written.removesuffix("\n").split("\n") if written else []
            assert [line.text for line in lines if line.stream == stream] == texts


@settings(max_examples=60, deadline=None)
@given(_output, st.integers(0, 30))
def test_tail_is_the_end_of_the_whole(output: list[tuple[int, bytes]], count: int) -> None:
    """tail=n gives the last n of all lines."""
    with tempfile.TemporaryDirectory() as name:
        _write(Path(name), [*output, (STDOUT, b"\n"), (STDERR, b"\n")])
        lines = list(read_lines(name))
        assert list(read_lines(name, tail=count)) == lines[max(0, len(lines) - count) :]
