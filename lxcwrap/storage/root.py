"""The root directory: where everything of one `Host` lies.

images/       an OCI image layout (oci-layout, index.json, blobs/sha256/..)
layers/<hex>/ unpacked layers by chain_id, plain ids, shared by all containers
containers/<id>/  upper, work, rootfs (mount point), volumes/, plan.json, run.json, exit.json, lxc.log, logs/
volumes/  cache/  run/ (sockets, locks)  trash/ (renamed there first, deleted at leisure)
state.db      SQLite
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .deletion import delete_tree

DEFAULT_ROOT = "/var/lib/lxcwrap"


class RootDir:
    """Paths under one root directory, made with `prepare()`.

    Users of the host get nowhere in it: layers hold set-user-ID programs of root, container directories what
    containers wrote, and the records hold environments. Passable (o+x) is only the way to a container's
    directory, which is its own group's, and to the init in cache/.
    """

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
        with suppress(FileExistsError):
            self.path.mkdir(parents=True)
            self.path.chmod(0o711)  # mkdir obeys the caller's umask
        for path in (self.images, self.layers, self.run, self.trash):
            path.mkdir(mode=0o700, exist_ok=True)
        for path in (self.containers, self.volumes, self.cache):
            path.mkdir(mode=0o711, exist_ok=True)
            path.chmod(0o711)
        with suppress(FileExistsError):  # SQLite would make it as the umask says, and its companions as it is
            os.close(os.open(self.state_db, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def discard(self, path: Path) -> None:
        """Make `path` disappear at once, then delete it; after a crash `empty_trash` does."""
        grave = self.bury(path)
        if grave:
            self.delete(grave)

    def bury(self, path: Path) -> Path | None:
        """The first half of `discard`: its grave, if it was there, for `delete`."""
        try:
            return path.rename(self._new_grave())
        except FileNotFoundError:
            return None

    def empty_trash(self) -> None:
        for grave in self.trash.iterdir():
            self.delete(grave)

    def delete(self, grave: Path) -> None:
        """What resists stays for next time."""
        delete_tree(grave, self._new_grave)

    def _new_grave(self) -> Path:
        return self.trash / os.urandom(16).hex()
