"""The examples do what they say, as a user would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lxcwrap import Host

TOP = Path(__file__).parents[2]


def run_python(*arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart(shared_root: Path) -> None:
    """The quickstart runs a command, reports its failure, limits a container and reads its log."""
    output = run_python(TOP / "examples" / "quickstart.py")
    assert "Hello from a container" in output
    assert "exit code 3, stderr 'no such luck\\n'" in output
    assert "of 33554432 bytes used" in output
    assert "stdout tick" in output
    assert "stopped and removed: True" in output


def test_debian_application(fresh_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web application in an image made from Debian packages answers from inside, and its log is kept."""
    monkeypatch.setenv("LXCWRAP_ROOT", str(fresh_root))
    output = run_python(TOP / "examples" / "debian_app.py")
    assert "<h1>1 guests</h1><p>Ada &amp; Charles" in output
    assert '"GET / HTTP/1.1" 200' in output


@pytest.mark.network
@pytest.mark.slow
def test_packaged_application(fresh_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A web application is built, tested by its build, saved, loaded and run, and answers from inside."""
    monkeypatch.setenv("LXCWRAP_ROOT", str(fresh_root))
    output = run_python(TOP / "examples" / "package_app" / "package.py")
    assert "201: /2 leads to https://linuxcontainers.org/" in output
    assert "<h1>1 links</h1><ul><li>2: https://linuxcontainers.org/</ul>" in output
    assert "Shutting down" in output
    with Host(fresh_root) as host:
        assert len(host.containers) == 0
        assert [image.tags for image in host.images] == [("debian-gunicorn:bookworm",)]


def test_readme(shared_root: Path) -> None:
    """The code in the README runs as it stands."""
    code = re.search(r"```python\n(.*?)```", (TOP / "README.md").read_text(), re.DOTALL)
    assert code
    output = run_python("-c", code[1])
    assert output.startswith("hello\n")
