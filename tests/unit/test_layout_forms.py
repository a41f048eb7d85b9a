"""Forms that archives of images have in the field, and what lies about its form."""

from __future__ import annotations

import gzip
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from lxcwrap.errors import ContentError, FormatError
from lxcwrap.formats import layout
from lxcwrap.progress import ProgressEvent, TransferProgress
from lxcwrap.storage.images import ImageStore
from tests import archives
from tests.archives import Layout, config_of, digest, docker_save, oci_layout
from tests.unit.fakelayers import contents, image_store, load

BASE = archives.tar({"etc/base": b"base"})
TOP = archives.tar({"etc/top": b"top"})
CONTAINERD, REF_NAME = "io.containerd.image.name", "org.opencontainers.image.ref.name"
Write = Callable[[bytes], Path]


@pytest.fixture
def store(roots: Path) -> ImageStore:
    return image_store(Path(tempfile.mkdtemp(dir=roots)))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes) -> Path:
        path = tmp_path / "app.tar"
        path.write_bytes(data)
        return path

    return write


# --- names ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotations", "tags"),
    [
        ({CONTAINERD: "docker.io/library/a:1", REF_NAME: "1"}, ["a:1"]),  # containerd, docker
        ({CONTAINERD: "docker.io/library/a:1", REF_NAME: "docker.io/library/a:1"}, ["a:1"]),
        ({CONTAINERD: "docker.io/library/a:1"}, ["a:1"]),
        ({CONTAINERD: "docker.io/library/a:1", REF_NAME: "changed"}, ["changed:latest"]),  # umoci
        ({REF_NAME: "example.org/a:1"}, ["example.org/a:1"]),
        ({REF_NAME: "a@sha256:" + "0" * 64}, []),
        ({}, []),
    ],
)
def test_names(store: ImageStore, write: Write, annotations: dict[str, str], tags: list[str]) -> None:
    """Each tool annotates in its own way; one that changes an image keeps what it does not know."""
    made = Layout()
    made.manifests.append({**made.image(BASE), "annotations": annotations})
    (image_id,) = load(store, write(made.tar()))
    assert [reference.familiar for reference in store.tags(image_id)] == tags


def test_one_image_by_two_names_is_read_once(store: ImageStore, write: Write) -> None:
    """As is a layer that two images share."""
    made = Layout()
    for name in ("a:1", "b:1"):
        made.name(made.image(BASE, TOP, compression="gzip"), name)
    made.name(made.image(BASE, compression="gzip"), "c:1")
    events: list[ProgressEvent] = []
    layout.load(store, write(made.tar()), report=events.append)
    done = [event.item for event in events if isinstance(event, TransferProgress) and event.phase == "done"]
    assert sorted(done) == sorted({digest(gzip.compress(layer, mtime=0)) for layer in (BASE, TOP)})


# --- layers ---------------------------------------------------------------------------------------------


def skippable(data: bytes) -> bytes:
    """A zstd frame that holds no content."""
    return b"\x50\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def chunked(data: bytes) -> bytes:
    """As zstd:chunked is: a frame for each piece, and a table of contents in frames to skip."""
    pieces = [data[at : at + 700] for at in range(0, len(data), 700)]
    return b"".join(map(zstandard.compress, pieces)) + skippable(b"table") + skippable(b"footer")


def test_zstd_chunked_layers(store: ImageStore, write: Write) -> None:
    """Are zstd layers, table and all."""
    made = Layout()
    manifest = {
        "schemaVersion": 2,
        "config": archives.descriptor(made.blob(config_of([BASE])), "config.v1+json"),
        "layers": [archives.descriptor(made.blob(chunked(BASE)), "layer.v1.tar+zstd")],
    }
    made.name(made.manifest(manifest), "app:1")
    (image_id,) = load(store, write(made.tar()))
    assert store.manifest(image_id).layers[0].digest == digest(chunked(BASE))
    assert (store.lower_dirs(image_id)[0] / "archive").read_bytes() == BASE


def named(*layers: tuple[str, bytes], diffs: tuple[bytes, ...] = (BASE, TOP)) -> bytes:
    """A docker save archive whose layers have these names and contents."""
    manifest = [{"Config": "c.json", "RepoTags": ["app:1"], "Layers": [name for name, _ in layers]}]
    return archives.tar(
        {"manifest.json": json.dumps(manifest).encode(), "c.json": config_of(diffs), **dict(layers)}
    )


def blob(data: bytes, content: bytes | None = None) -> tuple[str, bytes]:
    return f"blobs/sha256/{digest(data)[7:]}", data if content is None else content


