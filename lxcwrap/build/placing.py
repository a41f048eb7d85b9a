"""COPY and ADD: what of a source goes where, with the rules of BuildKit.

What is copied keeps mode, modification time, links, hard links among its files, holes, and the extended
attributes that layers keep. It belongs to root, or whom ``--chown`` says; what comes from a stage or image,
to whom it did. Directories merge: those that are there and have a counterpart take its looks, the destination
itself does not. Missing ones on the way there have mode 0755.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from ..digests import Digest
from ..drivers.filesystem import copy_data
from ..drivers.paths import open_in_root
from ..errors import InvalidSpecError
from ..inroot import DIRECTORY, naming, opened
from ..storage.tarstream import Entry, Kind
from . import filemodes
from .archives import is_archive, unpack_added
from .contentkey import key, link_target
from .context import Found, Source
from .fetching import download
from .filedigests import kept_xattrs
from .ignore import Patterns
from .owners import find_owner
from .placement import Placement, relative
from .selecting import Item, Selected, select
from .target import Looks, Target

__all__ = ["key", "place"]

Xattrs = Sequence[tuple[bytes, bytes]]

_AT_ONCE = 1 << 17  # a file of that many bytes is read and written with fewer calls than its holes are found


def place(
    source: Source | None,
    placement: Placement,
    target_fd: int,
    *,
    working_dir: str = "/",
    expected: Digest | None = None,
    scratch: Path | None = None,
) -> None:
    """
    Copy into the tree `target_fd`: a merged overlay over a draft; with `placement.link` the draft's layer.

    source: None if all sources are inline or a URL. expected: the `key` that the result will be known by:
    FormatError if the source is not what it was. scratch: a directory for a download. What a failure leaves
    in the target is for the caller to discard.

    Raises PathNotFoundError, PathError: of the source or the target; InvalidSpecError: an unknown user, an
    ignored source, a device; FormatError: an archive is damaged or hostile, a name means a deletion;
    DigestMismatchError, RegistryError: of a download.
    """
    owner = find_owner(placement.chown, target_fd) if placement.chown else None
    with Target(target_fd, owner or (os.geteuid(), os.getegid())) as target:
        placing = _Placing(source, placement, target, placement.target(working_dir), owner)
        if placement.url:
            placing.download(scratch)
        elif placement.sources:
            placing.sources()
        placing.inline()
        target.finish()
    if (
        expected
        and source
        and not source.identity  # which never changes
        and key(source, placement, working_dir=working_dir) != expected
    ):
        raise source.changed("")


class _Placing:
    """One COPY or ADD under way. path: its destination; owner: what ``--chown`` says."""

    def __init__(
        self,
        source: Source | None,
        placement: Placement,
        target: Target,
        path: str,
        owner: tuple[int, int] | None,
    ) -> None:
        self._source = source
        self._placement = placement
        self._target = target
        self._path = path
        self._owner = owner
        self._own = owner or (os.geteuid(), os.getegid())
        self._mode = filemodes.parse(placement.chmod) if placement.chmod else None
        self._first_names: dict[tuple[int, int], str] = {}

    # --- what is asked for ----------------------------------------------------------------------------------

    def sources(self) -> None:
        if self._source is None:
            raise InvalidSpecError(f"{self._placement.sources[0]}: this build has no context to copy from")
        if self._placement.parents:
            self._target.make_way(self._path)
        many = list(select(self._source, self._placement))
        if len(many) > 1 and not all(one.is_directory for one in many) and not self._is_into:
            raise InvalidSpecError(f"{self._path}: several files need a directory: end it with '/'")
        for selected in many:
            self._first_names.clear()
            if selected.is_directory:
                self._contents(self._source, selected)
            else:
                self._single(self._source, selected)

    def inline(self) -> None:
        for file in self._placement.inline:

            def write(fd: int, content: bytes = file.content) -> Looks:
                _write(fd, content)
                return self._new_looks(0o644)

            self._target.file(self._file_path(file.name), write)

    def download(self, scratch: Path | None) -> None:
        file, mtime_ns = download(self._placement.url, self._placement.checksum, scratch)
        with file:
            if self._placement.unpacks and is_archive(file):
                self._unpack(file, self._placement.url)
                return

            def write(fd: int) -> Looks:
                copy_data(file.fileno(), fd)
                return self._new_looks(0o600, mtime_ns)

            self._target.file(self._file_path(self._placement.url_name), write)

    # --- where to -------------------------------------------------------------------------------------------

    @property
    def _is_into(self) -> bool:
        return self._path.endswith("/") or self._target.is_directory(self._path)

    def _file_path(self, name: str) -> str:
        """Where a file called `name` goes; what is on the way there is made."""
        if self._is_into:
            self._target.make_way(self._path)
            return posixpath.join(self._path, name)
        path = self._target.final(self._path)
        self._target.make_way(posixpath.dirname(path))
        return path

    # --- kinds of sources -----------------------------------------------------------------------------------

    def _single(self, source: Source, selected: Selected) -> None:
        found = selected.found
        if self._placement.unpacks and stat.S_ISREG(found.status.st_mode):
            with os.fdopen(source.file(found), "rb") as file:
                if is_archive(file):
                    self._unpack(file, f"{source.name}: {found.at}")
                    return
        self._item(source, selected.items[0], self._file_path(selected.name))

    def _contents(self, source: Source, selected: Selected) -> None:
        path = self._path.rstrip("/") or "/"
        made = self._target.make_way(path)
        mode = self._chmod(0o755, is_dir=True) if made else None
        self._target.look_later(path, Looks(None, mode, selected.found.status.st_mtime_ns))
        for item in selected.items:
            if item.path:
                self._item(source, item, posixpath.join(path, item.path))

    def _item(self, source: Source, item: Item, path: str) -> None:
        found, status = item.found, item.found.status
        if stat.S_ISDIR(item.mode):
            with opened(source.directory(found.at)) as fd:
                self._target.directory(path, self._looks(source, status, kept_xattrs(fd)))
        elif stat.S_ISREG(item.mode):
            self._file(source, found, path)
        elif stat.S_ISLNK(item.mode):
            self._target.link(path, link_target(source, found), self._looks(source, status))
        else:
            self._target.node(path, status, self._looks(source, status))

    def _file(self, source: Source, found: Found, path: str) -> None:
        status = found.status
        if status.st_nlink > 1:
            first = self._first_names.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                self._target.other_name(path, first)
                return
        with opened(source.file(found)) as reader:

            def write(fd: int) -> Looks:
                if status.st_size > _AT_ONCE:
                    copy_data(reader, fd)
                elif status.st_size:
                    _write(fd, os.read(reader, status.st_size))
                return self._looks(source, status, kept_xattrs(reader))

            self._target.file(path, write)

    def _unpack(self, file: BinaryIO, what: str) -> None:
        excluded = Patterns(self._placement.exclude)

        def edit(entry: Entry) -> Entry | None:
            name = relative(os.fsdecode(entry.name))
            if name and excluded.match(name):
                return None
            uid, gid = self._owner or (entry.uid, entry.gid)
            mode = self._chmod(entry.mode, is_dir=entry.kind is Kind.DIRECTORY)
            return entry._replace(uid=uid, gid=gid, mode=mode)

        self._target.make_way(self._path)
        with naming("image", self._path), opened(open_in_root(self._target.fd, self._path, DIRECTORY)) as fd:
            unpack_added(file, fd, edit, what=what)

    # --- looks ----------------------------------------------------------------------------------------------

    def _chmod(self, mode: int, *, is_dir: bool) -> int:
        return self._mode.apply(mode, is_dir=is_dir) if self._mode else mode

    def _looks(self, source: Source, status: os.stat_result, xattrs: Xattrs = ()) -> Looks:
        owner = self._owner or source.owner or (status.st_uid, status.st_gid)
        mode = self._chmod(stat.S_IMODE(status.st_mode), is_dir=stat.S_ISDIR(status.st_mode))
        return Looks(owner, mode, status.st_mtime_ns, tuple(xattrs))

    def _new_looks(self, mode: int, mtime_ns: int | None = None) -> Looks:
        return Looks(self._own, self._chmod(mode, is_dir=False), mtime_ns)


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
