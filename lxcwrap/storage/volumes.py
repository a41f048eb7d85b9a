"""Named volumes: rows and directories.

volumes/<name>/data          its files, with plain ids (0 is root): mounts show each container its own
volumes/<name>/image         if it has a size, maybe: a file system that holds `data` instead (see disks)
volumes/<name>/lock          held (flock) by whoever fills, backs up or restores it, and not empty meanwhile
volumes/.new-<hex>/          one being made; its maker holds a lock (flock) on it

Beside `data`, on the same file system:
fill/                        what a new volume begins with, complete, being moved into `data`
.draft-<hex>/                what its maker, who holds the lock, was about to make of it
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..drivers.filesystem import rename_new
from ..drivers.paths import open_in_root
from ..errors import InvalidSpecError, KernelError, NameInUseError, StillUsedError, VolumeNotFoundError
from ..specs import check_name
from . import disks, sized
from .deletion import delete_tree
from .images import locked
from .outbox import tell
from .root import RootDir
from .state import State
from .usage import Meter

_NEW, _DRAFT = ".new-", ".draft-"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_USERS = """
    SELECT containers.id, containers.name FROM volume_uses JOIN containers ON containers.id = container_id
    WHERE volume = ? ORDER BY containers.created_at
"""


class User(NamedTuple):
    """A container that has a volume."""

    id: str
    name: str


class VolumeStore:
    """The volumes under one root directory. Safe from any thread and process."""

    def __init__(self, root: RootDir, state: State) -> None:
        self._root = root
        self._state = state

    def directory(self, name: str) -> Path:
        """Of the volume: what holds its `data`."""
        return self._root.volumes / name

    def row(self, name: str) -> Mapping[str, Any]:
        """Raises VolumeNotFoundError."""
        found: Mapping[str, Any] | None = self._state.connection.execute(
            "SELECT * FROM volumes WHERE name = ?", (name,)
        ).fetchone()
        if found is None:
            raise VolumeNotFoundError(name)
        return found

    def names(self) -> list[str]:
        """The newest first."""
        query = "SELECT name FROM volumes ORDER BY created_at DESC, name"
        return [row["name"] for row in self._state.connection.execute(query)]

    def users(self, name: str) -> list[User]:
        """Containers that have it, also those that do not run."""
        return [User(*row) for row in self._state.connection.execute(_USERS, (name,))]

    # --- making and removing ---

    def create(self, name: str, size: int | None = None, labels: Mapping[str, str] | None = None) -> None:
        """Raises NameInUseError, UnsupportedError, KernelError; then nothing is left."""
        values = (check_name(name, "volume"), json.dumps(dict(labels or {})), time.time())
        with self._draft() as draft:
            if size is not None:
                sized.limit(draft, size, f"volume {name}")
            with disks.opened(str(draft)) as fd:
                os.mkdir("data", dir_fd=fd)
                os.chmod("data", 0o755, dir_fd=fd)  # whatever the caller's umask is
            with self._state.transaction() as change:
                try:
                    change.execute("INSERT INTO volumes VALUES (?, ?, ?)", values)
                except sqlite3.IntegrityError:
                    raise NameInUseError("volume", name) from None
                draft.rename(self.directory(name))
                tell(change, "volume_created", volume=name)

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A new directory, gone at the end of the block if it still has its name."""
        path, fd = self._new_directory()
        try:
            yield path
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
            self._discard(self._root.bury(path))

    def _new_directory(self) -> tuple[Path, int]:
        while True:
            path = self._root.volumes / f"{_NEW}{os.urandom(8).hex()}"
            path.mkdir(mode=0o700)
            with suppress(FileNotFoundError):
                fd = os.open(path, _DIRECTORY)
                fcntl.flock(fd, fcntl.LOCK_EX)
                if path.exists():  # else `clean` took it for a killed one's
                    return path, fd
                os.close(fd)

    def ensure(self, names: Iterable[str]) -> list[str]:
        """Make those that are not there; which it has made."""
        made = []
        for name in dict.fromkeys(names):
            if not self._state.connection.execute("SELECT 1 FROM volumes WHERE name = ?", (name,)).fetchone():
                with suppress(NameInUseError):  # another was faster
                    self.create(name)
                    made.append(name)
        return made

    def use(self, change: sqlite3.Connection, container_id: str, names: Iterable[str]) -> None:
        """Record, within a transaction, which volumes a container has. Raises VolumeNotFoundError."""
        query = "DELETE FROM volume_uses WHERE container_id = ? RETURNING volume"
        before, now = {row["volume"] for row in change.execute(query, (container_id,))}, set(names)
        for name in now:
            try:
                change.execute("INSERT INTO volume_uses VALUES (?, ?)", (container_id, name))
            except sqlite3.IntegrityError:
                raise VolumeNotFoundError(name) from None
        for kind, changed in (("attached", now - before), ("detached", before - now)):
            for name in sorted(changed):
                tell(change, kind, id=container_id, volume=name)

    def remove(self, name: str) -> None:
        """Raises StillUsedError, VolumeNotFoundError."""
        with self._state.transaction() as change:
            if users := self.users(name):
                raise StillUsedError("volume", name, [user.name for user in users])
            if not change.execute("DELETE FROM volumes WHERE name = ?", (name,)).rowcount:
                raise VolumeNotFoundError(name)
            # Before others may use the name again; and `clean` knows what to do if this is not committed.
            grave = self._root.bury(self.directory(name))
            tell(change, "volume_removed", volume=name)
        self._discard(grave)

    def _discard(self, grave: Path | None) -> None:
        if grave:
            with suppress(OSError):  # what resists stays for `RootDir.empty_trash`
                disks.release(str(grave))
            self._root.delete(grave)

    def prune(self) -> list[str]:
        """Remove all that no container has; their names."""
        removed = []
        for name in self.names():
            with suppress(StillUsedError, VolumeNotFoundError):
                self.remove(name)
                removed.append(name)
        return removed

    def clean(self) -> None:
        """Finish or undo what killed processes had begun. A directory with files is never given up."""
        names = os.listdir(self._root.volumes)
        for name in names:
            if name.startswith(_NEW):
                self._reclaim(self._root.volumes / name)
        there = {name for name in names if self._is_complete(name)}
        if there != set(self.names()):
            self._compare()
        for name in there:
            with suppress(OSError, VolumeNotFoundError):  # in use, or not to be mounted now: next time
                if (self.directory(name) / "lock").stat().st_size:  # of a killed one
                    with self.held(name, wait=False):
                        pass

    def _compare(self) -> None:
        with self._state.transaction() as change:  # nobody makes or removes one meanwhile
            known = set(self.names())
            there = {name for name in os.listdir(self._root.volumes) if self._is_complete(name)}
            for name in there - known:
                change.execute("INSERT INTO volumes VALUES (?, '{}', ?)", (name, time.time()))
                tell(change, "volume_created", volume=name)
            for name in known - there:
                with suppress(sqlite3.IntegrityError):
                    change.execute("DELETE FROM volumes WHERE name = ?", (name,))
                    tell(change, "volume_removed", volume=name)

    def _is_complete(self, name: str) -> bool:
        directory = self.directory(name)
        return name[0] != "." and ((directory / "data").is_dir() or (directory / "image").exists())

    def _reclaim(self, path: Path) -> None:
        with suppress(FileNotFoundError, BlockingIOError):
            fd = os.open(path, _DIRECTORY)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._discard(self._root.bury(path))
            finally:
                os.close(fd)

    # --- what is in it ---

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """A descriptor of the directory that its files are in."""
        self.row(name)
        with disks.opened(str(self.directory(name))) as place:
            fd = os.open("data", _DIRECTORY, dir_fd=place)
            try:
                yield fd
            finally:
                os.close(fd)

    @contextmanager
    def held(self, name: str, *, wait: bool = True) -> Iterator[str]:
        """The path of the directory that has its `data`, also for child processes, for the one who may make
        drafts there; what a killed one had begun is finished or cleared. BlockingIOError: another has it, and
        not `wait`."""
        self.row(name)
        with (
            self._marked(self.directory(name) / "lock", wait=wait),
            disks.opened(str(self.directory(name))) as fd,
        ):
            place = f"/proc/{os.getpid()}/fd/{fd}"
            for draft in os.listdir(place):
                if draft.startswith(_DRAFT):
                    delete_draft(place, f"{place}/{draft}")
            if os.path.isdir(f"{place}/fill"):
                _move_in(place)
            yield place

    @contextmanager
    def _marked(self, lock: Path, *, wait: bool) -> Iterator[None]:
        with locked(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
            lock.write_bytes(b"held")
            try:
                yield
            finally:
                os.truncate(lock, 0)

    def size(self, name: str) -> int | None:
        """Bytes it may have; None: no limit."""
        self.row(name)
        return disks.size_of(str(self.directory(name)))

    def resize(self, name: str, size: int) -> None:
        """Raises InvalidSpecError, UnsupportedError, KernelError; then nothing has changed."""
        if self.size(name) is None:
            raise InvalidSpecError(f"volume {name} was made without a size: make another with one, and copy")
        sized.resize(self.directory(name), size, f"volume {name}")
        self.tell("volume_resized", name, size=size)

    def tell(self, kind: str, name: str, **facts: object) -> None:
        """An event of what was done to its files."""
        with self._state.transaction() as change:
            tell(change, kind, volume=name, **facts)

    def used(self, name: str) -> int:
        """Bytes that its files take up on disk."""
        with self.opened(name) as fd:
            path = Path(f"/proc/self/fd/{fd}")
            return Meter(path).take_all(path.iterdir())

    def is_fresh(self, name: str) -> bool:
        """Whether `fill` would do something."""
        with disks.opened(str(self.directory(name))) as fd:
            return os.path.isdir(f"/proc/self/fd/{fd}/fill") or not os.listdir(f"/proc/self/fd/{fd}/data")

    def fill(self, name: str, root_fd: int, target: str) -> None:
        """Let it, if it is empty, begin with what the tree `root_fd` has at `target`; in use or not."""
        with self.held(name) as place:
            if os.listdir(f"{place}/data") or not copy_tree(root_fd, target, draft := new_draft(place)):
                return
            os.rename(draft, f"{place}/fill")
            _move_in(place)


def _move_in(place: str) -> None:
    """What a volume is to begin with, in part already. What has been written there meanwhile stays."""
    fill, data = f"{place}/fill", f"{place}/data"
    for entry in os.listdir(fill):
        with suppress(FileExistsError):
            rename_new(f"{fill}/{entry}", f"{data}/{entry}")
    status = os.stat(fill)
    os.chown(data, status.st_uid, status.st_gid)
    shutil.copystat(fill, data)
    delete_draft(place, fill)


def make_nameless(directory: Path, root_fd: int, target: str) -> None:
    """A new directory, which begins with what the tree `root_fd` has at `target`."""
    directory.parent.mkdir(mode=0o700, exist_ok=True)
    if not copy_tree(root_fd, target, str(directory)):
        directory.mkdir()
        directory.chmod(0o755)


def new_draft(place: str) -> str:
    """A name for something to be made in `VolumeStore.held`."""
    return f"{place}/{_DRAFT}{os.urandom(8).hex()}"


def delete_draft(place: str, draft: str) -> None:
    """Or whatever has its name by now; its depth may have no limit."""
    delete_tree(Path(draft), lambda: Path(new_draft(place)))


def copy_tree(root_fd: int, path: str, target: str) -> bool:
    """Make the directory `target` a copy of what the tree `root_fd` has at `path`, with owners, modes, times,
    links and attributes, its own too; False: there is nothing, and `target` is not made.

    Raises InvalidSpecError: it is no directory; KernelError.
    """
    try:
        origin = open_in_root(root_fd, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InvalidSpecError(f"no volume can be at {path}: the image has no directory there") from error
    try:
        command = ["cp", "-a", f"/proc/self/fd/{origin}/.", target]
        done = subprocess.run(command, pass_fds=[origin], stderr=subprocess.PIPE, errors="replace")
    finally:
        os.close(origin)
    if done.returncode:
        raise KernelError(0, f"fill a volume: {done.stderr.strip()[-500:]}")
    return True
