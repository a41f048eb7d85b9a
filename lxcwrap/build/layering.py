"""From what a step wrote to the layer it becomes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from ..storage.images import ImageStore
from ..storage.layers import IngestedLayer, LayerDraft
from ..storage.layerwriter import read_tree
from ..storage.packing import pack_layer
from .cache import Tree

_NS = 10**9


def lowers(store: ImageStore, tree: Tree) -> tuple[Path, ...]:
    """The directories of `tree`, topmost first; what is not there any more is unpacked again."""
    for chain, layer in zip(tree.chain, tree.layers, strict=True):
        if not store.layers.has(chain):
            blob = store.blobs.path(layer.digest)
            store.layers.unpack(chain, blob, diff_id=layer.diff_id, blob_digest=layer.digest)
    return tuple(store.layers.path(chain) for chain in reversed(tree.chain))


def make_layer(
    store: ImageStore,
    below: Tree,
    write: Callable[[LayerDraft], object],
    *,
    newest_s: int | None,
    alike: bool = True,
    always: bool = False,
    what: str = "layer",
) -> IngestedLayer | None:
    """
    What `write` writes to a draft, as a stored and unpacked layer on top of `below`; None: it wrote nothing.

    alike: its root directory is as that below. newest_s: later times become this one. always: a layer even
    if nothing was written. Nothing is kept if anything raises.
    """
    top = store.layers.path(below.id) if below.id and alike else None
    with store.layers.draft(top) as draft:
        before = _attributes(draft.layer)
        write(draft)
        if not always and not os.listdir(draft.layer) and _attributes(draft.layer) == before:
            return None
        layer = pack_layer(store.blobs, read_tree(draft.layer, newest_s=newest_s), what=what)
        _settle(draft.layer, newest_s)
        store.layers.keep(draft, below.above(layer))
        return layer


def _attributes(directory: Path) -> tuple[int, int, int]:
    status = directory.stat()
    return status.st_mode, status.st_uid, status.st_gid


def _settle(layer: Path, newest_s: int | None) -> None:
    """Make `layer`, which nobody writes to any more, what it will be elsewhere, when its archive is unpacked:
    without sockets and access control lists, in whole seconds, no time later than `newest_s`."""
    for _, names, others, fd in os.fwalk(layer, topdown=False):
        for name in (*others, *names):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISSOCK(status.st_mode):
                os.unlink(name, dir_fd=fd)
                continue
            _drop_attributes(f"/proc/self/fd/{fd}/{name}")
            seconds = _seconds(status, newest_s)
            if status.st_mtime_ns != seconds * _NS:
                os.utime(name, ns=(seconds * _NS,) * 2, dir_fd=fd, follow_symlinks=False)
    _drop_attributes(os.fspath(layer))
    seconds = _seconds(layer.stat(), newest_s)
    os.utime(layer, ns=(seconds * _NS,) * 2)


def _drop_attributes(path: str) -> None:
    """Those of its own that a step can set and no archive keeps: what runs here must be what is sent on."""
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(("system.", "user.overlay.")):
            os.removexattr(path, name, follow_symlinks=False)


def _seconds(status: os.stat_result, newest_s: int | None) -> int:
    seconds = status.st_mtime_ns // _NS
    return seconds if newest_s is None else min(seconds, newest_s)
