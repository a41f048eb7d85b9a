"""Images of image servers: found, brought in verified, and nothing kept of a server that lies."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap.errors import (
    DigestMismatchError,
    FormatError,
    ImageNotFoundError,
    InvalidSpecError,
    LxcwrapError,
    RegistryError,
    UnsupportedError,
)
from lxcwrap.images import Images
from lxcwrap.oci import Platform
from lxcwrap.progress import TransferProgress
from tests.archives import tar
from tests.imageservers import METADATA, ImageServer, image_server, item, metadata_tar
from tests.registries import Exchange, be_nobody
from tests.unit.fakelayers import contents, image_host

AMD64 = Platform("linux", "amd64")
ROOTFS = lzma.compress(tar({"etc/alpine-release": b"3.20.2\n", "bin/sh": b"\x7fELF"}))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ImageServer]:
    be_nobody(monkeypatch, tmp_path)
    with image_server() as server:
        monkeypatch.setenv("LXCWRAP_IMAGE_SERVER", server.url)
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Images:
    """Of a store that unpacks nothing, and is quick to try again."""
    images = Images(image_host(tmp_path / "root"))
    (tmp_path / "root" / "registries.yaml").write_text("backoff_s: 0.001\nread_timeout_s: 5\n")
    return images


# --- found and brought in -------------------------------------------------------------------------------


def test_an_image_is_found_by_its_distribution_and_release(server: ImageServer, images: Images) -> None:
    """It is tagged so, starts a shell, and is labelled with what the server tells of it."""
    server.publish(ROOTFS)
    server.publish(ROOTFS, release="3.19")
    image = images.download("alpine", release="3.20", architecture="amd64")
    assert image.tags == ("alpine:3.20",)
    assert image.config.platform == AMD64 and image.config.cmd == ("/bin/sh",)
    assert image.config.labels["image.serial"] == "20240805_13:00"
    assert image.config.labels["image.description"] == "Alpine 3.20 amd64 (20240805_13:00)"
    assert "/rootfs.tar.xz" in (image.history()[0].created_by or "")


def test_the_newest_version_is_taken(server: ImageServer, images: Images) -> None:
    """That has a tar: others are left out."""
    for serial in ("20240803_13:00", "20240805_13:00", "20240804_13:00"):
        server.publish(
            ROOTFS, serial=serial, metadata=metadata_tar(METADATA.replace("20240805_13:00", serial))
        )
    del server.publish(ROOTFS, serial="20240806_13:00")["root.tar.xz"]
    image = images.download("alpine", release="3.20", architecture="amd64", tag="mine")
    assert image.config.labels["image.serial"] == "20240805_13:00" and image.tags == ("mine:latest",)


@pytest.mark.parametrize(
    ("architecture", "theirs", "platform"),
    [
        ("arm64", "arm64", "linux/arm64"),
        ("aarch64", "arm64", "linux/arm64"),
        ("linux/arm/v7", "armhf", "linux/arm/v7"),
        ("armhf", "armhf", "linux/arm/v7"),
        ("i386", "i386", "linux/386"),
        ("ppc64le", "ppc64el", "linux/ppc64le"),
        ("riscv64", "riscv64", "linux/riscv64"),
    ],
)
def test_architectures_go_by_all_their_names(
    server: ImageServer, images: Images, architecture: str, theirs: str, platform: str
) -> None:
    """The servers' are Debian's, ours are Go's."""
    server.publish(ROOTFS, architecture=theirs)
    image = images.download("alpine", release="3.20", architecture=architecture)
    assert str(image.config.platform) == platform


def test_a_release_goes_by_all_its_names(server: ImageServer, images: Images) -> None:
    """Its number, its name, and in any case the distribution's; a variant is another image."""
    server.publish(ROOTFS, distribution="ubuntu", release="noble")
    server.publish(ROOTFS, distribution="ubuntu", release="noble", variant="cloud", serial="20200101_00:00")
    server.products["ubuntu:noble:amd64:default"] |= {"release_title": "24.04", "aliases": "ubuntu/lts"}
    for release in ("noble", "24.04", "lts"):
        image = images.download("Ubuntu", release=release, architecture="amd64", tag="u")
    assert "default" in (image.history()[0].created_by or "")
    cloud = images.download("ubuntu", release="noble", architecture="amd64", variant="cloud", tag="c")
    assert "20200101_00:00" in (cloud.history()[0].created_by or "")


