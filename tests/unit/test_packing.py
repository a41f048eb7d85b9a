"""A tree becomes a layer blob in one pass, of the same bytes every time, in every compression."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from lxcwrap.errors import FormatError
from lxcwrap.storage.blobs import BlobStore
from lxcwrap.storage.inflate import Compression
from lxcwrap.storage.layerwriter import Member, read_tree, tar_chunks
from lxcwrap.storage.packing import pack_layer
from tests.strategies import file

INFLATE = {Compression.NONE: ["cat"], Compression.GZIP: ["gzip", "-dc"], Compression.ZSTD: ["zstd", "-dc"]}
# None; less than a block; around one; many.
SIZES = (0, 1000, (1 << 20) - 2560, (1 << 20) - 2560 + 1, 5_000_000)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "images")


def members(size: int) -> list[Member]:
    data = Random(size).randbytes(size // 2) + bytes(size - size // 2)
    return [file("data", data), file("last", b"1")]


@pytest.mark.parametrize("compression", list(INFLATE))
@pytest.mark.parametrize("size", SIZES)
def test_a_blob_is_what_the_members_say(blobs: BlobStore, compression: Compression, size: int) -> None:
    """As other programs inflate it; both digests, size and type are right."""
    plain = b"".join(tar_chunks(members(size)))
    layer = pack_layer(blobs, members(size), compression=compression)
    stored = blobs.path(layer.digest).read_bytes()
    inflated = subprocess.run(INFLATE[compression], input=stored, capture_output=True, check=True).stdout
    assert inflated == plain
    assert layer.digest == "sha256:" + hashlib.sha256(stored).hexdigest()
    assert layer.diff_id == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert layer.size == len(stored)
    assert layer.media_type == "application/vnd.oci.image.layer.v1.tar" + (compression and f"+{compression}")


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.ZSTD])
def test_bytes_depend_on_the_content_alone(
    blobs: BlobStore, compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not on the number of processors, nor on how the content comes in."""
    layers = {pack_layer(blobs, members(3_000_000), compression=compression)}
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    pieces = [
        (entry, (chunk[n : n + 777] for chunk in content for n in range(0, len(chunk), 777)))
        for entry, content in members(3_000_000)
    ]
    layers.add(pack_layer(blobs, pieces, compression=compression))
    assert len(layers) == 1


def test_python_reads_a_directory(blobs: BlobStore, tmp_path: Path) -> None:
    """The whole way, from files to a compressed archive."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("text")
    layer = pack_layer(blobs, read_tree(tmp_path / "tree"))
    with tarfile.open(fileobj=io.BytesIO(blobs.path(layer.digest).read_bytes()), mode="r:gz") as archive:
        assert archive.getnames() == [".", "file"]


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
def test_a_tree_that_cannot_be_read_leaves_nothing(blobs: BlobStore, compression: Compression) -> None:
    """The error is the reader's own."""

    def failing() -> Iterator[Member]:
        yield from members(3_000_000)
        raise FormatError("file", "changed")

    with pytest.raises(FormatError) as caught:
        pack_layer(blobs, failing(), compression=compression)
    assert caught.value.reason == "changed"
    assert list(blobs.digests()) == []
