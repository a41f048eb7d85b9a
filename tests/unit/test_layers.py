"""The layer store: complete and verified, or nothing. Needs root, as overlayfs' marks do."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import lzma
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import zstandard

from lxcwrap.build.cachedirs import cache_directory
from lxcwrap.errors import ContentError, DigestMismatchError, FormatError
from lxcwrap.storage import layers
from lxcwrap.storage.blobs import BlobStore
from lxcwrap.storage.inflate import Source
from lxcwrap.storage.layers import LayerStore, ingest_layer
from lxcwrap.storage.layerwriter import read_tree, tar_chunks
from tests.strategies import archive, directory, entry, file

pytestmark = pytest.mark.lxc


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Needs root, but no container: nothing the leak check of tests/conftest.py knows is touched."""


TAR = archive(
    directory("d"), file("d/f", os.urandom(300_000)), file("g", b"content\n" * 100_000), file(".wh.gone")
)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


ID = digest(TAR)

COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "gzip members": lambda data: b"".join(
        gzip.compress(data[at : at + 70_000]) for at in range(0, len(data), 70_000)
    ),
    "zstd": zstandard.compress,
    "zstd frames": lambda data: zstandard.compress(data[:100_000]) + zstandard.compress(data[100_000:]),
    "zstd skippable": lambda data: b"\x50\x2a\x4d\x18\3\0\0\0abc" + zstandard.compress(data),
    "xz": lzma.compress,
    "xz streams": lambda data: lzma.compress(data[:100_000]) + lzma.compress(data[100_000:]),
}


@pytest.fixture
def base(roots: Path) -> Iterator[Path]:
    base = roots / f"layers-{uuid.uuid4().hex}"
    base.mkdir()
    yield base
    shutil.rmtree(base)


@pytest.fixture
def store(base: Path) -> LayerStore:
    return LayerStore(base / "layers")


@pytest.fixture
def blobs(base: Path) -> BlobStore:
    return BlobStore(base / "images")


def leftovers(store: LayerStore) -> list[str]:
    directory = store.path(ID).parent
    return os.listdir(directory) if directory.exists() else []


def check(layer: Path) -> None:
    assert (layer / "g").read_bytes() == b"content\n" * 100_000
    assert (layer / "d/f").stat().st_size == 300_000


# --- unpack ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", COMPRESSED)
@pytest.mark.parametrize("kind", ["path", "file", "chunks", "bytes"])
def test_unpack_every_form_from_every_source(store: LayerStore, base: Path, form: str, kind: str) -> None:
    """Compression is found by its magic; both digests are verified on the way."""
    data = COMPRESSED[form](TAR)
    (base / "blob").write_bytes(data)
    with (base / "blob").open("rb") as opened:
        sources: dict[str, Source] = {
            "path": base / "blob",
            "file": opened,
            "chunks": iter([data[at : at + 5000] for at in range(0, len(data), 5000)]),
            "bytes": io.BytesIO(data),
        }
        layer = store.unpack(ID, sources[kind], diff_id=ID, blob_digest=digest(data))
    check(layer)
    assert layer == store.path(ID)
    assert (store.has(ID), list(store.chain_ids())) == (True, [ID])
    assert leftovers(store) == [ID[7:]]


def test_tiny_chunks(store: LayerStore) -> None:
    """The magic may come in pieces, and empty chunks do not end the source."""
    data = gzip.compress(archive(file("f", b"x")))
    source = (part for byte in data for part in (b"", bytes((byte,))))
    plain = digest(archive(file("f", b"x")))
    assert (store.unpack(plain, source, diff_id=plain) / "f").read_bytes() == b"x"


def test_root_directory_of_a_layer(store: LayerStore) -> None:
    """Its mode is that of the archive's root entry, else 0755, whatever it was while unpacking."""
    for members, mode in (((directory("./", mode=0o1750),), 0o1750), ((file("f"),), 0o755)):
        data = archive(*members)
        assert store.unpack(digest(data), [data], diff_id=digest(data)).stat().st_mode & 0o7777 == mode


def test_second_unpack_reads_nothing(store: LayerStore) -> None:
    """What is there is not made again."""

    def never() -> Iterator[bytes]:
        raise AssertionError
        yield b""

    store.unpack(ID, [TAR], diff_id=ID)
    check(store.unpack(ID, never(), diff_id=ID))


