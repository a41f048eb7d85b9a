"""What logs cost: a producer into the log against the same producer into a plain file, and reading back.

Run as ``python benchmarks/logs.py [directory]``. The figures are medians of 20, in milliseconds.
"""

from __future__ import annotations

import os
import resource
import select
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lxcwrap.storage.logreader import read_lines
from lxcwrap.storage.logs import STDOUT, LogWriter, open_pipe

RUNS = 20
LINES = 100_000
LINE = b"x" * 80 + b"\n"


def median_ms(function: Callable[[], object]) -> float:
    def once() -> float:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) * 1000

    return statistics.median(once() for _ in range(RUNS))


def _spawn(size: int, fd: int) -> int:
    """A process that writes the lines to `fd`, `size` bytes a write."""
    pid = os.fork()
    if pid == 0:
        data = LINE * LINES
        for start in range(0, len(data), size):
            os.write(fd, data[start : start + size])
        os._exit(0)
    return pid


def to_file(directory: Path, size: int) -> None:
    fd = os.open(directory / "plain", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    pid = _spawn(size, fd)
    os.waitpid(pid, 0)
    os.close(fd)


def to_log(directory: Path, size: int) -> None:
    for path in directory.glob("0*"):
        path.unlink()
    writer = LogWriter(directory, max_bytes=16 << 20, max_files=3)
    reader, end = open_pipe()
    pid = _spawn(size, end)
    os.close(end)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while poll.poll() and writer.pump(reader, STDOUT):
        pass
    os.waitpid(pid, 0)
    os.close(reader)
    writer.close()


def main(directory: Path) -> None:
    for size, name in ((4096, "4 KiB writes, as libc's buffer makes them"), (len(LINE), "a write per line")):
        plain, logged = (median_ms(partial(act, directory, size)) for act in (to_file, to_log))
        print(f"{LINES} lines of {len(LINE)} bytes, {name}")
        print(f"  to a file {plain:7.1f}   to the log {logged:7.1f}   ratio {logged / plain:.2f}")
    lines = list(read_lines(directory))
    assert len(lines) == LINES and lines[-1].text == LINE.decode().rstrip()
    print(f"all lines as LogLine: {median_ms(lambda: list(read_lines(directory))):.1f}")
    print(f"tail=20:              {median_ms(lambda: list(read_lines(directory, tail=20))):.2f}")
    print(f"idle follower, share of a processor: {_idle_share(directory):.2%}")


def _idle_share(directory: Path) -> float:
    ends = time.monotonic() + 2
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _line in read_lines(directory, tail=0, follow=True, is_finished=lambda: time.monotonic() > ends):
        pass
    after = resource.getrusage(resource.RUSAGE_SELF)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 2


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        main(Path(name))
