"""What is taken away, what it took up, and that kill -9 at any line of that leaves a sound store."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Image
from lxcwrap.check import Item, Status
from lxcwrap.check import _images as check_images
from lxcwrap.storage.layerwriter import read_tree
from lxcwrap.storage.packing import pack_layer
from tests import faults
from tests.unit.fakelayers import contents

# Every how many lines one is struck. 1 tries them all.
STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "89"))


@pytest.fixture
def written(fresh_host: Host) -> Container:
    """A container that has written something, and does not run."""
    container = fresh_host.containers.create("busybox", ["true"])
    (container.path("/srv/file")).write_text("new")
    return container


def images_item(host: Host) -> Item:
    return check_images(host.root)


def add_build_step(host: Host, directory: Path, key: str, used_at: float, size: int) -> None:
    """What a build keeps: a layer that no image names."""
    store = host.images._store
    (directory / key).mkdir()
    (directory / key / "file").write_bytes(os.urandom(size))
    with store.adding():
        layer = pack_layer(store.blobs, read_tree(directory / key))
        store.layers.unpack(
            layer.diff_id, store.blobs.path(layer.digest), diff_id=layer.diff_id, blob_digest=layer.digest
        )
        with store.state.transaction() as change:
            change.execute(
                "INSERT INTO build_cache VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    layer.diff_id,
                    layer.diff_id,
                    layer.digest,
                    layer.size,
                    layer.media_type,
                    used_at,
                    used_at,
                ),
            )


# --- prune ----------------------------------------------------------------------------------------------


def test_images_without_names_go(written: Container, fresh_host: Host) -> None:
    """With all that only they had; those with a name too, if asked for; never those with containers."""
    images = fresh_host.images
    unnamed, named = written.commit(message="1"), written.commit("named:1", message="2")
    assert images.prune() == [unnamed.id]
    assert (unnamed in images, named in images) == (False, True)
    assert images.prune(all=True) == [named.id]
    assert [image.tags for image in images] == [("busybox:latest",)]
    assert images_item(fresh_host).status is Status.OK
    before = len(contents(images._store)["blobs"])
    written.remove()
    pruned = fresh_host.prune(all_images=True)
    assert len(pruned.images) == 1 and pruned.freed > 1 << 20
    assert (before, contents(images._store)["blobs"]) == (3, [])


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, {"new", "mid", "old"}),
        ({"build_cache_older_than_s": 1000}, {"new", "mid"}),
        ({"build_cache_keep": "1MiB"}, {"new"}),
        ({"build_cache_keep": "1MiB", "build_cache_older_than_s": 1}, set()),
        ({"build_cache_keep": 0}, set()),
    ],
)
def test_the_build_cache_goes_by_age_and_size(
    fresh_host: Host, tmp_path: Path, options: dict[str, object], kept: set[str]
) -> None:
    """What was of use last stays, as far as it fits; directories of cache mounts are part of it."""
    for name, age_s in (("new", 100), ("mid", 200), ("old", 2000)):
        add_build_step(fresh_host, tmp_path, name, time.time() - age_s, 300_000)
    mount = fresh_host.root / "cache/mounts/abc"
    mount.mkdir(parents=True)
    (mount / "file").write_bytes(bytes(1000))
    os.utime(mount, (time.time() - 3000,) * 2)
    used = fresh_host.disk_usage().build_cache
    assert 1_800_000 < used < 2_200_000  # three blobs, three layers
    pruned = fresh_host.prune(**options)  # type: ignore[arg-type]
    rows = fresh_host.images._store.state.connection.execute("SELECT key FROM build_cache")
    assert {row[0] for row in rows} == kept
    assert mount.exists() == (not options)
    assert pruned.build_steps == (4 - len(kept) if options else 0)
    assert len(contents(fresh_host.images._store)["layers"]) == len(kept)
    left = fresh_host.disk_usage().build_cache
    assert abs(used - left - pruned.freed) < 100_000
    assert images_item(fresh_host).status is Status.OK


def test_a_layer_of_an_image_is_no_build_cache(fresh_host: Host) -> None:
    """It takes nothing up there, and stays when the row goes."""
    image = fresh_host.images.resolve("busybox")
    store = image._store
    (layer,), (chain,) = store.manifest(image.id).layers, image.layers
    with store.state.transaction() as change:
        change.execute(
            "INSERT INTO build_cache VALUES ('key', ?, ?, ?, ?, ?, 1, 1)",
            (chain, chain, layer.digest, layer.size, layer.media_type),
        )
    assert fresh_host.disk_usage().build_cache == 0
    assert fresh_host.prune(build_cache_keep=0).build_steps == 1
    assert fresh_host.containers.run("busybox", ["echo", "there"]).stdout == "there\n"


def test_programs_of_former_versions_go(fresh_host: Host) -> None:
    """Unless a container needs them."""
    cache = fresh_host.root / "cache"
    with fresh_host.containers.launch("busybox", ["sleep", "1000"]) as container:
        now = set(os.listdir(cache))
        (cache / "init-1-2-seccomp-abc").mkdir()
        (cache / "seccomp-abc.bpf").touch()
        plan = fresh_host.root / "containers" / container.id / "plan.json"
        text = plan.read_text()
        plan.write_text(text.replace('"config"', '"was": "cache/init-1-2-seccomp-abc", "config"'))
        fresh_host.prune()
        assert set(os.listdir(cache)) == now | {"init-1-2-seccomp-abc", "seccomp-abc.bpf"}
        plan.write_text(text)
        fresh_host.prune()
        assert set(os.listdir(cache)) == now
        assert container.exec(["echo", "runs"]).stdout == "runs\n"


# --- disk usage -----------------------------------------------------------------------------------------


def test_usage_is_what_du_says(written: Container, fresh_host: Host, tmp_path: Path) -> None:
    """Of every kind, in blocks, with several names once."""
    fresh_host.containers.run("busybox", sh="echo logged; exit 3", check=False)
    written.path("/srv/large").write_bytes(os.urandom(1 << 20))
    image = written.commit()
    add_build_step(fresh_host, tmp_path, "key", 0.0, 100_000)
    (fresh_host.root / "volumes/x").mkdir()
    (fresh_host.root / "volumes/x/file").write_bytes(bytes(50_000))
    (fresh_host.root / "trash/x").write_bytes(bytes(10_000))
    usage = fresh_host.disk_usage()
    du = subprocess.run(["du", "-s", "-B1", fresh_host.root], capture_output=True, text=True, check=True)
    assert usage.total == int(du.stdout.split()[0])
    assert usage.containers >= 1 << 20 and usage.volumes >= 50_000 and usage.trash >= 10_000
    assert usage.layers >= 1_900_000 and usage.build_cache >= 200_000
    busybox = fresh_host.images["busybox"]
    by_id = {each.id: each for each in usage.images}
    assert by_id.keys() == {image.id, busybox.id}
    assert by_id[image.id].blobs - by_id[image.id].unique >= 1_900_000  # the layer of busybox
    assert 1 << 20 <= by_id[image.id].unique < 1_200_000
    assert (by_id[busybox.id].containers, by_id[busybox.id].tags) == (1, ("busybox:latest",))
    assert usage.blobs == by_id[image.id].blobs + by_id[busybox.id].unique
    assert "total" in str(usage)


# --- check ----------------------------------------------------------------------------------------------


def _blob_of_layer(image: Image) -> Path:
    return image._store.blobs.path(image._store.manifest(image.id).layers[0].digest)


DAMAGE: dict[str, tuple[Callable[[Image], object], Status]] = {
    "a lost layer": (lambda image: _blob_of_layer(image).unlink(), Status.MISSING),
    "a cut layer": (lambda image: os.truncate(_blob_of_layer(image), 99), Status.MISSING),
    "a lost config": (lambda image: image._store.blobs.remove(image.id), Status.MISSING),
    "a strange blob": (lambda image: image._store.blobs.put_bytes(b"?"), Status.DEGRADED),
    "a strange layer": (
        lambda image: image._store.layers.path("sha256:" + 64 * "0").mkdir(),
        Status.DEGRADED,
    ),
    "no index": (lambda image: (image._store.root.images / "index.json").unlink(), Status.DEGRADED),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_and_can_be_mended(fresh_host: Host, damage: str) -> None:
    """The remedy, done as it is written, is enough."""
    image = fresh_host.images.resolve("busybox")
    assert images_item(fresh_host).status is Status.OK
    act, status = DAMAGE[damage]
    act(image)
    found = images_item(fresh_host)
    assert found.status is status and found.remedy
    exec(found.remedy.partition(", and")[0], {"host": fresh_host})
    assert images_item(fresh_host).status is Status.OK
    assert fresh_host.containers.run("busybox", ["echo", "well"]).stdout == "well\n"


# --- kill -9 --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim(roots: Path) -> Iterator[Host]:
    """A host of this module's own, with a container that does not run and two images of it."""
    with faults.known_ids(), Host(roots / "tidy") as host:
        container = host.containers.create("busybox", ["true"], name="written")
        container.path("/srv/file").write_text("new")
        assert container.commit("first:1").lower_dirs  # unpacked now, and not by a test
        container.path("/srv/file").write_text("newer")
        with Host(host.root), Host(host.root):  # SQLite keeps descriptors it closed for the next time
            pass
        host._machinery.supervisor.stop()
        yield host
        container.remove()
        host.close(stop_server=True)


