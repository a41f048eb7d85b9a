"""Sphinx extension: docstrings as this project writes them.

A paragraph that explains parameters one after the other (``image: what it is of. name: unique.``) becomes a
list, and what is raised a paragraph of its own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sphinx.application import Sphinx

_BEGIN = r"(?:(?<=\.) +|^)"  # of a sentence
_LAID_OUT = re.compile(r"^( |>>>|\.\.|[-*] )", re.MULTILINE)


def _part(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    any_name = "|".join(sorted(map(re.escape, _parameters(thing)), key=len, reverse=True)) or "(?!)"
    one = rf"(?:{any_name})(?: \([^)]*\))?"
    explained = re.compile(rf"{_BEGIN}({one}(?:, {one})*): ")
    paragraphs = "\n".join(lines).strip("\n").split("\n\n")
    lines[:] = [
        line for paragraph in paragraphs for part in _parts(paragraph, explained) for line in (part, "")
    ]
    lines[:] = "\n".join(lines).split("\n")


def _parameters(thing: Any) -> Iterator[str]:
    yield from getattr(thing, "__annotations__", ())
    with suppress(TypeError, ValueError):
        yield from inspect.signature(thing).parameters


def _parts(paragraph: str, explained: re.Pattern[str]) -> Iterator[str]:
    if _LAID_OUT.search(paragraph):
        yield paragraph
        return
    text, *raised = re.split(f"{_BEGIN}(?=Raises )", paragraph.replace("\n", " "), maxsplit=1)
    head, *listed = explained.split(text)
    yield from filter(None, [head])
    yield "\n".join(
        f"- **{names}**: {meaning}" for names, meaning in zip(listed[::2], listed[1::2], strict=True)
    )
    yield from raised


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _part, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
