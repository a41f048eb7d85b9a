"""What killed processes had begun is found by the next one; what living ones do is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lxcwrap.check import Status, _images
from lxcwrap.storage.images import ImageStore
from lxcwrap.storage.root import RootDir
from tests.unit.fakelayers import contents, image_store


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return image_store(tmp_path)


def _left(store: ImageStore) -> list[str]:
    return sorted(path.name for path in store.root.run.glob("images.*") if path.name != "images.lock")


def test_content_of_a_killed_process_goes(store: ImageStore) -> None:
    """It had begun to add an image, and nobody holds the lock."""
    store.blobs.put_bytes(b"half an image")
    (store.root.run / "images.adding-0").touch()
    store.clean()
    assert contents(store)["blobs"] == _left(store) == []


def test_content_of_a_living_process_stays(store: ImageStore) -> None:
    """Until it has ended; then its own remains go with those of the dead."""
    with pytest.raises(KeyError), store.adding() as addition:
        digest, _ = addition.blobs.put_bytes(b"half an image")
        (store.root.run / "images.adding-dead").touch()
        store.clean()
        assert list(store.blobs.digests()) == [digest]
        assert len(_left(store)) == 2
        raise KeyError
    store.clean()
    assert contents(store)["blobs"] == _left(store) == []


def test_an_index_ahead_of_the_records_is_mended(store: ImageStore) -> None:
    """Its writer was killed before the records were."""
    (store.root.images / "index.json").write_text("{}")
    (store.root.run / "images.changing-0").touch()
    store.clean()
    assert "manifests" in (store.root.images / "index.json").read_text()
    assert _left(store) == []


def test_a_sweep_that_was_cut_short_is_done_again(store: ImageStore) -> None:
    """Its mark was renamed, so that others could set a new one."""
    store.blobs.put_bytes(b"garbage")
    (store.root.run / "images.sweeping").touch()
    store.clean()
    assert contents(store)["blobs"] == _left(store) == []


def test_what_is_being_added_is_no_garbage(store: ImageStore) -> None:
    """The check looks at what nobody is just changing, and changes nothing."""
    assert _images(store.root.path).status is Status.OK
    with pytest.raises(KeyError), store.adding() as addition:
        addition.blobs.put_bytes(b"half an image")
        assert _images(store.root.path).status is Status.OK
        store._mark.unlink(missing_ok=True)
        raise KeyError
    store.blobs.put_bytes(b"garbage")
    assert _images(store.root.path).status is Status.DEGRADED
    assert len(contents(store)["blobs"]) == 1


def test_no_records_are_sound(tmp_path: Path) -> None:
    """Where no host was yet, and where the records are of no version we know."""
    assert _images(tmp_path / "nowhere").status is Status.OK
    root = RootDir(tmp_path)
    root.prepare()
    root.state_db.write_bytes(b"no database" * 100)
    assert _images(tmp_path).status is Status.DEGRADED
