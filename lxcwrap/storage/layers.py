"""Unpacked layers by chain id, and layer archives into blobs.

layers/<hex>/             an unpacked layer, complete whenever the name exists
layers/.draft-<uuid>/     one being unpacked or deleted; its maker holds a lock (flock) on it
layers/.draft-<uuid>/{layer,work}   one being written to, as the upper of an overlay

Unpacking does not wait for the disk: writing out a few hundred megabytes takes seconds. Instead a new layer
carries the boot id in an attribute, until `sweep` knows that it is on disk. One that still has it after the
machine was restarted may be damaged: `sweep` removes it, and it is unpacked again from its blob.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from ..digests import Digest
from ..drivers.filesystem import rename_new
from ..drivers.paths import syncfs
from ..errors import DigestMismatchError, FormatError, KernelError
from ..oci import OCI_LAYER
from .blobs import BlobStore
from .deletion import delete_tree
from .inflate import Compression, PlainStream, Source, gzip_tee
from .tarstream import ZERO_BLOCK, TarReader
from .unpack import MAX_LAYER_BYTES, unpack_tar

_DRAFT = ".draft-"
_UNSYNCED = "trusted.lxcwrap.unsynced"
_HEX = re.compile(r"[0-9a-f]{64}")
_WRITTEN_BACK_S = 60.0  # the kernel writes by itself what is older than 30 s


class LayerDraft(NamedTuple):
    """A layer being written to: the upper directory of an overlay, and its work directory."""

    path: Path

    @property
    def layer(self) -> Path:
        return self.path / "layer"

    @property
    def work(self) -> Path:
        return self.path / "work"


class LayerStore:
    """Directories of layers. Safe from any thread and process. Malformed digests raise FormatError.

    max_bytes: most plain bytes one layer may have, the guard against archives that expand without end.
    """

    def __init__(self, layers_dir: Path, *, max_bytes: int = MAX_LAYER_BYTES) -> None:
        self._dir = layers_dir
        self._max_bytes = max_bytes

    def path(self, chain_id: str) -> Path:
        """Where the layer is, or would be: a lower directory for overlayfs, with plain ids (0 is root)."""
        return self._dir / Digest(chain_id).hex

    def has(self, chain_id: str) -> bool:
        return self.path(chain_id).is_dir()

    def unpack(
        self,
        chain_id: str,
        source: Source,
        *,
        diff_id: str,
        blob_digest: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Path:
        """
        Unpack a layer archive unless it is there; its directory.

        source: path, binary file or chunks; plain, or compressed by gzip, zstd or xz. Read in another thread.
        diff_id, blob_digest: what plain and stored content must have, verified in the same pass.
        progress: called now and then with the bytes of `source` read so far.

        Raises FormatError, DigestMismatchError: damaged or hostile; KernelError: the machine refused. Nothing
        is kept then.
        """
        final = self.path(chain_id)
        if not final.is_dir():
            self.take(chain_id, source, diff_id=diff_id, blob_digest=blob_digest, progress=progress)
        return final

    def take(
        self,
        chain_id: str,
        source: Source,
        *,
        diff_id: str,
        blob_digest: str | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        """As `unpack`, but `source` is read to its end and verified also if the layer is there."""
        what = f"layer {Digest(diff_id)}"
        with (
            closing(
                PlainStream(source, what=what, limit=self._max_bytes, digested=blob_digest is not None)
            ) as stream,
            self._draft() if not self.has(chain_id) else nullcontext() as draft,
        ):
            if draft:
                _unpack(stream, draft[1], what, progress)
            for _ in stream:
                pass
            if blob_digest is not None:
                _verify(what, blob_digest, stream.digest)
            _verify(f"{what}, unpacked", diff_id, stream.diff_id)
            if draft:
                self._keep(draft[0], chain_id)

    @contextmanager
    def draft(self, below: Path | None) -> Iterator[LayerDraft]:
        """An empty layer to be written to, with plain ids; deleted on exit, unless it was kept.

        below: the layer it will lie on, whose root directory it takes owner, mode and time from.
        """
        with self._draft() as (path, _fd):
            draft = LayerDraft(path)
            for directory in (draft.layer, draft.work):
                directory.mkdir()
                directory.chmod(0o755)
            if below:
                status = below.stat()
                os.chown(draft.layer, status.st_uid, status.st_gid)
                draft.layer.chmod(stat.S_IMODE(status.st_mode))
                os.utime(draft.layer, ns=(status.st_mtime_ns, status.st_mtime_ns))
            yield draft

    def keep(self, draft: LayerDraft, chain_id: str) -> None:
        """The draft, which nobody writes to any more, is the layer `chain_id` from now on."""
        self._keep(draft.layer, chain_id)

    def _keep(self, directory: Path, chain_id: str) -> None:
        final = self.path(chain_id)
        os.setxattr(directory, _UNSYNCED, _boot_id())
        with suppress(FileExistsError):  # another was faster, and has the same
            rename_new(str(directory), str(final))

    def remove(self, chain_id: str) -> None:
        """Delete the layer, which no container may use; nothing happens if there is none."""
        with suppress(FileNotFoundError):
            self._delete(self.path(chain_id).rename(self._new_name()))

    def chain_ids(self) -> Iterator[str]:
        """Chain id of every unpacked layer, in no order."""
        yield from (f"sha256:{name}" for name in self._names() if _HEX.fullmatch(name))

    def clean(self) -> None:
        """Clear what killed processes left, and layers that a crash of the machine may have damaged."""
        names = self._names()
        for draft in self._dead_drafts() if any(name.startswith(_DRAFT) for name in names) else ():
            self._delete(draft)
        boot_id, directory = _boot_id(), os.fspath(self._dir)
        for name in filter(_HEX.fullmatch, names):
            try:
                is_doubtful = os.getxattr(f"{directory}/{name}", _UNSYNCED) != boot_id
            except OSError:  # no mark, or no layer any more
                continue
            if is_doubtful:
                self.remove(f"sha256:{name}")

    def sweep(self) -> None:
        """`clean`; and wait until the disk has what it will have by now, so that no crash can damage it."""
        self.clean()
        self._settle()

    # --- drafts ---------------------------------------------------------------------------------------------

    @contextmanager
    def _draft(self) -> Iterator[tuple[Path, int]]:
        """A new directory under our lock. It is deleted on exit, unless it was renamed."""
        path = self._new_name()
        with self._locked(fcntl.LOCK_SH):
            path.mkdir(mode=0o700)
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            os.fchown(fd, os.geteuid(), os.getegid())
            os.fchmod(fd, 0o700)  # without the set-group-ID bit it may have inherited
            yield path, fd
        finally:
            self._delete(path)
            os.close(fd)

    def _new_name(self) -> Path:
        return self._dir / f"{_DRAFT}{uuid.uuid4().hex}"

    def _delete(self, draft: Path) -> None:
        # What it holds becomes drafts that nobody has locked: others may help to clear them.
        delete_tree(draft, self._new_name)

    def _dead_drafts(self) -> list[Path]:
        # Drafts are made and locked under a shared lock on the directory: one that is unlocked now has lost
        # its maker.
        with self._locked(fcntl.LOCK_EX):
            return [
                self._dir / name
                for name in self._names()
                if name.startswith(_DRAFT) and not self._is_locked(name)
            ]

    def _is_locked(self, name: str) -> bool:
        try:
            fd = os.open(self._dir / name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(fd)

    @contextmanager
    def _locked(self, kind: int) -> Iterator[int]:
        self._dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, kind)
            yield fd
        finally:
            os.close(fd)

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._dir)
        except FileNotFoundError:
            return []

    # --- on disk or not -------------------------------------------------------------------------------------

    def _settle(self) -> None:
        written = []
        for chain_id in self.chain_ids():
            layer = self.path(chain_id)
            with suppress(OSError):  # no mark, or no layer any more
                os.getxattr(layer, _UNSYNCED)
                if time.time() - layer.stat().st_ctime > _WRITTEN_BACK_S:  # the renaming set it
                    written.append(layer)
        if written:
            with self._locked(fcntl.LOCK_SH) as directory_fd:
                syncfs(directory_fd)
        for layer in written:
            with suppress(OSError):
                os.removexattr(layer, _UNSYNCED)


def _boot_id() -> bytes:
    return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()


def _unpack(stream: PlainStream, target: int, what: str, progress: Callable[[int], object] | None) -> None:
    try:
        unpack_tar(TarReader(_reporting(stream, progress)), target)
    except (FormatError, KernelError) as error:
        if stream.source_error is not None:
            raise stream.source_error from None
        if isinstance(error, KernelError) or error.what == what:
            raise
        raise FormatError(f"{what}: {error.what}", error.reason) from error


def _reporting(stream: PlainStream, progress: Callable[[int], object] | None) -> Iterator[bytes]:
    for chunk in stream:
        if progress:
            progress(stream.bytes_read)
        yield chunk


def _verify(what: str, expected: str, actual: str) -> None:
    if actual != expected:
        raise DigestMismatchError(what=what, expected=expected, actual=actual)


# --- archives into blobs ------------------------------------------------------------------------------------


class IngestedLayer(NamedTuple):
    """A layer archive that is now a blob: what a descriptor and a config say of it."""

    digest: str
    size: int
    diff_id: str
    media_type: str


def ingest_layer(
    blobs: BlobStore,
    source: Source,
    *,
    compress: bool = False,
    what: str = "archive",
    max_bytes: int = MAX_LAYER_BYTES,
) -> IngestedLayer:
    """
    Store an archive as a layer blob, in one pass. `LayerStore.unpack` of it is the next step.

    Plain, gzip and zstd archives are kept as they are; xz is no layer type, so such content is compressed
    anew by gzip.
    compress: compress a plain one, too.
    Raises FormatError: damaged, truncated, or longer than `max_bytes` when plain; nothing is kept then.
    Entries are not looked
    at: that is done while unpacking.
    """
    with closing(PlainStream(source, what=what, limit=max_bytes)) as stream, blobs.writer(what=what) as blob:
        if stream.compression is Compression.XZ or (compress and stream.compression is Compression.NONE):
            compression, chunks = Compression.GZIP, gzip_tee(stream, blob.write)
        else:
            compression, chunks = stream.compression, iter(stream)
            stream.tee = blob.write
        # No digest was announced that would show an archive cut short between two entries.
        if _tail(chunks) != ZERO_BLOCK:
            raise FormatError(what, "is no tar archive, or truncated: its end marker is missing")
        media_type = f"{OCI_LAYER}+{compression}" if compression else OCI_LAYER
        return IngestedLayer(blob.commit(), blob.size, stream.diff_id, media_type)


def _tail(chunks: Iterator[bytes]) -> bytes:
    tail = b""
    for chunk in chunks:
        tail = (tail + chunk[-len(ZERO_BLOCK) :])[-len(ZERO_BLOCK) :]
    return tail
