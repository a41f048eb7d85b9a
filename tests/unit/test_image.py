"""The collection of images: looking up, naming, removing, garbage, and the layout other tools read."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import threading
import types
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lxcwrap.errors import (
    DigestMismatchError,
    FormatError,
    ImageNotFoundError,
    InvalidSpecError,
    NotFoundError,
    StillUsedError,
    UnsupportedError,
)
from lxcwrap.formats import busybox
from lxcwrap.image import Image
from lxcwrap.images import Images
from lxcwrap.storage.images import ImageStore, locked
from tests import archives
from tests.unit.fakelayers import contents, image_host

LAYER = archives.tar({"etc/hostname": b"x"})


@pytest.fixture
def host(roots: Path) -> types.SimpleNamespace:
    return image_host(Path(tempfile.mkdtemp(dir=roots)))


@pytest.fixture
def images(host: types.SimpleNamespace) -> Images:
    return Images(host)


@pytest.fixture
def store(host: types.SimpleNamespace) -> ImageStore:
    found: ImageStore = host.image_store
    return found


def add(images: Images, tag: str | None = "app:1", *, content: bytes = b"x", **options: str) -> Image:
    archive = archives.tar({"etc/hostname": content})
    path = Path(tempfile.mkstemp()[1])
    try:
        path.write_bytes(archive)
        return images.import_rootfs(path, tag=tag, **options)  # type: ignore[arg-type]
    finally:
        path.unlink()


def add_container(store: ImageStore, image: Image, name: str) -> None:
    with store.state.transaction() as connection:
        connection.execute(
            "INSERT INTO containers (id, name, image_id, phase, spec, created_at, owner_pid, owner_start)"
            " VALUES (?, ?, ?, 'created', '{}', 0, 1, 1)",
            (name * 64, name, image.id),
        )


# --- looking up -----------------------------------------------------------------------------------------


def test_an_image_is_found_by_all_its_names(images: Images) -> None:
    """Reference, short or complete, id, id prefix, manifest digest, and the object itself."""
    image = add(images, "app:1")
    hexadecimal = image.id.removeprefix("sha256:")
    keys = ["app:1", "docker.io/library/app:1", image.id, hexadecimal, hexadecimal[:12], image.id[:12]]
    named: list[str | Image] = [*keys, f"app@{image.digest}", f"other/app:9@{image.digest}", image]
    for key in named:
        assert images[key] == image
        assert key in images
        assert images.get(key) == image


def test_what_is_not_there_is_not_found(images: Images) -> None:
    """As in a mapping; but names that can be none are told apart by []."""
    add(images, "app:1")
    for key in ("app", "app:2", "other", "0" * 64, f"app@sha256:{'0' * 64}"):
        with pytest.raises(ImageNotFoundError):
            images[key]
        assert key not in images and images.get(key) is None
    with pytest.raises(LookupError):
        images["app:2"]
    with pytest.raises(InvalidSpecError):
        images["App"]
    assert "App" not in images and 3 not in images and images.get("App", "none") == "none"


def test_an_ambiguous_prefix_names_the_candidates(images: Images) -> None:
    """Never the first of several."""
    made = {image.id: image for image in (add(images, None, content=bytes([n])) for n in range(17))}
    first = next(a for a in made if sum(b[:8] == a[:8] for b in made) > 1)
    with pytest.raises(ImageNotFoundError) as caught:
        images[first[7:8]]
    assert first in caught.value.candidates or len(caught.value.candidates) == 5


def test_a_tag_comes_before_an_id_prefix(images: Images) -> None:
    """A name somebody gave cannot be hidden by chance."""
    other = add(images, None, content=b"other")
    named = add(images, f"{other.id[7:12]}:latest", content=b"named")
    assert images[other.id[7:12]] == named


def test_images_are_listed_newest_first(images: Images) -> None:
    """As Image objects, in list() and in iteration."""
    made = [add(images, f"app:{number}", content=bytes([number])) for number in range(3)]
    assert list(images) == images.list() == made[::-1]
    assert len(images) == 3


def test_equality_is_of_root_and_id(images: Images, roots: Path) -> None:
    """The same image in another store is another object to remove."""
    image = add(images)
    assert image == images["app:1"] and hash(image) == hash(images["app:1"])
    elsewhere = Images(image_host(Path(tempfile.mkdtemp(dir=roots))))
    assert Image(elsewhere._host, image.id) != image
    assert image != image.id
    assert repr(image) == f"<Image app:1 {image.id[:19]}>"


# --- what an image says ---------------------------------------------------------------------------------


def test_an_imported_rootfs_starts_as_told(
    images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And SOURCE_DATE_EPOCH makes it the same image again."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    (tmp_path / "root.tar.gz").write_bytes(archives.compressed(LAYER, "gzip"))
    image = images.import_rootfs(
        tmp_path / "root.tar.gz",
        tag="mine:1",
        entrypoint=["/init"],
        cmd=["a"],
        env={"A": "b"},
        working_dir="/w",
        user="1",
        labels={"k": "v"},
        stop_signal="QUIT",
    )
    config = image.config
    assert (config.entrypoint, config.cmd, config.env, config.working_dir) == (
        ("/init",),
        ("a",),
        {"A": "b"},
        "/w",
    )
    assert (config.user, config.labels, config.stop_signal) == ("1", {"k": "v"}, "QUIT")
    assert image.created_at == datetime(1970, 1, 2, tzinfo=UTC)
    assert image.size == len(archives.compressed(LAYER, "gzip"))
    assert image.history()[0].created_by == "import of root.tar.gz"
    assert (
        image.layers == (archives.digest(LAYER),) and (image.lower_dirs[0] / "archive").read_bytes() == LAYER
    )
    with (tmp_path / "root.tar.gz").open("rb") as file:
        assert images.import_rootfs(file).layers == image.layers


@pytest.mark.parametrize(
    "options",
    [
        {"tag": "App"},
        {"tag": f"app@sha256:{'0' * 64}"},
        {"cmd": [""]},
        {"env": {"A=": "b"}},
        {"working_dir": "w"},
        {"stop_signal": "NONE"},
        {"platform": "a/b/c/d"},
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(
    images: Images, store: ImageStore, options: dict[str, object]
) -> None:
    """The store is as it was."""
    before = contents(store)
    with pytest.raises(InvalidSpecError):
        add(images, **options)  # type: ignore[arg-type]
    assert contents(store) == before


def test_a_file_that_is_no_root_file_system_is_refused(
    images: Images, store: ImageStore, tmp_path: Path
) -> None:
    """Not there, a directory, no tar, cut short, hostile."""
    before = contents(store)
    with pytest.raises(InvalidSpecError):
        images.import_rootfs(tmp_path / "none")
    with pytest.raises(InvalidSpecError):
        images.import_rootfs(tmp_path)
    for data in (
        b"",
        b"x" * 2000,
        LAYER[:700],
        archives.compressed(LAYER, "gzip")[:-9],
        archives.tar({"HOSTILE ENTRY": b""}),
    ):
        (tmp_path / "file").write_bytes(data)
        with pytest.raises(FormatError):
            images.import_rootfs(tmp_path / "file")
    assert contents(store) == before


def test_a_damaged_store_is_noticed(images: Images, store: ImageStore) -> None:
    """Reading verifies; and the other images can still be changed."""
    image, other = add(images, "app:1"), add(images, "other:1", content=b"other")
    store.blobs.path(image.id).write_bytes(b"{}")
    with pytest.raises(DigestMismatchError):
        assert image.config
    store.blobs.path(image.digest).unlink()
    with pytest.raises(NotFoundError):
        assert image.size
    other.tag("other:2")
    image.remove()
    assert images.list() == [other]


def test_a_layer_that_was_lost_is_unpacked_again(images: Images, store: ImageStore) -> None:
    """A crash of the machine may take layers that were not on disk yet."""
    image = add(images)
    store.layers.remove(image.layers[0])
    assert (image.lower_dirs[0] / "archive").is_file()


# --- names ----------------------------------------------------------------------------------------------


def test_tags_are_given_moved_and_taken(images: Images) -> None:
    """A name belongs to one image: the last that got it."""
    old, new = add(images, "app:1"), add(images, "app:2", content=b"new")
    old.tag("registry.example/app")
    assert list(old.tags) == ["app:1", "registry.example/app:latest"]
    new.tag("app:1")
    assert list(old.tags) == ["registry.example/app:latest"]
    assert list(new.tags) == ["app:1", "app:2"]
    new.untag("app:2")
    assert list(new.tags) == ["app:1"]
    for name in ("app:2", "registry.example/app"):
        with pytest.raises(ImageNotFoundError):
            new.untag(name)
    with pytest.raises(InvalidSpecError):
        new.tag(f"app@{new.digest}")


def test_a_removed_image_cannot_be_named(images: Images) -> None:
    """Nor read: it is gone for all who hold it."""
    image = add(images)
    image.remove()
    for use in (lambda: image.tag("app:1"), lambda: image.digest, lambda: image.config, image.remove):
        with pytest.raises(ImageNotFoundError):
            use()


# --- removing -------------------------------------------------------------------------------------------


def test_removing_deletes_what_is_not_shared(images: Images, store: ImageStore) -> None:
    """The layer that another image has stays."""
    first, second = add(images, "app:1", user="1"), add(images, "app:2", user="2")
    assert first.layers == second.layers
    first.remove()
    assert images.list() == [second] and second.lower_dirs[0].is_dir()
    second.remove()
    assert contents(store)["blobs"] == contents(store)["layers"] == []


def test_an_image_in_use_is_not_removed(images: Images, store: ImageStore) -> None:
    """The error names the containers."""
    image = add(images)
    add_container(store, image, "b")
    add_container(store, image, "a")
    before = contents(store)
    with pytest.raises(StillUsedError) as caught:
        images.remove("app:1")
    assert caught.value.users == ["a", "b"]
    assert contents(store) == before


def test_removing_one_of_several_names_keeps_the_image(images: Images) -> None:
    """By its id, or by the last name, the image goes."""
    image = add(images, "app:1")
    image.tag("app:2")
    images.remove("app:1")
    assert image.tags == ("app:2",)
    image.tag("app:1")
    images.remove(image.id[7:20])
    assert images.list() == []
    add(images, "app:1")
    images.remove("app:1")
    assert images.list() == []


def test_pruning_takes_what_nobody_names_or_uses(images: Images, store: ImageStore) -> None:
    """And blobs and layers that a killed process left."""
    kept, used, dangling = (
        add(images, "a:1"),
        add(images, None, content=b"u"),
        add(images, None, content=b"d"),
    )
    add_container(store, used, "c")
    store.blobs.put_bytes(b"left by a killed process")
    (store.root.layers / ("0" * 64)).mkdir()
    assert images.prune() == [dangling.id]
    assert set(images) == {kept, used}
    assert len(contents(store)["blobs"]) == 6 and len(contents(store)["layers"]) == 2


# --- garbage and those who add --------------------------------------------------------------------------


def test_a_sweep_waits_for_who_is_adding_and_then_happens(images: Images, store: ImageStore) -> None:
    """Content that is on its way is never taken, and content that was refused meanwhile is not forgotten."""
    image = add(images)
    with store.adding() as addition:
        addition.blobs.put_bytes(b"on its way")
        image.remove()
        assert len(contents(store)["blobs"]) == 4
    assert contents(store)["blobs"] == []
    assert not list(store.root.run.glob("*.garbage"))


def test_a_sweep_that_met_another_is_made_up_for(store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage that appears while another sweeps, and has looked already, is collected by that other."""
    collect = store._collect
    turns: list[int] = []

    def slow_collect() -> None:
        collect()
        turns.append(1)
        if len(turns) == 1:
            store.blobs.put_bytes(b"garbage")
            store.sweep()

    monkeypatch.setattr(store, "_collect", slow_collect)
    store.sweep()
    assert len(turns) == 2 and contents(store)["blobs"] == []


