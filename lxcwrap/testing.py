"""Hosts for tests, of unittest too. `temporary_host`: a real one, which leaves nothing behind::

    class TestShop(unittest.TestCase):
        def setUp(self):
            host = self.enterContext(temporary_host())
            self.db = self.enterContext(host.containers.launch("postgres:15", env={"POSTGRES_PASSWORD": "x"}))

`fake_host`: one for the tests of programs that use lxcwrap: no root, no LXC, no images, no isolation.

Containers are real objects with real states, logs and exit codes; a command in them is a small Python program
that the test gives, and a process of its own. What needs the kernel's help (files, terminals) is refused.

    serve = "print('ready', flush=True); import time; time.sleep(60)"
    with fake_host(tmp_path, programs={"nginx": serve}) as host:
        with host.containers.launch("busybox", ["nginx"]) as web:
            ...
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from .drivers.fake import PROGRAMS, FakeCgroups
from .host import Host, use_host
from .machinery import Machinery
from .net.kernel import FakeNetworks
from .specs import StrPath
from .storage.blobs import BlobStore
from .storage.images import ImageStore
from .storage.inflate import Source
from .storage.layers import LayerStore
from .storage.snapshots import SnapshotStore
from .supervisor.fake import FakeSupervisor
from .testruns import Run, sweep


class _NoLayers(LayerStore):
    """Layers that nobody looks into: unpacking them needs root."""

    def unpack(self, chain_id: str, source: Source, **_: Any) -> Path:
        self.path(chain_id).mkdir(exist_ok=True)
        return self.path(chain_id)


class FakeMachinery(Machinery):
    """That of a user who is not root, whose containers have no ids of their own."""

    def __init__(self, root: StrPath, supervisor: FakeSupervisor) -> None:
        cgroups = FakeCgroups(Path(root).absolute() / "containers")
        super().__init__(root, supervisor=supervisor, cgroups=cgroups)
        self.kernel_networks = FakeNetworks(self.root)
        self.layers = _NoLayers(self.root.layers)
        self.image_store = ImageStore(self.root, self.state, BlobStore(self.root.images), self.layers)
        self.snapshot_store = SnapshotStore(self.state, self.image_store)

    def make_passable(self) -> None:
        pass

    def chown(self, path: Path, user: int, group: int) -> None:
        pass

    @contextmanager
    def image_tree(self, lowers: Sequence[Path]) -> Iterator[int]:
        """An empty one, as all images are."""
        with TemporaryDirectory() as directory:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                yield fd
            finally:
                os.close(fd)


class _FakeHost(Host):
    def __init__(self, root: StrPath, supervisor: FakeSupervisor) -> None:
        self._supervisor = supervisor
        super().__init__(root)

    def _make(self, root: StrPath) -> Machinery:
        return FakeMachinery(root, self._supervisor)


@contextmanager
def temporary_host() -> Iterator[Host]:
    """A real host over a root directory of its own, the default one in the block; at its end all is removed.

    After kill -9 the next one, or the next run of pytest with containers, removes what is left. The root
    directory is in memory if there is room, else on disk; or in LXCWRAP_TEST_DIR.
    Raises UnsupportedError when not run by root.
    """
    sweep()
    run = Run(os.urandom(8).hex())
    try:
        with use_host(run.host):
            yield run.host
    finally:
        run.leave()


@contextmanager
def fake_host(
    root: StrPath, *, programs: Mapping[str, str] | None = None, images: Sequence[str] = ("busybox",)
) -> Iterator[Host]:
    """A host under `root`, the default one in the block, with empty `images`; at its end all containers end.

    programs: name of a command to Python source, added to ``true false echo cat env pwd sleep exit``. Any
    other command is not found: exit code 127.
    """
    supervisor = FakeSupervisor({**PROGRAMS, **(programs or {})})
    host = _FakeHost(root, supervisor)
    try:
        for reference in images:
            host.images.import_rootfs(_empty_tar(), tag=reference)
        with use_host(host):
            yield host
    finally:
        for container in host.containers:
            container.remove(force=True)
        host.close(stop_server=True)


def _empty_tar() -> io.BytesIO:
    file = io.BytesIO()
    tarfile.open(fileobj=file, mode="w").close()
    file.seek(0)
    return file
