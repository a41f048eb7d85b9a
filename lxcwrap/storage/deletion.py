"""Deleting trees that strangers have made: a container can nest directories beyond every limit of path, stack
and descriptors."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def delete_tree(tree: Path, new_name: Callable[[], Path]) -> None:
    """
    Delete `tree`, whatever it is and however deep. No link is followed; what resists stays, without an error.

    new_name: gives free names on the same file system: each directory is moved to one before it is emptied.
    Who is killed may leave something there.
    """
    pending = [tree]
    while pending:
        directory = pending.pop()
        with suppress(OSError):
            if directory.is_symlink() or not directory.is_dir():
                directory.unlink()
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # another process may be at it as well
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(Path(entry).rename(new_name()))
                        else:
                            os.unlink(entry)
            directory.rmdir()
