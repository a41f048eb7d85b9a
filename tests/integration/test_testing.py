"""Hosts for the tests of other programs, by real ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FORKS = """
import os
from lxcwrap import run
from lxcwrap.testing import temporary_host

with temporary_host() as host:
    if (child := os.fork()) == 0:
        raise SystemExit(3)  # the block ends there, too
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    print(run("busybox", ["echo", "here still"]).stdout, end="")
"""


def test_a_forked_process_leaves_the_host_to_its_parent(roots: Path) -> None:
    """Its end is not that of the block."""
    directory = Path(tempfile.mkdtemp(prefix="runs-", dir=roots))
    directory.chmod(0o711)
    environ = {**os.environ, "LXCWRAP_TEST_DIR": str(directory)}
    done = subprocess.run(
        [sys.executable, "-c", FORKS], env=environ, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("here still\n", "")
    directory.rmdir()  # it is empty
