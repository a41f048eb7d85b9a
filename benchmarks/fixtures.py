"""What the fixtures of the pytest plugin cost, beside tests without any: medians of real runs of pytest.

    python benchmarks/fixtures.py [--runs 10] [--tests 40]

Needs root. Everything lies in /dev/shm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CONFTEST = """
import json, os, time
import pytest
from lxcwrap import fixtures

idle = fixtures.container("busybox", sh="echo 1 > /state; exec sleep 1000")
fresh = fixtures.fresh("idle")
times = {}

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    began = time.perf_counter()
    yield
    times.setdefault(item.originalname, []).append(time.perf_counter() - began)

def pytest_sessionfinish():
    with open("times.json", "w") as file:
        json.dump(times, file)
"""
TESTS = """
import pytest

def test_first(fresh):
    pass

@pytest.mark.parametrize("number", range({count}))
def test_nothing(number):
    pass

@pytest.mark.parametrize("number", range({count}))
def test_fresh(number, fresh):
    pass

@pytest.mark.parametrize("number", range({count}))
def test_factory(number, lxc_container):
    lxc_container()
"""
ONE = {
    "nothing": "def test_it(): pass",
    "lxc_host": "def test_it(lxc_host): pass",
    "lxc_host and its first container": "def test_it(lxc_container): lxc_container()",
}


@contextmanager
def project() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="lxcwrap-bench-", dir="/dev/shm"))
    directory.chmod(0o711)
    try:
        (directory / "runs").mkdir()
        (directory / "conftest.py").write_text(CONFTEST)
        yield directory
    finally:
        shutil.rmtree(directory)


def run(directory: Path, path: str) -> float:
    """Milliseconds of a run of pytest as a whole."""
    environ = {**os.environ, "LXCWRAP_TEST_DIR": str(directory / "runs")}
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", path]
    began = time.perf_counter()
    subprocess.run(argv, cwd=directory, env=environ, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - began) * 1000


def tests(directory: Path, count: int) -> None:
    (directory / "test_many.py").write_text(TESTS.format(count=count))
    run(directory, "test_many.py")
    times = json.loads((directory / "times.json").read_text())
    found = {name: statistics.median(values) * 1000 for name, values in times.items()}
    for name, what in (
        ("test_fresh", "a container from a warm snapshot"),
        ("test_factory", "lxc_container()"),
    ):
        cost = f"{found[name] - found['test_nothing']:8.2f} ms   (at most 30 ms)"
        print(f"a test with {what}, over an empty one".ljust(70), cost, flush=True)


def sessions(parent: Path, runs: int) -> None:
    directory = parent / "sessions"
    (directory / "runs").mkdir(parents=True)
    (directory / "pytest.ini").touch()  # without a conftest: what it imports is part of what is measured
    times: dict[str, list[float]] = {name: [] for name in ONE}
    for number in range(runs + 1):  # the first fills caches
        for index, (name, text) in enumerate(ONE.items()):
            (directory / f"test_one{index}.py").write_text(text)
            took = run(directory, f"test_one{index}.py")
            if number:
                times[name].append(took)
    found = {name: statistics.median(values) for name, values in times.items()}
    for name in list(ONE)[1:]:
        limit = "   (at most 150 ms)" if name == "lxc_host" else ""
        cost = f"{found[name] - found['nothing']:8.2f} ms{limit}"
        print(f"a run with {name}, over one without".ljust(70), cost, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--tests", type=int, default=40)
    arguments = parser.parse_args()
    with project() as directory:
        tests(directory, arguments.tests)
        sessions(directory, arguments.runs)


if __name__ == "__main__":
    main()
