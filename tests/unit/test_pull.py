"""What a pull asks of a registry, what it takes, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Image, Images
from lxcwrap.errors import (
    ContentError,
    FormatError,
    ImageNotFoundError,
    InvalidSpecError,
    RegistryError,
    UnsupportedError,
)
from lxcwrap.oci import OCI_INDEX, OCI_MANIFEST, Platform
from lxcwrap.progress import ProgressEvent, TransferProgress
from tests.archives import Layout, compressed, config_of, descriptor, tar
from tests.published import for_platform, publish, publish_for_docker, publish_image
from tests.registries import FakeRegistry, be_nobody, fake_registry
from tests.unit.fakelayers import contents, image_host

BASE, TOP = tar({"base": b"1"}), tar({"top": b"2"})
HERE = Platform.host().architecture


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as registry:
        yield registry


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    be_nobody(monkeypatch, tmp_path)
    host = image_host(tmp_path / "root")
    (tmp_path / "root/registries.yaml").write_text("backoff_s: 0.001")
    return Images(host)


def requests(registry: FakeRegistry) -> list[str]:
    """What was asked since the last time."""
    seen = [f"{request.method} {request.target.partition('/app/')[2]}" for request in registry.seen]
    registry.seen.clear()
    return seen


# --- names ----------------------------------------------------------------------------------------------


def test_an_image_gets_the_name_it_was_pulled_by(registry: FakeRegistry, images: Images) -> None:
    """And its digest is that of the manifest in the registry."""
    digest = publish_image(registry, BASE, TOP)
    image = images.pull(f"{registry.name}/app:1")
    assert image.digest == digest
    assert image.tags == (f"{registry.name}/app:1",)
    assert image == images[f"{registry.name}/app:1"] == images[f"{registry.name}/app@{digest}"]


@pytest.mark.parametrize("tag", ["", ":1"])
def test_a_digest_says_which_image(registry: FakeRegistry, images: Images, tag: str) -> None:
    """The tag beside it becomes a name here, whatever it names there; what is here is not asked for again."""
    digest = publish_image(registry, BASE)
    publish_image(registry, TOP)
    image = images.pull(f"{registry.name}/app{tag}@{digest}")
    assert image.digest == digest
    assert image.tags == ((f"{registry.name}/app:1",) if tag else ())
    requests(registry)
    assert images.pull(f"{registry.name}/app{tag}@{digest}") == image
    assert requests(registry) == []


def test_an_unchanged_tag_costs_one_request(registry: FakeRegistry, images: Images) -> None:
    """Nothing is written, either."""
    publish_image(registry, BASE, TOP)
    image = images.pull(f"{registry.name}/app:1")
    requests(registry)
    before = (images._store.root.images / "index.json").stat().st_mtime_ns
    assert images.pull(f"{registry.name}/app:1") == image
    assert requests(registry) == ["GET manifests/1"]
    assert (images._store.root.images / "index.json").stat().st_mtime_ns == before


def test_a_changed_tag_moves(registry: FakeRegistry, images: Images) -> None:
    """The image that had it stays, without; the layer they share is not fetched again."""
    publish_image(registry, BASE)
    old = images.pull(f"{registry.name}/app:1")
    publish_image(registry, BASE, TOP)
    requests(registry)
    new = images.pull(f"{registry.name}/app:1")
    assert (old.tags, new.tags) == ((), (f"{registry.name}/app:1",))
    assert len([asked for asked in requests(registry) if asked.startswith("GET blobs/")]) == 2


def test_the_same_image_under_another_name_is_not_fetched(registry: FakeRegistry, images: Images) -> None:
    """The manifest is all that is asked for."""
    publish_image(registry, BASE)
    publish_image(registry, BASE, tag="2")
    image = images.pull(f"{registry.name}/app:1")
    requests(registry)
    assert images.pull(f"{registry.name}/app:2") == image
    assert requests(registry) == ["GET manifests/2"]
    assert len(image.tags) == 2


def test_the_same_image_compressed_in_another_way_is_not_fetched(
    registry: FakeRegistry, images: Images
) -> None:
    """It is found by both digests, and keeps the blobs it has."""
    first = publish_image(registry, BASE)
    second = publish_image(registry, BASE, tag="2", compression="zstd")
    image = images.pull(f"{registry.name}/app:1")
    requests(registry)
    assert images.pull(f"{registry.name}/app:2") == image
    assert requests(registry) == ["GET manifests/2"]
    assert image.digest == first
    assert images[f"app@{second}"] == image


def test_a_known_layer_in_other_compression_is_verified(registry: FakeRegistry, images: Images) -> None:
    """Its blob belongs to the new image, and what it unpacks to is what is here."""
    publish_image(registry, BASE)
    publish_image(registry, BASE, TOP, tag="2", compression="zstd")
    layout = Layout()
    lying = layout.image(TOP, TOP, config=config_of([BASE, tar({"other": b"3"})]))
    publish(registry, layout, lying, "3")
    images.pull(f"{registry.name}/app:1")
    assert len(images.pull(f"{registry.name}/app:2").layers) == 2
    before = contents(images._store)
    with pytest.raises(ContentError):
        images.pull(f"{registry.name}/app:3")
    assert contents(images._store) == before


@pytest.mark.parametrize("reference", ["app:none", "none:1"])
def test_an_image_the_registry_does_not_have(registry: FakeRegistry, images: Images, reference: str) -> None:
    """Is not found, and nothing is kept."""
    before = contents(images._store)
    with pytest.raises(ImageNotFoundError):
        images.pull(f"{registry.name}/{reference}")
    assert contents(images._store) == before


def test_a_name_is_looked_at_before_anything_is_done(images: Images) -> None:
    """As the platform is."""
    with pytest.raises(InvalidSpecError):
        images.pull("Not A Name")
    with pytest.raises(InvalidSpecError):
        images.pull("app", platform="no platform")


# --- platforms ------------------------------------------------------------------------------------------


def _for_two(registry: FakeRegistry) -> str:
    layout = Layout()
    attestation = {
        **layout.image(tar({"in-toto": b"{}"})),
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    index = layout.nested(
        attestation, for_platform(layout, "riscv64", BASE), for_platform(layout, HERE, BASE, TOP)
    )
    return publish(registry, layout, index, "1")


def test_of_several_platforms_that_of_this_machine_is_taken(registry: FakeRegistry, images: Images) -> None:
    """Or the one asked for."""
    _for_two(registry)
    assert images.pull(f"{registry.name}/app:1").config.architecture == HERE
    other = images.pull(f"{registry.name}/app:1", platform="linux/riscv64")
    assert other.config.architecture == "riscv64"
    assert images[f"{registry.name}/app:1"] == other


def test_the_digest_of_an_index_is_known_afterwards(registry: FakeRegistry, images: Images) -> None:
    """It finds the image, and pulling by it asks nobody; for another platform the registry is asked."""
    index = _for_two(registry)
    image = images.pull(f"{registry.name}/app:1")
    requests(registry)
    assert image.digest != index
    assert images[f"{registry.name}/app@{index}"] == image
    assert images.pull(f"{registry.name}/app@{index}") == image
    assert requests(registry) == []
    other = images.pull(f"{registry.name}/app@{index}", platform="linux/riscv64")
    assert other != image
    requests(registry)
    assert images.pull(f"{registry.name}/app@{index}") == image
    assert images.pull(f"{registry.name}/app@{index}", platform="linux/riscv64") == other
    assert requests(registry) == []


def test_an_unchanged_index_costs_one_request(registry: FakeRegistry, images: Images) -> None:
    """The manifest it leads to is here."""
    _for_two(registry)
    image = images.pull(f"{registry.name}/app:1")
    requests(registry)
    assert images.pull(f"{registry.name}/app:1") == image
    assert requests(registry) == ["GET manifests/1"]


@pytest.mark.parametrize("kind", ["index", "index of one", "image"])
def test_what_is_not_for_the_platform_is_not_taken(registry: FakeRegistry, images: Images, kind: str) -> None:
    """Whether an index says so or the config; no layer is fetched."""
    layout = Layout()
    riscv, s390 = for_platform(layout, "riscv64", BASE), for_platform(layout, "s390x", BASE)
    item = {"index": layout.nested(riscv, s390), "index of one": layout.nested(riscv), "image": riscv}[kind]
    publish(registry, layout, item, "1")
    before = contents(images._store)
    with pytest.raises(UnsupportedError):
        images.pull(f"{registry.name}/app:1", platform="linux/arm64")
    assert contents(images._store) == before
    assert len([asked for asked in requests(registry) if "blobs/" in asked]) <= 1  # the config


# --- what is taken, and what is not ---------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
def test_layers_may_be_compressed(registry: FakeRegistry, images: Images, compression: str) -> None:
    """Or not."""
    publish_image(registry, BASE, TOP, compression=compression)
    image = images.pull(f"{registry.name}/app:1")
    assert [(path / "archive").read_bytes() for path in image.lower_dirs] == [TOP, BASE]


def test_docker_s_types_are_taken(registry: FakeRegistry, images: Images) -> None:
    """The manifest is kept as it is."""
    digest = publish_for_docker(registry, BASE, "1")
    assert images.pull(f"{registry.name}/app:1").digest == digest


@pytest.mark.parametrize("media_type", ["", "application/json", "text/plain; charset=utf-8"])
def test_a_type_that_says_nothing_is_found_out(
    registry: FakeRegistry, images: Images, media_type: str
) -> None:
    """As some registries give none."""
    index = _for_two(registry)
    for name, (_, data) in list(registry.manifests.items()):
        registry.manifests[name] = media_type, data
    assert images[f"app@{index}" if images.pull(f"{registry.name}/app:1") else ""].config


def test_a_blob_in_two_places_is_fetched_once(registry: FakeRegistry, images: Images) -> None:
    """As empty layers are."""
    publish_image(registry, BASE, TOP, BASE)
    image = images.pull(f"{registry.name}/app:1")
    assert [(path / "archive").read_bytes() for path in image.lower_dirs] == [BASE, TOP, BASE]
    assert len([asked for asked in requests(registry) if "blobs/" in asked]) == 3


def _document(**members: object) -> bytes:
    return json.dumps({"schemaVersion": 2, **members}).encode()


SCHEMA_1 = json.dumps({"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": [], "history": []}).encode()
CONFIG = config_of([BASE])
BLOB = compressed(BASE, "gzip")
LAYER = descriptor(BLOB, "layer.v1.tar+gzip")
REFUSED = {
    "schema 1": (SCHEMA_1, "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    "schema 1 in disguise": (SCHEMA_1, OCI_MANIFEST),
    "another type": (_document(), "application/vnd.cncf.helm.config.v1+json"),
    "no JSON": (b"<html>", "text/html"),
    "no JSON at all": (b"<html>", OCI_MANIFEST),
    "no object": (b"[]", OCI_INDEX),
    "nothing": (b"", OCI_MANIFEST),
    "both": (
        _document(config=descriptor(CONFIG, "config.v1+json"), layers=[LAYER], manifests=[]),
        OCI_MANIFEST,
    ),
    "both, as index": (_document(layers=[LAYER], manifests=[LAYER]), OCI_INDEX),
    "empty index": (_document(manifests=[]), OCI_INDEX),
    "no layers": (_document(config=descriptor(CONFIG, "config.v1+json"), layers=[]), OCI_MANIFEST),
    "more layers": (
        _document(config=descriptor(CONFIG, "config.v1+json"), layers=[LAYER, LAYER]),
        OCI_MANIFEST,
    ),
    "a size that is not so": (
        _document(config=descriptor(CONFIG, "config.v1+json"), layers=[{**LAYER, "size": len(BLOB) - 1}]),
        OCI_MANIFEST,
    ),
    "a size beyond": (
        _document(config=descriptor(CONFIG, "config.v1+json"), layers=[{**LAYER, "size": len(BLOB) + 1}]),
        OCI_MANIFEST,
    ),
    "a huge config": (
        _document(config={**descriptor(CONFIG, "config.v1+json"), "size": 1 << 40}, layers=[LAYER]),
        OCI_MANIFEST,
    ),
    "an artifact": (_document(config=descriptor(CONFIG, "empty.v1+json"), layers=[LAYER]), OCI_MANIFEST),
    "unknown layers": (
        _document(
            config=descriptor(CONFIG, "config.v1+json"), layers=[descriptor(BLOB, "layer.v1.tar+rot13")]
        ),
        OCI_MANIFEST,
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_refused(registry: FakeRegistry, images: Images, kind: str) -> None:
    """And nothing is kept."""
    for blob in (CONFIG, BLOB):
        registry.add_blob(blob)
    data, media_type = REFUSED[kind]
    registry.add_manifest("1", data, media_type)
    before = contents(images._store)
    with pytest.raises((FormatError, RegistryError)):
        images.pull(f"{registry.name}/app:1")
    assert contents(images._store) == before


def test_indexes_within_indexes_come_to_an_end(registry: FakeRegistry, images: Images) -> None:
    """A few are followed."""
    layout = Layout()
    item = layout.image(BASE)
    for depth in range(6):
        publish(registry, layout, item, str(depth))
        item = layout.nested(item)
    assert images.pull(f"{registry.name}/app:3")
    with pytest.raises(FormatError):
        images.pull(f"{registry.name}/app:5")


def test_other_places_that_a_manifest_names_are_not_visited(registry: FakeRegistry, images: Images) -> None:
    """The registry itself has the layer, or nobody."""
    layout = Layout()
    manifest = {
        "schemaVersion": 2,
        "config": descriptor(layout.blob(CONFIG), "config.v1+json"),
        "layers": [
            {
                **descriptor(BLOB, "layer.nondistributable.v1.tar+gzip"),
                "urls": [f"{registry.url}/elsewhere"],
            }
        ],
    }
    publish(registry, layout, layout.manifest(manifest), "1")
    with pytest.raises(ImageNotFoundError):
        images.pull(f"{registry.name}/app:1")
    assert not any("elsewhere" in request.target for request in registry.seen)
    registry.add_blob(BLOB)
    assert images.pull(f"{registry.name}/app:1")


# --- progress -------------------------------------------------------------------------------------------


def _phases(events: list[ProgressEvent]) -> dict[str, list[str]]:
    phases: dict[str, list[str]] = {}
    for event in events:
        assert isinstance(event, TransferProgress) and event.operation == "pull"
        assert event.total_bytes is not None and event.done_bytes <= event.total_bytes
        phases.setdefault(event.item, []).append(event.phase)
    return phases


def test_a_pull_tells_how_far_each_layer_is(registry: FakeRegistry, images: Images) -> None:
    """By the digest of its blob; those that are here, too."""
    publish_image(registry, BASE)
    publish_image(registry, BASE, TOP, tag="2")
    events: list[ProgressEvent] = []
    images.pull(f"{registry.name}/app:1", progress=events.append)
    (phases,) = _phases(events).values()
    assert phases == ["transferring", "done"]
    events.clear()
    images.pull(f"{registry.name}/app:2", progress=events.append)
    assert sorted(_phases(events).values()) == [["present"], ["transferring", "done"]]


def test_what_the_listener_raises_ends_the_pull(registry: FakeRegistry, images: Images) -> None:
    """And nothing is kept."""

    def complain(event: ProgressEvent) -> None:
        raise ZeroDivisionError

    publish_image(registry, BASE, TOP)
    before = contents(images._store)
    with pytest.raises(ZeroDivisionError):
        images.pull(f"{registry.name}/app:1", progress=complain)
    assert contents(images._store) == before


def test_a_removed_image_is_pulled_again(registry: FakeRegistry, images: Images) -> None:
    """What is remembered of it goes with it."""
    digest = publish_image(registry, BASE)
    image: Image = images.pull(f"{registry.name}/app:1")
    image.remove()
    assert contents(images._store)["blobs"] == []
    assert images.pull(f"{registry.name}/app@{digest}").digest == digest
