"""The noun `Volume`: files that outlive containers, known by their name."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from . import attaching
from .container import Container
from .containers import Containers
from .files import Root, VolumePath
from .ids import IDENTITY
from .machinery import Machinery
from .shown import Shown
from .specs import Mount, StrPath, check_disk_size, parse_size

if TYPE_CHECKING:
    from .display.blocks import Page


class Volume(Shown):
    """One named volume. Obtained from `host.volumes`; given to containers by `Mount.volume`.

    Its files have plain ids on disk: what root inside any container makes belongs to root, and every other
    container it is given to sees the same owners. Programs in it cannot gain rights by set-user-ID bits, and
    devices in it are none.
    """

    __slots__ = ("_machinery", "_name")

    def __init__(self, machinery: Machinery, name: str) -> None:
        self._machinery = machinery
        self._name = name

    # --- what it is ---

    @property
    def name(self) -> str:
        """Unique under its host; never changes."""
        return self._name

    @property
    def labels(self) -> Mapping[str, str]:
        """Raises VolumeNotFoundError when it was removed, as all that follow."""
        labels: Mapping[str, str] = json.loads(self._row["labels"])
        return labels

    @property
    def created_at(self) -> datetime:
        """When it was made, in UTC."""
        return datetime.fromtimestamp(self._row["created_at"], UTC)

    @property
    def path(self) -> Path:
        """Where it lies on this host: the directory of its files; or, if it has a size and its file system no
        project quotas, the file that holds a file system of its own. `files` reads and writes both."""
        directory = self._machinery.volume_store.directory(self._row["name"])
        image = directory / "image"
        return image if image.exists() else directory / "data"

    @property
    def _row(self) -> Mapping[str, Any]:
        return self._machinery.volume_store.row(self._name)

    # --- how it is ---

    @property
    def size(self) -> int | None:
        """Bytes it may have; None: no limit but that of its disk. A file system of its own takes a part."""
        return self._machinery.volume_store.size(self._name)

    @property
    def used(self) -> int:
        """Bytes that its files take up on disk."""
        return self._machinery.volume_store.used(self._name)

    @property
    def containers(self) -> tuple[Container, ...]:
        """Those that have it, also while they do not run."""
        users = self._machinery.volume_store.users(self._row["name"])
        return tuple(Container(self._machinery, user.id) for user in users)

    @property
    def files(self) -> VolumePath:
        """Its root directory, to be used as a `pathlib.Path`, whether containers use it or not:
        ``(volume.files / "index.html").write_text("hello")``."""
        return VolumePath(self._open_root, "/", volume=self._name)

    @contextmanager
    def _open_root(self) -> Iterator[Root]:
        with self._machinery.volume_store.opened(self._name) as fd:
            yield Root(fd, IDENTITY, f"volume {self._name}")

    # --- what is done with it ---

    def attach(
        self,
        container: str | Container,
        target: str,
        *,
        read_only: bool = False,
        exec: bool = True,
        subpath: str = "",
    ) -> None:
        """Mount it in a container that exists: at once if it runs or is paused, and whenever it is started.

        For the parameters see `Mount.volume`. Raises InvalidSpecError: something is mounted at `target`;
        KernelError: it cannot be; then nothing has changed.
        """
        mount = Mount.volume(self, target, read_only=read_only, exec=exec, subpath=subpath, copy=False)
        attaching.attach(self._machinery, self._id_of(container), mount)

    def detach(self, container: str | Container, target: str | None = None) -> None:
        """Unmount it from a container, at once and for its later starts. target: only there; None: wherever
        it is in it.

        Raises InvalidSpecError: it is not there; StillUsedError: a process inside has a file or its working
        directory in it, and nothing has changed.
        """
        attaching.detach(self._machinery, self._id_of(container), self._name, target)

    def _id_of(self, container: str | Container) -> str:
        return Containers(self._machinery)[container].id

    def resize(self, size: int | str) -> None:
        """Give it another size, in use or not. All can grow; only one under a project quota can shrink, as
        far as its files allow.

        Raises InvalidSpecError: it was made without a size, or holds more; UnsupportedError: its file system
        cannot shrink, or here not grow.
        """
        self._machinery.volume_store.resize(self._name, check_disk_size(parse_size(size)))

    def backup(self, path: StrPath, *, pause: bool = True) -> None:
        """Write its files to the archive `path`, which has all of them at the end, or is as it was: a tar,
        compressed as the name says: ``.tar``, ``.tar.gz``, ``.tar.zst``. The same files give the same bytes.

        It may be in use: its containers are frozen meanwhile; where files can share blocks (XFS, btrfs, a
        volume with a size) only for the moments of making a copy. pause=False: they go on, and if they write
        meanwhile, FormatError is raised. Sockets are left out.
        """
        from .backups import backup

        backup(self._machinery, self._name, Path(os.fspath(path)), pause=pause)

    def restore(self, archive: StrPath | BinaryIO, *, replace: bool = False) -> None:
        """Fill it from a tar, such as `backup` has written: a path or an open file, plain or compressed by
        gzip, zstd or xz. All of it is there at the end, or nothing has changed. replace: what was there is
        lost; while unpacking there must be room for both.

        The archive may be hostile. Raises WrongStateError: a container that has it runs; ConflictError: it
        holds files, and not `replace`; FormatError: the archive is damaged or hostile, or has more than there
        is room for.
        """
        from .backups import restore

        source = Path(archive) if isinstance(archive, str | os.PathLike) else archive
        restore(self._machinery, self._name, source, replace=replace)

    def remove(self) -> None:
        """Remove it with its files. Raises StillUsedError while a container has it, running or not."""
        self._machinery.volume_store.remove(self._name)

    def _page(self) -> Page:
        from .display.stores import volume

        return volume(self._machinery, self._name)

    # --- as a value ---

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Volume) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str]:
        return self._name, str(self._machinery.root.path)

    def __repr__(self) -> str:
        return f"<Volume {self._name}>"
