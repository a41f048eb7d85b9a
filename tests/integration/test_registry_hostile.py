"""Registries that lie, break off or stall, and pulls that are interrupted or killed: nothing half is kept."""

from __future__ import annotations

import _thread
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Images
from lxcwrap.errors import ContentError, DigestMismatchError, FormatError, RegistryError
from lxcwrap.oci import MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST, digest_of
from tests.archives import Layout, compressed, config_of, tar
from tests.polling import eventually
from tests.published import publish
from tests.registries import Exchange, FakeRegistry, be_nobody, fake_registry
from tests.unit.fakelayers import contents

LAYERS = [tar({f"dir{number}/file": os.urandom(3 << 20)}) for number in range(4)]


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with fake_registry() as registry:
        yield registry


@pytest.fixture
def images(fresh_host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Images:
    be_nobody(monkeypatch, tmp_path)
    (fresh_host.root / "registries.yaml").write_text("backoff_s: 0.001")
    return fresh_host.images


def drafts(images: Images) -> list[str]:
    """What is in the directory of layers and is none."""
    return [path.name for path in images._store.root.layers.iterdir() if path.name.startswith(".")]


def refused(images: Images, registry: FakeRegistry, kind: type[Exception]) -> None:
    before = contents(images._store)
    with pytest.raises(kind):
        images.pull(f"{registry.name}/app:1")
    assert contents(images._store) == before
    assert drafts(images) == []


def published(registry: FakeRegistry, *layers: bytes) -> list[str]:
    """An image; the digests of its blobs."""
    layout = Layout()
    publish(registry, layout, layout.image(*layers, compression="gzip"), "1")
    return [digest_of(compressed(layer, "gzip")) for layer in layers]


# --- lies -----------------------------------------------------------------------------------------------


def test_a_blob_with_another_digest_is_refused(registry: FakeRegistry, images: Images) -> None:
    """Though it is a layer, of the same size, and the others are right."""
    digests = published(registry, *LAYERS)
    data = registry.blobs[digests[2]]
    registry.blobs[digests[2]] = data[:4] + b"\1" + data[5:]  # the time in gzip's header: the same content
    refused(images, registry, DigestMismatchError)


def test_a_config_that_lies_about_content_is_refused(registry: FakeRegistry, images: Images) -> None:
    """What a layer unpacks to is not what the config says."""
    layout = Layout()
    item = layout.image(*LAYERS, compression="gzip", config=config_of([*LAYERS[:3], tar({"other": b""})]))
    publish(registry, layout, item, "1")
    refused(images, registry, DigestMismatchError)


def test_another_config_or_manifest_is_refused(registry: FakeRegistry, images: Images) -> None:
    """Than the one whose digest was asked for."""
    layout = Layout()
    item = layout.image(LAYERS[0])
    other = config_of([LAYERS[0]], Cmd=["evil"])
    index = layout.nested(item)
    publish(registry, layout, index, "1")
    config = digest_of(config_of([LAYERS[0]]))
    right = registry.blobs[config]
    registry.blobs[config] = other[: len(right)]
    refused(images, registry, ContentError)
    registry.blobs[config] = right
    registry.manifests[str(item["digest"])] = OCI_MANIFEST, b'{"schemaVersion":2}'
    refused(images, registry, DigestMismatchError)


def test_a_link_out_of_the_layer_stays_inside(registry: FakeRegistry, images: Images) -> None:
    """As in archives: refused, and the layers that were right are not kept, either."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../out"))
    published(registry, *LAYERS[:2], stream.getvalue())
    refused(images, registry, FormatError)


# --- without end ----------------------------------------------------------------------------------------


def _endless(exchange: Exchange) -> None:
    exchange.begin(200, None)
    while True:
        exchange.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize("path", ["/blobs/", "/manifests/"])
def test_an_answer_without_end_is_cut_off(registry: FakeRegistry, images: Images, path: str) -> None:
    """At what was announced, or at the most that a document may have."""
    published(registry, LAYERS[0])
    registry.misbehave(_endless, path=path)
    refused(images, registry, FormatError)


def test_a_huge_manifest_is_refused(registry: FakeRegistry, images: Images) -> None:
    """Before it is looked at."""
    registry.add_manifest("1", b" " * (MAX_DOCUMENT + 1), OCI_INDEX)
    refused(images, registry, FormatError)


def test_a_layer_that_expands_without_end_is_refused(registry: FakeRegistry, images: Images) -> None:
    """At the most that a layer may have."""
    images._store.layers._max_bytes = 1 << 20
    published(registry, tar({"zeros": bytes(4 << 20)}))
    refused(images, registry, FormatError)


# --- broken off -----------------------------------------------------------------------------------------


def _cut(blobs: dict[str, bytes], at: int) -> Callable[[Exchange], None]:
    """Announce all of a blob from where it was asked for, and send only some of it."""

    def cut(exchange: Exchange) -> None:
        data = blobs[exchange.path.rpartition("/")[2]]
        begin = int(exchange.headers.get("Range", "bytes=0-")[6:-1])
        place = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
        exchange.begin(206 if begin else 200, len(data) - begin, **place)
        exchange.wfile.write(data[begin : begin + at])
        exchange.hang_up()

    return cut


def test_a_broken_download_goes_on_where_it_ended(registry: FakeRegistry, images: Images) -> None:
    """Each byte is fetched once."""
    digests = published(registry, *LAYERS)
    registry.misbehave(_cut(registry.blobs, 1 << 20), path="/blobs/sha256", times=9)
    image = images.pull(f"{registry.name}/app:1")
    assert [path.stat().st_size for directory in image.lower_dirs for path in directory.glob("*/file")] == [
        3 << 20
    ] * 4
    assert any(request.range for request in registry.seen)
    assert all(images._store.blobs.has(digest) for digest in digests)


def test_a_download_that_never_gets_further_is_given_up(registry: FakeRegistry, images: Images) -> None:
    """After a few times."""
    published(registry, *LAYERS)
    registry.misbehave(_cut(registry.blobs, 0), path="/blobs/sha256")
    refused(images, registry, RegistryError)


def test_a_registry_that_wants_to_be_left_alone_for_a_moment_is(
    registry: FakeRegistry, images: Images
) -> None:
    """And gives everything afterwards."""
    published(registry, *LAYERS)
    registry.misbehave(lambda exchange: exchange.refuse(429, "TOOMANYREQUESTS"), times=5)
    assert len(images.pull(f"{registry.name}/app:1").lower_dirs) == 4


# --- interrupted and killed -----------------------------------------------------------------------------


def _stall(arrived: threading.Event) -> Callable[[Exchange], None]:
    """Announce much, send some, and then nothing."""

    def stall(exchange: Exchange) -> None:
        exchange.begin(200, 3 << 20)
        exchange.wfile.write(b"\x1f\x8b" + bytes(98))
        exchange.wfile.flush()
        arrived.set()
        exchange.rfile.read(1)  # until the other side hangs up

    return stall


def test_an_interrupted_pull_ends_at_once(registry: FakeRegistry, images: Images) -> None:
    """Though the registry has fallen silent; no thread is left, and nothing is kept."""
    published(registry, *LAYERS)
    arrived = threading.Event()
    registry.misbehave(_stall(arrived), path=published(registry, *LAYERS)[1])

    def interrupt() -> None:
        arrived.wait(10)
        _thread.interrupt_main()

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    before = contents(images._store)
    with pytest.raises(KeyboardInterrupt):
        images.pull(f"{registry.name}/app:1")
    began = time.monotonic()
    interrupter.join()
    assert time.monotonic() - began < 1
    assert contents(images._store) == before
    assert drafts(images) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lxcwrap")]


def test_a_failed_layer_ends_the_others_at_once(registry: FakeRegistry, images: Images) -> None:
    """Though the registry has fallen silent on one of them."""
    digests = published(registry, *LAYERS)
    arrived = threading.Event()

    def lie(exchange: Exchange) -> None:
        arrived.wait(10)
        exchange.reply(200, b"lie")

    registry.misbehave(_stall(arrived), path=digests[0])
    registry.misbehave(lie, path=digests[1])
    began = time.monotonic()
    refused(images, registry, ContentError)
    assert time.monotonic() - began < 5


_PULL = """
import sys
from lxcwrap import Host
with Host(sys.argv[1]) as host:
    print("ready", flush=True)
    print(host.images.pull(sys.argv[2]).id)
"""


def puller(root: Path, reference: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _PULL, str(root), reference],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_a_pull_may_be_killed_at_any_moment(registry: FakeRegistry, images: Images) -> None:
    """What it leaves is collected by the next one, which succeeds."""
    published(registry, *(tar({f"{n}/{file}": b"x" * 999 for file in range(400)}) for n in range(6)))
    name = f"{registry.name}/app:1"
    for turn in range(10):
        process = puller(images._store.root.path, name)
        time.sleep(0.03 * turn)
        process.kill()
        process.communicate()
        assert all(path.is_dir() for image in images for path in image.lower_dirs)
    image = images.pull(name)
    assert sum(1 for path in image.lower_dirs for _ in path.rglob("*") if _.is_file()) == 2400
    image.remove()
    images.prune()
    assert contents(images._store)["blobs"] == contents(images._store)["layers"] == drafts(images) == []


def test_of_two_that_pull_the_same_one_may_be_killed(registry: FakeRegistry, images: Images) -> None:
    """The other has the image then, and all of it."""
    digests = published(registry, *LAYERS)
    gate = threading.Event()

    def wait(exchange: Exchange) -> None:
        gate.wait(20)
        exchange.reply(200, registry.blobs[digests[1]])

    registry.misbehave(wait, path=digests[1])
    name = f"{registry.name}/app:1"
    first, second = puller(images._store.root.path, name), puller(images._store.root.path, name)
    eventually(lambda: [digests[1] in request.target for request in registry.seen].count(True) == 2)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    gate.set()
    said, complaint = second.communicate(timeout=30)
    assert (second.returncode, complaint) == (0, "")
    image = images[said.strip()]
    assert len(list(image.lower_dirs)) == 4 and all(path.is_dir() for path in image.lower_dirs)
    assert images.prune() == []
    assert drafts(images) == []
    assert sorted(contents(images._store)["blobs"]) == sorted({image.id, image.digest, *map(str, digests)})
