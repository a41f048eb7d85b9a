"""What a container changed: the upper directory of its overlay against the lowers.

upper: a device 0/0 (whiteout) deletes the name below it; a directory with trusted.overlay.opaque=y hides the
lowers' directory of that name; all else is added, or replaces what the lowers have. Source: Linux,
overlayfs.rst. The contents of all layers are hostile, so every directory is opened by the kernel beneath its
layer, links refused.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from ..drivers.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, openat2
from ..results import Change

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def changes(upper: Path, lowers: Sequence[Path], *, ignore: Collection[str] = ()) -> tuple[Change, ...]:
    """All differences of `upper` to `lowers` (topmost first), by path, as ``docker diff`` tells them.

    A directory that the lowers have counts as modified when it is in the upper, so also when only its
    contents changed. Of a deleted directory only the directory itself is told. Empty files and directories at
    the paths in `ignore` are left out, with the directories that are in the upper on their account alone:
    mount points. The upper may be in use; what vanishes meanwhile is left out.
    """
    with ExitStack() as stack:
        fds = [_open_layer(stack, path) for path in (upper, *lowers)]
        found = _Found()
        _compare(fds[0], fds[1:], found)
    _prune(found, ignore)
    return tuple(Change(path=path, kind=found.kinds[path]) for path in sorted(found.kinds))


class _Found:
    """What a comparison yields: kinds by path, and which of these a mount point alone may have caused."""

    def __init__(self) -> None:
        self.kinds: dict[str, Literal["added", "modified", "deleted"]] = {}
        self.blank: set[str] = set()  # added, and a directory or an empty file
        self.merged: set[str] = set()  # a directory with the mode the lowers' has


def _compare(upper: int, lowers: Sequence[int], found: _Found) -> None:
    # (directory, the lowers whose directories are merged there, are they hidden by an opaque one above?)
    pending: list[tuple[str, tuple[int, ...], bool]] = [("", tuple(lowers), False)]
    while pending:
        path, merged, hidden = pending.pop()
        with ExitStack() as stack:
            directory = _open_below(stack, upper, path)
            if directory is None:
                continue
            hidden = hidden or _is_opaque(directory)
            below = [(lower, fd) for lower in merged if (fd := _open_below(stack, lower, path)) is not None]
            names = set(os.listdir(directory))
            for name in names:
                status = _lstat(directory, name)
                was, dirs = _lookup(below, name)
                if status and _note(found, f"{path}/{name}", status, was):
                    pending.append((f"{path}/{name}", dirs, hidden))
            if hidden:
                for name in {name for _, fd in below for name in os.listdir(fd)} - names:
                    if _lookup(below, name)[0]:
                        found.kinds[f"{path}/{name}"] = "deleted"


def _note(found: _Found, path: str, status: os.stat_result, was: os.stat_result | None) -> bool:
    """Record one entry of the upper; True if it is a directory."""
    if _is_whiteout(status):
        if was:
            found.kinds[path] = "deleted"
        return False
    is_dir = stat.S_ISDIR(status.st_mode)
    found.kinds[path] = "modified" if was else "added"
    if was is None and (is_dir or (stat.S_ISREG(status.st_mode) and status.st_size == 0)):
        found.blank.add(path)
    if was and is_dir and was.st_mode == status.st_mode:
        found.merged.add(path)
    return is_dir


def _lookup(layers: Sequence[tuple[int, int]], name: str) -> tuple[os.stat_result | None, tuple[int, ...]]:
    """What the merged `layers`, (layer, descriptor of the directory), have at `name`; if directories, of
    which layers."""
    top: os.stat_result | None = None
    dirs: list[int] = []
    for layer, fd in layers:
        status = _lstat(fd, name)
        if status is None:
            continue
        if _is_whiteout(status) or (top and not stat.S_ISDIR(status.st_mode)):
            break
        top = top or status
        if not stat.S_ISDIR(status.st_mode):
            break
        dirs.append(layer)
        with ExitStack() as stack:
            child = _open_below(stack, fd, name)
            if child is not None and _is_opaque(child):
                break
    return top, tuple(dirs)


def _prune(found: _Found, ignore: Collection[str]) -> None:
    for path in sorted(ignore, reverse=True):
        candidates = found.blank
        while path in candidates and not any(other.startswith(f"{path}/") for other in found.kinds):
            found.kinds.pop(path, None)
            candidates, path = found.merged, posixpath.dirname(path)


def _open_layer(stack: ExitStack, path: Path) -> int:
    fd = os.open(path, _DIRECTORY)
    stack.callback(os.close, fd)
    return fd


def _open_below(stack: ExitStack, layer: int, path: str) -> int | None:
    """The directory `path` of a layer; None if it is gone, or something else by now."""
    rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    try:
        fd = openat2(layer, path.lstrip("/") or ".", _DIRECTORY, resolve=rules)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise
    stack.callback(os.close, fd)
    return fd


def _lstat(directory: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def _is_opaque(fd: int) -> bool:
    try:
        return os.getxattr(fd, "trusted.overlay.opaque") == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise
