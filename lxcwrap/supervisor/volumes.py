"""Nameless volumes: directories of a container for the paths that its image declares as volumes.

`<bundle>/volumes/<n>` carries the container's own ids and is mounted as it is. When it exists it is complete.
"""

from __future__ import annotations

import errno
import os

from ..drivers.paths import open_in_root
from ..ids import IdMap


def fill(directory: str, root_fd: int, target: str, idmap: IdMap) -> None:
    """Make `directory` of what the root has at `target`, unless an earlier run did. Nothing runs there."""
    if os.path.isdir(directory):
        return
    os.makedirs(os.path.dirname(directory), mode=0o711, exist_ok=True)
    # One of a start that was killed stays until the container is removed.
    unfinished = f"{directory}.{os.urandom(4).hex()}"
    os.mkdir(unfinished, 0o755)
    os.chown(unfinished, idmap.base, idmap.base)
    try:
        origin = open_in_root(root_fd, target, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        pass
    except NotADirectoryError:
        raise OSError(errno.ENOTDIR, f"the image declares {target} a volume, but has a file there") from None
    else:
        try:
            _copy(origin, unfinished)
        finally:
            os.close(origin)
    os.rename(unfinished, directory)


def _copy(origin: int, directory: str) -> None:
    """All of it, with owners, modes, times, links and extended attributes, the directory's own too."""
    import subprocess  # here: few containers need it, and once only

    command = ["cp", "-a", f"/proc/self/fd/{origin}/.", directory]
    done = subprocess.run(command, pass_fds=[origin], stderr=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        raise OSError(errno.EIO, f"cannot fill a volume: {done.stderr.strip()[-500:]}")
