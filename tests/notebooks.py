"""Notebooks of the documentation, run by nbclient: see `run`.

With LXCWRAP_PICTURES=DIRECTORY they are written there, with the outputs they had: those that the site shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.docpages import DOCS

_NEEDED = ("nbclient", "nbconvert", "ipykernel")
_OWN = ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")


def run(name: str, root: Path, scratch: Path) -> None:
    """To its end, in a kernel whose default host is at `root`; with outputs like those that are stored."""
    if not all(map(find_spec, _NEEDED)):
        missing = "needs Jupyter: pip install lxcwrap[notebook]"
        pytest.fail(missing, pytrace=False) if os.environ.get("CI") else pytest.skip(missing)
    stored, executed = DOCS / "notebooks" / f"{name}.ipynb", scratch / f"{name}.ipynb"
    options = ("--execute", "--to=notebook", "--ExecutePreprocessor.record_timing=False")
    command = [sys.executable, "-m", "nbconvert", *options, f"--output-dir={scratch}", str(stored)]
    environment = {
        **os.environ,
        **{variable: str(scratch) for variable in _OWN},
        "LXCWRAP_ROOT": str(root),
        "PYTHONPATH": str(DOCS.parent),
    }
    done = subprocess.run(
        command, cwd=scratch, env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    if directory := os.environ.get("LXCWRAP_PICTURES"):
        Path(directory, executed.name).write_bytes(executed.read_bytes())
    assert _kinds(executed) == _kinds(stored), "the site shows outputs of other kinds"


def _kinds(notebook: Path) -> list[tuple[str, set[str]]]:
    """What each cell is, and what kinds of outputs it has, whatever they say."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return [("".join(cell["source"]), set(chain(*map(_names, cell.get("outputs", ()))))) for cell in cells]


def _names(output: Mapping[str, Any]) -> Iterable[str]:
    return output.get("data") or [output.get("name", "error")]
