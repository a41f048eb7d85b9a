"""Steps and flows: how a wait is done, and what an interrupt of it leaves."""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Iterator

import pytest

from lxcwrap.waiting import Flow, Steps, Wait, finish, flow, flows, steps, waits


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    yield ends
    for fd in ends:
        os.close(fd)


class Adder:
    undone: BaseException | None = None

    @waits
    def add(self, first: int, fd: int | None = None) -> Steps[int]:
        """Adds."""
        try:
            came = yield Wait(fd, 0.01)
        except BaseException as error:
            self.undone = error
            raise
        return first + came

    @flows
    def count(self, end: int) -> Flow[int]:
        try:
            for number in range(end):
                yield number
                yield Wait(None, 0.0)
        finally:
            self.undone = GeneratorExit()


def test_steps_learn_whether_it_came(pipe: tuple[int, int]) -> None:
    """True when the descriptor is readable, False when the time is over."""
    assert Adder().add(1, pipe[0]) == 1
    os.write(pipe[1], b"x")
    assert Adder().add(1, fd=pipe[0]) == 2


def test_wait_is_no_longer_than_asked(pipe: tuple[int, int]) -> None:
    """The shorter of its own time and that of who waits; a wait without end ends with that."""
    began = time.monotonic()
    assert not Wait(pipe[0]).here(0.01) and not Wait(pipe[0], 60.0).here(0.01)
    assert not Wait(None, 60.0).here(0.01) and not Wait(pipe[0], -1.0).here()
    assert time.monotonic() - began < 30


def test_an_interrupt_is_thrown_into_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So they undo what they have to, and it goes on to the caller."""

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Wait, "here", interrupted)
    adder = Adder()
    with pytest.raises(KeyboardInterrupt):
        adder.add(1)
    assert isinstance(adder.undone, KeyboardInterrupt)


def test_steps_may_go_on_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they wait for then is waited for."""
    answers: Iterator[bool | BaseException] = iter([KeyboardInterrupt(), True])

    def here(*_: object) -> bool:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def stubborn() -> Steps[str]:
        try:
            yield Wait(None, 0.0)
        except KeyboardInterrupt:
            assert (yield Wait(None, 0.0))
        return "ended"

    monkeypatch.setattr(Wait, "here", here)
    assert finish(stubborn()) == "ended"


def test_flow_gives_its_values_and_is_closed() -> None:
    """Waits are done between them; who stops asking ends it."""
    adder = Adder()
    assert list(adder.count(3)) == [0, 1, 2]
    numbers = Adder().count(3)
    assert next(numbers) == 0
    numbers.close()  # type: ignore[attr-defined]
    endless = adder.count(10**9)
    adder.undone = None
    next(endless)
    del endless
    assert adder.undone is not None


def test_steps_of_bound_and_plain_functions() -> None:
    """They can be driven by others; the signature is that of the function which waits."""
    adder = Adder()
    each = steps(adder.add)(2)
    assert next(each) == Wait(None, 0.01)
    with pytest.raises(StopIteration) as ended:
        each.send(True)
    assert ended.value.value == 3
    assert list(flow(adder.count)(1)) == [0, Wait(None, 0.0)]
    assert str(inspect.signature(Adder.add)) == "(self, first: 'int', fd: 'int | None' = None) -> 'int'"
    assert inspect.signature(Adder.count).return_annotation == "Iterator[int]"
    assert Adder.add.__doc__ == "Adds."
