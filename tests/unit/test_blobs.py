"""Blobs are at their digest, whole, or not there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap.errors import DigestMismatchError, FormatError, NotFoundError
from lxcwrap.storage.blobs import BlobStore

HELLO = "sha256:" + hashlib.sha256(b"hello").hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "images")


def names(path: Path) -> list[str]:
    return sorted(str(entry.relative_to(path)) for entry in path.rglob("*") if entry.is_file())


def test_put_returns_digest_and_size(store: BlobStore, tmp_path: Path) -> None:
    """What was put is at its digest, in an OCI layout."""
    assert store.put((b"he", b"llo"), expected=HELLO, size=5) == (HELLO, 5)
    assert store.read(HELLO, limit=5) == b"hello"
    assert (store.has(HELLO), store.size(HELLO), list(store.digests())) == (True, 5, [HELLO])
    assert (tmp_path / "images/oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    assert store.path(HELLO) == tmp_path / "images/blobs/sha256" / HELLO[7:]


def test_put_twice_is_one_blob(store: BlobStore) -> None:
    """Whoever comes second finds it done."""
    assert store.put_bytes(b"hello") == store.put_bytes(b"hello", expected=HELLO) == (HELLO, 5)
    assert list(store.digests()) == [HELLO]


def test_wrong_digest_is_not_kept(store: BlobStore, tmp_path: Path) -> None:
    """Content under a wrong digest leaves nothing behind."""
    with pytest.raises(DigestMismatchError) as caught:
        store.put_bytes(b"hallo", expected=HELLO)
    assert caught.value.expected == HELLO
    assert names(tmp_path) == ["images/oci-layout"]


@pytest.mark.parametrize("size", [4, 6])
def test_lying_size_is_refused(store: BlobStore, tmp_path: Path, size: int) -> None:
    """More or fewer bytes than announced are refused."""
    with pytest.raises(FormatError):
        store.put((b"hel", b"lo"), expected=HELLO, size=size)
    assert names(tmp_path) == ["images/oci-layout"]


def test_endless_content_is_cut_off(store: BlobStore) -> None:
    """A source that never ends is read no further than was announced."""
    given = 0

    def endless() -> Iterator[bytes]:
        nonlocal given
        while True:
            given += 1000
            yield bytes(1000)

    with pytest.raises(FormatError):
        store.put(endless(), size=5000)
    assert given == 6000


def test_failing_source_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    """An error of the source passes through, and nothing stays."""

    def failing() -> Iterator[bytes]:
        yield b"he"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(failing())
    assert names(tmp_path) == ["images/oci-layout"]


def test_damage_on_disk_is_found_on_reading(store: BlobStore) -> None:
    """A blob is verified whenever it is read."""
    store.put_bytes(b"hello")
    store.path(HELLO).write_bytes(b"hallo")
    with pytest.raises(DigestMismatchError):
        store.read(HELLO, limit=100)


def test_read_is_bounded(store: BlobStore) -> None:
    """A document is not read beyond the limit."""
    store.put_bytes(b"hello")
    with pytest.raises(FormatError):
        store.read(HELLO, limit=4)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "hello",
        "sha256:",
        "sha256:../../etc/passwd",
        "md5:" + 32 * "a",
        HELLO.upper(),
        HELLO + "\n",
        HELLO[:-1],
    ],
)
def test_malformed_digest_never_becomes_a_path(store: BlobStore, digest: str) -> None:
    """All that take a digest refuse what is none."""
    for use in (
        store.path,
        store.has,
        store.open,
        store.size,
        store.remove,
        lambda it: store.read(it, limit=1),
    ):
        with pytest.raises(FormatError):
            use(digest)
    with pytest.raises(FormatError):
        store.put_bytes(b"", expected=digest)


def test_missing_blob(store: BlobStore) -> None:
    """A blob that is not there: NotFoundError to read it, nothing to remove it."""
    assert not store.has(HELLO)
    assert list(store.digests()) == []
    store.remove(HELLO)
    with pytest.raises(NotFoundError):
        store.open(HELLO)


def test_tee_stores_what_passes(store: BlobStore) -> None:
    """A writer can sit in a stream."""
    with store.writer() as writer:
        assert list(writer.tee((b"he", b"llo"))) == [b"he", b"llo"]
        assert writer.commit() == HELLO
    assert store.has(HELLO)


def test_no_descriptor_is_left(store: BlobStore) -> None:
    """Neither success nor failure leaks a file descriptor."""
    before = os.listdir("/proc/self/fd")
    store.put_bytes(b"hello")
    with pytest.raises(DigestMismatchError):
        store.put_bytes(b"hallo", expected=HELLO)
    assert os.listdir("/proc/self/fd") == before
