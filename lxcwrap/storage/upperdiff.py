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
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Literal

from ..drivers.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, open_in_root, openat2
from ..errors import FormatError
from ..ids import IDENTITY, IdMap
from ..results import Change
from .merged import merged

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def changes(
    upper: Path, lowers: Sequence[Path], *, ids: IdMap = IDENTITY, ignore: Collection[str] = ()
) -> tuple[Change, ...]:
    """All differences of `upper` to `lowers` (topmost first), by path, as ``docker diff`` tells them.

    A directory that the lowers have counts as modified when it is in the upper, so also when only its
    contents changed. Of a deleted directory only the directory itself is told. Empty files and directories at
    the paths in `ignore` are left out, with the directories that are in the upper on their account alone:
    mount points. The upper may be in use; what vanishes meanwhile is left out. ids: how those in the upper
    are shifted.
    """
    found = _Found(ids)
    _compare(upper, lowers, found)
    _prune(found, ignore)
    return tuple(Change(path=path, kind=found.kinds[path]) for path in sorted(found.kinds))


def mount_remains(
    upper: Path, lowers: Sequence[Path], *, ids: IdMap, mount_points: Collection[str]
) -> frozenset[str]:
    """The paths in `upper` that `changes` would leave out. mount_points: as the container sees them, so that
    links may lead there, with the directories above them."""
    with merged([upper, *lowers]) as root:
        points = {path for point in mount_points for path in _real(root, point)}
    found = _Found(ids)
    _compare(upper, lowers, found, within=points)
    everything = frozenset(found.kinds)
    _prune(found, points)
    return everything - found.kinds.keys()


def _real(root: int, point: str) -> Iterator[str]:
    """Where `point` leads to within `root`, and the directories above that."""
    with suppress(OSError):  # nothing is there
        fd = open_in_root(root, point, os.O_PATH)
        try:
            path = PurePosixPath(os.readlink(f"/proc/self/fd/{fd}"))  # mounted nowhere, it has a root itself
        finally:
            os.close(fd)
        yield from map(str, (path, *path.parents))


class _Found:
    """What a comparison yields: kinds by path, and which of these a mount point alone may have caused."""

    def __init__(self, ids: IdMap) -> None:
        self.ids = ids
        self.kinds: dict[str, Literal["added", "modified", "deleted"]] = {}
        self.blank: set[str] = set()  # added, and a directory or an empty file
        self.merged: set[str] = set()  # a directory with mode and owner of the lowers'


def _compare(
    upper_dir: Path, lower_dirs: Sequence[Path], found: _Found, *, within: Collection[str] | None = None
) -> None:
    """within: the only directories, besides the root, to be looked into."""
    with ExitStack() as stack:
        upper, *lowers = [_open_layer(stack, path) for path in (upper_dir, *lower_dirs)]
        _walk(upper, lowers, found, within)


def _walk(upper: int, lowers: Sequence[int], found: _Found, within: Collection[str] | None) -> None:
    # (directory, the lowers whose directories are merged there, are they hidden by an opaque one above?)
    pending: list[tuple[str, tuple[int, ...], bool]] = [("", tuple(lowers), False)]
    while pending:
        path, beside, hidden = pending.pop()
        with ExitStack() as stack:
            directory = open_below(stack, upper, path)
            if directory is None:
                continue
            hidden = hidden or _is_opaque(directory)
            below = [(lower, fd) for lower in beside if (fd := open_below(stack, lower, path)) is not None]
            names = set(os.listdir(directory))
            for name in names:
                status = _lstat(directory, name)
                was, dirs = _lookup(below, name)
                child = f"{path}/{name}"
                if status and _note(found, child, status, was) and (within is None or child in within):
                    pending.append((child, dirs, hidden))
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
    if was and is_dir and _is_alike(status, was, found.ids):
        found.merged.add(path)
    return is_dir


def _is_alike(status: os.stat_result, was: os.stat_result, ids: IdMap) -> bool:
    inner = (status.st_mode, ids.to_inner(status.st_uid), ids.to_inner(status.st_gid))
    return inner == (was.st_mode, was.st_uid, was.st_gid)


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
            child = open_below(stack, fd, name)
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


def open_below(stack: ExitStack, layer: int, path: str) -> int | None:
    """The directory `path` of a layer; None if it is gone, or something else by now. Raises FormatError."""
    rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
    try:
        fd = openat2(layer, path.lstrip("/") or ".", _DIRECTORY, resolve=rules)
    except OSError as error:
        if error.errno in _GONE:
            return None
        if error.errno == errno.ENAMETOOLONG:
            raise FormatError("directory", f"too deep to be looked into: {path[:80]!r}...") from None
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
