"""Small trees to copy from and to, for tests of COPY and ADD as any user."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lxcwrap.build.context import Context, Source
from lxcwrap.build.filedigests import FileDigests
from lxcwrap.build.placement import InlineFile, Placement
from lxcwrap.build.placing import place

OWN = (os.geteuid(), os.getegid())
Tree = Mapping[str, str | int | None]
"""Paths, directories first. Text: of a file, or with ``->`` before it of a link; None: a directory."""


def make(root: Path, tree: Tree) -> Path:
    """`tree`, with the times of 1970 and modes that the umask has no part in."""
    root.mkdir(exist_ok=True, parents=True)
    for name, content in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, str) and content.startswith("->"):
            path.symlink_to(content.removeprefix("->"))
        else:
            path.write_text(str(content))
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (1000, 1000), follow_symlinks=False)
    return root


def look(root: Path) -> dict[str, str | None]:
    """The same of what is there."""
    found: dict[str, str | None] = {}
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(root))
        if stat.S_ISLNK(mode):
            found[name] = f"->{path.readlink()}"
        elif stat.S_ISREG(mode):
            found[name] = path.read_text()
        else:
            found[name] = None
    return found


class Copying:
    """A context and a target below `directory`, and a memory of digests."""

    def __init__(self, directory: Path) -> None:
        self.context = directory / "context"
        self.target = directory / "target"
        self.database = directory / "digests.db"
        self.context.mkdir()
        self.target.mkdir()

    @contextmanager
    def source(self, dockerfile: str = "Dockerfile") -> Iterator[Source]:
        fd = os.open(self.context, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with FileDigests(self.database) as digests:
                yield Context(fd, digests, OWN).source(dockerfile=dockerfile)
        finally:
            os.close(fd)

    def copy(self, *sources: str, to: str, working_dir: str = "/", **asked: object) -> dict[str, str | None]:
        """What is in the target after it."""
        with self.source() as source:
            self.place(source, Placement(sources=sources, destination=to, **asked), working_dir)  # type: ignore[arg-type]
        return look(self.target)

    def place(self, source: Source | None, placement: Placement, working_dir: str = "/") -> None:
        fd = os.open(self.target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            place(source, placement, fd, working_dir=working_dir)
        finally:
            os.close(fd)


def inline(name: str, content: str) -> InlineFile:
    return InlineFile(name, content.encode())