def test_without_metadata_the_index_tells(server: ImageServer, images: Images) -> None:
    """What it says of the product."""
    del server.publish(ROOTFS)["incus.tar.xz"]
    labels = images.download("alpine", release="3.20", architecture="amd64").config.labels
    assert labels == {
        "image.os": "Alpine",
        "image.release": "3.20",
        "image.architecture": "amd64",
        "image.variant": "default",
        "image.serial": "20240805_13:00",
    }


def test_what_is_not_there_is_named_with_what_is(server: ImageServer, images: Images) -> None:
    """The distribution's images, or the distributions."""
    server.publish(ROOTFS)
    server.publish(ROOTFS, distribution="debian", release="bookworm")
    with pytest.raises(InvalidSpecError, match=r"alpine/3\.20/amd64/default"):
        images.download("alpine", release="3.9", architecture="amd64")
    with pytest.raises(InvalidSpecError, match="alpine, debian"):
        images.download("plan9", release="4", architecture="amd64")
    with pytest.raises(InvalidSpecError):
        images.download("alpine", release="3.20", architecture="s390x")


def test_squashfs_alone_is_not_read(server: ImageServer, images: Images) -> None:
    """It says so, and what to do."""
    del server.publish(ROOTFS)["root.tar.xz"]
    with pytest.raises(UnsupportedError, match="squashfs"):
        images.download("alpine", release="3.20", architecture="amd64")


def test_progress_is_told(server: ImageServer, images: Images) -> None:
    """In bytes of the root file system."""
    items = server.publish(ROOTFS)
    seen: list[TransferProgress] = []
    images.download("alpine", release="3.20", architecture="amd64", progress=seen.append)  # type: ignore[arg-type]  # one kind
    assert {event.item for event in seen} == {"sha256:" + items["root.tar.xz"]["sha256"]}
    assert (seen[-1].phase, seen[-1].done_bytes, seen[-1].total_bytes) == ("done", len(ROOTFS), len(ROOTFS))


def test_a_broken_download_goes_on(server: ImageServer, images: Images) -> None:
    """By range, where it broke."""
    rootfs = lzma.compress(tar({"data": random.Random(0).randbytes(1 << 20)}), preset=0)
    server.publish(rootfs)
    calls: list[str] = []

    def break_off(exchange: Exchange) -> None:
        calls.append(exchange.headers.get("Range", ""))
        if len(calls) == 1:
            exchange.begin(200, len(rootfs))
            exchange.wfile.write(rootfs[:1000])
            exchange.hang_up()
        else:
            begin = int(calls[-1].removeprefix("bytes=").removesuffix("-"))
            place = f"bytes {begin}-{len(rootfs) - 1}/{len(rootfs)}"
            exchange.reply(206, rootfs[begin:], Content_Range=place)

    server.behaviours["rootfs.tar.xz"] = break_off
    images.download("alpine", release="3.20", architecture="amd64")
    assert calls[0] == "" and calls[1].startswith("bytes=")


def test_the_server_can_have_a_path(server: ImageServer, images: Images) -> None:
    """A mirror need not be at the top; what is given counts more than the environment."""
    server.publish(ROOTFS)
    server.files = {f"mirror/{name}": data for name, data in server.files.items()}
    for name, document in (("index", server.index), ("images", {"products": server.products})):
        server.files[f"mirror/streams/v1/{name}.json"] = json.dumps(document).encode()
    image = images.download("alpine", release="3.20", architecture="amd64", server=f"{server.url}/mirror/")
    assert image.tags == ("alpine:3.20",)


# --- servers that lie -----------------------------------------------------------------------------------


