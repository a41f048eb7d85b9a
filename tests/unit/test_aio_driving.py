"""What blocks is done in threads, waits are the event loop's, and what a cancellation leaves."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import pytest

from lxcwrap.aio import threads
from lxcwrap.aio.driving import drive, held, in_thread, making, method, values
from lxcwrap.waiting import Flow, Steps, Wait


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_CLOEXEC)
    yield ends
    for fd in ends:
        os.close(fd)


def waiting(fd: int | None, timeout_s: float | None, told: list[object]) -> Steps[bool]:
    told.append(threading.current_thread().name)
    try:
        came = yield Wait(fd, timeout_s)
    except BaseException as error:
        told.append(type(error))
        raise
    told.append(came)
    return came


def test_steps_are_done_in_threads_and_told_what_came(pipe: tuple[int, int]) -> None:
    """Soon, later, or not in time; for the time alone as well."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        os.write(pipe[1], b"x")
        assert await drive(waiting(pipe[0], None, told))
        os.read(pipe[0], 1)
        assert not await drive(waiting(pipe[0], 0.001, told))
        assert not await drive(waiting(pipe[0], 0.05, told))
        assert not await drive(waiting(None, 0.01, told))
        loop.call_later(0.05, os.write, pipe[1], b"x")
        assert await drive(waiting(pipe[0], 60, told))
        assert told == ["lxcwrap-aio", True, *["lxcwrap-aio", False] * 3, "lxcwrap-aio", True]

    asyncio.run(main())


def test_waits_keep_no_thread(pipe: tuple[int, int]) -> None:
    """Hundreds are waited for at once, by a few threads."""

    async def main() -> None:
        told: list[object] = []
        fds = [os.dup(pipe[0]) for _ in range(300)]
        try:
            tasks = [asyncio.create_task(drive(waiting(fd, 60, told))) for fd in fds]
            while told.count("lxcwrap-aio") < len(fds):
                await asyncio.sleep(0.001)
            assert sum(each.name == "lxcwrap-aio" for each in threading.enumerate()) <= 3
            os.write(pipe[1], b"x")
            assert all(await asyncio.gather(*tasks))
        finally:
            for fd in fds:
                os.close(fd)

    asyncio.run(main())


def test_cancellation_ends_the_wait_and_is_told_to_the_steps(pipe: tuple[int, int]) -> None:
    """Before it is over they have undone what they had to."""

    async def main() -> None:
        told: list[object] = []
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await drive(waiting(pipe[0], None, told))
        assert told[1:] == [asyncio.CancelledError]

    asyncio.run(main())


def test_cancellation_while_a_thread_works_is_told_at_the_next_wait() -> None:
    """What cannot be stopped is waited for."""

    def steps() -> Steps[None]:
        begun.set()
        time.sleep(0.05)
        yield from waiting(None, 1000.0, told)

    async def main() -> None:
        task = asyncio.create_task(drive(steps()))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert told[1:] == [asyncio.CancelledError]

    begun, told = threading.Event(), list[object]()
    asyncio.run(main())


def test_a_result_that_nobody_will_have_is_undone() -> None:
    """Of what was cancelled too late to be stopped."""
    begun, lost = threading.Event(), list[str]()

    def make() -> str:
        begun.set()
        time.sleep(0.05)
        return "made"

    async def main() -> None:
        task = asyncio.create_task(in_thread(threads.brief(), make, lost.append))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert lost == ["made"]

    asyncio.run(main())


