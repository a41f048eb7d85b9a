"""What shows itself in a notebook: a base class that costs nothing until one asks.

How things look is the business of `lxcwrap.display`, which knows most other modules: it is imported by name,
when something is shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Shown:
    """Base of what notebooks show as a table or drawing, and terminals as plain text."""

    __slots__ = ()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        bundle: dict[str, str] = _display().bundle(self)
        return bundle

    def _repr_html_(self) -> str:
        html: str = _display().html(self)
        return html


def _display() -> Any:
    return import_module("lxcwrap.display")
