"""The root directory: where everything of one `Host` lies.

images/       an OCI image layout (oci-layout, index.json, blobs/sha256/..)
layers/<hex>/ unpacked layers by chain_id, plain ids, shared by all containers
containers/<id>/  upper, work, rootfs (mount point), plan.json, run.json, exit.json, lxc.log, logs/
volumes/  cache/  run/ (sockets, locks)  trash/ (renamed there first, deleted at leisure)
state.db      SQLite
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

DEFAULT_ROOT = "/var/lib/lxcwrap"


class RootDir:
    """Paths under one root directory. Made with `prepare()`; every directory on the way is passable (o+x):
    the container's shifted root must reach its own files, and cannot list anything."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self.images = self.path / "images"
        self.layers = self.path / "layers"
        self.containers = self.path / "containers"
        self.volumes = self.path / "volumes"
        self.cache = self.path / "cache"
        self.run = self.path / "run"
        self.trash = self.path / "trash"
        self.state_db = self.path / "state.db"

    def prepare(self) -> None:
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        for path in (self.images, self.run, self.trash):
            path.mkdir(mode=0o700, exist_ok=True)
        for path in (self.layers, self.containers, self.volumes, self.cache):
            path.mkdir(mode=0o711, exist_ok=True)
            path.chmod(0o711)  # mkdir obeys the caller's umask

    def discard(self, path: Path) -> None:
        """Make `path` disappear at once, then delete it. A crash leaves it in trash/, which `empty_trash` clears."""
        grave = self.trash / os.urandom(16).hex()
        try:
            path.rename(grave)
        except FileNotFoundError:
            return
        shutil.rmtree(grave, ignore_errors=True) if not grave.is_symlink() and grave.is_dir() else grave.unlink()

    def empty_trash(self) -> None:
        for grave in self.trash.iterdir():
            shutil.rmtree(grave, ignore_errors=True) if not grave.is_symlink() and grave.is_dir() else grave.unlink(
                missing_ok=True
            )
