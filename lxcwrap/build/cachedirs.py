"""The directories of ``RUN --mount=type=cache``: they outlive builds.

cache/mounts/<hex>      named by all that makes it another one: its id, what it held at first, its owner
cache/mounts/<hex>.<n>  further ones, for steps that want one to themselves

Whoever uses a directory holds a lock (flock) on it, whoever deletes it an exclusive one. It is made as a
draft of a layer and renamed: it is complete whenever the name exists.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from threading import Event

from ..drivers.filesystem import rename_new
from ..storage.layers import LayerStore
from .mounts import Sharing
from .step import BuildCancelled

_LOOK_S = 0.05


@contextmanager
def cache_directory(
    parent: Path,
    name: str,
    *,
    layers: LayerStore,
    fill: Callable[[Path], object],
    sharing: Sharing,
    cancelled: Event,
) -> Iterator[Path]:
    """The directory `name` of `parent`, ours within the block as far as `sharing` says.

    fill: called with the new, empty directory when there is none yet. Waits for others if it must; raises
    BuildCancelled when `cancelled` is set meanwhile.
    """
    parent.mkdir(mode=0o700, exist_ok=True)
    kind = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
    names = (f"{name}.{number}" if number else name for number in count())
    wait = sharing != "private"
    for path in map(parent.joinpath, names):
        fd = _locked(path, kind, layers, fill, cancelled, wait=wait)
        if fd is not None:
            try:
                yield path
            finally:
                os.close(fd)
            return


def _locked(
    path: Path,
    kind: int,
    layers: LayerStore,
    fill: Callable[[Path], object],
    cancelled: Event,
    *,
    wait: bool,
) -> int | None:
    """A descriptor of `path` that has the lock; None: another has it, and we do not wait."""
    while True:
        fd = _opened(path, layers, fill)
        try:
            while not _try_lock(fd, kind):
                if not wait:
                    os.close(fd)
                    return None
                if cancelled.wait(_LOOK_S):
                    raise BuildCancelled
            if _is_still(path, fd):
                os.utime(fd)  # when it was of use, for those who remove what is not
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # deleted before we had the lock


def _opened(path: Path, layers: LayerStore, fill: Callable[[Path], object]) -> int:
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            _make(path, layers, fill)


def _make(path: Path, layers: LayerStore, fill: Callable[[Path], object]) -> None:
    with layers.draft(None) as draft:
        fill(draft.layer)
        with suppress(FileExistsError):  # another was faster
            rename_new(str(draft.layer), str(path))


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False