@pytest.mark.parametrize(
    "layers",
    [
        [(f"{digest(BASE)[7:]}.tar", BASE), (f"{digest(TOP)[7:]}.tar", TOP)],  # podman, skopeo
        [("0/layer.tar", BASE), ("1/layer.tar", gzip.compress(TOP))],
        [blob(gzip.compress(BASE, mtime=0)), blob(zstandard.compress(TOP))],  # docker, over containerd
        [blob(BASE), ("1/layer.tar", lzma.compress(TOP))],
        [blob(chunked(BASE)), blob(lzma.compress(TOP))],
    ],
)
def test_docker_save_layers(store: ImageStore, write: Write, layers: list[tuple[str, bytes]]) -> None:
    """By whichever name, and compressed or not."""
    (image_id,) = load(store, write(named(*layers)))
    assert [(path / "archive").read_bytes() for path in store.lower_dirs(image_id)] == [TOP, BASE]
    assert len(contents(store)["blobs"]) == 4


def test_a_layer_that_an_image_has_twice(store: ImageStore, write: Write) -> None:
    """Is one blob at two places."""
    data = named(blob(BASE), blob(TOP), blob(BASE), diffs=(BASE, TOP, BASE))
    (image_id,) = load(store, write(data))
    assert len(store.lower_dirs(image_id)) == 3


def test_of_several_members_of_one_name_the_last_counts(store: ImageStore, write: Write) -> None:
    """As for tar, which appends what it updates."""
    first = archives.tar({"index.json": b"{}"})[:1024]
    load(store, write(first + oci_layout(BASE).tar()))
    assert len(store.ids()) == 1


# --- lies -----------------------------------------------------------------------------------------------

LIES = {
    "a plain layer that is another": named(blob(BASE), ("x.tar", BASE)),
    "a compressed layer by another digest": named(blob(BASE), blob(TOP, gzip.compress(TOP))),
    "a compressed layer that is another": named(blob(BASE), blob(gzip.compress(BASE))),
    "fewer layers": named(blob(BASE)),
    "more layers": named(blob(BASE), blob(TOP), blob(BASE)),
    "compressed by bzip2": named(blob(BASE), ("x.tar", b"BZh9" + bytes(2000))),
    "names that lead out": named(blob(BASE), ("../../../../../../etc/passwd", TOP[:-1])),
    "of Docker before 1.10": archives.tar({"repositories": b'{"app": {"1": "0"}}', "0/layer.tar": BASE}),
    "an index of megabytes": archives.tar({"index.json": b" " * (5 << 20)}),
    "an index of endless depth": archives.tar({"index.json": b"[" * 100_000}),
    "a manifest of endless depth": archives.tar({"manifest.json": b'[{"Config":' * 50_000}),
    "a negative size": archives.tar(
        {"index.json": b'{"manifests": [{"digest": "sha256:' + b"0" * 64 + b'", "size": -1}]}'}
    ),
    "a size of no number": archives.tar(
        {"index.json": b'{"manifests": [{"digest": "sha256:' + b"0" * 64 + b'", "size": 1e400}]}'}
    ),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_lies_are_refused_and_leave_nothing(store: ImageStore, write: Write, data: bytes) -> None:
    """Whatever part of it was stored by then."""
    before = contents(store)
    with pytest.raises(ContentError):
        load(store, write(data))
    assert contents(store) == before


def test_an_index_that_holds_itself(store: ImageStore, tmp_path: Path) -> None:
    """Cannot be: its digest would have to be right. Links do not help."""
    made = Layout()
    item = made.nested(made.image(BASE))
    made.name(item, "app:1")
    directory = made.write(tmp_path / "layout")
    path = directory / f"blobs/sha256/{str(item['digest'])[7:]}"
    path.unlink()
    path.symlink_to("../../index.json")
    with pytest.raises(ContentError):
        load(store, directory)


@pytest.mark.parametrize("name", ["index.json", "manifest.json"])
def test_links_of_a_directory_show_nothing_of_the_host(store: ImageStore, tmp_path: Path, name: str) -> None:
    """They are followed, but what they lead to comes in only if it has the digest that was announced; no
    error quotes it.
    """
    secret = tmp_path / "secret"
    secret.write_bytes(b"correct horse battery staple " * 100)
    directory = tmp_path / "layout"
    if name == "index.json":
        oci_layout(BASE).write(directory)
        targets = [directory / name, directory / f"blobs/sha256/{digest(BASE)[7:]}"]
    else:
        directory.mkdir()
        (directory / "blobs/sha256").mkdir(parents=True)
        for member, data in docker_save(BASE).items():
            (directory / member).write_bytes(data)
        targets = [directory / member for member in docker_save(BASE)]
    before = contents(store)
    for target in targets:
        kept = target.read_bytes()
        target.unlink()
        target.symlink_to(secret)
        with pytest.raises(FormatError if target.name.endswith(".json") else ContentError) as caught:
            load(store, directory)
        assert "horse" not in str(caught.value)
        assert contents(store) == before
        target.unlink()
        target.write_bytes(kept)
