"""Waiting, written once for threads and for event loops.

What may wait for long is a generator: it yields each `Wait`, and is sent whether it came. So who drives it
decides how to wait: `finish` in its own thread, `lxcwrap.aio` in an event loop. An error or interrupt of the
wait is thrown into it, and it undoes what it has to.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial, wraps
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Wait(NamedTuple):
    """For descriptor `fd` to be readable or at its end (None: for the time alone), for `timeout_s` seconds at
    most (None: without end)."""

    fd: int | None
    timeout_s: float | None = None

    def here(self, most_s: float | None = None) -> bool:
        """Wait in this thread, no longer than `most_s`; whether it came."""
        times = [each for each in (self.timeout_s, most_s) if each is not None]
        if self.fd is None:
            time.sleep(max(0.0, min(times)))
            return False
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        return bool(poll.poll(max(0.0, min(times)) * 1000 if times else None))


# What comes to a value, and what gives values between its waits.
Steps = Generator[Wait, bool, T]
Flow = Generator[Wait | T, bool, None]


def finish(steps: Steps[T]) -> T:
    """What `steps` come to, waiting in this thread."""
    try:
        wait = next(steps)
        while True:
            try:
                came = wait.here()
            except BaseException as error:  # an interrupt
                wait = steps.throw(error)
            else:
                wait = steps.send(came)
    except StopIteration as end:
        value: T = end.value
        return value


def waits(function: Callable[P, Steps[T]]) -> Callable[P, T]:
    """As a function that waits in its thread; the steps are to be had from its `steps`."""

    @wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> T:
        return finish(function(*args, **kwargs))

    return _with_steps(waiting, function, "Steps")


def steps(function: Callable[P, T]) -> Callable[P, Steps[T]]:
    """Those of a function, or method of an object, that `waits` has made."""
    generator: Callable[..., Steps[T]] = function.steps  # type: ignore[attr-defined]
    return partial(generator, function.__self__) if hasattr(function, "__self__") else generator


def flow(function: Callable[P, Iterator[T]]) -> Callable[P, Flow[T]]:
    """As `steps`, for what `flows` has made."""
    return steps(function)  # type: ignore[arg-type]


def flows(function: Callable[P, Flow[T]]) -> Callable[P, Iterator[T]]:
    """As a function that gives an iterator, which waits in its thread."""

    @wraps(function)
    def flowing(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _values(function(*args, **kwargs))  # what is wrong with the arguments is said at once

    return _with_steps(flowing, function, "Flow")


def _values(flow: Flow[T]) -> Iterator[T]:
    try:
        item = next(flow)
        while True:
            if type(item) is Wait:
                item = flow.send(item.here())
            else:
                yield item  # type: ignore[misc]  # it is no Wait
                item = next(flow)
    except StopIteration:
        return
    finally:
        flow.close()


def _with_steps(waiting: Callable[P, T], function: Callable[..., object], name: str) -> Callable[P, T]:
    result = str(function.__annotations__["return"]).removeprefix(f"{name}[").removesuffix("]")
    # Read by whoever asks for the signature: inspect, and the documentation.
    function.__annotations__["return"] = result if name == "Steps" else f"Iterator[{result}]"
    waiting.steps = function  # type: ignore[attr-defined]
    return waiting