def test_who_adds_excludes_who_sweeps(store: ImageStore) -> None:
    """The lock holds between threads of one process, too, and does not stay with a child forked meanwhile."""
    lock = store.root.run / "images.lock"
    with store.adding(), pytest.raises(BlockingIOError), locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
        pass
    ready, release = os.pipe(), os.pipe()
    with store.adding():
        child = os.fork()
        if child == 0:
            os.read(release[0], 1)
            os._exit(0)
    with locked(lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
        pass
    os.write(release[1], b"x")
    os.waitpid(child, 0)
    for descriptor in (*ready, *release):
        os.close(descriptor)


def test_many_threads_add_and_remove_at_once(images: Images, store: ImageStore) -> None:
    """In the end all is consistent: what is named is there, and nothing else is."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(4):
                image = add(images, f"app:{number}", content=bytes([turn % 2]), user=str(number % 3))
                assert image.lower_dirs[0].is_dir()
                with suppress(ImageNotFoundError):  # another thread had the same
                    image.remove()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    images.prune()
    for image in images:
        assert image.size and image.lower_dirs[0].is_dir()
    blobs = {digest for image in images for digest in (image.id, image.digest)}
    assert failures == []
    assert blobs <= set(store.blobs.digests())


# --- the layout on disk ---------------------------------------------------------------------------------


def test_the_store_is_an_oci_layout_that_can_be_loaded(
    images: Images, store: ImageStore, roots: Path
) -> None:
    """index.json has each image, named and unnamed, after every kind of change."""
    add(images, "app:1").tag("app:2")
    add(images, None, content=b"unnamed")
    gone = add(images, "gone:1", content=b"gone")
    gone.untag("gone:1")
    gone.remove()
    index = json.loads((store.root.images / "index.json").read_bytes())
    names = [
        item.get("annotations", {}).get("org.opencontainers.image.ref.name") for item in index["manifests"]
    ]
    assert sorted(names, key=str) == [None, "docker.io/library/app:1", "docker.io/library/app:2"]
    assert json.loads((store.root.images / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    copy = Images(image_host(Path(tempfile.mkdtemp(dir=roots))))
    copy.load(store.root.images)
    assert [(image.id, image.tags) for image in sorted(copy, key=lambda image: image.id)] == [
        (image.id, image.tags) for image in sorted(images, key=lambda image: image.id)
    ]


def test_prune_mends_an_index_that_a_crash_left_behind(images: Images, store: ImageStore) -> None:
    """Between the rename of index.json and the end of the transaction there is a moment."""
    add(images)
    index = store.root.images / "index.json"
    right = index.read_bytes()
    index.write_bytes(b"{}")
    images.prune()
    assert index.read_bytes() == right


# --- busybox --------------------------------------------------------------------------------------------


def test_busybox_is_made_when_it_is_asked_for(images: Images) -> None:
    """Once; `[]` does not make it."""
    with pytest.raises(ImageNotFoundError):
        images["busybox"]
    image = images.resolve("busybox")
    assert image.tags == ("busybox:latest",) and image.config.cmd == ("sh",)
    assert images.resolve("docker.io/library/busybox:latest") == images["busybox"] == image
    for key in ("busybox:1", "other", "0" * 64):
        with pytest.raises(ImageNotFoundError):
            images.resolve(key)


def test_busybox_is_the_same_wherever_it_is_made(images: Images, roots: Path) -> None:
    """Its bytes depend on the program alone."""
    other = Images(image_host(Path(tempfile.mkdtemp(dir=roots))))
    assert images.resolve("busybox").digest == other.resolve("busybox").digest


def test_another_image_may_be_called_busybox(images: Images) -> None:
    """The embedded one is made only where there is none."""
    image = add(images, "busybox")
    assert images.resolve("busybox") == image


def test_a_missing_or_dynamic_busybox_is_told_with_the_remedy(store: ImageStore, tmp_path: Path) -> None:
    """The package to install."""
    (tmp_path / "script").write_text("#!/bin/sh\n")
    for binary in (tmp_path / "none", tmp_path / "script", Path(os.path.realpath("/bin/ls"))):
        with pytest.raises(UnsupportedError) as caught:
            busybox.add_busybox(store, binary=binary)
        assert "busybox-static" in caught.value.remedy
