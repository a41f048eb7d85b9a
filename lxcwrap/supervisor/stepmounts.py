"""What only build steps mount: parts of other trees of layers, and file systems their caller has made."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ..drivers import mounts
from ..drivers.paths import open_in_root
from ..ids import IdMap
from .layered import Plan, clones, overlay_over


def new_mount(mount: Plan, scratch: str, idmap: IdMap, userns_fd: int | None, given: Sequence[int]) -> int:
    """A detached mount: of `subpath` in the layers `trees` (kind tree), or in the mount number `given`.

    The caller must be in a mount namespace of its own. scratch: a directory of the container's, to be made.
    """
    os.makedirs(f"{scratch}/root")
    with ExitStack() as stack:
        if mount["kind"] == "given":
            whole = given[mount["given"]]
        else:
            whole = _tree(mount, scratch, idmap, userns_fd)
            stack.callback(os.close, whole)
        with _attached(whole, f"{scratch}/root"):
            part = open_in_root(whole, mount["subpath"], os.O_PATH)
            stack.callback(os.close, part)
            fd = mounts.clone_tree(f"/proc/self/fd/{part}")
    attributes = mounts.NOSUID | mounts.NODEV | (mounts.RDONLY if mount["read_only"] else 0)
    mounts.set_attributes(fd, attributes)
    return fd


def _tree(mount: Plan, scratch: str, idmap: IdMap, userns_fd: int | None) -> int:
    """What is written to it goes to `scratch`, and with that."""
    upper = None if mount["read_only"] else (f"{scratch}/upper", f"{scratch}/work")
    for path in upper or (f"{scratch}/empty",):  # without an upper the kernel wants two lowers
        os.mkdir(path, 0o755)
        os.chown(path, idmap.base, idmap.base)
    with ExitStack() as stack:
        lowers = list(clones(stack, mount["trees"], userns_fd))
        lowers += [] if upper else clones(stack, [f"{scratch}/empty"], None)
        return overlay_over(lowers, upper, f"{scratch}/lowers")


@contextmanager
def _attached(mount_fd: int, path: str) -> Iterator[None]:
    # A part can be cloned of what is attached only.
    mounts.attach(mount_fd, path)
    try:
        yield
    finally:
        mounts.detach(path)
