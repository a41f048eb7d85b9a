"""How the functions of lxcwrap are done in an event loop: in threads, and their waits by the loop itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import partial, wraps
from typing import Any, Concatenate, Generic, NoReturn, ParamSpec, Self, TypeVar, cast, overload

from ..waiting import Flow, Steps, Wait
from . import threads
from .threads import Ended

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

# A wait that is over this soon is done by the thread that came to it: handing it over and back takes as long.
_PATIENCE_S = 0.005
_MOST_VALUES = 512  # read ahead of who iterates over them


class Method(Generic[P, R_co]):
    """A method of these parameters, for type checkers. No object of it is ever made:
    functions are cast to it."""

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[P, R_co]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        raise NotImplementedError


# --- to the end ------------------------------------------------------------------------------------------


async def in_thread(
    pool: threads.Pool, function: Callable[[], T], lost: Callable[[T], object] | None = None
) -> T:
    """Its result. It cannot be stopped: when this is cancelled it is waited for all the same, and then `lost`
    undoes what it came to. But what may take long, and has nothing to undo, is left to itself."""
    if pool is threads.long() and lost is None:
        return cast(T, (await pool.submit(function)).result())
    cancelled, ended = await _settled(pool, function)
    if cancelled is not None:
        if lost is not None and ended.error is None:
            await _settled(pool, partial(lost, ended.value))
        raise cancelled
    return cast(T, ended.result())


async def drive(steps: Steps[T]) -> T:
    """What `steps` come to. Cancelled, they undo what they have to, as when interrupted."""
    came, error = False, None
    move: Callable[[], Wait | Ended] = partial(_move, steps, None, None)
    while True:
        cancelled, outcome = await _settled(threads.brief(), move)
        item = outcome.result()
        if isinstance(item, Ended):
            if cancelled is not None and item.error is None:
                raise cancelled
            return cast(T, item.result())
        error = cancelled
        if error is None:
            try:
                came = await _arrival(item)
            except asyncio.CancelledError as raised:
                error = raised
        move = partial(_move, steps, came, error)


async def _settled(
    pool: threads.Pool, function: Callable[[], object]
) -> tuple[asyncio.CancelledError | None, Ended]:
    """How it ended, in any case, and whether this task was cancelled meanwhile."""
    future, cancelled = pool.submit(function), None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    return cancelled, future.result()


def _move(steps: Steps[T], came: bool | None, error: BaseException | None) -> Wait | Ended:
    """In a thread: go on to the next wait that takes a while, or to the end."""
    patient_until = time.monotonic() + _PATIENCE_S
    try:
        wait = steps.throw(error) if error else next(steps) if came is None else steps.send(came)
        while (is_over := _is_over(wait, patient_until)) is not None:
            wait = steps.send(is_over)
        return wait
    except StopIteration as end:
        return Ended(end.value)
    except BaseException as raised:
        return Ended(error=raised)


def _is_over(wait: Wait, patient_until: float) -> bool | None:
    """None: it takes longer."""
    patience_s = patient_until - time.monotonic()
    if wait.fd is None or patience_s <= 0:
        return None
    if wait.here(patience_s):
        return True
    return False if wait.timeout_s is not None and wait.timeout_s <= patience_s else None


async def _arrival(wait: Wait) -> bool:
    """Whether it came."""
    if wait.fd is None:
        await asyncio.sleep(wait.timeout_s or 0.0)
        return False
    loop = asyncio.get_running_loop()
    came: asyncio.Future[None] = loop.create_future()
    loop.add_reader(wait.fd, _set, came)
    try:
        async with asyncio.timeout(wait.timeout_s):
            await came
            return True
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(wait.fd)


def _set(came: asyncio.Future[None]) -> None:
    if not came.done():
        came.set_result(None)


# --- value by value --------------------------------------------------------------------------------------


async def values(flow: Flow[T]) -> AsyncIterator[T]:
    """What `flow` gives."""
    came: bool | None = None
    try:
        while True:
            found, last = await in_thread(threads.brief(), partial(_gather, flow, came))
            came = None
            for value in found:
                yield value
            if isinstance(last, Ended):
                last.result()
                return
            if last is not None:
                came = await _arrival(last)
    finally:
        await in_thread(threads.brief(), flow.close)


def _gather(flow: Flow[T], came: bool | None) -> tuple[list[T], Wait | Ended | None]:
    """In a thread: the values up to the next wait, or to the end; or not all of them (None)."""
    found: list[T] = []
    try:
        item = next(flow) if came is None else flow.send(came)
        while type(item) is not Wait:
            found.append(cast(T, item))
            if len(found) == _MOST_VALUES:
                return found, None
            item = next(flow)
        return found, item
    except StopIteration:
        return found, Ended()
    except BaseException as error:
        return found, Ended(error=error)


# --- methods of the nouns --------------------------------------------------------------------------------
#
# Each takes a method of a class of lxcwrap, and calls it on the object's `_sync`, which is of that class.


class Twin:
    """An object whose methods are done by its `_sync`."""

    __slots__ = ()
    _sync: Any

    def _page(self) -> Any:
        return self._sync._page()

    def __enter__(self) -> NoReturn:
        raise TypeError(f"{self!r}: enter it by `async with`")


def method(
    function: Callable[Concatenate[Any, P], T], *, long: bool = False
) -> Method[P, Coroutine[Any, Any, T]]:
    """The same, awaited. long: it may take more than moments."""
    return making(lambda result: result, function, long=long)


def making(
    kind: Callable[[S], T],
    function: Callable[Concatenate[Any, P], S],
    *,
    long: bool = False,
    lost: Callable[[S], object] | None = None,
) -> Method[P, Coroutine[Any, Any, T]]:
    """The same, awaited, and `kind` of its result. lost: undoes it if nobody will have the result."""
    steps = getattr(function, "steps", None)

    @wraps(function)
    async def awaited(self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        if steps is not None:
            return kind(await drive(steps(self._sync, *args, **kwargs)))
        pool = threads.long() if long else threads.brief()
        return kind(await in_thread(pool, partial(function, self._sync, *args, **kwargs), lost))

    return cast(Method[P, Coroutine[Any, Any, T]], awaited)


def flowing(
    function: Callable[Concatenate[Any, P], Iterator[T]],
) -> Method[P, AsyncIterator[T]]:
    """For ``async for``."""
    flow = getattr(function, "steps", None)

    @wraps(function)
    def iterating(self: Any, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        if flow is not None:
            return values(flow(self._sync, *args, **kwargs))
        return values(_lazy(partial(function, self._sync, *args, **kwargs)))

    return cast(Method[P, AsyncIterator[T]], iterating)


def _lazy(function: Callable[[], Iterator[T]]) -> Flow[T]:
    yield from function()


def at_once(function: Callable[Concatenate[Any, P], T]) -> Method[P, T]:
    """For what neither waits nor blocks."""

    @wraps(function)
    def done(self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(self._sync, *args, **kwargs)

    return cast(Method[P, T], done)


def held(
    function: Callable[Concatenate[Any, P], AbstractContextManager[T]],
) -> Method[P, AbstractAsyncContextManager[T]]:
    """For ``async with``."""

    @wraps(function)
    @asynccontextmanager
    async def holding(self: Any, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        context = function(self._sync, *args, **kwargs)
        value = await in_thread(
            threads.brief(), context.__enter__, lambda _: context.__exit__(None, None, None)
        )
        try:
            yield value
        except BaseException as error:
            if not await in_thread(
                threads.brief(), partial(context.__exit__, type(error), error, error.__traceback__)
            ):
                raise
        else:
            await in_thread(threads.brief(), partial(context.__exit__, None, None, None))

    return cast(Method[P, AbstractAsyncContextManager[T]], holding)
