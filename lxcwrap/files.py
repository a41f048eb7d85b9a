"""Paths inside a container or an image, used as `pathlib.Path`."""

from __future__ import annotations

import builtins
import errno
import os
import stat as _stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import IO, Any, Literal, Self, overload

from attrs import evolve, field, frozen

from .errors import InvalidSpecError
from .inroot import (
    Opener,
    Root,
    check_changeable,
    creating,
    empty_directory,
    host_id,
    inner_path,
    listing,
    naming,
    open_regular,
    parent_to_change,
    pinned,
    reopened,
)
from .results import FileStat

__all__ = ["ContainerPath", "ImagePath", "Opener", "Root", "VolumePath"]

InnerPath = str | PurePosixPath
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # pathlib's exists() answers False to these


@frozen(repr=False, order=False)
class TreePath:
    """What paths in a container and in an image have in common."""

    _opener: Opener = field(eq=False)
    _path: PurePosixPath = field(converter=inner_path)

    def __str__(self) -> str:
        return str(self._path)

    # --- names: nothing is touched --------------------------------------------------------------------------

    def _with(self, path: InnerPath) -> Self:
        return evolve(self, path=path)

    def _inner(self, path: InnerPath | TreePath) -> PurePosixPath:
        if isinstance(path, TreePath):
            if path._with("/") != self._with("/"):
                raise InvalidSpecError(f"{path!r} is elsewhere than {self!r}")
            return path._path
        return inner_path(path)

    def __truediv__(self, name: InnerPath) -> Self:
        return self._with(self._path / name)

    def __lt__(self, other: Self) -> bool:
        return (repr(self._with("/")), self._path) < (repr(other._with("/")), other._path)

    def joinpath(self, *names: InnerPath) -> Self:
        """This path with names behind it, as ``/`` does for one; an absolute one begins anew."""
        return self._with(self._path.joinpath(*names))

    def with_name(self, name: str) -> Self:
        """With another last name."""
        return self._with(self._path.with_name(name))

    def with_suffix(self, suffix: str) -> Self:
        """With another suffix, or with none: ``""``."""
        return self._with(self._path.with_suffix(suffix))

    @property
    def parent(self) -> Self:
        """The directory it is in, by its text."""
        return self._with(self._path.parent)

    @property
    def parents(self) -> tuple[Self, ...]:
        """All directories it is in, the nearest first."""
        return tuple(self._with(path) for path in self._path.parents)

    @property
    def name(self) -> str:
        """The last name of it."""
        return self._path.name

    @property
    def stem(self) -> str:
        """The last name without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """Such as ``".gz"``, or ``""``."""
        return self._path.suffix

    @property
    def suffixes(self) -> list[str]:
        """Such as ``[".tar", ".gz"]``."""
        return self._path.suffixes

    @property
    def parts(self) -> tuple[str, ...]:
        """Its names, ``"/"`` first."""
        return self._path.parts

    def as_posix(self) -> str:
        """As text."""
        return str(self)

    def match(self, pattern: str) -> bool:
        """Whether its text matches a pattern, as `pathlib.PurePath.match`."""
        return self._path.match(pattern)

    def relative_to(self, other: InnerPath | TreePath) -> PurePosixPath:
        """The way to it from `other`. Raises ValueError: it is not below that."""
        return self._path.relative_to(self._inner(other))

    def is_relative_to(self, other: InnerPath | TreePath) -> bool:
        """Whether it is below `other`, by its text."""
        return self._path.is_relative_to(self._inner(other))

    # --- looking --------------------------------------------------------------------------------------------

    @contextmanager
    def _root(self) -> Iterator[Root]:
        with self._opener() as root, naming(root.name, self._path):
            yield root

    def stat(self) -> FileStat:
        """What the path leads to."""
        with self._root() as root, pinned(root, self._path) as fd:
            return FileStat.of(os.fstat(fd), root.idmap)

    def lstat(self) -> FileStat:
        """What is at the path itself, a link too."""
        with self._root() as root, pinned(root, self._path, follow=False) as fd:
            return FileStat.of(os.fstat(fd), root.idmap)

    def _mode(self, *, follow: bool = True) -> int:
        try:
            return (self.stat() if follow else self.lstat()).mode
        except OSError as error:
            if error.errno in _NOT_THERE:
                return 0
            raise

    def exists(self) -> bool:
        """Whether it is there; a link: what it leads to."""
        return self._mode() != 0

    def is_file(self) -> bool:
        """Whether it is a regular file, or a link to one."""
        return _stat.S_ISREG(self._mode())

    def is_dir(self) -> bool:
        """Whether it is a directory, or a link to one."""
        return _stat.S_ISDIR(self._mode())

    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return _stat.S_ISLNK(self._mode(follow=False))

    def readlink(self) -> PurePosixPath:
        """What the link says: often relative to its directory, and only true inside."""
        with self._root() as root, pinned(root, self._path, follow=False) as fd:
            if not _stat.S_ISLNK(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "not a symbolic link")
            return PurePosixPath(os.readlink("", dir_fd=fd))

    def iterdir(self) -> Iterator[Self]:
        """All that is in the directory now, by name."""
        with self._root() as root:
            return iter([self / name for name, _ in listing(root, self._path)])

    def glob(self, pattern: str) -> Iterator[Self]:
        """What matches, by name. ``**`` is any number of directories and follows no links, as in pathlib."""
        parts = PurePosixPath(pattern).parts
        if not parts or pattern.startswith("/") or ".." in parts:
            raise InvalidSpecError(f"pattern {pattern!r}: must be relative, not empty and without '..'")
        with self._root() as root:
            return iter([self._with(path) for path in _glob(root, self._path, parts)])

    def rglob(self, pattern: str) -> Iterator[Self]:
        """`glob` at any depth."""
        return self.glob(f"**/{pattern}" if not pattern.startswith("/") else pattern)

    # --- contents -------------------------------------------------------------------------------------------

    @overload
    def open(
        self,
        mode: Literal["r", "w", "x", "a", "r+", "w+", "x+", "a+"] = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[str]: ...
    @overload
    def open(
        self,
        mode: Literal["rb", "wb", "xb", "ab", "rb+", "wb+", "xb+", "ab+", "r+b", "w+b", "x+b", "a+b"],
        buffering: int = -1,
    ) -> IO[bytes]: ...
    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """A file object of the regular file, as the builtin `open` returns; text is UTF-8 unless said
        otherwise."""
        if encoding is None and "b" not in mode:
            encoding = "utf-8"
        with self._root() as root:
            return builtins.open(
                str(self),
                mode,
                buffering,
                encoding,
                errors,
                newline,
                opener=lambda _, flags: open_regular(root, self._path, flags),
            )

    def read_bytes(self, limit: int = -1) -> bytes:
        """The contents; at most `limit` bytes, when given: a process inside may have made the file huge."""
        with self.open("rb") as file:
            return file.read(limit)

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """All of it, decoded. Raises PathNotFoundError, PathIsDirectoryError, UnicodeDecodeError."""
        with self.open("r", encoding=encoding, errors=errors) as file:
            return file.read()

    def write_bytes(self, data: bytes) -> int:
        """Replace the contents in place: owner, mode and links stay."""
        with self.open("wb") as file:
            return file.write(data)

    def write_text(
        self, text: str, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None
    ) -> int:
        """Replace its content; it is made if missing. The number of characters."""
        with self.open("w", encoding=encoding, errors=errors, newline=newline) as file:
            return file.write(text)

    # --- changes --------------------------------------------------------------------------------------------

    @contextmanager
    def _parent(self) -> Iterator[tuple[Root, int, str]]:
        with self._root() as root, parent_to_change(root, self._path) as (parent, name):
            yield root, parent, name

    @contextmanager
    def _changeable(self) -> Iterator[tuple[Root, int]]:
        with self._root() as root, pinned(root, self._path) as fd:
            check_changeable(root, fd)
            yield root, fd

    def mkdir(self, mode: int = 0o777, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make a directory. parents: those it is in, too. Raises PathExistsError, PathNotFoundError."""
        try:
            with self._parent() as (root, parent, name), creating(root):
                os.mkdir(name, mode, dir_fd=parent)
        except FileNotFoundError:
            if not parents or self.parent == self:
                raise
            self.parent.mkdir(parents=True, exist_ok=True)
            self.mkdir(mode, exist_ok=exist_ok)
        except OSError:
            if not exist_ok or not self.is_dir():
                raise

    def touch(self, mode: int = 0o666, *, exist_ok: bool = True) -> None:
        """Make an empty file, or set an existing one's times to now."""
        with self._root() as root:
            if exist_ok:
                with suppress(FileNotFoundError), pinned(root, self._path) as fd:
                    check_changeable(root, fd)
                    os.utime(reopened(fd))
                    return
            os.close(
                open_regular(
                    root, self._path, os.O_WRONLY | os.O_CREAT | (0 if exist_ok else os.O_EXCL), mode
                )
            )

    def symlink_to(self, target: InnerPath) -> None:
        """Make this path a link that says `target`."""
        with self._parent() as (root, parent, name), creating(root):
            os.symlink(str(target), name, dir_fd=parent)

    def hardlink_to(self, target: InnerPath | TreePath) -> None:
        """Make this path another name of the file `target`, of a link itself if that is one."""
        source = self._inner(target)
        with self._parent() as (root, to, name), parent_to_change(root, source) as (at, old), creating(root):
            os.link(old, name, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)

    def rename(self, target: InnerPath | TreePath) -> Self:
        """Move to `target` (a relative one begins at the root), replacing a file there. The new path.

        A directory of the image cannot be renamed (errno EXDEV): let `exec` run ``mv``, which copies.
        """
        new = self._inner(target)
        with self._parent() as (root, at, old), parent_to_change(root, new) as (to, name), creating(root):
            os.rename(old, name, src_dir_fd=at, dst_dir_fd=to)
        return self._with(new)

    replace = rename  # on POSIX they are one, in pathlib too

    def chmod(self, mode: int) -> None:
        """Change its mode, such as ``0o644``; a link: of what it leads to."""
        with self._changeable() as (_, fd):
            os.chmod(reopened(fd), mode)

    def chown(self, uid: int | None = None, gid: int | None = None) -> None:
        """Give to this user and group, by their ids inside; None leaves as it is."""
        with self._changeable() as (root, fd):
            owner, group = (-1 if inner is None else host_id(root, inner) for inner in (uid, gid))
            os.chown(reopened(fd), owner, group)

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete a file or link. Raises PathNotFoundError, PathIsDirectoryError."""
        try:
            with self._parent() as (_, parent, name):
                os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmdir(self) -> None:
        """Delete an empty directory. Raises OSError: there is something in it."""
        with self._parent() as (_, parent, name):
            os.rmdir(name, dir_fd=parent)

    def remove_tree(self) -> None:
        """Remove the directory and all that is in it. Other mounts below it are not entered (errno EXDEV)."""
        with self._parent() as (_, parent, name):
            empty_directory(parent, name)
            os.rmdir(name, dir_fd=parent)


@frozen(repr=False, order=False)
class ContainerPath(TreePath):
    """A path inside a container, with the methods, types and errors of `pathlib.Path`.

    It is always absolute. Links, ``..`` and absolute names are resolved within the container's root, whatever
    its processes do meanwhile. New files belong to root inside. Only regular files are opened: devices, fifos
    and the files of /proc and /sys are refused, as they would act on the host or answer for it (use `exec`).

    There is no ``__fspath__``: ``open(web.path("/etc/passwd"))`` would read the host's file.
    Errors are OSErrors with pathlib's types (such as PathNotFoundError), which carry `container` and `path`.
    """

    container: str = field(kw_only=True)

    def __repr__(self) -> str:
        return f"ContainerPath({str(self)!r}, container={self.container!r})"


@frozen(repr=False, order=False)
class ImagePath(TreePath):
    """A path in an image, to be read as a `pathlib.Path`; to change anything is refused (errno EROFS).

    Links, ``..`` and absolute names are resolved within the image. It has no ``__fspath__``, as
    `ContainerPath`. Errors are OSErrors with pathlib's types; their `container` names the image.
    """

    image: str = field(kw_only=True)

    def __repr__(self) -> str:
        return f"ImagePath({str(self)!r}, image={self.image!r})"


@frozen(repr=False, order=False)
class VolumePath(TreePath):
    """A path in a volume, to be used as a `pathlib.Path`; ids are those that containers see.

    Links, ``..`` and absolute names are resolved within the volume. It has no ``__fspath__``, as
    `ContainerPath`. Errors are OSErrors with pathlib's types; their `container` names the volume.
    """

    volume: str = field(kw_only=True)

    def __repr__(self) -> str:
        return f"VolumePath({str(self)!r}, volume={self.volume!r})"


def _glob(root: Root, base: PurePosixPath, parts: tuple[str, ...]) -> list[PurePosixPath]:
    pending, done, found = [(base, parts)], set(), set()
    while pending:
        directory, parts = pending.pop()
        if not parts:
            found.add(directory)
        elif (directory, parts) not in done:
            done.add((directory, parts))
            if parts[0] == "**":
                pending.append((directory, parts[1:]))
            try:
                entries = listing(root, directory)
            except OSError as error:
                if error.errno not in _NOT_THERE:
                    raise
                continue  # not a directory, or gone meanwhile
            if parts[0] == "**":
                pending += [(directory / name, parts) for name, is_dir in entries if is_dir]
            else:
                pending += [
                    (directory / name, parts[1:]) for name, _ in entries if fnmatchcase(name, parts[0])
                ]
    return sorted(found)