def test_progress(store: LayerStore) -> None:
    """The bytes of the source read so far, never fewer than before, in the caller's thread."""
    seen: list[tuple[int, int]] = []
    data = gzip.compress(TAR)
    chunks = [data[at : at + 10_000] for at in range(0, len(data), 10_000)]
    store.unpack(ID, chunks, diff_id=ID, progress=lambda done: seen.append((done, threading.get_ident())))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (len(data), threading.get_ident())


@pytest.mark.parametrize("form", COMPRESSED)
def test_wrong_digests(store: LayerStore, form: str) -> None:
    """Neither other content nor another blob of the same content is taken."""
    data = COMPRESSED[form](TAR)
    for diff_id, blob_digest in ((digest(b""), digest(data)), (ID, digest(b""))):
        with pytest.raises(DigestMismatchError) as caught:
            store.unpack(ID, [data], diff_id=diff_id, blob_digest=blob_digest)
        assert caught.value.expected == digest(b"")
        assert leftovers(store) == []


@pytest.mark.parametrize("form", COMPRESSED)
@pytest.mark.parametrize("cut", [3, 1000, -300, -3])
def test_truncated(store: LayerStore, form: str, cut: int) -> None:
    """A source that ends early leaves nothing."""
    data = COMPRESSED[form](TAR)[:cut]
    with pytest.raises(ContentError):
        store.unpack(ID, [data], diff_id=ID)
    assert leftovers(store) == []


@pytest.mark.parametrize("form", ["gzip", "zstd", "xz", "plain"])
@pytest.mark.parametrize("garbage", [b"garbage" * 100, b"\x1f\x8b", b"x"])
def test_trailing_garbage(store: LayerStore, form: str, garbage: bytes) -> None:
    """Data behind the end is refused, as it would be in no reader's view of the archive."""
    with pytest.raises(ContentError):
        store.unpack(ID, [COMPRESSED[form](TAR) + garbage], diff_id=ID, blob_digest=ID)
    assert leftovers(store) == []


@pytest.mark.parametrize("form", ["gzip", "zstd", "xz"])
def test_damaged(store: LayerStore, form: str) -> None:
    """Damage in compressed data is found by its checksum or ours."""
    data = bytearray(COMPRESSED[form](TAR))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(ContentError):
        store.unpack(ID, [bytes(data)], diff_id=ID)
    assert leftovers(store) == []


def test_unknown_compression(store: LayerStore) -> None:
    """bzip2 is named in the error."""
    import bz2

    with pytest.raises(FormatError, match="bzip2"):
        store.unpack(ID, [bz2.compress(TAR)], diff_id=ID)


@pytest.mark.parametrize("form", ["gzip", "zstd", "xz"])
def test_expansion_is_bounded(base: Path, form: str) -> None:
    """A small file that expands without end stops at the limit, in little memory and on no disk."""
    store = LayerStore(base / "layers", max_bytes=8 << 20)
    bomb = COMPRESSED[form](archive(file("zeros", bytes(64 << 20))))
    with pytest.raises(FormatError, match="expands"):
        store.unpack(ID, [bomb], diff_id=ID)
    assert leftovers(store) == []


def test_hostile_archive_leaves_nothing(store: LayerStore) -> None:
    """The error names layer and entry."""
    data = archive(directory("d"), file("d/f"), file("../evil"))
    with pytest.raises(FormatError) as caught:
        store.unpack(ID, [data], diff_id=digest(data))
    assert digest(data) in caught.value.what
    assert "'../evil'" in caught.value.what
    assert leftovers(store) == []


@pytest.mark.parametrize("chain_id", ["", "x", "sha256:../../../tmp", "sha256:" + "0" * 63, "."])
def test_malformed_chain_id_never_becomes_a_path(store: LayerStore, chain_id: str) -> None:
    """All that take a chain id refuse what is none."""
    for use in (store.path, store.has, store.remove, lambda it: store.unpack(it, [TAR], diff_id=ID)):
        with pytest.raises(FormatError):
            use(chain_id)


