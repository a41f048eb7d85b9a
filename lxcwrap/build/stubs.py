"""What remains in a draft of the places where things were mounted: it is taken out of the layer again."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

from ..drivers.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, open_in_root, openat2
from ..storage.merged import merged


def remove_stubs(layer: Path, lowers: Sequence[Path], points: Collection[str]) -> None:
    """Remove from `layer` the empty files and directories at `points` that `lowers`, topmost first, lack; and
    directories on the way there that hold nothing more and are as in the lowers.

    points: as seen in the container, so a link may lead to where one is.
    """
    with merged([layer, *lowers]) as whole:
        paths = {path for point in points for path in _real(whole, point)}
    with ExitStack() as stack:
        top = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, top)
        below = stack.enter_context(merged(lowers)) if lowers else None
        for path in sorted(paths, reverse=True):
            with suppress(OSError):  # it is not there, or not empty
                _remove_stub(top, below, path)


def _real(root: int, point: str) -> Iterator[str]:
    """The path of what `point` leads to within `root`, and those of the directories above."""
    try:
        fd = open_in_root(root, point, os.O_PATH)
    except OSError:
        return
    try:
        path = PurePosixPath(os.readlink(f"/proc/self/fd/{fd}"))  # the tree is mounted nowhere: its root is /
    finally:
        os.close(fd)
    yield from (str(each) for each in (path, *path.parents) if each.name)


def _remove_stub(top: int, below: int | None, path: str) -> None:
    with ExitStack() as stack:
        mine = _open(stack, top, path)
        parent = _open(stack, top, os.path.dirname(path))
        status = os.fstat(mine)
        theirs = None
        if below is not None:
            with suppress(OSError):
                theirs = os.fstat(_open(stack, below, path))
        name = os.path.basename(path)
        if stat.S_ISDIR(status.st_mode):
            if theirs is None or (_same(status, theirs) and not _has_xattrs(mine)):
                os.rmdir(name, dir_fd=parent)
        elif stat.S_ISREG(status.st_mode) and not status.st_size and theirs is None:
            os.unlink(name, dir_fd=parent)


def _open(stack: ExitStack, root: int, path: str) -> int:
    rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
    fd = openat2(root, path.lstrip("/") or ".", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, resolve=rules)
    stack.callback(os.close, fd)
    return fd


def _same(mine: os.stat_result, theirs: os.stat_result) -> bool:
    return (mine.st_mode, mine.st_uid, mine.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)


def _has_xattrs(fd: int) -> bool:
    """Beyond the overlay's own notes on where a directory came from; an opaque one hides what is below."""
    notes = {"trusted.overlay.origin", "trusted.overlay.impure"}
    return bool(set(os.listxattr(f"/proc/self/fd/{fd}")) - notes)
