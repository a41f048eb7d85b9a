"""The tree that a COPY writes to: a merged overlay, or the directory of a layer alone.

It came out of an image and is as hostile: every directory in it is opened by the kernel within the root, and
what is put there is named relative to that directory, and never followed. Paths are absolute.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NamedTuple, TypeVar

from ..drivers.paths import open_in_root
from ..errors import FormatError
from ..inroot import DIRECTORY, naming, opened
from ..storage.unpack import WHITEOUT_PREFIX, is_whiteout

_PARENT = os.O_PATH | os.O_DIRECTORY
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel (path_resolution(7))
T = TypeVar("T")


class Looks(NamedTuple):
    """Owner, mode, modification time and extended attributes that something is to have; None: as it is."""

    owner: tuple[int, int] | None
    mode: int | None
    mtime_ns: int | None = None
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    def give(self, fd: int) -> None:
        if self.owner is not None:  # also if it is ours: a set-group-ID directory gives its own group
            os.fchown(fd, *self.owner)
        if self.mode is not None:
            os.fchmod(fd, self.mode)  # after chown, which clears set-user-ID
        for name, value in self.xattrs:
            os.setxattr(fd, name, value)  # after chown, which clears capabilities
        if self.mtime_ns is not None:
            os.utime(fd, ns=(self.mtime_ns, self.mtime_ns))


class Target:
    """`fd`: its root directory. owner: of directories on the way that are missing. Close it at the end."""

    def __init__(self, fd: int, owner: tuple[int, int]) -> None:
        self.fd = fd
        self._owner = owner
        self._at = ""  # the directory last written to, and its descriptor
        self._at_fd = -1
        self._unfinished: list[tuple[str, Looks]] = []

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._leave()

    # --- looking --------------------------------------------------------------------------------------------

    def is_directory(self, path: str) -> bool:
        """Whether `path` leads to a directory."""
        try:
            os.close(open_in_root(self.fd, path, _PARENT))
        except OSError:
            return False
        return True

    def final(self, path: str) -> str:
        """Where a file written to `path` ends up: links are followed, also those that lead nowhere."""
        with naming("image", path):
            for _ in range(_MAX_LINKS):
                above, name = posixpath.split(path)
                try:
                    with opened(open_in_root(self.fd, above, _PARENT)) as parent:
                        path = posixpath.join(above, os.readlink(name, dir_fd=parent))
                except FileNotFoundError:
                    return path
                except OSError as error:
                    if error.errno == errno.EINVAL:  # no link
                        return path
                    raise
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    # --- directories ----------------------------------------------------------------------------------------

    def make_way(self, path: str) -> bool:
        """Make the directory `path`, and what is missing above it, with mode 0755. False: it was there."""
        with naming("image", path):
            return self._make_way(path, _MAX_LINKS)

    def _make_way(self, path: str, links: int) -> bool:
        if self._opens(path):
            return False
        made, way = False, "/"
        for name in path.split("/"):
            above, way = way, posixpath.join(way, name)
            if self._opens(way):
                continue
            with opened(open_in_root(self.fd, above, _PARENT)) as parent:
                try:
                    self._make(parent, name)
                    made = True
                except FileExistsError:  # a link that leads nowhere
                    if not links:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                    made = self._make_way(posixpath.join(above, os.readlink(name, dir_fd=parent)), links - 1)
        return made

    def _opens(self, path: str) -> bool:
        try:
            os.close(open_in_root(self.fd, path, _PARENT))
        except FileNotFoundError:
            return False
        return True

    def _make(self, parent: int, name: str) -> None:
        _check_name(name)
        os.mkdir(name, 0o700, dir_fd=parent)
        with opened(os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)) as fd:
            Looks(self._owner, 0o755).give(fd)

    def directory(self, path: str, looks: Looks) -> None:
        """The directory `path`, or the one a link there leads to; it looks so when all is `finish`ed."""
        with self._parent(path) as (parent, name):
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                os.close(open_in_root(self.fd, path, _PARENT))
        self.look_later(path, looks)

    def look_later(self, path: str, looks: Looks) -> None:
        """What is written into a directory must not change its time, nor be kept from it by its mode."""
        self._unfinished.append((path, looks))

    def finish(self) -> None:
        self._leave()
        for path, looks in self._unfinished:  # of several for one directory the last counts
            with naming("image", path), opened(open_in_root(self.fd, path, DIRECTORY)) as fd:
                looks.give(fd)
        self._unfinished.clear()

    # --- all else -------------------------------------------------------------------------------------------

    def file(self, path: str, write: Callable[[int], Looks]) -> None:
        """A file, in place of what is no directory there. `write` fills it and tells its looks."""
        with self._parent(path) as (parent, name):
            fd = _replacing(parent, name, lambda: os.open(name, _NEW_FILE, 0o600, dir_fd=parent))
            with opened(fd):
                write(fd).give(fd)

    def link(self, path: str, text: str, looks: Looks) -> None:
        with self._parent(path) as (parent, name):
            _replacing(parent, name, lambda: os.symlink(text, name, dir_fd=parent))
            _give_name(parent, name, looks)

    def node(self, path: str, status: os.stat_result, looks: Looks) -> None:
        """A fifo or device like that of `status`."""
        if is_whiteout(status):
            raise FormatError(f"image: {path}", "is a character device 0/0, which would hide a file")
        with self._parent(path) as (parent, name):
            kind = stat.S_IFMT(status.st_mode)
            _replacing(parent, name, lambda: os.mknod(name, kind | 0o600, status.st_rdev, dir_fd=parent))
            _give_name(parent, name, looks)
            os.chmod(name, looks.mode or 0, dir_fd=parent)

    def other_name(self, path: str, first: str) -> None:
        """Another name of the file `first`, made before."""
        above, old = posixpath.split(first)
        with self._parent(path) as (parent, name), opened(open_in_root(self.fd, above, _PARENT)) as at:
            _replacing(
                parent,
                name,
                lambda: os.link(old, name, src_dir_fd=at, dst_dir_fd=parent, follow_symlinks=False),
            )

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        above, name = posixpath.split(path)
        with naming("image", path):
            _check_name(name)
            if self._at_fd < 0 or above != self._at:
                self._leave()
                self._at, self._at_fd = above, open_in_root(self.fd, above, _PARENT)
            yield self._at_fd, name

    def _leave(self) -> None:
        if self._at_fd >= 0:
            os.close(self._at_fd)
            self._at_fd = -1


def _check_name(name: str) -> None:
    if os.fsencode(name).startswith(WHITEOUT_PREFIX):
        raise FormatError(f"image: {name}", "has a name that means a deletion in a layer")


def _replacing(parent: int, name: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except FileExistsError:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise IsADirectoryError(errno.EISDIR, "a directory is not replaced by a file") from None
        os.unlink(name, dir_fd=parent)
        return make()


def _give_name(parent: int, name: str, looks: Looks) -> None:
    if looks.owner is not None:
        os.chown(name, *looks.owner, dir_fd=parent, follow_symlinks=False)
    if looks.mtime_ns is not None:
        os.utime(name, ns=(looks.mtime_ns, looks.mtime_ns), dir_fd=parent, follow_symlinks=False)
