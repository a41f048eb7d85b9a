"""Saving images: what is written, what is refused, and that nothing is left of what failed."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import resource
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lxcwrap.errors import DigestMismatchError, ImageNotFoundError, InvalidSpecError, KernelError
from lxcwrap.image import Image
from lxcwrap.images import Images
from lxcwrap.progress import ProgressEvent, TransferProgress
from tests import archives
from tests.archives import Layout
from tests.unit.fakelayers import contents, image_host

BASE = archives.tar({"etc/base": b"base"})
TOP = archives.tar({"etc/top": b"top"})


def new_images(roots: Path) -> Images:
    return Images(image_host(Path(tempfile.mkdtemp(dir=roots))))


@pytest.fixture
def images(roots: Path, tmp_path: Path) -> Images:
    """app:1, also called other:3, and base:2, which shares a layer with it."""
    images = new_images(roots)
    layout = Layout()
    layout.name(layout.image(BASE, TOP, compression="gzip"), "app:1")
    layout.name(layout.image(BASE, compression="gzip"), "example.org/base:2")
    (tmp_path / "in").write_bytes(layout.tar())
    images.load(tmp_path / "in")
    images["app:1"].tag("other:3")
    return images


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A directory for what is saved."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar if info.isreg()}  # type: ignore[union-attr]


def everything(images: Images) -> set[tuple[str, tuple[str, ...], str]]:
    return {(image.id, image.tags, image.digest) for image in images}


# --- what is written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["docker", "oci", "oci-dir"])
def test_what_is_saved_can_be_loaded(images: Images, roots: Path, out: Path, format: str) -> None:
    """All images, with all their names, and the very same manifests."""
    images.save(images, out / "x", format=format)  # type: ignore[arg-type]
    others = new_images(roots)
    others.load(out / "x")
    assert everything(others) == everything(images)


def test_a_docker_save_archive_is_an_oci_archive_too(images: Images, out: Path) -> None:
    """manifest.json names each image once, with all its tags; its members are blobs."""
    images.save(images, out / "x")
    found = members(out / "x")
    listed = json.loads(found.pop("manifest.json"))
    assert sorted(item["RepoTags"] for item in listed) == [
        ["docker.io/library/app:1", "docker.io/library/other:3"],
        ["example.org/base:2"],
    ]
    assert all(name in found for item in listed for name in (item["Config"], *item["Layers"]))
    images.save(images, out / "oci", format="oci")
    assert members(out / "oci") == found


@pytest.mark.parametrize("format", ["docker", "oci"])
def test_the_same_images_give_the_same_bytes(images: Images, out: Path, format: str) -> None:
    """However they are named, and in whichever order; shared content is there once."""
    for name, keys in {"a": ["app:1", "other:3", "example.org/base:2"], "b": list(images)}.items():
        images.save(keys, out / name, format=format)  # type: ignore[arg-type, arg-type]
    images.save(reversed(list(images)), out / "c", format=format)  # type: ignore[arg-type]
    assert (out / "a").read_bytes() == (out / "b").read_bytes() == (out / "c").read_bytes()
    assert len(set(members(out / "a"))) == len(members(out / "a"))


def test_an_image_named_by_a_tag_has_only_that(images: Images, roots: Path, out: Path) -> None:
    """By its id, or as an object, it has all its names."""
    for key, tags in {"app:1": ("app:1",), images["app:1"].id: ("app:1", "other:3")}.items():
        images.save(key, out / "x")
        (image,) = new_images(roots).load(out / "x")
        assert image.tags == tags


def test_an_image_without_a_name_is_saved(images: Images, roots: Path, out: Path) -> None:
    """And comes back without one."""
    image = images["example.org/base:2"]
    image.untag("example.org/base:2")
    image.save(out / "x")
    assert json.loads(members(out / "x")["manifest.json"])[0]["RepoTags"] is None
    (arrived,) = new_images(roots).load(out / "x")
    assert (arrived.id, arrived.tags) == (image.id, ())


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


@pytest.mark.parametrize(("compression", "inflate"), [("gzip", gzip.decompress), ("zstd", unzstd)])
def test_an_archive_can_be_compressed(
    images: Images, roots: Path, out: Path, compression: str, inflate: Callable[[bytes], bytes]
) -> None:
    """It is the same archive inside."""
    images.save(images, out / "x")
    images.save(images, out / "y", compression=compression)  # type: ignore[arg-type]
    assert inflate((out / "y").read_bytes()) == (out / "x").read_bytes()
    others = new_images(roots)
    others.load(out / "y")
    assert everything(others) == everything(images)


def test_a_file_that_is_open_is_written_to(images: Images, out: Path) -> None:
    """A pipe, too, or one in memory."""
    images.save("app:1", out / "x")
    stream = io.BytesIO()
    images["app:1"].untag("other:3")
    images["app:1"].save(stream)
    assert stream.getvalue() == (out / "x").read_bytes()


def test_an_empty_directory_becomes_a_layout(images: Images, roots: Path, out: Path) -> None:
    """Without being asked for."""
    images.save(images, out)
    assert json.loads((out / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    others = new_images(roots)
    others.load(out)
    assert everything(others) == everything(images)


def test_a_file_gives_way_and_links_are_followed(images: Images, out: Path) -> None:
    """As if it had been opened for writing, but at once."""
    (out / "x").write_bytes(b"old")
    (out / "latest").symlink_to("x")
    images.save("app:1", out / "latest")
    assert (out / "latest").is_symlink() and "index.json" in members(out / "x")
    assert sorted(os.listdir(out)) == ["latest", "x"]


def test_progress_is_told(images: Images, out: Path) -> None:
    """Of each blob, to its end."""
    events: list[ProgressEvent] = []
    images.save("app:1", out / "x", progress=events.append)
    done = [event for event in events if isinstance(event, TransferProgress) and event.phase == "done"]
    assert len(done) == len({event.item for event in done}) == 4
    assert all(event.done_bytes == event.total_bytes for event in done)


# --- what is refused ------------------------------------------------------------------------------------


WRONG: dict[str, Callable[[Path], dict[str, object]]] = {
    "a directory that is not empty": lambda out: {"path": out / "full"},
    "a file in place of a directory": lambda out: {"path": out / "file", "format": "oci-dir"},
    "a directory in place of a file": lambda out: {"path": out / "full", "format": "oci"},
    "a FIFO": lambda out: {"path": out / "fifo"},
    "a device": lambda out: {"path": "/dev/null"},
    "no directory to be in": lambda out: {"path": out / "none/x"},
    "no directory for a directory": lambda out: {"path": out / "none/x", "format": "oci-dir"},
    "a file in the way": lambda out: {"path": out / "file/x"},
    "the root directory": lambda out: {"path": "/"},
    "an unknown format": lambda out: {"path": out / "x", "format": "tar"},
    "an unknown compression": lambda out: {"path": out / "x", "compression": "xz"},
    "a compressed directory": lambda out: {"path": out / "x", "format": "oci-dir", "compression": "gzip"},
    "a directory in a file": lambda out: {"path": io.BytesIO(), "format": "oci-dir"},
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_a_wrong_target_is_refused(
    images: Images, out: Path, arguments: Callable[[Path], dict[str, object]]
) -> None:
    """Nothing is touched."""
    (out / "full").mkdir()
    (out / "full/file").touch()
    (out / "file").touch()
    os.mkfifo(out / "fifo")
    before = sorted(map(str, out.rglob("*")))
    with pytest.raises(InvalidSpecError):
        images.save("app:1", **arguments(out))  # type: ignore[arg-type]
    assert sorted(map(str, out.rglob("*"))) == before


def test_unknown_images_are_refused(images: Images, out: Path) -> None:
    """And none at all."""
    for keys, error in ((["app:1", "none:1"], ImageNotFoundError), ([], InvalidSpecError)):
        with pytest.raises(error):
            images.save(keys, out / "x")
    with pytest.raises(ImageNotFoundError):
        Image(image_host(out / "root"), "sha256:" + "0" * 64).save(out / "x")
    assert not (out / "x").exists()


@pytest.mark.parametrize("format", ["docker", "oci", "oci-dir"])
@pytest.mark.parametrize("damage", ["changed", "longer", "shorter", "missing"])
def test_damaged_content_is_not_passed_on(images: Images, out: Path, format: str, damage: str) -> None:
    """What was at the target stays."""
    if format != "oci-dir":
        (out / "x").write_bytes(b"old")
    store = images._store
    path = store.blobs.path(store.manifest(images["app:1"].id).layers[1].digest)
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"changed": data[:-1] + b"?", "longer": data + b"?", "shorter": data[:-1]}[damage])
    before = sorted(os.listdir(out))
    with pytest.raises(LookupError if damage == "missing" else DigestMismatchError):
        images.save("app:1", out / "x", format=format)  # type: ignore[arg-type]
    assert sorted(os.listdir(out)) == before
    assert format == "oci-dir" or (out / "x").read_bytes() == b"old"


@pytest.mark.parametrize("format", ["docker", "oci-dir"])
def test_who_listens_can_end_it(images: Images, out: Path, format: str) -> None:
    """What a progress function raises comes out; nothing is left."""

    def listen(event: ProgressEvent) -> None:
        raise KeyboardInterrupt

    before = contents(images._store)
    with pytest.raises(KeyboardInterrupt):
        images.save("app:1", out / "x", format=format, progress=listen)  # type: ignore[arg-type]
    assert os.listdir(out) == [] and contents(images._store) == before


@pytest.mark.parametrize("format", ["docker", "oci-dir"])
def test_a_full_disk_leaves_nothing(images: Images, out: Path, format: str) -> None:
    """Here: no file may be larger."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(KernelError) as caught:
            images.save("app:1", out / "x", format=format)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(out) == []
