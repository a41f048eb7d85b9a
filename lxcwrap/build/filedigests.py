"""Digests of files, remembered from build to build by what stat(2) says, so that nothing is read twice.

A file whose device, inode, size and times are as they were has the content it had. That is no use for files
changed so lately that a change to come could leave the same times: their digests are not kept. A table of one
row per inode in SQLite; losing it costs time, nothing else.
Source: git, Documentation/technical/racy-git.txt.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, TypeVar, cast

from ..storage.unpack import is_kept_xattr

_log = logging.getLogger(__name__)

MAX_BYTES: Final = 256 << 20  # about two million files; then it begins anew
_SETTLED_NS: Final = 2_000_000_000  # the coarsest times of any file system (FAT)
_CHUNK: Final = 1 << 18
_BATCH: Final = 500
_VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE files (device INTEGER, inode INTEGER, size INTEGER, mtime INTEGER, ctime INTEGER, digest BLOB,
                    PRIMARY KEY (device, inode)) WITHOUT ROWID;
CREATE TABLE trees (name TEXT PRIMARY KEY, key TEXT) WITHOUT ROWID;
"""

Stamp = tuple[int, int, int, int, int]
"""Device, inode, size, mtime_ns, ctime_ns."""
T = TypeVar("T")


class FileDigests:
    """A memory of digests in the file `path`. Safe from any thread, and any process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._known: dict[Stamp, bytes] = {}
        self._database: sqlite3.Connection | None = None

    def __enter__(self) -> FileDigests:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._lock:
            if self._database:
                self._database.close()
                self._database = None

    def of(
        self, files: Sequence[tuple[os.stat_result, Callable[[], int]]], *, remember: bool = True
    ) -> list[bytes]:
        """The digests of `files`, in their order: of the content and of the attributes that layers keep.

        A file is its status, and a function that opens it, called only when its digest is not known.
        remember: not so for what is on a mount that will be gone, as its number will be another's.
        """
        if not remember:
            return [_read(opener)[0] for _, opener in files]
        stamps = [_stamp(status) for status, _ in files]
        with self._lock:
            self._recall({stamp for stamp in stamps if stamp not in self._known})
        new: dict[Stamp, bytes] = {}
        digests = []
        for stamp, (_, opener) in zip(stamps, files, strict=True):
            digest = self._known.get(stamp) or new.get(stamp)
            if digest is None:
                started = time.time_ns()
                digest, read = _read(opener)
                if read == stamp and max(stamp[3:]) < started - _SETTLED_NS:
                    new[stamp] = digest
            digests.append(digest)
        with self._lock:
            self._known.update(new)
            self._keep(new)
        return digests

    def recall_tree(self, name: str) -> str:
        """What `keep_tree` was told of a tree that never changes; or nothing."""

        def look(database: sqlite3.Connection) -> str:
            row = database.execute("SELECT key FROM trees WHERE name = ?", (name,)).fetchone()
            return str(row[0]) if row else ""

        with self._lock:
            return self._try(look) or ""

    def keep_tree(self, name: str, key: str) -> None:
        def insert(database: sqlite3.Connection) -> None:
            with database:
                database.execute("INSERT OR REPLACE INTO trees VALUES (?, ?)", (name, key))

        with self._lock:
            self._try(insert)

    # --- the database; the lock is held ---------------------------------------------------------------------

    def _recall(self, stamps: Iterable[Stamp]) -> None:
        def look(database: sqlite3.Connection) -> None:
            for device, group in itertools.groupby(sorted(stamps), lambda stamp: stamp[0]):
                inodes = [stamp[1] for stamp in group]
                for start in range(0, len(inodes), _BATCH):
                    batch = inodes[start : start + _BATCH]
                    marks = ",".join("?" * len(batch))
                    query = f"SELECT * FROM files WHERE device = ? AND inode IN ({marks})"
                    for *stamp, digest in database.execute(query, (device, *batch)):
                        self._known[cast(Stamp, tuple(stamp))] = digest

        if stamps:
            self._try(look)

    def _keep(self, new: Mapping[Stamp, bytes]) -> None:
        def insert(database: sqlite3.Connection) -> None:
            with database:
                rows = ((*stamp, digest) for stamp, digest in new.items())
                database.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", rows)

        if new:
            self._try(insert)

    def _try(self, action: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `action` gives; None if the file is of no use now: it only saves time."""
        try:
            self._database = self._database or _open(self._path)
            return action(self._database)
        except sqlite3.Error as error:
            _log.warning("%s: %s", self._path, error)
            if not isinstance(error, sqlite3.OperationalError):  # not only busy or full: damaged
                self._discard()
            return None

    def _discard(self) -> None:
        if self._database:
            self._database.close()
            self._database = None
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _open(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(FileExistsError):  # SQLite would make it as the umask says
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, timeout=0.2, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # in WAL mode nothing is damaged by a crash
        if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
            database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        size = path.stat().st_size
        if size > MAX_BYTES:
            database.executescript("BEGIN IMMEDIATE; DELETE FROM files; DELETE FROM trees; COMMIT; VACUUM;")
    except BaseException:
        database.close()
        raise
    return database


def _stamp(status: os.stat_result) -> Stamp:
    device, inode = (number - (number >> 63 << 64) for number in (status.st_dev, status.st_ino))  # signed
    return device, inode, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(opener: Callable[[], int]) -> tuple[bytes, Stamp | None]:
    """The digest of a file, and its stamp, unless it changed while it was read."""
    fd = opener()
    try:
        before = _stamp(os.fstat(fd))
        digest = hashlib.sha256()
        while chunk := os.read(fd, _CHUNK):
            digest.update(chunk)
        for name, value in kept_xattrs(fd):
            digest.update(hashlib.sha256(name + b"\0" + value).digest())
        return digest.digest(), before if _stamp(os.fstat(fd)) == before else None
    finally:
        os.close(fd)


def kept_xattrs(fd: int) -> list[tuple[bytes, bytes]]:
    """The extended attributes of an open file that layers keep, sorted."""
    try:
        names = sorted(filter(is_kept_xattr, map(os.fsencode, os.listxattr(fd))))
        return [(name, os.getxattr(fd, name)) for name in names]
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return []
        raise