def test_long_work_is_left_to_itself() -> None:
    """Whoever is cancelled need not wait for a download."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait()
        ended.set()

    async def main() -> None:
        task = asyncio.create_task(in_thread(threads.long(), work))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_end.set()
        await asyncio.to_thread(ended.wait)

    asyncio.run(main())


def test_long_work_that_is_cancelled_before_its_turn_is_not_done() -> None:
    """There are more than threads for it."""
    go_on, begun = threading.Event(), []

    def work(number: int) -> None:
        begun.append(number)
        go_on.wait(60)

    async def main() -> None:
        tasks = [asyncio.ensure_future(in_thread(threads.long(), partial(work, n))) for n in range(40)]
        while not begun:
            await asyncio.sleep(0.005)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        go_on.set()
        await in_thread(threads.long(), lambda: None)

    asyncio.run(main())
    assert len(begun) < 40


def test_errors_come_out_as_they_are() -> None:
    """Also StopIteration, which no coroutine may raise."""

    def steps() -> Steps[None]:
        yield Wait(None, 0.0)
        raise KeyError("x")

    def stop() -> None:
        raise StopIteration

    async def main() -> None:
        with pytest.raises(KeyError):
            await drive(steps())
        with pytest.raises(RuntimeError):
            await in_thread(threads.brief(), stop)

    asyncio.run(main())


def counting(end: int, told: list[str]) -> Flow[int]:
    try:
        for number in range(end):
            yield number
            if number % 1000 == 10:
                yield Wait(None, 0.0)
        raise LookupError("over")
    finally:
        told.append("closed")


def test_values_come_in_order_before_the_error() -> None:
    """Many at a time, whatever waits are between them."""

    async def main() -> None:
        found: list[int] = []
        with pytest.raises(LookupError):
            async for number in values(counting(3000, told)):
                found.append(number)  # noqa: PERF401  # those before the error
        assert found == list(range(3000)) and told == ["closed"]

    told: list[str] = []
    asyncio.run(main())


def test_who_stops_iterating_closes_the_flow() -> None:
    """At once when asked to, else with the event loop."""

    async def main() -> None:
        numbers = values(counting(10, told))
        assert await anext(aiter(numbers)) == 0
        await numbers.aclose()  # type: ignore[attr-defined]
        assert told == ["closed"]
        async for _ in values(counting(10, told)):
            break

    told: list[str] = []
    asyncio.run(main())
    assert told == ["closed"] * 2


class Plain:
    def __init__(self) -> None:
        self.told: list[object] = []

    def add(self, one: int, *, other: int = 1) -> int:
        """Adds."""
        return one + other

    @contextmanager
    def block(self, name: str) -> Iterator[str]:
        self.told.append(f"entered {name}")
        try:
            yield name
        except ZeroDivisionError:
            self.told.append("swallowed")
        finally:
            self.told.append("left")


class Awaited:
    add = method(Plain.add)
    text = making(str, Plain.add, long=True)
    block = held(Plain.block)

    def __init__(self) -> None:
        self._sync = Plain()


def test_methods_are_those_of_the_plain_class() -> None:
    """Parameters, documentation, and what is made of the result."""

    async def main() -> None:
        awaited = Awaited()
        assert await awaited.add(1, other=3) == 4 and await awaited.text(1) == "2"
        assert Awaited.add.__doc__ == "Adds."
        async with awaited.block("x") as name:
            assert name == "x" and awaited._sync.told == ["entered x"]
        async with awaited.block("y"):
            raise ZeroDivisionError
        with pytest.raises(KeyError):
            async with awaited.block("z"):
                raise KeyError
        assert awaited._sync.told[1:] == ["left", "entered y", "swallowed", "left", "entered z", "left"]

    asyncio.run(main())


def test_threads_see_the_variables_of_their_task() -> None:
    """The default host is such a variable."""
    variable: ContextVar[int] = ContextVar("variable", default=0)

    async def main() -> None:
        variable.set(5)
        assert await in_thread(threads.brief(), variable.get) == 5

    asyncio.run(main())


def test_threads_end_when_idle() -> None:
    """And come again; a forked process has its own."""

    async def main() -> int:
        return await in_thread(threads.long(), partial(int, "3"))

    assert asyncio.run(main()) == 3
    deadline = time.monotonic() + 60
    while any(each.name == "lxcwrap-aio" for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert asyncio.run(main()) == 3
    assert threads._pools(os.getpid()) is not threads._pools(-1)
