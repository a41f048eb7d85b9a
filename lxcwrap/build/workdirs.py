"""WORKDIR: a directory that is made where it is missing, with those above it.

Source: BuildKit, dockerfile2llb (dispatchWorkdir): mode 0755, for the user that USER names.
"""

from __future__ import annotations

import os
from contextlib import ExitStack

from ..drivers.paths import open_in_root
from ..errors import path_error
from .owners import find_owner

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def make_directory(root: int, path: str, user: str) -> None:
    """The directory `path`, links followed within `root`. user: whom it is made for, if it is missing.

    Raises PathError: something that is no directory is in the way; InvalidSpecError: no such user.
    """
    with ExitStack() as stack:

        def opened(path: str) -> int:
            fd = open_in_root(root, path, _DIRECTORY)
            stack.callback(os.close, fd)
            return fd

        parent = root
        names = [name for name in path.split("/") if name]
        for depth, name in enumerate(names, 1):
            so_far = "/".join(names[:depth])
            try:
                try:
                    parent = opened(so_far)
                except FileNotFoundError:
                    os.mkdir(name, 0o755, dir_fd=parent)
                    parent = opened(so_far)
                    os.fchown(parent, *(find_owner(user, root) if user else (0, 0)))
                    os.fchmod(parent, 0o755)  # whatever the umask
            except OSError as error:
                raise path_error(error.errno or 0, "WORKDIR", f"/{so_far}", error.strerror or "") from None
