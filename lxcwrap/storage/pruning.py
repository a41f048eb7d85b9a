"""Taking away what is not needed: of the build cache by age and size; programs of former versions."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..drivers import seccomp
from ..results import Pruned
from .images import ImageStore
from .root import RootDir
from .state import State
from .usage import Meter


class _Kept(NamedTuple):
    """Something that builds keep: the row of a step by its key, or a directory of a cache mount."""

    used_at: float
    size: int
    what: str | Path


def prune(
    store: ImageStore, *, all_images: bool, keep_bytes: int | None, older_than_s: float | None
) -> Pruned:
    """See `Host.prune`."""
    path = store.root.path
    before = Meter(path).take(path)
    steps = 0
    if keep_bytes is not None or older_than_s is not None:
        steps = prune_build_cache(store, keep_bytes=keep_bytes, older_than_s=older_than_s)
    images = store.prune(all=all_images)
    prune_programs(store.root, store.state)
    store.root.empty_trash()
    return Pruned(images=tuple(images), build_steps=steps, freed=max(0, before - Meter(path).take(path)))


def prune_build_cache(store: ImageStore, *, keep_bytes: int | None, older_than_s: float | None) -> int:
    """
    Forget what was of use last before `older_than_s` seconds, and what is beyond the `keep_bytes` used last;
    how many. None: no matter. The content is deleted by the next `ImageStore.prune`.

    What images have, too, takes up nothing here. What a build is using stays.
    """
    limit = 0.0 if older_than_s is None else time.time() - older_than_s
    with store.state.transaction() as change:
        kept = sorted([*_steps(store), *_mounts(store.root)], key=lambda item: item.used_at, reverse=True)
        doomed = []
        size = 0
        for item in kept:
            size += item.size
            if item.used_at < limit or (keep_bytes is not None and (size > keep_bytes or not keep_bytes)):
                doomed.append(item.what)
        keys = [(key,) for key in doomed if isinstance(key, str)]
        change.executemany("DELETE FROM build_cache WHERE key = ?", keys)
    return len(keys) + sum(_discard(store.root, path) for path in doomed if isinstance(path, Path))


def _steps(store: ImageStore) -> Iterator[_Kept]:
    meter = Meter(store.root.path)
    query = "SELECT *, blob IN (SELECT blob FROM image_layers) AS is_shared FROM build_cache"
    for row in store.state.connection.execute(query).fetchall():
        size = 0
        if row["chain_id"] and not row["is_shared"]:
            size = meter.take_all([store.blobs.path(row["blob"]), store.layers.path(row["chain_id"])])
        yield _Kept(row["used_at"], size, row["key"])


def _mounts(root: RootDir) -> Iterator[_Kept]:
    """What ``RUN --mount=type=cache`` has: see `lxcwrap.build.cachedirs`."""
    meter = Meter(root.path)
    with suppress(FileNotFoundError):
        for path in (root.cache / "mounts").iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                used_at = min(status.st_mtime, status.st_ctime)  # steps can set only the first, to any time
                yield _Kept(used_at, meter.take(path), path)


def _discard(root: RootDir, directory: Path) -> bool:
    """Whether nobody used it, and it is gone."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        root.discard(directory)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def prune_programs(root: RootDir, state: State) -> None:
    """Delete the inits and filters of former versions that no container needs."""
    with state.transaction() as change:  # nobody begins a container meanwhile
        if change.execute("SELECT 1 FROM containers WHERE phase IN ('creating', 'building')").fetchone():
            return  # it may be about to use one
        plans = []
        for path in root.containers.glob("*/plan.json"):
            with suppress(FileNotFoundError):
                plans.append(path.read_text())
        seccomp.prune(root.cache, plans, root.discard)
