"""Images, networks, volumes, and the host they are of, as they are shown."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import ImageNotFoundError, NetworkNotFoundError, SnapshotNotFoundError, VolumeNotFoundError
from ..machinery import Machinery
from ..specs import State
from ..storage.images import ImageStore
from . import words
from .blocks import Block, Cell, Facts, Table
from .containers import labels, listed

_USED_IMAGES: Final = "SELECT image_id, count(*) FROM containers WHERE image_id IS NOT NULL GROUP BY image_id"
_NETWORKS: Final = """
    SELECT networks.*, (SELECT count(*) FROM endpoints WHERE network_id = networks.id) AS users
    FROM networks ORDER BY created_at DESC, id
"""
_ENDPOINTS: Final = """
    SELECT containers.name, ip, ip6, mac, aliases, interface FROM endpoints
    JOIN containers ON containers.id = container_id WHERE network_id = ? ORDER BY containers.created_at
"""
_VOLUMES: Final = """
    SELECT volumes.*, (SELECT count(*) FROM volume_uses WHERE volume = volumes.name) AS users
    FROM volumes ORDER BY created_at DESC, name
"""

_SNAPSHOTS: Final = """
    SELECT snapshots.*, (SELECT count(*) FROM containers WHERE image_id = snapshots.image_id) AS users
    FROM snapshots ORDER BY created_at DESC, id
