"""Whatever is done to an archive: it is loaded or refused, and what is refused leaves the store as it was."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lxcwrap.errors import ContentError, UnsupportedError
from lxcwrap.storage.images import ImageStore
from tests import archives
from tests.archives import docker_save, oci_layout
from tests.unit.fakelayers import contents, image_store, load

LAYERS = (archives.tar({"etc/base": b"base"}), archives.tar({"etc/top": b"top"}))
GOOD = (
    oci_layout(*LAYERS).tar(),
    oci_layout(*LAYERS, compression="gzip").tar(),
    archives.tar(docker_save(*LAYERS, old=True)),
    archives.tar(docker_save(*LAYERS)),
)


@pytest.fixture(scope="module")
def store(roots: Path) -> ImageStore:
    return image_store(Path(tempfile.mkdtemp(dir=roots)))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["flip", "cut", "drop", "repeat"])):
            case "flip":
                data[start] ^= draw(st.integers(1, 255))
            case "cut":
                del data[max(start, 1) :]
            case "drop":
                del data[start // 512 * 512 : (start // 512 + 1) * 512]
                data = data or bytearray(1)
            case "repeat":
                data[start:start] = data[start : start + 512]
    return bytes(data)


@given(data=damaged())
@settings(max_examples=100, deadline=None)
def test_a_damaged_archive_is_loaded_or_refused(store: ImageStore, data: bytes) -> None:
    """No other error, and no half of it."""
    before = contents(store)
    path = store.root.path / "app.tar"
    path.write_bytes(data)
    try:
        load(store, path)
    except (ContentError, UnsupportedError):
        assert contents(store) == before
    for image_id in store.ids():
        assert store.config(image_id).diff_ids
        assert all(path.is_dir() for path in store.lower_dirs(image_id))