def wrong_hash(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["sha256"] = "0" * 64


def another_content(server: ImageServer, items: dict[str, Any]) -> None:
    path, data = items["root.tar.xz"]["path"], lzma.decompress(ROOTFS)
    items["root.tar.xz"] |= item("root.tar.xz", path, data)
    server.files[path] = data.replace(b"3.20.2", b"3.20.6")


def wrong_metadata_hash(server: ImageServer, items: dict[str, Any]) -> None:
    items["incus.tar.xz"]["sha256"] = "0" * 64


def too_short(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["size"] += 1


def too_long(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["size"] -= 1


def endless(server: ImageServer, items: dict[str, Any]) -> None:
    def pour(exchange: Exchange) -> None:
        exchange.begin(200, None)
        while True:
            exchange.wfile.write(bytes(1 << 16))

    server.behaviours["rootfs.tar.xz"] = pour


def endless_index(server: ImageServer, items: dict[str, Any]) -> None:
    def pour(exchange: Exchange) -> None:
        exchange.begin(200, None)
        while True:
            exchange.wfile.write(bytes(1 << 20))

    server.behaviours["index.json"] = pour


def out_of_the_server(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["path"] = "images/../../../etc/passwd"


def an_address(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["path"] = "//elsewhere.example/rootfs.tar.xz"


def a_query(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["path"] = "rootfs.tar.xz?x=y#z"


def index_elsewhere(server: ImageServer, items: dict[str, Any]) -> None:
    server.index["index"]["images"]["path"] = "http://elsewhere.example/images.json"


def no_json(server: ImageServer, items: dict[str, Any]) -> None:
    server.behaviours["images.json"] = lambda exchange: exchange.reply(200, b"<html>")


def deep_json(server: ImageServer, items: dict[str, Any]) -> None:
    server.behaviours["images.json"] = lambda exchange: exchange.reply(200, b'{"products":' + b"[" * 100_000)


def wrong_types(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["size"] = "many"


def negative_size(server: ImageServer, items: dict[str, Any]) -> None:
    items["root.tar.xz"]["size"] = -1


def huge_metadata(server: ImageServer, items: dict[str, Any]) -> None:
    items["incus.tar.xz"]["size"] = 1 << 40


def no_tar(server: ImageServer, items: dict[str, Any]) -> None:
    path, data = items["root.tar.xz"]["path"], lzma.compress(b"no tar at all")
    server.files[path] = data
    items["root.tar.xz"] |= item("root.tar.xz", path, data)


def to_another_machine(server: ImageServer, items: dict[str, Any]) -> None:
    server.behaviours["rootfs.tar.xz"] = lambda exchange: exchange.reply(
        302, Location="http://169.254.169.254/x"
    )


def in_a_circle(server: ImageServer, items: dict[str, Any]) -> None:
    server.behaviours["rootfs.tar.xz"] = lambda exchange: exchange.reply(302, Location=exchange.path)


def missing(server: ImageServer, items: dict[str, Any]) -> None:
    del server.files[items["root.tar.xz"]["path"]]


def forbidden(server: ImageServer, items: dict[str, Any]) -> None:
    server.behaviours["index.json"] = lambda exchange: exchange.reply(403)


@pytest.mark.parametrize(
    ("lie", "error"),
    [
        (wrong_hash, DigestMismatchError),
        (another_content, DigestMismatchError),
        (wrong_metadata_hash, DigestMismatchError),
        (too_short, FormatError),
        (too_long, FormatError),
        (endless, FormatError),
        (endless_index, FormatError),
        (out_of_the_server, FormatError),
        (an_address, FormatError),
        (a_query, FormatError),
        (index_elsewhere, FormatError),
        (no_json, FormatError),
        (deep_json, FormatError),
        (wrong_types, FormatError),
        (negative_size, FormatError),
        (huge_metadata, FormatError),
        (no_tar, FormatError),
        (to_another_machine, RegistryError),
        (in_a_circle, RegistryError),
        (missing, ImageNotFoundError),
        (forbidden, RegistryError),
    ],
)
def test_nothing_is_kept_of_a_server_that_lies(
    server: ImageServer,
    images: Images,
    lie: Callable[[ImageServer, dict[str, Any]], None],
    error: type[LxcwrapError],
) -> None:
    """Whatever is wrong, it is told by the error that fits, and the store is as before."""
    before = contents(images._store)
    lie(server, server.publish(ROOTFS))
    with pytest.raises(error):
        images.download("alpine", release="3.20", architecture="amd64")
    assert contents(images._store) == before


@pytest.mark.parametrize(
    "address",
    ["images.example.org", "ftp://x", "https://", "https://user:pw@x", "https://x/?q", "https://x:port", ""],
)
def test_a_server_has_an_address(images: Images, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Of http or https, with nothing secret in it. (An empty one is none: the default then.)"""
    monkeypatch.setenv("LXCWRAP_IMAGE_SERVER", "file:///etc")
    with pytest.raises(InvalidSpecError):
        images.download("alpine", release="3.20", server=address)


def test_nobody_is_there(images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some tries."""
    be_nobody(monkeypatch, tmp_path)
    with pytest.raises(RegistryError):
        images.download("alpine", release="3.20", server="http://127.0.0.1:9")