"""


def _gone(name: str) -> list[Block]:
    return [Facts(title=Cell(name, tone="idle"), note="removed")]


# --- images ---


def images(store: ImageStore) -> list[Block]:
    used = dict(tuple(row) for row in store.state.connection.execute(_USED_IMAGES))
    rows, total = [], 0
    for image_id in store.ids():
        try:
            config, layers = store.config(image_id), store.manifest(image_id).layers
            tags, record = store.tags(image_id), store.record(image_id)
        except ImageNotFoundError:  # removed meanwhile
            continue
        size = sum(layer.size for layer in layers)
        total += size
        rows.append(
            (
                Cell(", ".join(tag.familiar for tag in tags) or "untagged", "name" if tags else "dim"),
                Cell(image_id[7:19], "code", hint=image_id),
                Cell(words.size(size), "number"),
                Cell(str(len(layers)), "number"),
                Cell(str(used.get(image_id, "")), "number"),
                Cell(_platform(config), "dim"),
                Cell(words.ago(config.created or datetime.fromtimestamp(record["created_at"], UTC)), "dim"),
            )
        )
    heads = ("Name", "Id", "Size", "Layers", "Containers", "Platform", "Created")
    note = f"{len(rows)}, {words.size(total)}"
    return [Table(title="Images", note=note, heads=heads, rows=rows, empty="no images")]


def _platform(config: Any) -> str:
    return "/".join(filter(None, (config.os, config.architecture, config.variant)))


def image(store: ImageStore, image_id: str) -> list[Block]:
    try:
        config, layers = store.config(image_id), store.manifest(image_id).layers
        tags, record = store.tags(image_id), store.record(image_id)
    except ImageNotFoundError:
        return _gone(image_id[7:19])
    size = sum(layer.size for layer in layers)
    facts = (
        ("size", Cell(f"{words.size(size)} in {words.count(len(layers), 'layer')}")),
        ("platform", Cell(_platform(config))),
        ("entrypoint", Cell(shlex.join(config.entrypoint), "code")),
        ("command", Cell(shlex.join(config.cmd), "code")),
        ("user", Cell(config.user)),
        ("directory", Cell(config.working_dir, "code")),
        ("ports", Cell(", ".join(config.exposed_ports))),
        ("volumes", Cell(", ".join(config.volumes), "code")),
        ("labels", labels(config.labels)),
        ("digest", Cell(record["manifest"], "code")),
        ("created", Cell(words.ago(config.created or datetime.fromtimestamp(record["created_at"], UTC)))),
    )
    title = ", ".join(tag.familiar for tag in tags) or "untagged image"
    return [Facts(title=Cell(title), note=image_id[7:19], facts=facts)]


# --- networks ---


def networks(machinery: Machinery) -> list[Block]:
    rows = [_network_row(row) for row in machinery.state.connection.execute(_NETWORKS)]
    heads = ("Name", "Driver", "Subnet", "Gateway", "IPv6", "Reach", "Containers")
    return [Table(title="Networks", note=str(len(rows)), heads=heads, rows=rows, empty="no networks")]


def _network_row(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    spec = json.loads(row["spec"])
    return (
        Cell(row["name"], "name", hint=row["id"][:12]),
        Cell(spec["driver"]),
        Cell(spec["subnet"], "code"),
        Cell(spec["gateway"], "code"),
        Cell(spec["subnet6"], "code"),
        Cell(_reach(spec)),
        Cell(str(row["users"]), "number"),
    )


def _reach(spec: Mapping[str, Any]) -> str:
    said = ["internal" if spec["internal"] else "all"]
    return ", ".join(said + (["containers isolated"] if spec["isolated"] else []))


def network(machinery: Machinery, network_id: str) -> list[Block]:
    try:
        row = machinery.network_store.row(network_id)
    except NetworkNotFoundError:
        return _gone(network_id[:12])
    spec = json.loads(row["spec"])
    facts = (
        ("driver", Cell(f"{spec['driver']} of {spec['parent']}" if spec["parent"] else spec["driver"])),
        ("subnet", Cell(f"{spec['subnet']}, gateway {spec['gateway']}")),
        ("IPv6", Cell(f"{spec['subnet6']}, gateway {spec['gateway6']}" if spec["subnet6"] else "")),
        ("reach", Cell(_reach(spec))),
        ("bridge", Cell(row["bridge"] if spec["driver"] == "bridge" else "", "code")),
        ("mtu", Cell(str(spec["mtu"]))),
        ("labels", labels(spec["labels"])),
        ("created", Cell(words.ago(datetime.fromtimestamp(row["created_at"], UTC)))),
    )
    ends = [
        (
            Cell(end["name"], "name"),
            Cell(end["ip"], "code"),
            Cell(end["ip6"] or "", "code"),
            Cell(end["mac"], "code"),
            Cell(end["interface"], "code"),
            Cell(", ".join(json.loads(end["aliases"]))),
        )
        for end in machinery.state.connection.execute(_ENDPOINTS, (network_id,))
    ]
    heads = ("Container", "Address", "IPv6", "MAC", "Interface", "Aliases")
    return [
        Facts(title=Cell(row["name"]), note=network_id[:12], facts=facts),
        Table(heads=heads, rows=ends, empty="no containers"),
    ]


# --- volumes ---


def volumes(machinery: Machinery) -> list[Block]:
    """Without what is used: to find that out takes long where there are many files."""
    rows = []
    for row in machinery.state.connection.execute(_VOLUMES):
        try:
            size = machinery.volume_store.size(row["name"])
        except VolumeNotFoundError:  # removed meanwhile
            continue
        rows.append(
            (
                Cell(row["name"], "name"),
                Cell(words.size(size) or "no limit", "number"),
                Cell(str(row["users"]), "number"),
                labels(json.loads(row["labels"])),
                Cell(words.ago(datetime.fromtimestamp(row["created_at"], UTC)), "dim"),
            )
        )
    heads = ("Name", "Size", "Containers", "Labels", "Created")
    return [Table(title="Volumes", note=str(len(rows)), heads=heads, rows=rows, empty="no volumes")]


def volume(machinery: Machinery, name: str) -> list[Block]:
    store = machinery.volume_store
    try:
        row, limit, used = store.row(name), store.size(name), store.used(name)
    except VolumeNotFoundError:
        return _gone(name)
    share = used / limit if limit else None
    facts = (
        (
            "used",
            Cell(f"{words.size(used)} of {words.size(limit)}" if limit else words.size(used), share=share),
        ),
        ("containers", Cell(", ".join(user.name for user in store.users(name)))),
        ("labels", labels(json.loads(row["labels"]))),
        ("created", Cell(words.ago(datetime.fromtimestamp(row["created_at"], UTC)))),
    )
    return [Facts(title=Cell(name), note="volume", facts=facts)]


# --- snapshots ---


def snapshots(machinery: Machinery) -> list[Block]:
    rows = []
    for row in machinery.state.connection.execute(_SNAPSHOTS):
        spec = json.loads(row["spec"])
        rows.append(
            (
                Cell(row["name"] or row["id"][:12], "name" if row["name"] else "code", hint=row["id"]),
                Cell(spec["name"]),
                Cell(str(row["users"]), "number"),
                Cell(shlex.join(spec["argv"]), "code"),
                Cell(words.ago(datetime.fromtimestamp(row["created_at"], UTC)), "dim"),
            )
        )
    heads = ("Name", "Of", "Containers", "Command", "Taken")
    return [Table(title="Snapshots", note=str(len(rows)), heads=heads, rows=rows, empty="no snapshots")]


def snapshot(machinery: Machinery, snapshot_id: str) -> list[Block]:
    try:
        row = machinery.snapshot_store.row(snapshot_id)
    except SnapshotNotFoundError:
        return _gone(snapshot_id[:12])
    spec = json.loads(row["spec"])
    facts = (
        ("of", Cell(spec["name"])),
        ("command", Cell(shlex.join(spec["argv"]), "code")),
        ("labels", labels(spec["labels"])),
        ("taken", Cell(words.ago(datetime.fromtimestamp(row["created_at"], UTC)))),
    )
    return [Facts(title=Cell(row["name"] or "nameless snapshot"), note=snapshot_id[:12], facts=facts)]


# --- the host ---


def host(machinery: Machinery) -> list[Block]:
    containers = listed(machinery)
    running = sum(container.run.state == State.RUNNING for container in containers)
    facts = (
        ("containers", Cell(f"{len(containers)}, {running} running")),
        ("images", Cell(str(machinery.image_store.count()))),
        ("networks", Cell(str(len(machinery.network_store.ids())))),
        ("volumes", Cell(str(len(machinery.volume_store.names())))),
    )
    return [Facts(title=Cell("Host"), note=str(machinery.root.path), facts=facts)]
