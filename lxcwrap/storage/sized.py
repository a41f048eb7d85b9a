"""`disks` for users: what is lacking and what is refused, as errors that say what to do."""

from __future__ import annotations

import errno
from pathlib import Path

from ..drivers.loopdisk import PACKAGES, XFS_LEAST
from ..errors import InvalidSpecError, KernelError, UnsupportedError
from . import disks


def check(below: Path, size: int) -> None:
    """Whether something of `size` bytes can be made on the file system of `below`, where it is tried. Raises
    UnsupportedError."""
    lack = disks.lack(str(below), size)
    if lack in PACKAGES:
        raise UnsupportedError(f"a limit of the disk needs {lack}", f"apt install {PACKAGES[lack]}")
    if lack:
        raise UnsupportedError(f"a limit of the disk needs {lack}", "modprobe loop")


def limit(directory: Path, size: int, what: str) -> None:
    """Let the new, empty `directory` have `size` bytes. Raises UnsupportedError, KernelError."""
    check(directory, size)
    try:
        disks.limit(str(directory), size)
    except OSError as error:
        raise KernelError(error.errno or 0, f"make {what}: {error.strerror}", error.filename) from error


def resize(directory: Path, size: int, what: str) -> None:
    """Let it have `size` bytes from now on. Raises InvalidSpecError, UnsupportedError, KernelError; then
    nothing has changed."""
    try:
        disks.resize(str(directory), size)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise InvalidSpecError(f"{what} cannot have {size} bytes: {error.strerror}") from None
        if error.errno == errno.EOPNOTSUPP:
            raise UnsupportedError(
                f"{what} cannot shrink: its file system can only grow", "copy it"
            ) from None
        if error.errno == errno.EPERM:
            remedy = f"make it with {XFS_LEAST >> 20} MiB or more, which is XFS"
            raise UnsupportedError(
                f"{what} cannot grow: the kernel asks for CAP_SYS_RESOURCE", remedy
            ) from None
        raise KernelError(error.errno or 0, f"resize {what}", error.filename) from error
