"""Threads for what blocks. They are few, as each has a connection to the records, and all contend with the
event loop for the interpreter; they end when they have been idle for a second."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import cache
from typing import Any, NamedTuple

_IDLE_S = 1.0
# So many containers are started at once, at the most: more would be no faster, and keep all others waiting,
# the event loop among them.
_BRIEF = 3
_LONG = 16


class Ended(NamedTuple):
    """What a function came to."""

    value: Any = None
    error: BaseException | None = None

    def result(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


class Pool:
    def __init__(self, most: int) -> None:
        self._most = most
        self._threads = self._waiting = 0
        self._work: deque[Callable[[], None]] = deque()
        self._changed = threading.Condition(threading.Lock())

    def submit(self, function: Callable[[], object]) -> asyncio.Future[Ended]:
        """How it ended, when a thread has called it."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Ended] = loop.create_future()
        context = copy_context()

        def work() -> None:
            if future.cancelled():
                return  # before its turn
            ended = context.run(_ended, function)
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(_settle, future, ended)

        with self._changed:
            self._work.append(work)
            if self._waiting:
                self._changed.notify()
            elif self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._serve, name="lxcwrap-aio", daemon=True).start()
        return future

    def _serve(self) -> None:
        while (work := self._next()) is not None:
            work()
            del work  # with what it holds, before the next wait

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._work:
                self._waiting += 1
                notified = self._changed.wait(_IDLE_S)
                self._waiting -= 1
                if not notified and not self._work:
                    self._threads -= 1
                    return None
            return self._work.popleft()


def _ended(function: Callable[[], object]) -> Ended:
    try:
        return Ended(function())
    except BaseException as error:
        return Ended(error=error)


def _settle(future: asyncio.Future[Ended], ended: Ended) -> None:
    if not future.done():
        future.set_result(ended)


def brief() -> Pool:
    """For what is over in milliseconds."""
    return _pools(os.getpid())[0]


def long() -> Pool:
    """For what may take its time, such as a download."""
    return _pools(os.getpid())[1]


@cache
def _pools(_pid: int) -> tuple[Pool, Pool]:
    """A forked process has none of the threads."""
    return Pool(_BRIEF), Pool(_LONG)
