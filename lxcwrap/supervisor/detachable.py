"""Mounts that can be taken away from a running container, and that it cannot change.

The kernel locks what a mount namespace gets by being copied to a less privileged user namespace: root there
may not make it writable, for one, but nobody can unmount it either (mount_namespaces(7)). A clone made in
that copy can be unmounted, and stays as it is otherwise. So volumes go such a way: to a stage, copied, cloned
there, and to their place.
"""

from __future__ import annotations

import os
import stat

from ..drivers import mounts, namespaces
from ..drivers.paths import open_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def remount(targets: Sequence[str], root_fd: int, root: str, userns_fd: int, stage: str) -> None:
    """Take what is mounted at `targets` in the tree `root_fd`, which is at `root`, and mount it there again,
    outer before inner. This process goes over to a mount namespace that belongs to `userns_fd`."""
    _set_up(stage)
    for number, target in reversed(list(enumerate(targets))):
        fd = open_in_root(root_fd, target, os.O_PATH)
        _put(fd, f"{stage}/{number}")
        os.close(fd)
    _enter_copy(userns_fd)
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for number, target in enumerate(targets):
        fd = mounts.clone_tree(f"{stage}/{number}", recursive=True)
        place = open_in_root(root_fd, target, os.O_PATH)
        mounts.attach(fd, place)
        os.close(fd)
        os.close(place)
    os.close(root_fd)


def sealed(mount_fd: int, userns_fd: int, stage: str) -> int:
    """The detached mount, which is closed, such that root of `userns_fd` cannot change it. This process goes
    over to a mount namespace that belongs to `userns_fd`."""
    _set_up(stage)
    _put(mount_fd, f"{stage}/0")
    os.close(mount_fd)
    _enter_copy(userns_fd)
    return mounts.clone_tree(f"{stage}/0", recursive=True)


def _set_up(stage: str) -> None:
    os.makedirs(stage, mode=0o700, exist_ok=True)
    fd = mounts.new_filesystem("tmpfs", ["mode=700"], mounts.NOSUID | mounts.NODEV | mounts.NOEXEC)
    mounts.attach(fd, stage)
    os.close(fd)


def _put(mount_fd: int, path: str) -> None:
    if stat.S_ISDIR(os.fstat(mount_fd).st_mode):
        os.mkdir(path)
    else:
        os.mknod(path)
    mounts.attach(mount_fd, path)


def _enter_copy(userns_fd: int) -> None:
    fd = namespaces.copy_mounts(userns_fd)
    mounts.enter(fd)
    os.close(fd)
