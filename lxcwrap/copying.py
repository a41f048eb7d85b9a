"""Copying files between the host and a container, with the rules of ``docker cp``.

Both trees may be hostile: the container's processes rearrange theirs while it is read or written, and a link
copied out must not lead later writes anywhere. So both are walked by descriptors, and no link of a copied
tree is followed.
"""

from __future__ import annotations

import errno
import os
import posixpath
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Protocol

from attrs import frozen

from .drivers.filesystem import copy_data, is_kernel_interface, user_attributes
from .drivers.paths import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from .errors import InvalidSpecError
from .inroot import (
    DIRECTORY,
    Opener,
    Root,
    check_changeable,
    creating,
    final_target,
    inner_path,
    naming,
    opened,
    reopened,
)

StrPath = str | os.PathLike[str]
_KINDS = {stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


@frozen(kw_only=True)
class Skipped:
    """Something of the source that was not copied: its path there, and why."""

    path: str
    reason: str


@frozen(kw_only=True)
class CopyResult:
    """What a copy did: the number of regular `files`, their `bytes`, and what was left out."""

    files: int
    bytes: int
    skipped: tuple[Skipped, ...] = ()


def copy_in(opener: Opener, source: StrPath, target: str, *, owner: tuple[int, int] = (0, 0)) -> CopyResult:
    """Copy the file or directory `source` of the host to `target` in the container.

    A directory goes into `target` if that is a directory, with or without a slash at the end of either; if
    nothing is there, `target` becomes its copy. ``source/.`` means what is in the directory, not the
    directory. A file goes into a directory, or replaces a file; ``target/`` says that `target` must be a
    directory. Existing directories are merged and keep their mode and owner. Links are copied as links.

    Mode, modification time, holes and user.* attributes are kept; everything belongs to `owner`, a user and
    group id inside. Each file appears whole, by renaming, or not at all. Devices, fifos, sockets are skipped.
    Raises OSError for `source` and PathError for `target`; what was complete by then stays.
    """
    with opener() as root:
        return _Copy(_Host(), _Inside(root, owner)).run(os.fspath(source), target)


def copy_out(opener: Opener, source: str, target: StrPath) -> CopyResult:
    """Copy the file or directory `source` of the container to `target` on the host, as `copy_in` does.

    The copies belong to the caller and lose the setuid and setgid bits. A link at `target` itself, which an
    earlier copy may have brought, is not followed but replaced by a file, unless written ``target/``.
    """
    with opener() as root:
        return _Copy(_Inside(root), _Host()).run(source, os.fspath(target))


class _Side(Protocol):
    """One of the two trees: the host's or the container's."""

    mode_mask: int
    follow: int  # O_NOFOLLOW if a link at the target itself is not followed

    def open(self, path: str, flags: int) -> int: ...
    def open_below(self, top: int, path: str, relative: str) -> int:
        """The directory `relative` to the target directory `top`, which is at `path`."""

    def final(self, path: str) -> str:
        """Where a file written to `path` ends up."""

    def creating(self) -> AbstractContextManager[None]: ...
    def check(self, fd: int, path: str) -> None:
        """Raise unless the directory may be written to."""

    def naming(self, path: str) -> AbstractContextManager[None]: ...


class _Inside:
    mode_mask = 0o7777
    follow = 0

    def __init__(self, root: Root, owner: tuple[int, int] = (0, 0)) -> None:
        self._root = root
        self._owner = owner

    def open(self, path: str, flags: int) -> int:
        with self.naming(path):
            return open_in_root(self._root.fd, path, flags)

    def open_below(self, top: int, path: str, relative: str) -> int:
        # Links to directories that are in the container already are followed: /bin is one in most images.
        return self.open(posixpath.join(path, relative), DIRECTORY)

    def final(self, path: str) -> str:
        with self.naming(path):
            return str(final_target(self._root, inner_path(path)))

    def creating(self) -> AbstractContextManager[None]:
        return creating(self._root, *self._owner)

    def check(self, fd: int, path: str) -> None:
        with self.naming(path):
            check_changeable(self._root, fd)

    def naming(self, path: str) -> AbstractContextManager[None]:
        return naming(self._root.name, path)


class _Host:
    mode_mask = 0o1777  # a setuid file from inside would be root's outside
    follow = os.O_NOFOLLOW

    def open(self, path: str, flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC)

    def open_below(self, top: int, path: str, relative: str) -> int:
        with self.naming(posixpath.join(path, relative)):
            return _open_below(top, relative)

    def final(self, path: str) -> str:
        return path

    def creating(self) -> AbstractContextManager[None]:
        return nullcontext()

    def check(self, fd: int, path: str) -> None:
        pass

    @contextmanager
    def naming(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None


def _open_below(top: int, relative: str) -> int:
    rules = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    return openat2(top, relative, DIRECTORY, resolve=rules)


def _pin(directory: int, name: str) -> int:
    return os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


class _Copy:
    """One copy under way, from the side `origin` to the side `goal`. What is copied is pinned first."""

    def __init__(self, origin: _Side, goal: _Side) -> None:
        self._origin = origin
        self._goal = goal
        self._files = 0
        self._bytes = 0
        self._skipped: list[Skipped] = []

    def run(self, source: str, target: str) -> CopyResult:
        if "\0" in source + target:
            raise InvalidSpecError(f"cannot copy {source!r} to {target!r}: a NUL byte is in no path")
        name = posixpath.basename(source.rstrip("/"))
        contents = name in ("", ".", "..")
        flags = os.O_DIRECTORY if contents else 0 if source.endswith("/") else os.O_NOFOLLOW
        with opened(self._origin.open(source, os.O_PATH | flags)) as fd:
            mode = os.fstat(fd).st_mode
            if reason := _unfit(fd, mode):
                with self._origin.naming(source):
                    raise OSError(errno.EINVAL, f"cannot copy a {reason}")
            if stat.S_ISDIR(mode):
                self._directory(fd, source, target, "" if contents else name)
            else:
                self._single(fd, source, target, name)
        return CopyResult(files=self._files, bytes=self._bytes, skipped=tuple(self._skipped))

    def _mode_of_target(self, target: str) -> int | None:
        try:
            with opened(self._goal.open(target, os.O_PATH | self._follow(target))) as fd:
                return os.fstat(fd).st_mode
        except FileNotFoundError:
            return None

    def _follow(self, target: str) -> int:
        return 0 if target.endswith("/") else self._goal.follow

    @contextmanager
    def _parent(self, path: str) -> Iterator[int]:
        """The directory that is to hold `path`, open."""
        with opened(self._goal.open(posixpath.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY)) as fd:
            self._goal.check(fd, path)
            yield fd

    def _single(self, fd: int, source: str, target: str, name: str) -> None:
        mode = self._mode_of_target(target)
        if mode is not None and stat.S_ISDIR(mode):
            path = posixpath.join(target, name)
        elif target.endswith("/"):
            with self._goal.naming(target):
                raise OSError(errno.ENOENT, "no such directory")
        else:
            path = self._goal.final(target)
        with self._parent(path) as parent:
            self._leaf(fd, source, parent, path)

    def _directory(self, fd: int, source: str, target: str, name: str) -> None:
        mode = self._mode_of_target(target)
        if mode is not None and not stat.S_ISDIR(mode):
            link = ": a link is not followed, write target/ if it should be" if stat.S_ISLNK(mode) else ""
            with self._goal.naming(target):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR) + link)
        if mode is not None and not name:
            with opened(self._goal.open(target, DIRECTORY | self._follow(target))) as top:
                return self._tree(fd, source, top, target, made=False)
        path = target.rstrip("/") if mode is None else posixpath.join(target, name)
        with self._parent(path) as parent:
            made = self._make_directory(parent, path)
            above, last = posixpath.split(path)
            with opened(self._goal.open_below(parent, above, last)) as top:
                self._tree(fd, source, top, path, made=made)

    def _make_directory(self, parent: int, path: str) -> bool:
        """False if something is there already; opening it will show whether it is a directory."""
        with self._goal.naming(path), suppress(FileExistsError), self._goal.creating():
            os.mkdir(posixpath.basename(path), 0o700, dir_fd=parent)
            return True
        return False

    def _tree(self, origin_top: int, source: str, goal_top: int, target: str, *, made: bool) -> None:
        # Depth costs neither stack nor descriptors: the kernel opens each directory anew from the top.
        pending, unfinished = [(".", made)], []
        while pending:
            relative, made = pending.pop()
            here, there = _join(source, relative), _join(target, relative)
            reader = self._open_origin(_open_below, origin_top, relative, here)
            if reader is None:
                continue
            with opened(reader), opened(self._goal.open_below(goal_top, target, relative)) as writer:
                if _identity(reader) == _identity(goal_top):
                    with self._goal.naming(target):
                        raise OSError(errno.EINVAL, "cannot copy a directory into itself")
                self._goal.check(writer, there)
                if made:
                    unfinished.append((relative, os.fstat(reader), user_attributes(reader)))
                pending += self._entries(reader, here, writer, there, relative)
        for relative, status, attributes in reversed(unfinished):
            with opened(self._goal.open_below(goal_top, target, relative)) as writer:
                self._goal.check(writer, _join(target, relative))
                self._finish(writer, status, attributes, _join(source, relative))

    def _entries(
        self, reader: int, here: str, writer: int, there: str, relative: str
    ) -> Iterator[tuple[str, bool]]:
        """Copy all that is in one directory but the directories: those are made and returned."""
        for name in sorted(os.listdir(reader)):
            fd = self._open_origin(_pin, reader, name, _join(here, name))
            if fd is None:
                continue
            with opened(fd):
                mode = os.fstat(fd).st_mode
                if reason := _unfit(fd, mode):
                    self._skip(_join(here, name), reason)
                elif stat.S_ISDIR(mode):
                    yield posixpath.join(relative, name), self._make_directory(writer, _join(there, name))
                else:
                    self._leaf(fd, _join(here, name), writer, _join(there, name))

    def _open_origin(self, opener: Callable[[int, str], int], top: int, name: str, path: str) -> int | None:
        with self._origin.naming(path):
            try:
                return opener(top, name)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise
        self._skip(path, "removed or replaced meanwhile")
        return None

    def _skip(self, path: str, reason: str) -> None:
        self._skipped.append(Skipped(path=posixpath.normpath(path), reason=reason))

    def _leaf(self, fd: int, source: str, parent: int, target: str) -> None:
        """Copy a pinned regular file or link."""
        status = os.fstat(fd)
        if stat.S_ISLNK(status.st_mode):
            with self._replacing(parent, target) as name:
                self._link(os.readlink("", dir_fd=fd), status, parent, name)
            return
        with self._origin.naming(source):
            reader = os.open(reopened(fd), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with opened(reader), self._replacing(parent, target) as name:
            self._file(reader, source, parent, name)

    @contextmanager
    def _replacing(self, parent: int, target: str) -> Iterator[str]:
        """A name to make something under in `parent`, which is renamed to `target` when it is complete."""
        temporary = f".{secrets.token_hex(8)}.lxcwrap"
        with self._goal.naming(target):
            try:
                yield temporary
                with self._goal.creating():  # the kernel asks the same ids for a new name as for a new file
                    os.replace(temporary, posixpath.basename(target), src_dir_fd=parent, dst_dir_fd=parent)
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=parent)
                raise

    def _link(self, text: str, status: os.stat_result, parent: int, name: str) -> None:
        with self._goal.creating():
            os.symlink(text, name, dir_fd=parent)
        times = (status.st_atime_ns, status.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _file(self, reader: int, source: str, parent: int, name: str) -> None:
        with self._goal.creating():
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            writer = os.open(name, flags, 0o600, dir_fd=parent)
        with opened(writer):
            self._bytes += copy_data(reader, writer)
            self._finish(writer, os.fstat(reader), user_attributes(reader), source)
        self._files += 1

    def _finish(self, fd: int, status: os.stat_result, attributes: Mapping[str, bytes], source: str) -> None:
        """Give a file or directory the mode, times and attributes of its origin."""
        for name, value in attributes.items():
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                self._skip(source, f"attribute {name}: {error.strerror}")
        os.fchmod(fd, stat.S_IMODE(status.st_mode) & self._goal.mode_mask)
        os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))


def _join(path: str, relative: str) -> str:
    return path if relative == "." else posixpath.join(path, relative.removeprefix("./"))


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def _unfit(fd: int, mode: int) -> str:
    """What a pinned file is, when it cannot be copied."""
    kind = _KINDS.get(stat.S_IFMT(mode), "")
    return kind or ("kernel file" if not stat.S_ISLNK(mode) and is_kernel_interface(fd) else "")
