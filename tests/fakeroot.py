"""A container's root that is a plain directory, for tests of what works on any root."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lxcwrap.files import ContainerPath
from lxcwrap.ids import IDENTITY, IdMap
from lxcwrap.inroot import Root


class FakeRoot:
    """The directory `dir` as the root of the container "web"."""

    def __init__(self, directory: Path, *, idmap: IdMap = IDENTITY, read_only: bool = False) -> None:
        self.dir = directory
        self._idmap = idmap
        self._read_only = read_only

    @contextmanager
    def open(self) -> Iterator[Root]:
        fd = os.open(self.dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield Root(fd, self._idmap, "web", self._read_only)
        finally:
            os.close(fd)

    def path(self, path: str) -> ContainerPath:
        return ContainerPath(self.open, path, container="web")


def snapshot(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """All that is below a directory, with mode, owner and contents: equal snapshots, nothing was touched."""
    found = {}
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (status.st_mode, status.st_uid, data)
    return found


_FLIP = """
import os, sys
directory, link, away = sys.argv[1:]
while True:
    for old, new in ((directory, away), (link, directory), (directory, link), (away, directory)):
        try:
            os.rename(old, new)
        except OSError:
            pass
"""


@contextmanager
def flipping(directory: Path, link_to: Path) -> Iterator[None]:
    """While the block runs, `directory` is a directory and a link to `link_to` in turn, as fast as can be."""
    link, away = directory.with_name("link"), directory.with_name("away")
    link.symlink_to(link_to)
    # A process of its own: a thread would have to wait for the interpreter's lock, and lose every race.
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _FLIP, directory, link, away]) as process:
        try:
            while not away.exists():
                pass
            yield
        finally:
            process.kill()
