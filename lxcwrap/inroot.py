"""File operations inside a container's root, from outside, while hostile processes inside may rearrange it.

Three rules hold here. The kernel resolves every path within the root (openat2). What is found is pinned by an
O_PATH descriptor, looked at, and only then opened or changed through that descriptor, so nothing can be put
in its place and no fifo or device is ever opened. What is created, removed or renamed is named relative to
its pinned parent directory.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .drivers.filesystem import creating_as, is_kernel_interface, mount_id
from .drivers.paths import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, open_in_root, openat2
from .errors import InvalidSpecError, PathError, PathNotFoundError, path_error
from .ids import IDENTITY, IdMap

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_LINKS = 40  # as the kernel (path_resolution(7))


class Root(NamedTuple):
    """The root of the container or image `name`, open: `fd` is its directory as processes inside see it.

    read_only: nothing may be written to the root's own mount; other mounts in it say so themselves.
    """

    fd: int
    idmap: IdMap
    name: str
    read_only: bool = False


@contextmanager
def layers_root(lowers: Sequence[Path], name: str) -> Iterator[Root]:
    """The root of an image of these layers, topmost first, to be read."""
    from .storage.merged import merged

    with merged(lowers) as fd:
        yield Root(fd, IDENTITY, name, read_only=True)


Opener = Callable[[], AbstractContextManager[Root]]


@contextmanager
def opened(fd: int) -> Iterator[int]:
    """`fd`, closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def reopened(fd: int) -> str:
    """A host path that means the file pinned by `fd`, whatever has become of its name."""
    return f"/proc/self/fd/{fd}"


@contextmanager
def naming(container: str, path: PurePosixPath | str) -> Iterator[None]:
    """Errors of the system that arise inside the block become those of `path` inside `container`."""
    try:
        yield
    except (PathError, PathNotFoundError):
        raise
    except OSError as error:
        raise path_error(error.errno or errno.EIO, container, str(path), error.strerror or "") from None


def inner_path(path: str | os.PathLike[str]) -> PurePosixPath:
    """`path` as an absolute path inside; a relative one begins at the root."""
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"path {text!r}: give it as str")
    if "\0" in text:
        raise InvalidSpecError(f"path {text!r} holds a NUL byte")
    return PurePosixPath("/" + text.lstrip("/"))


def host_id(root: Root, inner_id: int) -> int:
    """The id on disk of a user or group inside."""
    try:
        return root.idmap.to_host(inner_id)
    except ValueError as error:
        raise InvalidSpecError(f"{root.name}: {error}") from None


def creating(root: Root, uid: int = 0, gid: int = 0) -> AbstractContextManager[None]:
    """What is created inside the block belongs to these ids inside the container."""
    if root.idmap.is_identity and not (uid or gid):
        return nullcontext()  # the container's root is the caller itself
    return creating_as(host_id(root, uid), host_id(root, gid))


def check_changeable(root: Root, fd: int) -> None:
    """OSError when the pinned file must not be changed.

    Nodes below /dev are the host's own, and files of /proc, /sys and cgroups act on the host with our rights:
    a link to /proc/sysrq-trigger must not make us write there.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise OSError(errno.EPERM, "a device is not changed from outside: use exec()")
    check_no_kernel_interface(fd)
    if root.read_only and mount_id(fd) == mount_id(root.fd):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def check_no_kernel_interface(fd: int) -> None:
    """OSError for a file of /proc and the like: read from here, /proc/sys/kernel/hostname is the host's."""
    if is_kernel_interface(fd):
        raise OSError(errno.EPERM, "a kernel file is not used from outside: use exec()")


@contextmanager
def pinned(root: Root, path: PurePosixPath | str, *, follow: bool = True) -> Iterator[int]:
    """An O_PATH descriptor of what is at `path`."""
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
    with opened(open_in_root(root.fd, str(path), flags)) as fd:
        yield fd


@contextmanager
def parent_to_change(root: Root, path: PurePosixPath) -> Iterator[tuple[int, str]]:
    """The directory that holds `path`, pinned, and the name in it, which is never followed."""
    if path.name in ("", ".."):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
    with pinned(root, path.parent) as fd:
        check_changeable(root, fd)
        yield fd, path.name


def listing(root: Root, path: PurePosixPath) -> list[tuple[str, bool]]:
    """(name, is it a directory itself) of all in the directory `path`, sorted."""
    with opened(open_in_root(root.fd, str(path), DIRECTORY)) as fd, os.scandir(fd) as entries:
        return sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)


def empty_directory(parent: int, name: str) -> None:
    """Remove all that is in the directory `name`. No link is followed and no mount point crossed (EXDEV)."""

    def below(path: str) -> int:
        rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV
        return openat2(parent, path, DIRECTORY, resolve=rules)

    pending, emptied = [name], []
    while pending:
        path = pending.pop()
        with opened(below(path)) as fd:
            with os.scandir(fd) as scan:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in scan]
            for entry, is_dir in entries:
                if is_dir:
                    pending.append(f"{path}/{entry}")
                else:
                    os.unlink(entry, dir_fd=fd)
        emptied.append(path)
    for path in reversed(emptied[1:]):
        above, _, last = path.rpartition("/")
        with opened(below(above)) as fd:
            os.rmdir(last, dir_fd=fd)


def open_regular(root: Root, path: PurePosixPath, flags: int, mode: int = 0o666) -> int:
    """open(2) of a regular file, and of nothing else. A file it creates belongs to root inside."""
    for _ in range(_MAX_LINKS):
        if not flags & os.O_EXCL:
            try:
                with pinned(root, path) as fd:
                    return _open_pinned(root, fd, flags)
            except FileNotFoundError:
                if not flags & os.O_CREAT:
                    raise
        with parent_to_change(root, path) as (parent, name):
            try:
                with creating(root):
                    return os.open(name, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=parent)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                path = _link_target(parent, path)
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def final_target(root: Root, path: PurePosixPath) -> PurePosixPath:
    """`path` after following the links at its last component; what they lead to need not exist."""
    for _ in range(_MAX_LINKS):
        with pinned(root, path.parent) as parent:
            target = _link_target(parent, path)
        if target == path:
            return path
        path = target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _link_target(parent: int, path: PurePosixPath) -> PurePosixPath:
    """Where `path`, whose parent directory is given, points to; itself if it is no link (any more)."""
    if path.name in ("", ".."):
        return path
    try:
        return path.parent / os.readlink(path.name, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return path
        raise


def _open_pinned(root: Root, fd: int, flags: int) -> int:
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file: use exec()")
    if flags & (os.O_WRONLY | os.O_RDWR):
        check_changeable(root, fd)
    else:
        check_no_kernel_interface(fd)
    # O_NONBLOCK: a process inside may hold a lease on the file, for whose end open(2) would wait (fcntl(2)).
    return os.open(reopened(fd), flags & ~(os.O_CREAT | os.O_EXCL) | os.O_NONBLOCK | os.O_CLOEXEC)
