"""A step that is a Python function, which only programs can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen

from .functions import function_digest
from .instructions import Instruction


@frozen(kw_only=True)
class Call(Instruction):
    """Call ``function(*args, **kwargs)`` in a container of the step. digest: what names all that it does."""

    name = "CALL"
    function: Callable[..., Any] = field(eq=False)
    args: tuple[Any, ...] = field(eq=False)
    kwargs: Mapping[str, Any] = field(eq=False)
    digest: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        # At once: what the function refers to may change before it is called.
        object.__setattr__(self, "digest", function_digest(self.function, self.args, self.kwargs))
