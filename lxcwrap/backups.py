"""The files of a volume into a compressed tar while it is in use, and back."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from . import lifecycle
from .drivers.filesystem import exchange
from .errors import ConflictError, ContainerNotFoundError, FormatError, InvalidSpecError, WrongStateError
from .formats.targets import new_file
from .machinery import Machinery
from .resting import at_rest
from .specs import State
from .storage.inflate import Compression, PlainStream
from .storage.layerwriter import read_tree, tar_chunks
from .storage.packing import compressed
from .storage.tarstream import TarReader
from .storage.unpack import VOLUME, unpack_tree
from .storage.volumes import User, delete_draft, new_draft

_SUFFIXES: Final = {
    ".tar": Compression.NONE,
    ".tar.gz": Compression.GZIP,
    ".tgz": Compression.GZIP,
    ".tar.zst": Compression.ZSTD,
    ".tzst": Compression.ZSTD,
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FICLONE = 0x40049409


def backup(machinery: Machinery, volume: str, path: Path, *, pause: bool) -> None:
    """See `Volume.backup`."""
    compression = _compression(path)
    with new_file(path) as write, _still(machinery, volume, pause=pause) as tree:
        fd = os.open(tree, _DIRECTORY)
        try:
            for chunk in compressed(tar_chunks(read_tree(fd, terms=VOLUME)), compression):
                write(chunk)
        finally:
            os.close(fd)
    machinery.volume_store.tell("volume_backed_up", volume)


def _compression(path: Path) -> Compression:
    for suffix, compression in _SUFFIXES.items():
        if path.name.endswith(suffix):
            return compression
    raise InvalidSpecError(f"{path}: its name must end with one of {', '.join(_SUFFIXES)}")


@contextmanager
def _still(machinery: Machinery, volume: str, *, pause: bool) -> Iterator[str]:
    """The path of its files as they are at one moment: of a copy that shares their blocks, where the file
    system can do so; else of the files themselves, and its containers wait to the end of the block."""
    with ExitStack() as stack:
        place = stack.enter_context(machinery.volume_store.held(volume))
        containers = stack.enter_context(ExitStack())
        if pause:
            for user in machinery.volume_store.users(volume):
                if lifecycle.look(machinery, user.id).state is not State.CREATING:  # it has not been started
                    containers.enter_context(at_rest(machinery, user.id, user.name, "hold"))
        if not pause or not _shares_blocks(place):
            yield f"{place}/data"
            return
        copy = new_draft(place)
        stack.callback(delete_draft, place, copy)
        done = subprocess.run(
            ["cp", "-a", "--reflink=always", f"{place}/data", copy], stderr=subprocess.PIPE, errors="replace"
        )
        if done.returncode:  # no room for the copy's directories
            yield f"{place}/data"
            return
        containers.close()
        yield copy


def _shares_blocks(place: str) -> bool:
    """Whether files there can share blocks: tried."""
    flags = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC
    try:
        with open(place, opener=lambda path, _: os.open(path, flags, 0o600), mode="wb") as one:
            one.write(bytes(4096))
            one.flush()
            other = os.open(place, flags, 0o600)
            try:
                fcntl.ioctl(other, _FICLONE, one.fileno())
            finally:
                os.close(other)
        return True
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.EXDEV, errno.ENOSPC):
            return False
        raise


def restore(machinery: Machinery, volume: str, archive: Path | BinaryIO, *, replace: bool) -> None:
    """See `Volume.restore`."""
    with ExitStack() as stack:
        place = stack.enter_context(machinery.volume_store.held(volume))
        for user in machinery.volume_store.users(volume):
            _keep_from_starting(stack, machinery, user, f"restore the volume {volume} of")
        if not replace and os.listdir(f"{place}/data"):
            raise ConflictError(f"volume {volume} holds files: give replace=True to lose them")
        draft = new_draft(place)
        stack.callback(delete_draft, place, draft)
        os.mkdir(draft, 0o755)
        _unpack(archive, draft)
        exchange(draft, f"{place}/data")
        machinery.volume_store.tell("volume_restored", volume)


def _keep_from_starting(stack: ExitStack, machinery: Machinery, user: User, operation: str) -> None:
    try:
        state = lifecycle.look(machinery, user.id).state
        if state.can_start:
            stack.enter_context(machinery.records(user.id).held(1.0))
            return
    except BlockingIOError:
        state = State.RUNNING  # by now
    except (ContainerNotFoundError, FileNotFoundError):
        return
    raise WrongStateError(user.name, state, operation)


def _unpack(archive: Path | BinaryIO, directory: str) -> None:
    free = os.statvfs(directory)
    what = f"archive {archive}" if isinstance(archive, Path) else "archive"
    fd = os.open(directory, _DIRECTORY)
    try:
        os.fchmod(fd, 0o755)
        # It cannot be more than there is room for; what is hostile is not to fill the disk first.
        limit = free.f_bavail * free.f_frsize
        with closing(PlainStream(archive, what=what, limit=limit, digested=False)) as stream:
            unpack_tree(TarReader(stream), fd, VOLUME)
            for _ in stream:  # to its end: a checksum may follow
                pass
    except FormatError as error:
        raise FormatError(
            error.what if error.what == what else f"{what}: {error.what}", error.reason
        ) from error
    finally:
        os.close(fd)
