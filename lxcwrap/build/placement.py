"""What one COPY or ADD asks for, checked when it is made; nothing is touched."""

from __future__ import annotations

import posixpath
import re
from typing import Final
from urllib.parse import unquote, urlsplit

from attrs import frozen

from ..errors import InvalidSpecError
from . import filemodes
from .globbing import compiled, has_wildcards
from .ignore import Patterns
from .instructions import Add, Copy

_URL: Final = re.compile(r"https?://", re.IGNORECASE)
_GIT: Final = re.compile(r"git@|git://|ssh://|https?://[^#]*\.git(#|$)", re.IGNORECASE)
_CHECKSUM: Final = re.compile(r"sha256:[0-9a-f]{64}")
_ID: Final = re.compile(r"[0-9]{1,10}")
_NAME: Final = re.compile(r"[^:\n/]{1,256}")
_MAX_ID: Final = (1 << 32) - 2  # one more is -1, by which chown(2) means "leave it"


def relative(path: str) -> str:
    """`path` from the root of its tree, without ``.``, ``..`` and slashes at its ends; the root is ``""``."""
    return posixpath.normpath("/" + path).lstrip("/")


def split_pivot(source: str) -> tuple[str, str]:
    """Of a source with ``--parents``: the directory whose own parents are left out, and what is below it."""
    above, pivot, below = source.partition("/./")
    return (relative(above), relative(below)) if pivot else ("", relative(source))


@frozen
class InlineFile:
    """A file that the Dockerfile or program itself holds: a here-document."""

    name: str
    content: bytes


@frozen(kw_only=True)
class Placement:
    """
    What one COPY or ADD asks for, its variables replaced.

    sources: paths in the context or ``--from``, with wildcards as of Go's filepath.Match; of ADD also a URL.
    destination: relative to the working directory, unless it begins with ``/``; one that ends with ``/`` is a
    directory. chown: ``user[:group]``, names or numbers. chmod: octal, or symbolic as in chmod(1). link: into
    a layer of its own, without a look at the layers below. parents: keep the directories of each source,
    those after ``/./`` in it. exclude: patterns as in .dockerignore, relative to each source. add: it is ADD,
    which unpacks local archives; unpack: whether archives are, if that was said. checksum: ``sha256:...`` of
    the only source, a URL.

    Raises InvalidSpecError: it cannot be right, whatever the files are.
    """

    destination: str
    sources: tuple[str, ...] = ()
    inline: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    exclude: tuple[str, ...] = ()
    add: bool = False
    unpack: bool | None = None
    checksum: str = ""

    def __attrs_post_init__(self) -> None:
        for text in (self.destination, *self.sources, *(file.name for file in self.inline)):
            if "\0" in text:
                raise InvalidSpecError(f"path {text!r} holds a NUL byte")
        if not self.destination:
            raise InvalidSpecError("the destination is empty")
        count = len(self.sources) + len(self.inline)
        if not count:
            raise InvalidSpecError("there is nothing to copy: name a source")
        if count > 1 and not self.is_directory:
            raise InvalidSpecError(
                f"destination {self.destination!r}: end it with '/', as several sources need a directory"
            )
        for file in self.inline:
            if file.name in ("", ".", "..") or "/" in file.name:
                raise InvalidSpecError(f"{file.name!r} cannot be the name of a file")
        self._check_sources()
        Patterns(self.exclude)
        if self.chmod:
            filemodes.parse(self.chmod)
        if self.chown:
            self._check_owner()

    def _check_sources(self) -> None:
        for text in self.sources:
            if not text:
                raise InvalidSpecError("a source is empty: '.' is the whole context")
            if _GIT.match(text):
                raise InvalidSpecError(f"{text}: is not fetched by git: check it out, and copy that")
            if _URL.match(text):
                self._check_url(text)
            elif self.parents:
                Patterns([split_pivot(text)[1]])
            for name in text.split("/"):
                if has_wildcards(name):
                    compiled(name)
        if self.checksum and not self.url:
            raise InvalidSpecError("a checksum is for an ADD whose only source is a URL")

    def _check_url(self, url: str) -> None:
        if not self.add:
            raise InvalidSpecError(f"{url}: COPY does not download: use ADD --checksum=sha256:...")
        if len(self.sources) > 1 or self.inline or not _CHECKSUM.fullmatch(self.checksum):
            raise InvalidSpecError(f"{url}: only ADD --checksum=sha256:... of it alone downloads")
        if not urlsplit(url).hostname:
            raise InvalidSpecError(f"{url!r} names no host")
        if self.is_directory and not self.url_name:
            raise InvalidSpecError(f"{url}: ends with no name for the file: name it in the destination")

    def _check_owner(self) -> None:
        user, colon, group = self.chown.partition(":")
        for part in (user, group) if colon else (user,):
            if _ID.fullmatch(part) and int(part) <= _MAX_ID:
                continue
            if not _NAME.fullmatch(part) or part.isdigit():
                raise InvalidSpecError(f"owner {self.chown!r}: write user or user:group, names or ids")
            if self.link:
                raise InvalidSpecError(f"owner {self.chown!r}: give ids, as --link does not see the names")

    @classmethod
    def of(cls, instruction: Copy | Add) -> Placement:
        """That of an instruction in which variables are replaced."""
        add = instruction if isinstance(instruction, Add) else None
        return cls(
            destination=instruction.destination,
            sources=instruction.sources,
            inline=tuple(InlineFile(here.name, here.content.encode()) for here in instruction.heredocs),
            chown=instruction.chown,
            chmod=instruction.chmod,
            link=instruction.link,
            parents=isinstance(instruction, Copy) and instruction.parents,
            exclude=instruction.exclude,
            add=bool(add),
            unpack=add.unpack if add else None,
            checksum=add.checksum if add else "",
        )

    @property
    def is_directory(self) -> bool:
        """The destination is a directory by its name."""
        return self.destination.endswith(("/", "/.", "/..")) or self.destination in (".", "..")

    def target(self, working_dir: str) -> str:
        """The destination as an absolute path; it ends with ``/`` if it must be a directory."""
        path = relative(posixpath.join(working_dir, self.destination))
        return f"/{path}/" if self.is_directory and path else f"/{path}"

    @property
    def url(self) -> str:
        """The URL that is the only source, or nothing."""
        return next((text for text in self.sources if _URL.match(text)), "")

    @property
    def url_name(self) -> str:
        name = unquote(posixpath.basename(urlsplit(self.url).path))
        return "" if name in (".", "..") or "/" in name or "\0" in name else name

    @property
    def unpacks(self) -> bool:
        """Archives are unpacked."""
        return (self.add and not self.url) if self.unpack is None else self.unpack
