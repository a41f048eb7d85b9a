"""What everything under a root directory takes up on disk."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..results import DiskUsage, ImageUsage
from .images import ImageStore
from .state import State

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512  # the unit of st_blocks (stat(2))
_MAX_DEPTH = 255  # as deep as any layer, at a descriptor for each level


def disk_usage(store: ImageStore) -> DiskUsage:
    """See `Host.disk_usage`. What is in two categories counts for the first."""
    root, meter = store.root, Meter(store.root.path)
    of_images, of_builds = _blobs(store.state), _column(store.state, "build_cache", "blob")
    in_images, chains = set().union(*of_images.values()), _column(store.state, "image_layers", "chain_id")
    blobs = {digest: meter.take(store.blobs.path(digest)) for digest in store.blobs.digests()}
    layers = {chain: meter.take(store.layers.path(chain)) for chain in store.layers.chain_ids()}
    cached = (of_builds - in_images, _column(store.state, "build_cache", "chain_id") - chains)
    bundles = list(root.containers.iterdir())
    return DiskUsage(
        images=tuple(_images(store, of_images, blobs)),
        blobs=_sum(blobs, in_images),
        layers=_sum(layers, chains),
        build_cache=_sum(blobs, cached[0])
        + _sum(layers, cached[1])
        + meter.take_all(_build_files(root.cache)),
        trash=_sum(blobs, blobs.keys() - in_images - of_builds)
        + _sum(layers, layers.keys() - chains - cached[1])
        + meter.take_all([root.trash, root.layers]),
        volumes=meter.take_all([root.volumes, *(bundle / "volumes" for bundle in bundles)]),
        logs=meter.take_all(
            [root.run / "server.log", *(bundle / name for bundle in bundles for name in ("logs", "lxc.log"))]
        ),
        containers=meter.take(root.containers),
        other=meter.take(root.path),
    )


class Meter:
    """Adds up what files take up on one file system, each the first time it is met, by whatever name."""

    def __init__(self, directory: Path) -> None:
        self._device = directory.stat().st_dev
        self._met: set[int] = set()

    def take_all(self, paths: Iterable[Path]) -> int:
        return sum(map(self.take, paths))

    def take(self, path: Path) -> int:
        """Bytes of a file, or of a directory with all in it, down to 255 levels. Links are not followed."""
        try:
            return self._take(os.fspath(path), None, 0)
        except FileNotFoundError:
            return 0

    def _take(self, name: str, parent: int | None, depth: int) -> int:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if status.st_dev != self._device:
            return 0
        size = 0 if status.st_ino in self._met else status.st_blocks * _BLOCK
        self._met.add(status.st_ino)
        if stat.S_ISDIR(status.st_mode) and depth <= _MAX_DEPTH:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                for child in os.listdir(fd):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        size += self._take(child, fd, depth + 1)
            finally:
                os.close(fd)
        return size


def _blobs(state: State) -> dict[str, set[str]]:
    """Of each image: config, manifest, layers."""
    rows = state.connection.execute(
        "SELECT id, id FROM images UNION SELECT id, manifest FROM images"
        " UNION SELECT image_id, blob FROM image_layers"
    )
    found: dict[str, set[str]] = {}
    for image_id, blob in rows:
        found.setdefault(image_id, set()).add(blob)
    return found


def _column(state: State, table: str, column: str) -> set[str]:
    rows = state.connection.execute(f"SELECT {column} FROM {table} WHERE {column} NOTNULL")
    return {row[0] for row in rows}


def _images(
    store: ImageStore, of_images: Mapping[str, set[str]], blobs: Mapping[str, int]
) -> Iterator[ImageUsage]:
    """The largest first."""
    users = Counter(blob for digests in of_images.values() for blob in digests)
    containers = Counter(row[0] for row in store.state.connection.execute("SELECT image_id FROM containers"))
    sizes = {image_id: _sum(blobs, digests) for image_id, digests in of_images.items()}
    for image_id in sorted(sizes, key=lambda image_id: (-sizes[image_id], image_id)):
        yield ImageUsage(
            id=image_id,
            tags=tuple(reference.familiar for reference in store.tags(image_id)),
            blobs=sizes[image_id],
            unique=_sum(blobs, {blob for blob in of_images[image_id] if users[blob] == 1}),
            containers=containers[image_id],
        )


def _build_files(cache: Path) -> list[Path]:
    """What builds keep besides layers: all but programs and filters, which containers need."""
    return [path for path in cache.iterdir() if not path.name.startswith(("init-", "seccomp-", ".lock"))]


def _sum(sizes: Mapping[str, int], keys: Iterable[str]) -> int:
    return sum(sizes.get(key, 0) for key in keys)
