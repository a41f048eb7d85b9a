"""Images to and from Debian's docker-registry, where other tools give and take them, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host, Image, Images
from lxcwrap.errors import RegistryAuthError
from lxcwrap.progress import ProgressEvent, TransferProgress
from lxcwrap.registry.credentials import Credentials
from lxcwrap.storage.audit import audit
from tests import faults
from tests.archives import Layout, config_of, tar
from tests.published import for_platform
from tests.registries import PASSWORD, USER, be_nobody, docker_registry
from tests.unit.fakelayers import contents

STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "89"))
BASE, TOP = tar({"etc/base": b"1", "bin/sh": b"#!"}), tar({"etc/.wh.base": b"", "etc/top": b"2"})


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as name:
        yield name


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_nobody(monkeypatch, tmp_path)


@pytest.fixture
def images(fresh_host: Host) -> Images:
    return fresh_host.images


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """An image of two layers that is named app:1, in a directory."""
    made = Layout()
    made.name(made.image(BASE, TOP, compression="gzip", config=config_of([BASE, TOP], Cmd=["sh"])), "app:1")
    return made.write(tmp_path / "layout")


def tool(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def skopeo_copy(source: str, destination: str, *options: str) -> None:
    untested = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    tool("skopeo", "--insecure-policy", "copy", *untested, *options, source, destination)


def phases(events: list[ProgressEvent]) -> list[str]:
    """How each blob came or went."""
    last = {event.item: event.phase for event in events if isinstance(event, TransferProgress)}
    return sorted(last.values())


# --- others' images -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ("--format=oci",),
        ("--format=v2s2",),
        ("--format=oci", "--dest-compress-format=zstd", "--dest-decompress"),
        ("--format=oci", "--dest-compress-format=zstd"),
        ("--format=v2s2", "--dest-decompress"),
    ],
    ids=" ".join,
)
def test_an_image_pushed_by_skopeo_is_pulled(
    registry: str, images: Images, layout: Path, options: tuple[str, ...]
) -> None:
    """With the digest that it has there, and the same files as when loaded."""
    skopeo_copy(f"oci:{layout}:app:1", f"docker://{registry}/skopeo:1", *options)
    image = images.pull(f"{registry}/skopeo:1")
    said = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/skopeo:1"))
    assert image.digest == said["Digest"]
    top, base = image.lower_dirs
    assert (top / "etc/top").read_text() + (base / "etc/base").read_text() == "21"
    assert (top / "etc/base").is_char_device()
    assert images.load(layout)[0].layers == image.layers


def test_of_an_index_each_gets_what_runs_on_it(registry: str, images: Images, tmp_path: Path) -> None:
    """The registry's digest of the index is known afterwards."""
    layout = Layout()
    here, other = for_platform(layout, "amd64", BASE), for_platform(layout, "s390x", BASE, TOP)
    index = layout.nested(here, other)
    layout.name(index, "multi:1")
    skopeo_copy(f"oci:{layout.write(tmp_path / 'multi')}:multi:1", f"docker://{registry}/multi:1", "--all")
    for platform, item in (("linux/amd64", here), ("linux/s390x", other)):
        image = images.pull(f"{registry}/multi:1", platform=platform)
        assert image.digest == item["digest"]
        assert images.pull(f"{registry}/multi@{index['digest']}", platform=platform) == image


# --- our images, and others -----------------------------------------------------------------------------


@pytest.fixture
def pushed(registry: str, images: Images, layout: Path) -> Image:
    (image,) = images.load(layout)
    assert image.push(f"{registry}/ours:1") == image.digest
    return image


def test_skopeo_finds_a_pushed_image_as_it_was(registry: str, pushed: Image, tmp_path: Path) -> None:
    """By tag and by digest, and copies it with all its blobs."""
    said = json.loads(tool("skopeo", "inspect", "--tls-verify=false", f"docker://{registry}/ours:1"))
    assert said["Digest"] == pushed.digest
    assert len(said["Layers"]) == 2
    skopeo_copy(f"docker://{registry}/ours@{pushed.digest}", f"oci:{tmp_path / 'copy'}:app:1")
    (copied,) = Images(pushed._host).load(tmp_path / "copy")
    assert copied == pushed


