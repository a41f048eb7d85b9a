"""Content-addressed blobs in an OCI image layout.

images/oci-layout             {"imageLayoutVersion": "1.0.0"}
images/blobs/sha256/<hex>     content, complete and synced whenever the name exists

Content is written to a file without a name (O_TMPFILE), hashed on the way, synced and only then given its
name: whoever is killed at whatever moment leaves nothing behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ..digests import Digest
from ..errors import DigestMismatchError, FormatError, KernelError, NotFoundError, UnsupportedError

_HEX = re.compile(r"[0-9a-f]{64}")
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_CHUNK = 1 << 20


class BlobWriter:
    """One blob being written. Nothing is kept unless `commit` was reached; a context manager."""

    def __init__(self, directory: Path, *, limit: int | None = None, what: str = "blob") -> None:
        self._what = what
        self._limit = limit
        self._hash = hashlib.sha256()
        self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._fd = os.open(
                ".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o644, dir_fd=self._directory_fd
            )
        except OSError as error:
            os.close(self._directory_fd)
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR):
                raise UnsupportedError(
                    f"the file system of {directory} has no O_TMPFILE",
                    "keep the store on ext4, xfs, btrfs or tmpfs",
                ) from error
            raise
        self.size = 0

    def write(self, chunk: bytes) -> None:
        """Append. FormatError: more than was announced; KernelError: no space and the like."""
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise FormatError(self._what, f"is longer than the {self._limit} bytes it was announced with")
        self._hash.update(chunk)
        view = memoryview(chunk)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise KernelError(error.errno or 0, f"write {self._what}") from error

    def tee(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Pass `chunks` on, writing each: stores a blob in the same pass that unpacks it."""
        for chunk in chunks:
            self.write(chunk)
            yield chunk

    def commit(self, *, expected: str | None = None) -> str:
        """Keep the blob and return its digest. DigestMismatchError if it is not `expected`."""
        digest = "sha256:" + self._hash.hexdigest()
        if expected is not None and digest != expected:
            raise DigestMismatchError(what=self._what, expected=expected, actual=digest)
        self.commit_as(Digest(digest).hex)
        return digest

    def commit_as(self, name: str) -> None:
        """Keep the content under `name`, durably; whoever named it first wins."""
        os.fsync(self._fd)
        # link(2) cannot reach a file without a name; linkat(2) follows /proc's link to it. Python calls
        # linkat if given fds.
        with suppress(FileExistsError):
            os.link(
                f"/proc/self/fd/{self._fd}",
                name,
                src_dir_fd=self._directory_fd,
                dst_dir_fd=self._directory_fd,
                follow_symlinks=True,
            )
        os.fsync(self._directory_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        os.close(self._fd)
        os.close(self._directory_fd)


class BlobStore:
    """The blobs of one OCI image layout. Safe from any thread and process. Malformed digests raise
    FormatError.
    """

    def __init__(self, images_dir: Path) -> None:
        self._root = images_dir
        self._blobs = images_dir / "blobs" / "sha256"

    def writer(self, *, limit: int | None = None, what: str = "blob") -> BlobWriter:
        """A blob to write piece by piece. limit: most bytes it may have; what: its name in errors."""
        try:
            return BlobWriter(self._blobs, limit=limit, what=what)
        except FileNotFoundError:
            self._prepare()
            return BlobWriter(self._blobs, limit=limit, what=what)

    def put(
        self, chunks: Iterable[bytes], *, expected: str | None = None, size: int | None = None
    ) -> tuple[str, int]:
        """Store content; its (digest, size). It is durable on return.

        expected, size: what a descriptor announced. Raises DigestMismatchError or FormatError if the content
        is anything else, as soon as that is known; nothing is kept then.
        """
        what = "blob" if expected is None else f"blob {Digest(expected)}"
        with self.writer(limit=size, what=what) as writer:
            for chunk in chunks:
                writer.write(chunk)
            if size is not None and writer.size != size:
                raise FormatError(what, f"ended after {writer.size} of {size} bytes")
            return writer.commit(expected=expected), writer.size

    def put_bytes(self, data: bytes, *, expected: str | None = None) -> tuple[str, int]:
        """`put` of content at hand."""
        return self.put((data,), expected=expected)

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self._blobs / Digest(digest).hex

    def has(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def size(self, digest: str) -> int:
        """Bytes of the stored blob. NotFoundError if there is none."""
        with self.open(digest) as file:
            return os.fstat(file.fileno()).st_size

    def open(self, digest: str) -> BinaryIO:
        """The blob, NOT verified: for readers that hash as they go. NotFoundError if there is none."""
        try:
            return self.path(digest).open("rb", buffering=0)
        except FileNotFoundError:
            raise NotFoundError(f"no blob {digest}: load or import its image again") from None

    def read(self, digest: str, *, limit: int) -> bytes:
        """The whole blob, verified. FormatError beyond `limit` bytes, DigestMismatchError if it was damaged
        on disk.
        """
        with self.open(digest) as file:
            data = _read_up_to(file, limit + 1)
        if len(data) > limit:
            raise FormatError(f"blob {digest}", f"is longer than {limit} bytes")
        actual = "sha256:" + hashlib.sha256(data).hexdigest()
        if actual != digest:
            raise DigestMismatchError(what="stored blob", expected=digest, actual=actual)
        return data

    def remove(self, digest: str) -> None:
        """Forget the blob; nothing happens if there is none."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        """Digest of every stored blob, in no order."""
        try:
            names = os.listdir(self._blobs)
        except FileNotFoundError:
            return
        yield from (f"sha256:{name}" for name in names if _HEX.fullmatch(name))

    def _prepare(self) -> None:
        self._blobs.mkdir(parents=True, exist_ok=True)
        with BlobWriter(self._root) as writer:
            writer.write(LAYOUT)
            writer.commit_as("oci-layout")


def _read_up_to(file: BinaryIO, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := file.read(min(count, _CHUNK))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