def test_failure_ends_threads_and_closes_files(store: LayerStore, base: Path) -> None:
    """An error while much is still to be read leaves no thread and no descriptor."""
    blob = base / "blob"
    blob.write_bytes(archive(file("../evil"), *(file(f"f{number}", bytes(1 << 20)) for number in range(20))))
    descriptors, threads = os.listdir("/proc/self/fd"), threading.active_count()
    with pytest.raises(FormatError):
        store.unpack(ID, blob, diff_id=ID)
    assert threading.active_count() == threads
    assert os.listdir("/proc/self/fd") == descriptors


def test_error_of_the_source(store: LayerStore) -> None:
    """What the caller's iterator raises comes out as it is."""

    def failing() -> Iterator[bytes]:
        yield TAR[:5000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.unpack(ID, failing(), diff_id=ID)
    assert leftovers(store) == []


_MOUNT_AND_LIST = """
mkdir merged && mount -t overlay overlay -o "lowerdir=$1:$2" merged && cd merged && find . -mindepth 1 | sort
"""


def test_overlayfs_sees_what_the_layers_say(store: LayerStore, base: Path) -> None:
    """Whiteouts, opaque directories and directories made anew hide what is below, for the kernel too."""
    old = archive(file("a/old"), file("b/old"), file("c/old"), file("d/old"), file("gone"))
    new = archive(
        *(file("a/.wh.old"), file("b/.wh..wh..opq"), file("b/new"), file(".wh.gone")),
        *(file(".wh.d"), directory("d"), file("d/new")),
    )
    lower, upper = (store.unpack(digest(data), [data], diff_id=digest(data)) for data in (old, new))
    listed = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", _MOUNT_AND_LIST, "sh", upper, lower],
        cwd=base,
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.split() == ["./a", "./b", "./b/new", "./c", "./c/old", "./d", "./d/new"]


# --- many at once, and killed -------------------------------------------------------------------------


def test_threads_unpack_the_same_layer(store: LayerStore) -> None:
    """All get the one directory."""
    start = threading.Barrier(8)
    found: list[Path] = []

    def work() -> None:
        start.wait()
        found.append(store.unpack(ID, [TAR], diff_id=ID))

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [store.path(ID)] * 8
    check(store.path(ID))
    assert leftovers(store) == [ID[7:]]


def test_a_layer_is_not_replaced(store: LayerStore) -> None:
    """The second of two who make it at once drops what it has, also if the first one's is empty."""
    with store.draft(None) as first, store.draft(None) as second:
        store.keep(first, ID)
        there = store.path(ID).stat()
        store.keep(second, ID)
        assert os.path.samestat(there, store.path(ID).stat())


def test_a_cache_directory_is_not_replaced(store: LayerStore, base: Path) -> None:
    """Who makes one at the same time, and has it later, takes the first one's, which is locked by then."""
    path = base / "mounts"
    took = partial(cache_directory, path, "one", layers=store, sharing="private", cancelled=threading.Event())
    holding = ExitStack()

    def overtaken(_directory: Path) -> None:
        if not (path / "one").exists():
            holding.enter_context(took(fill=lambda _: None))

    with holding, took(fill=overtaken) as other:
        assert other == path / "one.1"


def _unpack_slowly(base: Path, ready: Path) -> None:
    def slow() -> Iterator[bytes]:
        for at in range(0, len(TAR), 4096):
            yield TAR[at : at + 4096]
            ready.touch()
            time.sleep(0.05)

    LayerStore(base / "layers").unpack(ID, slow(), diff_id=ID)


def test_sweep_takes_what_a_killed_process_left(store: LayerStore, base: Path) -> None:
    """A draft stays as long as its maker lives, and not longer."""
    worker = multiprocessing.get_context("spawn").Process(target=_unpack_slowly, args=(base, base / "ready"))
    worker.start()
    while not (base / "ready").exists():
        time.sleep(0.01)
    store.sweep()
    assert len(leftovers(store)) == 1
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    assert len(leftovers(store)) == 1
    store.sweep()
    assert leftovers(store) == []
    check(store.unpack(ID, [TAR], diff_id=ID))


def test_remove(store: LayerStore) -> None:
    """A removed layer is gone, and can be removed again."""
    store.unpack(ID, [TAR], diff_id=ID)
    store.remove(ID)
    store.remove(ID)
    assert (store.has(ID), leftovers(store)) == (False, [])


def test_removal_cut_short_is_finished(store: LayerStore) -> None:
    """A removal that was killed leaves a draft, which nobody takes for a layer."""
    store.unpack(ID, [TAR], diff_id=ID)
    store.path(ID).rename(store.path(ID).with_name(".draft-x"))
    assert list(store.chain_ids()) == []
    store.sweep()
    assert leftovers(store) == []


# --- a crash of the machine ---------------------------------------------------------------------------


def test_layer_that_may_not_be_on_disk(store: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart, a layer not known to be on disk is dropped; in the same boot it is used."""
    store.unpack(ID, [TAR], diff_id=ID)
    store.sweep()
    assert store.has(ID)
    monkeypatch.setattr(layers, "_boot_id", lambda: b"another")
    store.sweep()
    assert not store.has(ID)


def test_layer_that_is_on_disk(store: LayerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the kernel had time to write it, sweep makes sure, and the layer survives restarts."""
    store.unpack(ID, [TAR], diff_id=ID)
    monkeypatch.setattr(layers, "_WRITTEN_BACK_S", -1.0)
    store.sweep()
    assert os.listxattr(store.path(ID)) == []
    monkeypatch.setattr(layers, "_boot_id", lambda: b"another")
    store.sweep()
    check(store.path(ID))


def test_sweep_of_nothing(store: LayerStore) -> None:
    """A store that was never used can be swept."""
    store.sweep()
    assert list(store.chain_ids()) == []


def test_draft_lock_is_held_while_unpacking(store: LayerStore) -> None:
    """Whoever could lock a draft may delete it."""
    locked = []

    def source() -> Iterator[bytes]:
        yield TAR[:1000]
        [draft] = leftovers(store)
        fd = os.open(store.path(ID).with_name(draft), os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(fd)
        locked.append(draft)
        yield TAR[1000:]

    store.unpack(ID, source(), diff_id=ID)
    assert locked


# --- archives into blobs ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", COMPRESSED)
def test_ingest(blobs: BlobStore, store: LayerStore, form: str) -> None:
    """A blob of an OCI type, with both its digests; what is no such type is compressed anew."""
    data = COMPRESSED[form](TAR)
    layer = ingest_layer(blobs, io.BytesIO(data))
    suffix = {"plain": "", "zstd": "+zstd"}.get(form.split()[0], "+gzip")
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar" + suffix
    assert (layer.diff_id, layer.size) == (ID, blobs.size(layer.digest))
    assert "xz" in form or layer.digest == digest(data)
    check(store.unpack(ID, blobs.path(layer.digest), diff_id=layer.diff_id, blob_digest=layer.digest))


@pytest.mark.parametrize(
    "data", [b"", b"no archive", TAR[:-1024], TAR[:5000], gzip.compress(TAR[:-1024]), gzip.compress(TAR)[:-9]]
)
def test_ingest_refuses(blobs: BlobStore, data: bytes) -> None:
    """What is no archive, or not whole, is not kept."""
    with pytest.raises(FormatError):
        ingest_layer(blobs, io.BytesIO(data))
    assert list(blobs.digests()) == []


def test_ingest_is_bounded(blobs: BlobStore) -> None:
    """An archive that expands beyond the limit is not kept."""
    with pytest.raises(FormatError, match="expands"):
        ingest_layer(blobs, io.BytesIO(gzip.compress(TAR)), max_bytes=1000)
    assert list(blobs.digests()) == []


def test_tree_to_blob_and_back(blobs: BlobStore, store: LayerStore) -> None:
    """A directory becomes a compressed layer, always the same one, and is again what it was."""
    layer = store.unpack(ID, [TAR], diff_id=ID)
    packed = ingest_layer(blobs, tar_chunks(read_tree(layer)), compress=True)
    assert packed.media_type.endswith("+gzip")
    again = store.unpack(packed.diff_id, blobs.path(packed.digest), diff_id=packed.diff_id)
    check(again)
    assert ingest_layer(blobs, tar_chunks(read_tree(again)), compress=True) == packed


def test_devices_and_owners_through_the_store(store: LayerStore) -> None:
    """Ids on disk are the archive's own: the range of a container is laid over them when mounted."""
    data = archive((entry("f", uid=33, gid=65534, size=0), ()))
    status = (store.unpack(digest(data), [data], diff_id=digest(data)) / "f").stat()
    assert (status.st_uid, status.st_gid) == (33, 65534)
