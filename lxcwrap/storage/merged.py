"""Layers seen as one tree, as a container would see them: an overlay that is mounted nowhere.

It is reached by its descriptor alone and ends with that, also after kill -9. Names in it are as hostile as
the layers: use `drivers.paths.open_in_root`, or `inroot.Root`.
"""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from ..drivers import mounts
from .layers import LayerDraft

_supports_descriptors = cache(mounts.supports_descriptor_lowers)


@contextmanager
def merged(lowers: Sequence[Path], draft: LayerDraft | None = None) -> Iterator[int]:
    """A descriptor of the root directory of `lowers`, topmost first, without their devices.

    draft: where writing goes; without one the tree can only be read. Raises OSError.
    """
    with ExitStack() as stack:
        paths = [str(path) for path in lowers]
        if len(paths) + (draft is not None) < 2:  # the kernel wants two directories: an empty one below
            paths.append(stack.enter_context(tempfile.TemporaryDirectory(prefix="lxcwrap-empty-")))
        fds = []
        for path in paths:
            fds.append(_lower(path))
            stack.callback(os.close, fds[-1])
        upper = (str(draft.layer), str(draft.work)) if draft else None
        attributes = mounts.NODEV | mounts.NOSUID | (0 if draft else mounts.RDONLY)
        if _supports_descriptors():
            root = mounts.overlay_by_descriptors(fds, upper, attributes=attributes)
        else:
            root = _elsewhere(fds, upper, attributes)
        stack.callback(os.close, root)
        directory = os.open(
            ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root
        )  # fsmount gives O_PATH
        stack.callback(os.close, directory)
        yield directory


def _lower(path: str) -> int:
    try:
        return mounts.idmapped_clone(path, None, mounts.NODEV)
    except OSError as error:
        if error.errno != errno.EINVAL or not _supports_descriptors():
            raise
        # It is in a mount that is attached nowhere. Linux before 6.15 clones none of these; an overlay does.
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _elsewhere(lowers: Sequence[int], upper: mounts.Upper, attributes: int) -> int:
    """For kernels that mount by paths only: in a thread with a mount namespace of its own, which ends with
    it."""
    results: list[int] = []
    errors: list[BaseException] = []

    def mount() -> None:
        try:
            mounts.private_mount_namespace()
            with tempfile.TemporaryDirectory(prefix="lxcwrap-merged-") as scratch:
                results.append(mounts.overlay_by_paths(lowers, upper, scratch=scratch, attributes=attributes))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=mount, name="lxcwrap-merged")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
