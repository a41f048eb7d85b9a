"""What all tests share: who needs what of the machine, root directories of their own, and the leak check."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import faults, leaks

if TYPE_CHECKING:
    from lxcwrap import Host

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE / "integration" in item.path.parents:
            item.add_marker(pytest.mark.lxc)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A missing need skips the test on a developer's machine, and fails it in CI."""
    if item.get_closest_marker("lxc") and (missing := _missing_for_lxc()):
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)


@cache
def _missing_for_lxc() -> str:
    if os.geteuid() != 0:
        return "needs root"
    return "" if ctypes.util.find_library("lxc") else "needs liblxc: run ./dev setup"


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Holds all root directories of this run; in memory where there is room, as a disk only adds waiting."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30
    usable = roomy and not os.statvfs(memory).f_flag & os.ST_NOEXEC
    parent = memory if usable else tmp_path_factory.getbasetemp()
    # Not by tempfile: to podman and buildah a path is a reference too, where "-_" and a final "_" are wrong.
    base = parent / f"{leaks.PREFIX}{uuid.uuid4().hex[:8]}"
    base.mkdir()
    for directory in (base, *base.parents):
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011)  # the containers' root must get through
    with faults.known_ids():
        yield base
    shutil.rmtree(base)
    assert not [each for each in leaks.cgroups(base) if faults.ID_MARK in each]


@pytest.fixture(scope="session")
def shared_root(roots: Path) -> Iterator[Path]:
    """The root directory most tests share, with the default image made; `default_host()` is there too."""
    from lxcwrap import Host

    root = roots / "shared"
    with Host(root) as host:
        host.containers.run("busybox", ["true"])
        host.networks.create("first").remove()  # makes locks, and opens what stays open
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LXCWRAP_ROOT", str(root))
        yield root
    Host(root).close(stop_server=True)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test on the real machine leaves it as it was."""
    if not request.node.get_closest_marker("lxc"):
        yield
        return
    _wake_server(request.getfixturevalue("shared_root"))
    base = request.getfixturevalue("roots")
    before = leaks.snapshot(base)
    yield
    leaks.assert_same(before, base)


def _wake_server(root: Path) -> None:
    """The shared fork-server ends when it was idle for a minute: its return is nothing that a test left."""
    from lxcwrap.supervisor.client import Supervisor

    Supervisor(root).ask({"op": "hello", "retire": False}, what="hello").close()


@pytest.fixture
def host(shared_root: Path) -> Iterator[Host]:
    """A host over the shared root directory."""
    from lxcwrap import Host

    with Host(shared_root) as host:
        yield host


@pytest.fixture
def fresh_root(roots: Path) -> Iterator[Path]:
    """An empty root directory of the test's own; afterwards its fork-server is stopped and all is deleted."""
    from lxcwrap import Host

    root = Path(tempfile.mkdtemp(prefix="fresh-", dir=roots))
    root.chmod(0o711)  # the containers' root must get through
    yield root
    with Host(root) as host:
        host.networks.prune()  # their links would stay
        host.close(stop_server=True)
    shutil.rmtree(root)


@pytest.fixture
def fresh_host(fresh_root: Path) -> Iterator[Host]:
    """A host over a root directory of the test's own: for tests of images, crashes and the fork-server."""
    from lxcwrap import Host

    with Host(fresh_root) as host:
        yield host
