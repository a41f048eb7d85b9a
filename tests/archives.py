"""Image archives made by hand, so that each byte of them can be wrong on purpose."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import zstandard

OCI = "application/vnd.oci.image"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar(members: Mapping[str, bytes], *, links: Mapping[str, str] | None = None) -> bytes:
    """A plain tar; `links` are symbolic."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return stream.getvalue()


def extended(archive: bytes, members: Mapping[str, bytes]) -> bytes:
    """A plain tar with more files at its end."""
    stream = io.BytesIO(archive)
    with tarfile.open(fileobj=stream, mode="a") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def compressed(data: bytes, compression: str) -> bytes:
    match compression:
        case "gzip":
            return gzip.compress(data, mtime=0)
        case "zstd":
            return zstandard.compress(data)
        case _:
            return data


def config_of(layers: Iterable[bytes], **process: object) -> bytes:
    """The config of an image of these plain layers."""
    return json.dumps(
        {
            "architecture": process.pop("architecture", "amd64"),
            "os": "linux",
            "config": process,
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
    ).encode()


def descriptor(data: bytes, kind: str, **more: object) -> dict[str, object]:
    return {"mediaType": f"{OCI}.{kind}", "digest": digest(data), "size": len(data), **more}


class Layout:
    """An OCI layout in memory: `members` by name. Change them to make it lie."""

    def __init__(self) -> None:
        self.members = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.manifests: list[dict[str, object]] = []

    def blob(self, data: bytes) -> bytes:
        self.members[f"blobs/sha256/{digest(data)[7:]}"] = data
        return data

    def image(self, *layers: bytes, compression: str = "", config: bytes | None = None) -> dict[str, object]:
        """Add an image without naming it in the index; the descriptor of its manifest."""
        config = self.blob(config if config is not None else config_of(layers))
        stored = [self.blob(compressed(layer, compression)) for layer in layers]
        kind = "layer.v1.tar" + (f"+{compression}" if compression else "")
        manifest = {
            "schemaVersion": 2,
            "config": descriptor(config, "config.v1+json"),
            "layers": [descriptor(layer, kind) for layer in stored],
        }
        return self.manifest(manifest)

    def manifest(self, document: dict[str, object]) -> dict[str, object]:
        return descriptor(self.blob(json.dumps(document).encode()), "manifest.v1+json")

    def name(self, item: dict[str, object], name: str = "") -> None:
        """Add to the index."""
        annotations = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
        self.manifests.append({**item, **annotations})

    def nested(self, *items: dict[str, object]) -> dict[str, object]:
        data = self.blob(json.dumps({"schemaVersion": 2, "manifests": items}).encode())
        return descriptor(data, "index.v1+json")

    def finished(self) -> dict[str, bytes]:
        index = json.dumps({"schemaVersion": 2, "manifests": self.manifests}).encode()
        return {**self.members, "index.json": index}

    def tar(self) -> bytes:
        return tar(self.finished())

    def write(self, directory: Path) -> Path:
        for name, data in self.finished().items():
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return directory


def oci_layout(*layers: bytes, name: str = "app:1", compression: str = "") -> Layout:
    layout = Layout()
    layout.name(layout.image(*layers, compression=compression), name)
    return layout


def docker_save(*layers: bytes, tags: Iterable[str] = ("app:1",), old: bool = False) -> dict[str, bytes]:
    """The members of a `docker save` archive, in the shape of Docker 25, or of those before."""
    config = config_of(layers)
    if old:
        names = [f"{digest(layer)[7:]}{number}/layer.tar" for number, layer in enumerate(layers)]
        config_name = f"{digest(config)[7:]}.json"
    else:
        names = [f"blobs/sha256/{digest(layer)[7:]}" for layer in layers]
        config_name = f"blobs/sha256/{digest(config)[7:]}"
    manifest = [{"Config": config_name, "RepoTags": list(tags) or None, "Layers": names}]
    return {
        config_name: config,
        **dict(zip(names, layers, strict=True)),
        "manifest.json": json.dumps(manifest).encode(),
    }
