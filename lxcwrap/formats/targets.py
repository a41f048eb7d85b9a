"""Files and directories that are written to: complete whenever their name exists, and their owner's alone."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from ..drivers.paths import syncfs
from ..errors import InvalidSpecError, KernelError


@contextmanager
def new_file(target: Path | BinaryIO) -> Iterator[Callable[[bytes], object]]:
    """
    What is written gets the name `target` at the end of the block, in place of a file that has it; after an
    error nothing is left. A file that is open already is just written to.
    """
    if not isinstance(target, Path):
        yield target.write
        return
    target = _followed(target)
    if target.exists() and not target.is_file():  # a device or FIFO must not give way to a file
        raise InvalidSpecError(f"{target}: is no regular file; open it and give the file")
    draft = _draft(target)
    with _machine(target):
        # Images hold what others may not read: shadow files, keys.
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb", buffering=0) as file:
        try:
            yield partial(_write, file, target)
            with _machine(target):
                os.fsync(file.fileno())
                draft.replace(target)
        except BaseException:
            draft.unlink()
            raise


@contextmanager
def new_directory(target: Path) -> Iterator[Callable[[str, Iterable[bytes]], None]]:
    """
    A directory to add files to, by relative names. It gets the name `target`, which must not exist or be an
    empty directory, at the end of the block; after an error nothing is left.
    """
    target = _followed(target)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise _taken(target)
    draft = _draft(target)
    with _machine(target):
        draft.mkdir(0o700)
    try:
        yield partial(_add, draft, target)
        with _machine(target):
            _sync(draft)
            _rename(draft, target)
    except BaseException:
        shutil.rmtree(draft)
        raise


def _followed(target: Path) -> Path:
    """As open(2) would: what symbolic links lead to is replaced, not they."""
    return Path(os.path.realpath(target))


def _draft(target: Path) -> Path:
    return target.with_name(f".{uuid.uuid4().hex}.part")


def _add(draft: Path, target: Path, name: str, content: Iterable[bytes]) -> None:
    path = draft / name
    with _machine(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb", buffering=0)
    with file:
        for chunk in content:
            _write(file, target, chunk)


def _write(file: BinaryIO, target: Path, chunk: bytes) -> None:
    view = memoryview(chunk)
    with _machine(target):
        while view:
            view = view[file.write(view) :]


def _sync(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs(fd)
    finally:
        os.close(fd)


def _rename(draft: Path, target: Path) -> None:
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise _taken(target) from None
        raise


def _taken(target: Path) -> InvalidSpecError:
    return InvalidSpecError(f"{target}: exists already, and is no empty directory")


@contextmanager
def _machine(target: Path) -> Iterator[None]:
    """The machine's errors, as ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise InvalidSpecError(f"{target.parent}: there is no such directory") from error
        raise KernelError(error.errno or 0, f"write {target}", error.filename) from error
