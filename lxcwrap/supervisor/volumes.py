"""Volumes as mounts: named ones, and those of a container that are nameless.

On disk their files have plain ids. A mount's `source` is the directory to be seen; the directory that has it
may show the content of a file (storage/disks.py).
"""

from __future__ import annotations

import errno
import os

from ..drivers import mounts
from ..drivers.paths import open_in_root
from ..storage import disks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def is_named(mount: Mapping[str, Any], plan: Mapping[str, Any]) -> bool:
    return bool(mount["kind"] == "volume") and os.path.dirname(mount["source"]) != f"{plan['disk']}/volumes"


def new_mount(mount: Mapping[str, Any], shown: set[str], userns_fd: int | None, attributes: int) -> int:
    """A detached mount of a volume, or of `subpath` in it. The caller must be in a mount namespace of its
    own; `shown`: directories of volumes that have been there."""
    place = os.path.dirname(mount["source"])
    if place not in shown:
        disks.show(place)
        shown.add(place)
    try:
        whole = os.open(mount["source"], _PLACE)
    except FileNotFoundError:
        raise OSError(errno.ENOENT, "there is no such volume any more", place) from None
    try:
        part = open_in_root(whole, mount["subpath"] or ".", os.O_PATH)  # links end within the volume
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {mount['subpath']!r} in the volume") from None
    finally:
        os.close(whole)
    try:
        return mounts.idmapped_clone(f"/proc/self/fd/{part}", userns_fd, attributes)
    finally:
        os.close(part)
