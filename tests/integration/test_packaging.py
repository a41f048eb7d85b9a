"""What is installed: wheel and source archive, built as users' tools build them, and used from elsewhere."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from lxcwrap import __version__

CHECKOUT = Path(__file__).parents[2]
PARTS = "lxcwrap tests docs examples benchmarks".split()
BUILD = "import sys, setuptools.build_meta as backend; print(getattr(backend, sys.argv[1])(sys.argv[2]))"

pytestmark = pytest.mark.slow


def run(*words: str | Path, cwd: Path, **variables: str) -> str:
    """What it prints; without any of the variables by which a checkout might be found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LXCWRAP"))}
    done = subprocess.run(words, cwd=cwd, env=kept | variables, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment(path: Path, *requirements: str | Path) -> Path:
    """A new one with these installed; its interpreter."""
    run(sys.executable, "-m", "venv", path, cwd=path.parent)
    python = path / "bin" / "python"
    options = ("--quiet", "--disable-pip-version-check", "--root-user-action=ignore")
    run(python, "-m", "pip", "install", *options, *requirements, cwd=path.parent)
    return python


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="module")
def builder(work: Path) -> Path:
    """An interpreter that can build."""
    return environment(work / "builder", "setuptools>=70.1")


@pytest.fixture(scope="module")
def sdist(work: Path, builder: Path) -> Path:
    """The source archive, made of a copy, as building leaves traces."""
    tree = work / "tree"
    tree.mkdir()
    for part in PARTS:
        ignored = shutil.ignore_patterns("__pycache__", "_build", "lxcwrap-init")
        shutil.copytree(CHECKOUT / part, tree / part, ignore=ignored)
    for file in CHECKOUT.iterdir():
        if file.is_file():
            shutil.copy2(file, tree)
    return work / run(builder, "-c", BUILD, "build_sdist", work, cwd=tree).split()[-1]


@pytest.fixture(scope="module")
def wheel(work: Path, builder: Path, sdist: Path) -> Path:
    """Made of nothing but the source archive."""
    with tarfile.open(sdist) as archive:
        archive.extractall(work / "unpacked", filter="data")
    tree = work / "unpacked" / sdist.name.removesuffix(".tar.gz")
    return work / run(builder, "-c", BUILD, "build_wheel", work, cwd=tree).split()[-1]


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_string(archive.read(f"lxcwrap-{__version__}.dist-info/METADATA").decode())


def test_the_wheel_is_for_every_python_on_this_platform(wheel: Path) -> None:
    """As the program in it is the platform's, and of no Python version's."""
    machine = os.uname().machine
    assert wheel.name == f"lxcwrap-{__version__}-py3-none-linux_{machine}.whl"


def test_the_wheel_holds_the_package_alone(work: Path, wheel: Path) -> None:
    """All modules, the type marker and our init, which can be executed; no tests, no sources in C."""
    with zipfile.ZipFile(wheel) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
    assert {name.split("/")[0] for name in entries} == {"lxcwrap", f"lxcwrap-{__version__}.dist-info"}
    modules = {path.relative_to(work / "tree").as_posix() for path in (work / "tree/lxcwrap").rglob("*.py")}
    assert {*modules, "lxcwrap/py.typed", "lxcwrap/init/lxcwrap-init"} <= entries.keys()
    assert not any(name.endswith((".c", ".so", ".pyc")) for name in entries)
    assert entries["lxcwrap/init/lxcwrap-init"].external_attr >> 16 & stat.S_IXUSR


def test_the_source_archive_holds_all(sdist: Path) -> None:
    """Also what it takes to test it; nothing that was compiled."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"lxcwrap/init/init.c", "tests/unit/test_imports.py", "docs/conf.py", "dev", "tox.ini"} <= names
    assert "lxcwrap/init/lxcwrap-init" not in names and not any(name.endswith(".pyc") for name in names)


def test_the_metadata_is_complete(wheel: Path) -> None:
    """Versions, licence, extras, entry points."""
    facts = metadata(wheel)
    assert facts["Requires-Python"] == ">=3.11" and facts["License"] == "Apache-2.0"
    assert {"all", "call", "cli", "notebook", "test"} <= set(facts.get_all("Provides-Extra", []))
    with zipfile.ZipFile(wheel) as archive:
        points = archive.read(f"lxcwrap-{__version__}.dist-info/entry_points.txt").decode()
    assert "lxcwrap = lxcwrap.cli.main:main" in points


def test_an_installation_works(work: Path, wheel: Path, fresh_root: Path) -> None:
    """From a directory of its own, with nothing but what the package requires; with -O, too."""
    python = environment(work / "clean", wheel)
    root = {"LXCWRAP_ROOT": str(fresh_root)}
    run(python, "-m", "pip", "check", cwd=work)
    where = run(python, "-c", "import lxcwrap; print(lxcwrap.__file__)", cwd=work)
    assert where.startswith(str(work / "clean"))
    assert "kernel" in run(python, "-m", "lxcwrap", "check", cwd=work, **root)
    program = "import lxcwrap; print(lxcwrap.run('busybox', ['echo', 'hello']).stdout, end='')"
    assert run(python, "-c", program, cwd=work, **root) == "hello\n"
    assert (
        run(python, "-O", "-m", "lxcwrap", "run", "busybox", "echo", "hello", cwd=work, **root) == "hello\n"
    )
    assert "NAME" in run(work / "clean" / "bin" / "lxcwrap", "ps", "-a", cwd=work, **root)
