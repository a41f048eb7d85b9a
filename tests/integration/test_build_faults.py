"""kill -9, or an interrupt, between any two lines of a build: the store stays sound, the next build works."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host
from tests import faults
from tests.integration.building import Building, read

# Every how many lines one is struck: more go by than in other operations.
STRIDE = 7 * int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "89"))
ONE_STAGE = """FROM busybox
ENV A=1
WORKDIR /w
COPY f .
RUN --mount=type=cache,target=/c cat f > g
CMD cat g
"""
STAGES = """FROM busybox AS a
RUN echo -n da > /a
FROM busybox AS b
RUN echo -n ta > /b
FROM busybox
WORKDIR /w
RUN --mount=from=a,target=/a --mount=from=b,target=/b cat /a/a /b/b > g
"""
texts = pytest.mark.parametrize("text", [ONE_STAGE, STAGES], ids=["one stage", "stages"])


@pytest.fixture(scope="module")
def host(roots: Path) -> Iterator[Host]:
    with Host(roots / "build-faults") as host:
        host.containers.run("busybox", ["true"])
        with Host(host.root), Host(host.root):  # SQLite keeps descriptors it closed for the next time
            faults.assert_clean(host.root)
        yield host
        host.close(stop_server=True)


@pytest.fixture
def build(host: Host, tmp_path: Path) -> Iterator[Building]:
    building = Building(host, tmp_path / "context")
    (building.context / "f").write_text("data")
    yield building
    _forget(host)
    assert len(host.images) == 1


def _forget(host: Host) -> None:
    """All that was built."""
    if "app:1" in host.images:
        host.images.remove("app:1")
    with host.images._store.state.transaction() as change:
        change.execute("DELETE FROM build_cache")
    host.images.prune()


def _assert_sound(host: Host) -> None:
    faults.assert_clean(host.root)
    with Host(host.root) as fresh:
        store = fresh.images._store
        fresh.images.prune()
        layers = {chain for image in fresh.images for chain in image.layers}
        query = "SELECT chain_id, blob FROM build_cache WHERE chain_id IS NOT NULL"
        rows = store.state.connection.execute(query).fetchall()
        assert set(store.layers.chain_ids()) == layers | {row["chain_id"] for row in rows}
        assert all(store.blobs.has(row["blob"]) for row in rows)
        assert not list(store.root.layers.glob(".draft*"))


def _finish(build: Building, text: str) -> None:
    """The same build succeeds now."""
    _assert_sound(build.host)
    assert read(build(text, tags=["app:1"]), "w/g") == "data"
    _forget(build.host)


def _build(build: Building, host: Host) -> None:
    """With the lines of all its threads counted."""
    threading.settrace(sys.gettrace())
    try:
        host.images.build(build.context, tags=["app:1"])
    finally:
        threading.settrace(None)


@texts
def test_a_build_may_be_killed_at_any_line(host: Host, build: Building, text: str) -> None:
    """In the caller's process; of the commands it ran nothing is left."""
    (build.context / "Dockerfile").write_text(text)
    n = 1
    while True:
        with Host(host.root) as callers:
            struck = faults.killed_at(n, lambda: _build(build, callers))
        _finish(build, text)
        if not struck:
            break
        n += STRIDE
    print(f"build: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s


@texts
def test_a_build_may_be_interrupted_at_any_line(host: Host, build: Building, text: str) -> None:
    """No thread survives, and no lock is held."""
    (build.context / "Dockerfile").write_text(text)
    n = 1
    while True:
        struck = _interrupted_at(n, build)
        _finish(build, text)
        if not struck:
            break
        n += STRIDE


def _interrupted_at(n: int, build: Building) -> bool:
    """Whether it was. In a process of its own: one that is interrupted may lose a descriptor."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with Host(build.host.root) as host, faults.striking(faults.interrupt, n):
                host.images.build(build.context, tags=["app:1"])  # only the main thread is ever interrupted
            status = 0
        except KeyboardInterrupt:
            status = 2 if threading.active_count() == 1 else 3
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 2), f"line {n}: {code}"
    return code == 2
