"""An image server on loopback, whose index has the form of LXC's own; it lies when told to."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from tests.registries import Behaviour, Exchange, FakeRegistry, fake_registry

METADATA = """
architecture: x86_64
creation_date: 1722862800
expiry_date: 1725454800
properties:
  architecture: amd64
  description: Alpine 3.20 amd64 (20240805_13:00)
  name: alpine-3.20-amd64-default-20240805_13:00
  os: alpine
  release: "3.20"
  serial: "20240805_13:00"
  variant: default
templates:
  /etc/hostname:
    when: [create, copy]
    create_only: false
    template: hostname.tpl
    properties: {}
"""


def metadata_tar(text: str = METADATA, name: str = "metadata.yaml", kind: bytes = tarfile.REGTYPE) -> bytes:
    """As incus.tar.xz: the metadata, and templates for what we do without."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for member, content in ((name, text), ("templates/hostname.tpl", "{{ container.name }}\n")):
            info = tarfile.TarInfo(member)
            info.size, info.type = len(content.encode()), kind if member == name else tarfile.REGTYPE
            info.linkname = name
            tar.addfile(info, io.BytesIO(content.encode()))
    return lzma.compress(stream.getvalue())


def item(ftype: str, path: str, data: bytes) -> dict[str, Any]:
    """A file as an index names it."""
    return {"ftype": ftype, "path": path, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


class ImageServer:
    """Change `products`, `index`, `files` to make it lie; `behaviours` answer in place of a file."""

    def __init__(self, registry: FakeRegistry) -> None:
        self.url = registry.url
        self.name = registry.name
        self.seen = registry.seen
        self.files: dict[str, bytes] = {}
        self.products: dict[str, Any] = {}
        self.index: dict[str, Any] = {
            "format": "index:1.0",
            "index": {
                "images": {
                    "datatype": "image-downloads",
                    "path": "streams/v1/images.json",
                    "format": "products:1.0",
                    "products": [],
                }
            },
        }
        self.behaviours: dict[str, Behaviour] = {}
        registry.misbehave(self._answer)

    def publish(
        self,
        rootfs: bytes,
        *,
        distribution: str = "alpine",
        release: str = "3.20",
        architecture: str = "amd64",
        variant: str = "default",
        serial: str = "20240805_13:00",
        metadata: bytes | None = None,
        ftype: str = "root.tar.xz",
    ) -> dict[str, Any]:
        """Add a version; its items, to be changed."""
        name = f"{distribution}:{release}:{architecture}:{variant}"
        product = self.products.setdefault(
            name,
            {
                "aliases": f"{distribution}/{release}/{variant},{distribution}/{release}",
                "arch": architecture,
                "os": distribution.capitalize(),
                "release": release,
                "release_title": release,
                "requirements": {"secureboot": "false"},
                "variant": variant,
                "versions": {},
            },
        )
        directory = f"images/{distribution}/{release}/{architecture}/{variant}/{serial}"
        squashfs = b"hsqs" + rootfs[:16]
        contents = {"rootfs.tar.xz": (ftype, rootfs), "rootfs.squashfs": ("squashfs", squashfs)}
        contents |= {"incus.tar.xz": ("incus.tar.xz", metadata_tar() if metadata is None else metadata)}
        items = {}
        for file, (kind, data) in contents.items():
            self.files[f"{directory}/{file}"] = data
            items[kind] = item(kind, f"{directory}/{file}", data)
        product["versions"][serial] = {"items": items}
        return items

    def _answer(self, exchange: Exchange) -> None:
        path = unquote(exchange.path).lstrip("/")
        files = {
            "streams/v1/index.json": json.dumps(self.index).encode(),
            "streams/v1/images.json": json.dumps(
                {"content_id": "images", "format": "products:1.0", "products": self.products}
            ).encode(),
            **self.files,
        }
        behaviour = next((act for part, act in self.behaviours.items() if part in path), None)
        if behaviour:
            behaviour(exchange)
        elif path not in files:
            exchange.reply(404, b"not found")
        elif wanted := re.fullmatch(r"bytes=([0-9]+)-", exchange.headers.get("Range", "")):
            data, begin = files[path], int(wanted[1])
            exchange.reply(206, data[begin:], Content_Range=f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            exchange.reply(200, files[path])


@contextmanager
def image_server() -> Iterator[ImageServer]:
    """An image server without images."""
    with fake_registry() as registry:
        yield ImageServer(registry)
