"""Messages between callers and the supervisor: whole or not at all, whatever the other end does."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.supervisor import wire
from lxcwrap.supervisor.handover import MAX_FDS, close_all, flat_json, hand, take

Pair = tuple[socket.socket, socket.socket]
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.dictionaries(st.text(max_size=8), PLAIN, max_size=5)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def open_fds() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def frame(body: bytes) -> bytes:
    return struct.pack("<I", len(body)) + body


@given(st.lists(MESSAGES, min_size=1, max_size=5))
def test_messages_arrive_in_order(messages: list[wire.Message]) -> None:
    """Any number of them may be waiting: each `receive` takes one, the end of the stream is None."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            for message in messages:
                wire.send(ours, message)
        for message in messages:
            assert wire.receive(theirs) == (message, [])
        assert wire.receive(theirs) is None


@settings(max_examples=40)
@given(MESSAGES, st.lists(st.integers(1, 60), max_size=6))
def test_messages_may_arrive_in_pieces(message: wire.Message, cuts: list[int]) -> None:
    """A stream has no packets: where it is cut does not matter."""
    data = frame(json.dumps(message).encode())
    ours, theirs = socket.socketpair()

    def feed() -> None:
        start = 0
        for cut in cuts:
            ours.sendall(data[start : start + cut])
            start += cut
        ours.sendall(data[start:])

    with ours, theirs:
        feeder = threading.Thread(target=feed)
        feeder.start()
        assert wire.receive(theirs) == (message, [])
        feeder.join()


def test_a_message_larger_than_the_buffer_arrives_whole(pair: Pair) -> None:
    """Sending goes on where the kernel took a part."""
    message = {"data": "x" * (4 << 20)}
    sender = threading.Thread(target=wire.send, args=(pair[0], message))
    sender.start()
    assert wire.receive(pair[1]) == (message, [])
    sender.join()


@pytest.mark.parametrize("count", [1, 3, 16])
def test_descriptors_come_with_their_message(pair: Pair, count: int) -> None:
    """As new descriptors of the same files, in order, closed when another program is executed."""
    pipes = [os.pipe() for _ in range(count)]
    try:
        wire.send(pair[0], {"n": 1}, [writer for _, writer in pipes])
        wire.send(pair[0], {"n": 2})
        received = wire.receive(pair[1])
        assert received is not None
        message, fds = received
        assert message == {"n": 1}
        for number, fd in enumerate(fds):
            assert not os.get_inheritable(fd)
            os.write(fd, bytes([number]))
            assert os.read(pipes[number][0], 9) == bytes([number])
        close_all(fds)
        assert wire.receive(pair[1]) == ({"n": 2}, [])
    finally:
        close_all([fd for ends in pipes for fd in ends])


@pytest.mark.parametrize(
    "data",
    [
        b"\x05",
        frame(b"{}")[:-1],
        frame(b"nonsense"),
        frame(b"[1]"),
        frame(b"7"),
        frame(b"\xff\xfe"),
        frame(b""),
        struct.pack("<I", wire.MAX_MESSAGE + 1),
        frame(b'{"a": 1'),
        frame(b"[" * 100000),
    ],
    ids=lambda data: repr(data[:12]),
)
def test_nonsense_is_refused_and_its_descriptors_closed(pair: Pair, data: bytes) -> None:
    """ValueError, as soon as it is known; nothing is kept open, no memory is taken on credit."""
    fd = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(pair[0], [data], [fd])
    os.close(fd)
    pair[0].shutdown(socket.SHUT_WR)
    before = open_fds()
    with pytest.raises(ValueError):
        wire.receive(pair[1])
    assert open_fds() <= before


@given(st.binary(min_size=1, max_size=60))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    """No other error, and no waiting for what never comes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        try:
            received = wire.receive(theirs)
        except ValueError:
            return
        assert received is not None and isinstance(received[0], dict)


def test_more_descriptors_than_wanted_are_not_leaked(pair: Pair) -> None:
    """The kernel closes what there is no room for."""
    fd = os.open("/dev/null", os.O_RDONLY)
    before = open_fds()
    socket.send_fds(pair[0], [frame(b"{}")], [fd] * (MAX_FDS + 20))
    received = wire.receive(pair[1])
    assert received is not None and len(received[1]) <= MAX_FDS + 1
    close_all(received[1])
    assert open_fds() <= before
    os.close(fd)


def test_sending_to_nobody_is_an_error_not_a_signal(pair: Pair) -> None:
    """BrokenPipeError."""
    pair[1].close()
    with pytest.raises(BrokenPipeError):
        wire.send(pair[0], {"op": "hello"})


@given(PLAIN)
def test_handed_over_values_arrive(value: object) -> None:
    """Between our own processes any plain data goes, not only objects."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            hand(ours, value)
        assert take(theirs) == (value, [])
        assert take(theirs) is None


@given(
    st.dictionaries(
        st.sampled_from(("exit_code", "error", "started_at")),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_flat_records_are_json(record: dict[str, object]) -> None:
    """What is written without the json module is what it reads."""
    assert json.loads(flat_json(record)) == record
