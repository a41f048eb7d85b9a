"""The documentation does what it says, followed as a new user would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docpages import DOCS

TOP = DOCS.parent


@pytest.mark.parametrize("page", ["tutorial"])
def test_a_page_to_the_letter(fresh_root: Path, tmp_path: Path, page: str) -> None:
    """All answers are those shown, and nothing is left."""
    environment = {**os.environ, "LXCWRAP_ROOT": str(fresh_root), "PYTHONPATH": str(TOP)}
    command = [sys.executable, "-W", "error", "-m", "tests.docpages", str(DOCS / f"{page}.md")]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
