"""Images in a registry that is made for a test."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lxcwrap.oci import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.archives import Layout, compressed, config_of, digest
from tests.registries import FakeRegistry

Item = Mapping[str, object]


def publish(registry: FakeRegistry, layout: Layout, item: Item, *tags: str) -> str:
    """Make the manifest or index `item` of a layout known by `tags`, with all that the layout holds; its
    digest."""
    for name, data in layout.members.items():
        if name.startswith("blobs/"):
            registry.add_blob(data)
            if data.startswith(b'{"schemaVersion"'):
                is_index = "manifests" in json.loads(data)
                registry.manifests[digest(data)] = (OCI_INDEX if is_index else OCI_MANIFEST), data
    for tag in tags:
        registry.manifests[tag] = registry.manifests[str(item["digest"])]
    return str(item["digest"])


def publish_image(registry: FakeRegistry, *layers: bytes, tag: str = "1", compression: str = "gzip") -> str:
    layout = Layout()
    return publish(registry, layout, layout.image(*layers, compression=compression), tag)


def for_platform(layout: Layout, architecture: str, *layers: bytes) -> dict[str, object]:
    """Add an image, and say in its descriptor what it is for."""
    item = layout.image(*layers, compression="gzip", config=config_of(layers, architecture=architecture))
    return {**item, "platform": {"os": "linux", "architecture": architecture}}


def publish_for_docker(registry: FakeRegistry, layer: bytes, tag: str) -> str:
    """An image as Docker's own types describe it."""
    config, blob = config_of([layer]), compressed(layer, "gzip")
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "digest": registry.add_blob(config), "size": len(config)},
        "layers": [
            {
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                "digest": registry.add_blob(blob),
                "size": len(blob),
            }
        ],
    }
    return registry.add_manifest(tag, json.dumps(document).encode(), DOCKER_MANIFEST)
