"""One layer of what a container sees of its own: its upper directory, and the volumes mounted over it."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

from ..drivers.paths import open_in_root
from ..ids import IdMap
from .layerwriter import Member, read_tree
from .merged import merged
from .tarstream import Entry, Kind
from .unpack import OPAQUE_MARKER
from .upperdiff import open_below


def overmounted(
    upper: Path,
    lowers: Sequence[Path],
    volumes: Mapping[str, int],
    *,
    ids: IdMap,
    newest_s: int | None = None,
    leave_out: Collection[str] = (),
) -> Iterator[Member]:
    """
    The members of `upper`, a layer over `lowers` (topmost first), with `volumes` in the place of what it has
    at their targets.

    volumes: open directories by target, parents first, with plain ids. For the others see `read_tree`.
    """
    with merged([upper, *lowers]) as root:
        volumes = {_real(root, target): fd for target, fd in volumes.items()}
    yield from read_tree(upper, ids=ids, newest_s=newest_s, leave_out={*leave_out, *volumes})
    # Directories on the way to a volume that are in no layer yet: they are to stay as they are.
    above = {str(path) for target in volumes for path in PurePosixPath(target).parents} - {"/"}
    ways = {way for way in above if not any(f"{way}/".startswith(f"{target}/") for target in volumes)}
    own = _existing(upper, ways)
    missing = ways - (own - set(leave_out))
    with merged(lowers) as root:
        shared = _existing(root, missing)
        yield from read_tree(root, newest_s=newest_s, only=shared, leave_out=["/"])
    made = missing & own - shared
    yield from read_tree(upper, ids=ids, newest_s=newest_s, only=made, leave_out=["/"])
    for target, fd in volumes.items():
        covered = [other.removeprefix(target) for other in volumes if other.startswith(f"{target}/")]
        yield from _moved(read_tree(fd, newest_s=newest_s, leave_out=covered), os.fsencode(target[1:]))


def _real(root: int, target: str) -> str:
    """Where a mount at `target` is, after all links; itself, where that is in another mount."""
    with suppress(OSError):
        fd = open_in_root(root, target, os.O_PATH)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")  # mounted nowhere, the tree has a root itself
        finally:
            os.close(fd)
    return posixpath.normpath(target)


def _existing(tree: Path | int, paths: Iterable[str]) -> set[str]:
    """Those of `paths` that are directories in the tree."""
    with ExitStack() as stack:
        if isinstance(tree, Path):
            tree = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, tree)
        return {path for path in paths if open_below(stack, tree, path) is not None}


def _moved(members: Iterator[Member], prefix: bytes) -> Iterator[Member]:
    """The members of a tree at `prefix`, where they hide all that lower layers have."""
    for entry, content in members:
        if entry.name == b"./":
            yield entry._replace(name=prefix + b"/"), content
            yield Entry(prefix + b"/" + OPAQUE_MARKER, Kind.FILE), ()
        else:
            link = prefix + b"/" + entry.link if entry.kind is Kind.HARDLINK else entry.link
            yield entry._replace(name=prefix + b"/" + entry.name, link=link), content
