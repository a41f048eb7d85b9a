"""The shape of the package: who may import whom, and what `import lxcwrap` may cost."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lxcwrap

PACKAGE = Path(lxcwrap.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

# A module imports only from lines above its own, or from its own package.
LEVELS = (
    {"__version__", "errors", "ids", "shown", "waiting"},
    {"netspecs"},
    {"checkedjson", "digests", "platforms", "policies", "results"},
    {"specs"},
    {"imageconfig", "reference", "specjson"},
    {"imagechanges", "oci"},
    {"drivers"},
    {"storage"},
    {"net"},
    {"progress"},
    {"formats"},
    {"registry"},
    {"supervisor"},
    {"terminal"},
    {"execution", "inroot", "machinery", "options"},
    {"copying", "events", "files", "ready", "lifecycle", "stats", "systems"},
    {"resting", "resuming"},
    {"attaching", "backups", "committing", "faults", "inside", "making", "networking"},
    {"calling", "limiting"},
    {"display"},
    {"build"},
    {"image"},
    {"buildsteps"},
    {"images"},
    {"container"},
    {"containers", "relaunching"},
    {"snapshot"},
    {"snapshots"},
    {"volume"},
    {"network"},
    {"networks"},
    {"volumes"},
    {"check"},
    {"host"},
    {"testruns"},
    {"aio", "magic", "testing", "testsession"},
    {"pytest_plugin", "testmaking"},
    {"fixtures"},
    {"__init__"},
    {"cli"},
    {"__main__"},
)

# What gives one another, late: from a container comes a snapshot, and from that containers; pytest's plugin
# has a fixture that is a factory, and the factories ask it for the session.
UPWARDS = {("container", "snapshot"), ("pytest_plugin", "fixtures")}


def _area(parts: tuple[str, ...]) -> str:
    """The name `LEVELS` knows a module by: its own, or that of its package, also for a public name."""
    return parts[0] if parts and parts[0] not in lxcwrap.__all__ else "__init__"


def _imports(path: Path) -> Iterator[tuple[str, ...]]:
    """Absolute dotted names of all that a module imports, for types only or late in a function too."""
    package = ("lxcwrap", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def _modules(path: Path) -> set[str]:
    return {name[0] for name in _imports(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    """A module imports from lower levels or its own package."""
    level = {area: number for number, areas in enumerate(LEVELS) for area in areas}
    own = _area(path.relative_to(PACKAGE).with_suffix("").parts)
    for name in _imports(path):
        if name[0] == "lxcwrap" and (other := _area(name[1:])) != own:
            is_right = level.get(other, 99) < level[own] or (own, other) in UPWARDS
            assert is_right, f"{own} must not import {'.'.join(name)}"


def test_one_module_imports_the_bindings() -> None:
    """liblxc is reached through drivers/liblxc.py alone."""
    users = {path.relative_to(PACKAGE).as_posix() for path in MODULES if {"lxc", "_lxc"} & _modules(path)}
    assert users == {"drivers/liblxc.py"}


def test_only_drivers_call_the_kernel_directly() -> None:
    """ctypes appears in drivers/ only."""
    users = {path.relative_to(PACKAGE).parts[0] for path in MODULES if "ctypes" in _modules(path)}
    assert users <= {"drivers"}


def test_descriptors_may_have_any_number() -> None:
    """select(2) knows none above 1023: it is not used."""
    assert not [path for path in MODULES if "select.select(" in path.read_text()]


def test_parameters_of_sql_are_named_or_plain() -> None:
    """Python 3.12 warns of numbered ones."""
    assert not [path for path in MODULES if re.search(r"[=<>(, ]\?[1-9]", path.read_text())]


def test_importing_lxcwrap_is_light() -> None:
    """What is slow to import is imported when it is first used."""
    heavy = set("_lxc attr ctypes isal sqlite3 subprocess tarfile urllib3 yaml zstandard".split())
    code = "import sys; before = set(sys.modules); import lxcwrap; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())