def _committed(host: Host) -> None:
    host.containers["written"].commit("made:1")


def _pruned(host: Host) -> None:
    host.images["made:1"].untag("made:1")
    host.prune(build_cache_keep=0)


KILLED: dict[str, tuple[Callable[[Host], object], Callable[[Host], object]]] = {
    "commit": (lambda host: None, _committed),
    "squash": (lambda host: None, lambda host: host.images["first:1"].squash("made:1")),
    "remove": (_committed, lambda host: host.images["made:1"].remove()),
    "prune": (_committed, _pruned),
}


@pytest.mark.parametrize("operation", KILLED)
def test_it_may_be_killed_at_any_line(victim: Host, operation: str) -> None:
    """The next host makes the store sound; doing it again succeeds."""
    prepare, act = KILLED[operation]
    n = 1
    while True:
        prepare(victim)
        with Host(victim.root) as other:
            was_struck = faults.killed_at(n, lambda: act(other))
        faults.assert_clean(victim.root)
        found = images_item(victim)
        assert found.status is Status.OK, f"line {n}: {found.detail}"
        assert list((victim.root / "run").glob("images.[!l]*")) == []
        prepare(victim)
        act(victim)
        victim.images.prune()
        if "made:1" in victim.images:
            victim.images.remove("made:1")
        if not was_struck:
            break
        n += STRIDE
    print(f"{operation}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s
