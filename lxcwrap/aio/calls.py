"""`Calls` for event loops."""

# Its methods are those of the class it derives from, awaited.
# mypy: disable-error-code="override"

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from .. import calling as plain
from .driving import drive

P = ParamSpec("P")
T = TypeVar("T")


class Calls(plain.Calls):
    """`lxcwrap.Calls` whose methods are awaited. A call that is cancelled is killed."""

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """As `lxcwrap.Container.call`."""
        return (await drive(self._steps(function, args, kwargs, plain.passing_on()))).value

    async def captured(
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> plain.Called[T]:
        """The same, with what it has written."""
        return await drive(self._steps(function, args, kwargs, None))

    def function(self, function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorator: the function is called in the container, and awaited."""

        @wraps(function)
        async def called(*args: P.args, **kwargs: P.kwargs) -> T:
            return await self.call(function, *args, **kwargs)

        return called
