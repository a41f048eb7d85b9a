"""Unpacking a Debian image of about 250 MB (three gzip layers), digests verified, against `tar -xz` of them.

    python -m benchmarks.unpack [ROOTFS.tar]       as root; without an archive, mmdebstrap makes one

Both sides work one layer after the other on tmpfs, in turns; what is deleted between runs is not timed.
Goal: at most 1.0 x tar.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lxcwrap.storage.blobs import BlobStore
from lxcwrap.storage.layers import IngestedLayer, LayerStore, ingest_layer

RUNS = 20
PACKAGES = "python3,nginx-light,curl,ca-certificates,perl,git"
# Each layer: the arguments that pick it from the root directory.
LAYERS = (["--exclude=./usr", "."], ["./usr/lib"], ["./usr/bin", "./usr/sbin", "./usr/share"])


def make_layers(work: Path, rootfs_tar: Path | None) -> list[Path]:
    """The image's layers as gzip archives, made by GNU tar and gzip as most layers are."""
    if rootfs_tar is None:
        rootfs_tar = work / "rootfs.tar"
        bootstrap: list[str | Path] = [
            "mmdebstrap",
            "--quiet",
            "--variant=minbase",
            f"--include={PACKAGES}",
            "bookworm",
            rootfs_tar,
        ]
        subprocess.run(bootstrap, check=True)
    root = work / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-xf", rootfs_tar], check=True)
    archives = []
    for number, picked in enumerate(LAYERS):
        archives.append(work / f"layer{number}.tar.gz")
        subprocess.run(["tar", "-C", root, "--numeric-owner", "-czf", archives[-1], *picked], check=True)
    shutil.rmtree(root)
    return archives


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def unpack_by_tar(archives: list[Path], target: Path) -> None:
    for number, archive in enumerate(archives):
        directory = target / str(number)
        directory.mkdir(parents=True)
        subprocess.run(["tar", "-C", directory, "--numeric-owner", "-xzf", archive], check=True)


def unpack_by_store(layers: list[IngestedLayer], blobs: BlobStore, target: Path) -> None:
    store = LayerStore(target)
    for layer in layers:
        store.unpack(layer.diff_id, blobs.path(layer.digest), diff_id=layer.diff_id, blob_digest=layer.digest)


def main(rootfs_tar: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        work, target = Path(directory), Path(directory) / "target"
        archives = make_layers(work, rootfs_tar)
        blobs = BlobStore(work / "images")
        layers = [ingest_layer(blobs, archive) for archive in archives]
        ours, theirs = [], []
        for _ in range(RUNS):
            ours.append(timed(lambda: unpack_by_store(layers, blobs, target)))
            shutil.rmtree(target)
            theirs.append(timed(lambda: unpack_by_tar(archives, target)))
            size = sum(path.lstat().st_size for path in target.rglob("*") if path.is_file())
            shutil.rmtree(target)
    mine, tar = statistics.median(ours), statistics.median(theirs)
    print(f"image        {size / 1e6:8.0f} MB in {len(archives)} layers")
    print(f"tar -xz      {tar * 1e3:8.0f} ms   [{min(theirs) * 1e3:.0f}-{max(theirs) * 1e3:.0f}]")
    print(f"lxcwrap      {mine * 1e3:8.0f} ms   [{min(ours) * 1e3:.0f}-{max(ours) * 1e3:.0f}]")
    print(f"ratio        {mine / tar:8.2f}      goal: at most 1.0")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
