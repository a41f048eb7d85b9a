"""The documentation does what it says, followed as a new user would; see `test_services`, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lxcwrap import Host
from tests import notebooks
from tests.docpages import DOCS


@pytest.mark.parametrize("page", ["tutorial"])
def test_a_page_to_the_letter(fresh_root: Path, tmp_path: Path, page: str) -> None:
    """All answers are those shown, and nothing is left."""
    environment = {**os.environ, "LXCWRAP_ROOT": str(fresh_root), "PYTHONPATH": str(DOCS.parent)}
    command = [sys.executable, "-W", "error", "-m", "tests.docpages", str(DOCS / f"{page}.md")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    with Host(fresh_root) as host:
        left = [each.name for each in (*host.containers, *host.networks, *host.volumes)]
    assert left == []


def test_the_first_notebook(fresh_root: Path, tmp_path: Path) -> None:
    """It runs to its end, and shows what the site shows."""
    notebooks.run("first_steps", fresh_root, tmp_path)
