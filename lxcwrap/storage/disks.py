"""Directories that cannot outgrow a size: by a project quota where the file system has them, else by a file
system of their own in a sparse file.

<directory>/         under a quota, or without any limit
<directory>/image    the file whose file system is to be seen in place of the directory

For the fork-server's children too: no heavy imports.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..drivers import loopdisk, mounts, quota

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def lack(directory: str, size: int) -> str | None:
    """The program or device that `limit` would need, for `size` bytes on the file system of `directory`."""
    if _has_quotas(directory):
        return None
    tool = loopdisk.tool_for(size)
    if loopdisk.find_tool(tool) is None:
        return tool
    return None if os.path.exists(loopdisk.CONTROL) else loopdisk.CONTROL


def limit(directory: str, size: int) -> None:
    """Let the new, empty `directory` have `size` bytes. Raises OSError; then it is of no use."""
    if _has_quotas(directory):
        quota.limit(directory, size)
    else:
        loopdisk.make(f"{directory}/image", size)


@contextmanager
def opened(directory: str) -> Iterator[int]:
    """A descriptor of the directory, or of what is to be seen in its place."""
    with ExitStack() as stack:
        mount = _mount(directory)
        if mount is not None:
            stack.callback(os.close, mount)
        fd = os.open(directory if mount is None else ".", _DIRECTORY, dir_fd=mount)
        stack.callback(os.close, fd)
        yield fd


def show(directory: str) -> None:
    """Let this process' own mount namespace have in `directory` what is to be seen there."""
    mount = _mount(directory)
    if mount is not None:
        try:
            mounts.attach(mount, directory)
        finally:
            os.close(mount)


def size_of(directory: str) -> int | None:
    """Bytes that it may have; None: no limit. Raises FileNotFoundError: there is no such directory."""
    try:
        return os.stat(f"{directory}/image").st_size
    except FileNotFoundError:
        found = quota.usage(directory)
        return found.limit if found else None


def resize(directory: str, size: int) -> None:
    """Let it have `size` bytes from now on, in use or not. OSError, and nothing changed: EFBIG: there is more
    in it; EOPNOTSUPP: its file system cannot shrink; EPERM: this kernel does not let it grow."""
    found = quota.usage(directory)
    if found:
        if found.used > size:
            raise OSError(errno.EFBIG, f"it holds {found.used} bytes")
        return quota.set_limit(directory, size)
    loopdisk.grow(f"{directory}/image", size)


def release(directory: str) -> None:
    """Before it is deleted."""
    if quota.usage(directory):
        quota.set_limit(directory, 0)


def _mount(directory: str) -> int | None:
    image = f"{directory}/image"
    return loopdisk.mount(image) if os.path.exists(image) else None


def _has_quotas(directory: str) -> bool:
    device = os.stat(directory).st_dev
    if device not in _with_quotas:
        _with_quotas[device] = quota.is_enforced(directory)
    return _with_quotas[device]


_with_quotas: dict[int, bool] = {}  # by device: tried once
