"""docs/from-docker.md and docs/cli.md: what they name exists."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lxcwrap
from lxcwrap import Container, ContainerOptions, Host, Image, Network, Popen, Volume
from lxcwrap.cli.main import parser

DOCS = Path(__file__).parents[2] / "docs"
TABLE = (DOCS / "from-docker.md").read_text()
NOUNS: dict[str, Any] = {
    **{"host": Host, "container": Container, "image": Image, "network": Network, "volume": Volume},
    **{"process": Popen, "lxcwrap": lxcwrap, "run": lxcwrap.run},
    **{name: getattr(lxcwrap, name) for name in lxcwrap.__all__},
}


def spans() -> Iterator[str]:
    """The code in the right column, as Python: ``env=`` alone is completed to ``env=None``."""
    for line in TABLE.splitlines():
        if not line.startswith("| `") and not line.startswith("| none"):
            continue
        for code in re.findall(r"`([^`]+)`", re.split(r"(?<!\\)\|", line)[2]):
            completed = re.sub(r"(\w+=)(?=[,)])", r"\1None", code)
            if re.match(r"[\w.]+[.(\[]", completed) and completed.split(".")[0].split("(")[0] in NOUNS:
                yield completed


SPANS = list(dict.fromkeys(spans()))


def resolve(node: ast.expr) -> Any:
    """What an expression means: a module, class or function; the class of what a property or call gives."""
    match node:
        case ast.Name():
            return NOUNS.get(node.id)
        case ast.Attribute():
            return returned(getattr(resolve(node.value), node.attr))
        case ast.Subscript():
            return returned(resolve(node.value).__getitem__)
        case ast.Call():
            function = resolve(node.func)
            check_keywords(function, [keyword.arg for keyword in node.keywords])
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                for inner in ast.walk(argument):
                    if isinstance(inner, ast.Call):
                        resolve(inner)
            return returned(function, called=True)
        case _:
            return None


def returned(what: Any, *, called: bool = False) -> Any:
    """The class a property gives; of a function that is called, its result's."""
    if isinstance(what, property) or hasattr(what, "func"):  # cached_property
        what, called = getattr(what, "fget", None) or what.func, True
    if not called or inspect.isclass(what):
        return what
    module = inspect.getmodule(inspect.unwrap(what))
    hint = what.__annotations__.get("return", "")
    return NOUNS.get(hint) or getattr(module, str(hint), str(hint))


def check_keywords(function: Any, names: list[str | None]) -> None:
    parameters = inspect.signature(function).parameters
    known = {*parameters, *(ContainerOptions.__annotations__ if "options" in parameters else ())}
    if "timing" in parameters:
        known |= {"interval_s", "timeout_s", "retries"}
    assert set(names) <= known, function


@pytest.mark.parametrize("code", SPANS)
def test_what_stands_in_for_docker_exists(code: str) -> None:
    """Each name, and each keyword."""
    assert resolve(ast.parse(code, mode="eval").body) is not None


def test_no_name_is_overlooked() -> None:
    """What the page calls by another name would not be looked at."""
    assert len(SPANS) > 150
    assert {code.partition("(")[0] for code in SPANS} >= {"lxcwrap.run", "host.images.build"}


def test_a_wrong_name_or_keyword_is_found() -> None:
    """The test above can fail."""
    for code in (
        "container.reload()",
        "host.containers.launch(image, remove=True)",
        "run(image, Limits(cpu=1))",
    ):
        with pytest.raises((AssertionError, AttributeError)):
            resolve(ast.parse(code, mode="eval").body)


def test_all_commands_are_described() -> None:
    """And no others."""
    (actions,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    page = (DOCS / "cli.md").read_text()
    table = page.partition("## Commands")[2].partition("## For scripts")[0]
    assert set(re.findall(r"`(\w+)`", table)) - {"ls", "create", "connect", "disconnect"} == set(
        actions.choices
    )
