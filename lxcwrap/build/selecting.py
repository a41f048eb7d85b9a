"""What of a source a COPY takes: wildcards, links, what is ignored and left out. Looks, and changes nothing.

As BuildKit has it: the source itself is followed if it is a link, links in a directory are copied as such. Of
a directory the contents are meant. A pattern that fits nothing takes nothing; a name must be there.
Source: Dockerfile reference, "COPY"; tonistiigi/fsutil.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..errors import InvalidSpecError
from ..inroot import naming, opened
from ..storage.unpack import MAX_DEPTH, MAX_LAYER_BYTES
from .context import Found, Source
from .globbing import compiled, has_wildcards
from .ignore import Patterns
from .placement import Placement, relative, split_pivot


class Item(NamedTuple):
    """A file or directory to be made. `path`: where, from its `Selected`; ``""``: that itself."""

    path: str
    found: Found

    @property
    def mode(self) -> int:
        return self.found.status.st_mode


class Selected(NamedTuple):
    """One source, or what a wildcard fits; `name` is the last one on the way there, as it was written."""

    name: str
    found: Found
    items: Sequence[Item]

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.found.status.st_mode)


def select(source: Source, placement: Placement) -> Iterator[Selected]:
    """In the order of the sources; below each, directories before what is in them.

    Raises PathNotFoundError, PathError; InvalidSpecError: a source is ignored, or holds what is no content.
    """
    excluded = Patterns(placement.exclude)
    for text in placement.sources:
        base, below = split_pivot(text) if placement.parents else (relative(text), "")
        only = Patterns([below]) if below else None
        is_pattern = has_wildcards(base)
        taken = False
        for path in _expanded(source, base) if is_pattern else [base]:
            found = source.resolve(path)
            if _is_hidden(source, path, found):
                continue
            items = list(_Walk(source, only, excluded).items(found, posixpath.basename(path)))
            if items:
                taken = True
                yield Selected(posixpath.basename(path), found, items)
        if not (taken or is_pattern or has_wildcards(below)):
            _explain_absence(source, relative(f"{base}/{below}"), placement)


def _is_hidden(source: Source, path: str, found: Found) -> bool:
    """Whether a link on the way is ignored; what is ignored at its own place the walk leaves out."""
    return path not in ("", found.at) and source.ignored.match(path)


def _explain_absence(source: Source, path: str, placement: Placement) -> None:
    """Raise, unless nothing was taken because of ``--exclude``."""
    found = source.resolve(path)
    if source.ignored.match(path) or source.ignored.match(found.at):
        raise InvalidSpecError(f"{source.name}: {path} is left out by .dockerignore")
    if stat.S_ISSOCK(found.status.st_mode):
        raise InvalidSpecError(f"{source.name}: {path} is a socket")
    if placement.parents and not placement.exclude:
        raise InvalidSpecError(f"{source.name}: {path} is behind a link, which --parents does not follow")


def _expanded(source: Source, pattern: str) -> Iterator[str]:
    """The paths that fit, sorted. Wildcards do not see through links."""
    names = pattern.split("/")
    first = next(number for number, name in enumerate(names) if has_wildcards(name))
    base = "/".join(names[:first])
    pending = [(base, source.resolve(base), names[first:])]
    while pending:
        path, found, (name, *rest) = pending.pop()
        if not stat.S_ISDIR(found.status.st_mode):
            continue
        fitting = []
        for entry, status in _listing(source, found.at):
            if compiled(name).match(entry):
                below = posixpath.join(path, entry), Found(posixpath.join(found.at, entry), status)
                if rest:
                    fitting.append((*below, rest))
                else:
                    yield below[0]
        pending += reversed(fitting)


def _listing(source: Source, at: str) -> list[tuple[str, os.stat_result]]:
    with naming(source.name, at), opened(source.directory(at)) as fd, os.scandir(fd) as entries:
        return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)


class _Directory:
    """One on the way down, which is told only when something in it is."""

    def __init__(self, item: Item, above: _Directory | None, depth: int) -> None:
        self.item = item
        self.above = above
        self.depth = depth
        self.told = False

    def tell(self) -> Iterator[Item]:
        if not self.told:
            self.told = True
            if self.above:
                yield from self.above.tell()
            yield self.item


class _Walk:
    """Down one directory. `only`: patterns, of which one must fit; `excluded`: none of these."""

    def __init__(self, source: Source, only: Patterns | None, excluded: Patterns) -> None:
        self._source = source
        self._only = only
        self._excluded = excluded

    def items(self, found: Found, name: str) -> Iterator[Item]:
        top = Item("", found)
        if not stat.S_ISDIR(top.mode):
            if self._only is None and self._takes(name, found.at) and self._is_content(top):
                yield top
            return
        pending = [_Directory(top, None, 0)]
        while pending:
            directory = pending.pop()
            if self._takes(directory.item.path, directory.item.found.at):
                yield from directory.tell()
            below = []
            for item in self._entries(directory):
                if stat.S_ISDIR(item.mode):
                    if self._enters(item):
                        below.append(_Directory(item, directory, directory.depth + 1))
                elif self._takes(item.path, item.found.at) and self._is_content(item):
                    yield from directory.tell()
                    yield item
            pending += reversed(below)

    def _entries(self, directory: _Directory) -> Iterator[Item]:
        path, at = directory.item.path, directory.item.found.at
        if directory.depth > MAX_DEPTH:
            raise InvalidSpecError(f"{self._source.name}: {at} is more than {MAX_DEPTH} directories deep")
        for name, status in _listing(self._source, at):
            yield Item(posixpath.join(path, name), Found(posixpath.join(at, name), status))

    def _takes(self, path: str, at: str) -> bool:
        if at and self._source.ignored.match(at):
            return False
        if not path:
            return self._only is None
        return (self._only is None or self._only.match(path)) and not self._excluded.match(path)

    def _enters(self, directory: Item) -> bool:
        path, at = directory.path, directory.found.at
        ignored, only, excluded = self._source.ignored, self._only, self._excluded
        if ignored.match(at) and not ignored.may_match_below(at, exceptions=True):
            return False
        if only is not None and not (only.match(path) or only.may_match_below(path, exceptions=False)):
            return False
        return not excluded.match(path) or excluded.may_match_below(path, exceptions=True)

    def _is_content(self, item: Item) -> bool:
        kind = stat.S_IFMT(item.mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and not self._source.copies_devices:
            raise InvalidSpecError(f"{self._source.name}: {item.found.at} is a device: ignore or remove it")
        if kind == stat.S_IFREG and item.found.status.st_size > MAX_LAYER_BYTES:  # before it is read
            raise InvalidSpecError(
                f"{self._source.name}: {item.found.at} has more than {MAX_LAYER_BYTES} bytes, holes included"
            )
        return kind != stat.S_IFSOCK
