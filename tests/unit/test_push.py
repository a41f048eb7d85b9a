"""What a push sends to a registry, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Images
from lxcwrap.errors import ImageNotFoundError, InvalidSpecError, RegistryError
from lxcwrap.oci import digest_of
from lxcwrap.progress import ProgressEvent, TransferProgress
from tests.archives import oci_layout, tar
from tests.published import publish_for_docker, publish_image
from tests.registries import Exchange, FakeRegistry, be_nobody, fake_registry
from tests.unit.fakelayers import image_host

BASE, TOP = tar({"base": b"1"}), tar({"top": b"2"})


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as registry:
        yield registry


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    be_nobody(monkeypatch, tmp_path)
    host = image_host(tmp_path / "root")
    (tmp_path / "root/registries.yaml").write_text("backoff_s: 0.001")
    images = Images(host)
    (tmp_path / "app.tar").write_bytes(oci_layout(BASE, TOP, BASE, compression="gzip").tar())
    images.load(tmp_path / "app.tar")
    return images


def phases(events: list[ProgressEvent]) -> list[str]:
    """How each blob got there."""
    last: dict[str, str] = {}
    for event in events:
        assert isinstance(event, TransferProgress) and event.operation == "push"
        last[event.item] = event.phase
    return sorted(last.values())


def test_all_of_an_image_is_sent_and_its_manifest_last(registry: FakeRegistry, images: Images) -> None:
    """Each blob once."""
    image = images["app:1"]
    digest = images.push("app:1", f"{registry.name}/app:2")
    assert digest == image.digest == digest_of(registry.manifests["2"][1])
    manifest = images._store.manifest(image.id)
    assert set(registry.blobs) == {manifest.config.digest, *(layer.digest for layer in manifest.layers)}
    changes = [request for request in registry.seen if request.method in ("PUT", "PATCH")]
    assert "manifests/2" in changes[-1].target
    assert len(changes) == 4


def test_a_second_push_sends_the_manifest_alone(registry: FakeRegistry, images: Images) -> None:
    """The registry is asked for the rest."""
    images.push("app:1", f"{registry.name}/app:1")
    registry.seen.clear()
    events: list[ProgressEvent] = []
    images.push("app:1", f"{registry.name}/app:1", progress=events.append)
    assert phases(events) == ["present"] * 3
    assert [request.method for request in registry.seen if request.method != "HEAD"] == ["PUT"]


def test_progress_tells_how_far_each_blob_is(registry: FakeRegistry, images: Images) -> None:
    """Layers and config."""
    events: list[ProgressEvent] = []
    images.push("app:1", f"{registry.name}/app:1", progress=events.append)
    assert phases(events) == ["done"] * 3


def test_a_layer_is_taken_over_from_where_it_was_pulled(registry: FakeRegistry, images: Images) -> None:
    """If it is the same registry; one that does not give it gets it sent."""
    publish_image(registry, BASE)
    images.pull(f"{registry.name}/base:1")

    def mount(exchange: Exchange) -> None:
        exchange.reply(201)

    registry.blobs.clear()
    registry.misbehave(mount, method="POST", path="app/blobs/uploads", times=1)
    image = images[f"{registry.name}/base:1"]
    events: list[ProgressEvent] = []
    images.push(image, f"{registry.name}/app:1", progress=events.append)
    assert phases(events) == ["done", "mounted"]
    (asked,) = [request.target for request in registry.seen if "mount=" in request.target]
    assert "from=base" in asked
    registry.blobs.clear()
    images.push(image, f"{registry.name}/other:1")
    assert len(registry.blobs) == 2


def test_a_push_remembers_where_it_went(registry: FakeRegistry, images: Images) -> None:
    """The next one, to another repository, takes its layers from there."""
    images.push("app:1", f"{registry.name}/one:1")
    registry.blobs.clear()
    registry.seen.clear()
    images.push("app:1", f"{registry.name}/two:1")
    assert all("from=one" in request.target for request in registry.seen if "mount=" in request.target)
    assert len([request for request in registry.seen if "mount=" in request.target]) == 2


def test_a_manifest_of_docker_s_goes_as_it_came(registry: FakeRegistry, images: Images) -> None:
    """Type and digest."""
    digest = publish_for_docker(registry, BASE, "1")
    image = images.pull(f"{registry.name}/app:1")
    sent = dict(registry.manifests)
    registry.manifests.clear()
    assert image.push(f"{registry.name}/app:2") == digest
    assert registry.manifests["2"] == sent["1"]


def test_without_a_name_its_only_one_is_taken(registry: FakeRegistry, images: Images) -> None:
    """Or that by which it was named; of several none is taken by itself."""
    image = images["app:1"]
    image.tag(f"{registry.name}/app:1")
    image.untag("app:1")
    image.push()
    assert "1" in registry.manifests
    image.tag(f"{registry.name}/app:2")
    with pytest.raises(InvalidSpecError):
        images.push(image)
    images.push(f"{registry.name}/app:2")
    assert "2" in registry.manifests


def test_a_digest_is_no_place_to_push_to(registry: FakeRegistry, images: Images) -> None:
    """Nothing is sent."""
    with pytest.raises(InvalidSpecError):
        images.push("app:1", f"{registry.name}/app@sha256:{'0' * 64}")
    with pytest.raises(ImageNotFoundError):
        images.push("nothing:1", f"{registry.name}/app:1")
    assert registry.seen == []


def test_a_refused_blob_ends_the_push(registry: FakeRegistry, images: Images) -> None:
    """No manifest is sent then."""
    registry.misbehave(lambda exchange: exchange.refuse(403, "DENIED"), method="POST")
    with pytest.raises(RegistryError):
        images.push("app:1", f"{registry.name}/app:1")
    assert registry.manifests == {}


def test_what_the_listener_raises_ends_the_push(registry: FakeRegistry, images: Images) -> None:
    """No manifest is sent then."""

    def complain(event: ProgressEvent) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        images.push("app:1", f"{registry.name}/app:1", progress=complain)
    assert registry.manifests == {}


def test_a_busy_registry_is_asked_again(registry: FakeRegistry, images: Images) -> None:
    """As often as it takes, within reason."""
    registry.misbehave(lambda exchange: exchange.refuse(429, "TOOMANYREQUESTS"), times=4)
    assert images.push("app:1", f"{registry.name}/app:1") == images["app:1"].digest
