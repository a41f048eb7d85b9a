"""Trees to copy from: the build context (a directory, an archive, a git checkout on disk), stages, images.

with FileDigests(path) as digests, open_context(".", layers=layers, digests=digests) as context:
    dockerfile = context.read("Dockerfile")
    source = context.source(dockerfile="Dockerfile")
    key(source, placement); place(source, placement, target_fd, working_dir="/")
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from ..drivers.filesystem import is_kernel_interface
from ..drivers.paths import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    open_in_root,
    openat2,
)
from ..errors import FormatError, InvalidSpecError, PathNotFoundError
from ..inroot import DIRECTORY, naming, opened, reopened
from ..specs import StrPath
from ..storage.layers import LayerStore
from . import ignore
from .archives import unpack_context
from .filedigests import FileDigests
from .ignore import Patterns

_BENEATH: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # never waits for a fifo
_IGNORE_FILE: Final = ".dockerignore"
_MAX_IGNORE: Final = 1 << 20


class Found(NamedTuple):
    """Something in a source: where it is from the root, without links on the way, and its status."""

    at: str
    status: os.stat_result


class Source:
    """A tree to copy from, open.

    root: its root directory, or a function that opens that when it is first needed; whoever gave it closes
    it. name: for errors. ignored: what is not there. owner: whom the copies belong to; None: to whom the
    originals do, which may be devices, too. identity: of content that never changes, its name (the chain id
    of a stage or image); what was once found out of such a tree is remembered without opening it.
    """

    def __init__(
        self,
        root: int | Callable[[], int],
        *,
        name: str,
        digests: FileDigests,
        ignored: Patterns | None = None,
        owner: tuple[int, int] | None = (0, 0),
        identity: str = "",
    ) -> None:
        self._root = root
        self.name = name
        self.digests = digests
        self.ignored = ignored or Patterns()
        self.owner = owner
        self.identity = identity

    @property
    def copies_devices(self) -> bool:
        return self.owner is None

    @property
    def fd(self) -> int:
        if not isinstance(self._root, int):
            self._root = self._root()
        return self._root

    def resolve(self, path: str) -> Found:
        """What `path` leads to, links followed within the tree. PathNotFoundError, PathError."""
        with naming(self.name, path), opened(open_in_root(self.fd, path or ".", os.O_PATH)) as fd:
            root, at = (os.readlink(reopened(each)) for each in (self.fd, fd))
            inside = "" if at == root else at.removeprefix(root.rstrip("/") + "/")
            if inside.startswith("/"):  # the kernel holds it within, so its name changed in this moment
                raise OSError(errno.EAGAIN, "was moved meanwhile")
            return Found(inside, os.fstat(fd))

    def directory(self, at: str) -> int:
        """The directory `at`, as in `Found`, open."""
        with naming(self.name, at), ExitStack() as undo:
            fd = openat2(self.fd, at or ".", DIRECTORY, resolve=_BENEATH)
            undo.callback(os.close, fd)
            if not self.identity and is_kernel_interface(fd):
                raise InvalidSpecError(f"{self.name}: /{at} is the kernel's, and no files: ignore it")
            undo.pop_all()
            return fd

    def file(self, found: Found) -> int:
        """The regular file, open to read. FormatError: something else is there now."""
        return self._open(found, _FILE)

    def pin(self, found: Found) -> int:
        """The same for what is no regular file, by O_PATH."""
        return self._open(found, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _open(self, found: Found, flags: int) -> int:
        with naming(self.name, found.at):
            fd = openat2(self.fd, found.at, flags, resolve=_BENEATH)
        if os.path.samestat(os.fstat(fd), found.status):
            return fd
        os.close(fd)
        raise self.changed(found.at)

    def changed(self, at: str) -> FormatError:
        return FormatError(f"{self.name}: {at or '.'}", "changed while it was copied: build again")


class Context:
    """A build context, open. fd: its root."""

    def __init__(self, fd: int, digests: FileDigests, owner: tuple[int, int] = (0, 0)) -> None:
        self.fd = fd
        self._digests = digests
        self._owner = owner

    def read(self, path: str, *, limit: int = 1 << 20) -> bytes:
        """The file `path`, links followed within the context, whatever .dockerignore says.

        Raises PathNotFoundError, PathError; InvalidSpecError: no regular file, or of more than `limit` bytes.
        """
        everything = Source(self.fd, name="context", digests=self._digests)
        found = everything.resolve(path)
        if not stat.S_ISREG(found.status.st_mode):
            raise InvalidSpecError(f"context: {path} is no regular file")
        with os.fdopen(everything.file(found), "rb") as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise InvalidSpecError(f"context: {path} has more than {limit} bytes")
        return content

    def source(self, *, dockerfile: str = "Dockerfile", outside: Path | None = None) -> Source:
        """What COPY and ADD see: all but what is ignored.

        The rules are those of ``<dockerfile>.dockerignore``, if there is one, else of ``.dockerignore``.
        outside: where the Dockerfile is, if that is not in the context. Raises DockerfileError: a pattern is
        malformed, in which line.
        """
        ignored = self._ignored(dockerfile, outside)
        return Source(self.fd, name="context", digests=self._digests, ignored=ignored, owner=self._owner)

    def _ignored(self, dockerfile: str, outside: Path | None) -> Patterns:
        names = [_IGNORE_FILE] if outside else [f"{dockerfile}{_IGNORE_FILE}", _IGNORE_FILE]
        if outside and (own := outside.with_name(outside.name + _IGNORE_FILE)).is_file():
            return ignore.parse(own.read_bytes().decode(errors="surrogateescape"), own.name)
        for name in names:
            try:
                text = self.read(name, limit=_MAX_IGNORE)
            except PathNotFoundError:
                continue
            return ignore.parse(text.decode(errors="surrogateescape"), name)
        return Patterns()


@contextmanager
def open_context(
    context: StrPath | BinaryIO, *, layers: LayerStore, digests: FileDigests
) -> Iterator[Context]:
    """
    The context for one build.

    context: a directory (a git checkout is one, .git included unless ignored), the path of a tar archive, or
    one in a binary file; plain, or compressed by gzip, zstd, xz or bzip2. layers: an archive is unpacked into
    a draft there, which is deleted at the end.

    Raises InvalidSpecError: there is no such thing; FormatError: the archive is damaged or hostile.
    """
    if not isinstance(context, str | os.PathLike):
        with _unpacked(context, "context", layers) as fd:
            yield Context(fd, digests)
        return
    path = Path(context)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidSpecError(f"{path}: there is no such directory or archive to build from") from None
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        with opened(fd):
            yield Context(fd, digests)
        return
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(mode):
            raise InvalidSpecError(f"{path}: is neither a directory nor an archive")
        with _unpacked(file, path.name, layers) as root:
            yield Context(root, digests)


@contextmanager
def _unpacked(archive: BinaryIO, what: str, layers: LayerStore) -> Iterator[int]:
    with layers.draft(None) as draft, opened(os.open(draft.layer, DIRECTORY)) as fd:
        unpack_context(archive, fd, what=what)
        yield fd
