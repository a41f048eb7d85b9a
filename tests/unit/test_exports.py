"""The public surface: names are a contract."""

from __future__ import annotations

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import lxcwrap
from lxcwrap import errors

CONTRACT = {"Container", "Host", "Image", "Limits", "Mount", "default_host", "run", "use_host"}


def test_all_is_sorted_and_complete() -> None:
    """`__all__` is sorted, every name in it exists, and `dir()` shows them."""
    assert list(lxcwrap.__all__) == sorted(lxcwrap.__all__)
    assert all(getattr(lxcwrap, name) is not None for name in lxcwrap.__all__)
    assert set(lxcwrap.__all__) <= set(dir(lxcwrap))


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for type checkers only is what is found when it is used."""
    tree = ast.parse(Path(lxcwrap.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    seen = {(node.module, alias.asname) for node in imports for alias in node.names if alias.asname}
    assert seen == {(module, name) for name, module in lxcwrap._MODULE_OF.items()}


def test_names_users_rely_on() -> None:
    """What users write `from lxcwrap import` for."""
    assert set(lxcwrap.__all__) >= CONTRACT


def test_all_errors_are_public() -> None:
    """Whatever can be raised can be caught by a name of the package."""
    raised = {name for name, _ in inspect.getmembers(errors, inspect.isclass) if name.endswith("Error")}
    raised = {name for name in raised if getattr(errors, name).__module__ == errors.__name__}
    assert raised | {"TimeoutExpired"} <= set(lxcwrap.__all__)


def test_unknown_names_are_refused() -> None:
    """A misspelt name is an AttributeError, as with any module."""
    assert not hasattr(lxcwrap, "Hots")


def test_version() -> None:
    """The package and its installed metadata agree on the version."""
    assert lxcwrap.__version__ == version("lxcwrap")