@pytest.mark.parametrize("name", ["podman", "buildah"])
def test_others_pull_a_pushed_image(registry: str, pushed: Image, name: str) -> None:
    """Its id is the same with them."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as scratch:
        options = [name, f"--root={scratch}/root", f"--runroot={scratch}/run", "--storage-driver=vfs"]
        tool(*options, "pull", "--tls-verify=false", f"{registry}/ours:1")
        assert tool(*options, "images", "--quiet", "--no-trunc").strip() == pushed.id


def test_what_was_pushed_is_pulled_elsewhere_and_runs(registry: str, host: Host, fresh_host: Host) -> None:
    """Another machine gets the same image."""
    busybox = host.images.resolve("busybox")
    digest = busybox.push(f"{registry}/busybox:1")
    image = fresh_host.images.pull(f"{registry}/busybox@{digest}")
    assert image.id == busybox.id and image.digest == digest
    assert fresh_host.containers.run(image, ["echo", "pulled"]).stdout == "pulled\n"


def test_a_layer_that_the_registry_has_elsewhere_is_not_sent(
    registry: str, images: Images, pushed: Image, tmp_path: Path
) -> None:
    """It is mounted from where an image with it was pushed to; what is there already stays."""
    layout = Layout()
    further = tar({"further": b"3"})
    layout.name(layout.image(BASE, TOP, further, compression="gzip"), "further:1")
    (image,) = images.load(layout.write(tmp_path / "further"))
    events: list[ProgressEvent] = []
    image.push(f"{registry}/further:1", progress=events.append)
    assert phases(events) == ["done", "done", "mounted", "mounted"]
    events.clear()
    image.push(f"{registry}/further:1", progress=events.append)
    assert phases(events) == ["present"] * 4
    assert images.pull(f"{registry}/further@{image.digest}") == image


def test_only_who_may_gets_in(images: Images, layout: Path, tmp_path: Path) -> None:
    """With credentials given, or without."""
    images.load(layout)
    who = Credentials(username=USER, password=PASSWORD)
    with docker_registry(tmp_path / "private", log_in=True) as registry:
        with pytest.raises(RegistryAuthError):
            images.push("app:1", f"{registry}/app:1")
        digest = images.push("app:1", f"{registry}/app:1", credentials=who)
        with pytest.raises(RegistryAuthError):
            images.pull(f"{registry}/app:1")
        assert images.pull(f"{registry}/app:1", credentials=who).digest == digest


# --- kill -9 --------------------------------------------------------------------------------------------


def test_a_pull_may_be_killed_at_any_line(
    registry: str, fresh_root: Path, layout: Path, tmp_path: Path
) -> None:
    """Of any of its threads. What is recorded then is whole, and a repeat succeeds."""
    name = f"{registry}/killed:1"
    skopeo_copy(f"oci:{layout}:app:1", f"docker://{name}")

    def pull() -> None:
        threading.settrace(sys.gettrace())
        try:
            with Host(fresh_root) as host:
                host.images.pull(name)
        finally:
            threading.settrace(None)

    n = 1
    while faults.killed_at(n, pull):
        with Host(fresh_root) as host:
            found = audit(host._machinery.root)
            assert found is None or not found.damaged
            assert all(image.tags == (name,) for image in host.images)
            image = host.images.pull(name)
            assert (image.lower_dirs[0] / "etc/top").read_text() == "2"
            image.remove()
            host.images.prune()
            found = audit(host._machinery.root)
            assert found and not found.garbage and not found.index_differs
            left = contents(host.images._store)
            assert left["blobs"] == left["layers"] == left["images"] == left["cache"] == []
            assert [path.name for path in (fresh_root / "layers").iterdir()] == []
        n += STRIDE
    assert n > 10 * STRIDE
