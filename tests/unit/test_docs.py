"""Every public name is in the reference, and says what it means."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import lxcwrap
from lxcwrap import aio, errors, events, ready
from tests.docpages import DOCS, blocks

PAGES = (DOCS / "reference.rst", *sorted((DOCS / "reference").glob("*.rst")))
REFERENCE = "\n".join(page.read_text() for page in PAGES)
WHOLE = set(re.findall(r"automodule:: (\S+)\n   :members:\n", REFERENCE))


def names(module: ModuleType) -> list[str]:
    """What it makes public: by `__all__`, by importing it as itself, or by defining it."""
    if module is lxcwrap:
        return lxcwrap.__all__
    homes = {name: getattr(value, "__module__", "") for name, value in vars(module).items()}
    return [name for name, home in homes.items() if home.startswith(module.__name__) and name[0] != "_"]


def public() -> Iterator[tuple[str, Any]]:
    for module in (lxcwrap, aio, errors, events, ready):
        for name in names(module):
            yield f"{module.__name__}.{name}", getattr(module, name)


def members(thing: type) -> Iterator[tuple[str, Any]]:
    """What is public of a class, and of those of ours that it is derived from."""
    for each in thing.__mro__:
        if each.__module__.startswith("lxcwrap"):
            for name, value in vars(each).items():
                described = isinstance(value, property | staticmethod | classmethod) or callable(value)
                if described and not name.startswith("_"):
                    yield name, getattr(thing, name)


PUBLIC = dict(public())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_documented(name: str) -> None:
    """In the reference, and by docstrings: its own, and those of its methods and properties."""
    thing = PUBLIC[name]
    in_reference = re.search(rf"{re.escape(name)}\b(?!\.)", REFERENCE)
    assert in_reference or getattr(thing, "__module__", "") in WHOLE, "is not in docs/reference"
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing)
    if inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
        assert [member for member, value in members(thing) if not inspect.getdoc(value)] == []


def test_every_option_of_containers_is_explained() -> None:
    """In the docstring of `ContainerOptions`."""
    explained = re.findall(r"\w+(?=(?: \([^)]*\))?[,:])", lxcwrap.ContainerOptions.__doc__ or "")
    assert set(lxcwrap.ContainerOptions.__annotations__) - set(explained) == set()


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_code_on_a_page_can_be_read(page: Any) -> None:
    """By Python; also what no test runs."""
    for block in blocks(page):
        if block.language == "python":
            compile(block.code, f"{page.name}:{block.line}", "exec", flags=0x2000)  # top-level await, too
