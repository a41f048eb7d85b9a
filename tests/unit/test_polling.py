"""Waiting for descriptors."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator

import pytest

from lxcwrap.drivers.polling import readable


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Whose reading end has a number that select(2) could not take."""
    low, writer = os.pipe()
    reader = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 1500)
    os.close(low)
    yield reader, writer
    os.close(reader)


def test_those_that_can_be_read_are_told(pipe: tuple[int, int]) -> None:
    """Also above 1023, and at their end; none, when the time is over."""
    reader, writer = pipe
    assert readable(reader, timeout_s=0) == []
    os.write(writer, b"x")
    with open(os.devnull, "wb") as other:
        assert readable(reader) == [reader]
        assert readable(other.fileno(), reader)[-1] == reader
    os.read(reader, 1)
    os.close(writer)
    assert readable(reader) == [reader]
