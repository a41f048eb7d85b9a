"""How one tree of layers differs from another: for images, whose layers never change.

Both are seen merged, so that whiteouts, opaque directories and the order of layers no longer matter. Names in
layers are hostile: directories are opened by the kernel beneath their root, links refused.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from .merged import merged
from .unpack import is_kept_xattr, is_whiteout
from .upperdiff import open_below

Kind = Literal["added", "modified", "deleted"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CHUNK = 1 << 18


@contextmanager
def tree(lowers: Sequence[Path]) -> Iterator[int]:
    """A descriptor of the root of `lowers`, topmost first, as one tree.

    A single layer is itself that tree, but for whiteouts that delete nothing; it keeps its inode numbers,
    which two overlays share only if they are made of one file system each.
    """
    if len(lowers) == 1:
        fd = os.open(lowers[0], _DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)
    else:
        with merged(lowers) as fd:
            yield fd


def differences(new: int, old: int) -> dict[str, Kind]:
    """
    What is in the tree `new` and is not, or is another, in `old`; and what is no longer there. By absolute
    path.

    Files are alike if type, mode, owner, time in seconds, attributes and content are: for directories that is
    what they hold. Of a deleted directory only that itself is told.
    """
    found: dict[str, Kind] = {}
    pending = [""]
    while pending:
        path = pending.pop()
        with ExitStack() as stack:
            ours, theirs = open_below(stack, new, path), open_below(stack, old, path)
            entries, others = _entries(ours), _entries(theirs)
            for name, status in entries.items():
                child = f"{path}/{name}"
                if name not in others:
                    found[child] = "added"
                elif not _are_alike(name, (ours, status), (theirs, others[name])):
                    found[child] = "modified"
                if stat.S_ISDIR(status.st_mode):
                    pending.append(child)
            found |= {f"{path}/{name}": "deleted" for name in others.keys() - entries.keys()}
    for path in list(found):
        while (path := posixpath.dirname(path)) != "/" and path not in found:
            found[path] = "modified"
    return found


def _entries(directory: int | None) -> dict[str, os.stat_result]:
    names = os.listdir(directory) if directory is not None else ()
    found = {name: os.stat(name, dir_fd=directory, follow_symlinks=False) for name in names}
    return {name: status for name, status in found.items() if not is_whiteout(status)}


_Place = tuple[int | None, os.stat_result]
"""The directory that has it, and its inode."""


def _are_alike(name: str, one: _Place, other: _Place) -> bool:
    (dir_fd, status), (other_dir, was) = one, other
    if _mark(status) != _mark(was):
        return False
    if stat.S_ISDIR(status.st_mode):
        return _xattrs(name, dir_fd) == _xattrs(name, other_dir)
    if status.st_ino == was.st_ino:  # all layers are on one file system
        return True
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(name, dir_fd=dir_fd) == os.readlink(name, dir_fd=other_dir)
    return not stat.S_ISREG(status.st_mode) or (
        _xattrs(name, dir_fd) == _xattrs(name, other_dir) and _have_same_content(name, dir_fd, other_dir)
    )


def _mark(status: os.stat_result) -> tuple[int, ...]:
    """What tells two inodes apart at a glance. The size of a directory is the file system's own affair."""
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    owner = status.st_uid, status.st_gid
    return status.st_mode, *owner, status.st_rdev, size, status.st_mtime_ns // 10**9


def _xattrs(name: str, directory: int | None) -> dict[str, bytes]:
    fd = os.open(name, _OPEN, dir_fd=directory)
    try:
        return {key: os.getxattr(fd, key) for key in os.listxattr(fd) if is_kept_xattr(os.fsencode(key))}
    finally:
        os.close(fd)


def _have_same_content(name: str, *directories: int | None) -> bool:
    with ExitStack() as stack:
        fds = [os.open(name, _OPEN, dir_fd=directory) for directory in directories]
        for fd in fds:
            stack.callback(os.close, fd)
        while True:
            one, other = (os.read(fd, _CHUNK) for fd in fds)
            if one != other or not one:
                return one == other
