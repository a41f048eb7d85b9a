"""Paths in containers, images and volumes, for event loops."""

# Their methods are those of the classes they derive from, awaited.
# mypy: disable-error-code="assignment, misc, override"

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import IO, Any, Protocol, Self, TypeVar

from attrs import fields, frozen

from .. import files as plain
from . import threads
from .driving import in_thread, method

Path = TypeVar("Path")


def as_path(kind: type[Path], path: Any) -> Path:
    """The same path, as another class."""
    return kind(**{each.alias: getattr(path, each.name) for each in fields(type(path))})


class _HasSync(Protocol):
    @property
    def _sync(self) -> plain.TreePath: ...
    def _with(self, path: plain.InnerPath) -> Self: ...


class _Awaited:
    """What looks at a tree, or changes it."""

    __slots__ = ()

    stat = method(plain.TreePath.stat)
    lstat = method(plain.TreePath.lstat)
    exists = method(plain.TreePath.exists)
    is_file = method(plain.TreePath.is_file)
    is_dir = method(plain.TreePath.is_dir)
    is_symlink = method(plain.TreePath.is_symlink)
    readlink = method(plain.TreePath.readlink)
    read_bytes = method(plain.TreePath.read_bytes, long=True)
    read_text = method(plain.TreePath.read_text, long=True)
    write_bytes = method(plain.TreePath.write_bytes, long=True)
    write_text = method(plain.TreePath.write_text, long=True)
    mkdir = method(plain.TreePath.mkdir)
    touch = method(plain.TreePath.touch)
    symlink_to = method(plain.TreePath.symlink_to)
    hardlink_to = method(plain.TreePath.hardlink_to)
    chmod = method(plain.TreePath.chmod)
    chown = method(plain.TreePath.chown)
    unlink = method(plain.TreePath.unlink)
    rmdir = method(plain.TreePath.rmdir)
    remove_tree = method(plain.TreePath.remove_tree, long=True)

    async def rename(self: _HasSync, target: plain.InnerPath | plain.TreePath) -> Any:
        """Move it, in place of what is there; its new path."""
        moved = await in_thread(threads.brief(), partial(self._sync.rename, target))
        return self._with(str(moved))

    replace = rename

    async def open(
        self: _HasSync,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """An ordinary file object of the regular file: to read and write it is not awaited."""
        open_: Any = self._sync.open
        return await in_thread(
            threads.brief(),
            lambda: open_(mode, buffering, encoding, errors, newline),
            lambda file: file.close(),
        )

    def iterdir(self: _HasSync) -> AsyncIterator[Any]:
        """All that is in the directory, by name."""
        return _each(self, self._sync.iterdir)

    def glob(self: _HasSync, pattern: str) -> AsyncIterator[Any]:
        """What matches, by name. ``**`` is any number of directories and follows no links, as in pathlib."""
        return _each(self, partial(self._sync.glob, pattern))

    def rglob(self: _HasSync, pattern: str) -> AsyncIterator[Any]:
        """`glob` at any depth."""
        return _each(self, partial(self._sync.rglob, pattern))


async def _each(path: _HasSync, listing: Any) -> AsyncIterator[Any]:
    for found in await in_thread(threads.long(), lambda: list(listing())):
        yield path._with(str(found))


@frozen(repr=False, order=False)
class ContainerPath(_Awaited, plain.ContainerPath):
    """A `lxcwrap.ContainerPath` whose methods are awaited, where they look at files or change them."""

    @property
    def _sync(self) -> plain.ContainerPath:
        return as_path(plain.ContainerPath, self)


@frozen(repr=False, order=False)
class ImagePath(_Awaited, plain.ImagePath):
    """A `lxcwrap.ImagePath` whose methods are awaited, where they look at files."""

    @property
    def _sync(self) -> plain.ImagePath:
        return as_path(plain.ImagePath, self)


@frozen(repr=False, order=False)
class VolumePath(_Awaited, plain.VolumePath):
    """A `lxcwrap.VolumePath` whose methods are awaited, where they look at files or change them."""

    @property
    def _sync(self) -> plain.VolumePath:
        return as_path(plain.VolumePath, self)
