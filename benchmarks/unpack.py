"""Loading a Debian image of about 250 MB (an OCI archive of four layers), against `tar` of the same layers.

    python -m benchmarks.unpack [ROOTFS.tar]       as root; without an archive, mmdebstrap makes one

Loading is all of it: layers stored, verified and unpacked, records made. tar unpacks one layer after the
other and does no more. Both work on tmpfs, in turns; what is deleted between runs is not timed.
Goals: gzip at most 0.7 x `tar -xz`, zstd at most 1.0 x `tar --zstd`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lxcwrap import Host

RUNS = 15
PACKAGES = "python3,nginx-light,curl,ca-certificates,perl,git"
# Each layer: the arguments that pick it from the root directory.
LAYERS = (["--exclude=./usr", "."], ["./usr/lib"], ["./usr/bin", "./usr/sbin"], ["./usr/share"])
GOALS = {"gzip": 0.7, "zstd": 1.0}


def make_layers(work: Path, rootfs_tar: Path | None) -> list[Path]:
    """The image's layers, plain, and beside them as gzip and zstd make them."""
    if rootfs_tar is None:
        rootfs_tar = work / "rootfs.tar"
        bootstrap: list[str | Path] = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}"]
        subprocess.run([*bootstrap, "bookworm", rootfs_tar], check=True)
    root = work / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-xf", rootfs_tar], check=True)
    plain = [work / f"layer{number}.tar" for number in range(len(LAYERS))]
    for archive, picked in zip(plain, LAYERS, strict=True):
        subprocess.run(["tar", "-C", root, "--numeric-owner", "-cf", archive, *picked], check=True)
        for compressor in GOALS:
            with archive.with_suffix(f".{compressor}").open("wb") as out:
                subprocess.run([compressor, "-qc", archive], check=True, stdout=out)
    shutil.rmtree(root)
    return plain


def make_image(plain: list[Path], compressor: str) -> tuple[Path, list[Path]]:
    """An OCI archive of the layers, and the layers."""
    stored = [archive.with_suffix(f".{compressor}") for archive in plain]
    layout = plain[0].with_name(f"layout-{compressor}")
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    diff_ids = [f"sha256:{hashlib.sha256(archive.read_bytes()).hexdigest()}" for archive in plain]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(path.read_bytes(), f"layer.v1.tar+{compressor}") for path in stored],
    }
    index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")]}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps(index))
    image = layout.with_suffix(".tar")
    with tarfile.open(image, "w") as tar:
        tar.add(layout, ".")
    shutil.rmtree(layout)
    return image, stored


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def unpack_by_tar(archives: list[Path], target: Path, compressor: str) -> None:
    for number, archive in enumerate(archives):
        directory = target / str(number)
        directory.mkdir()
        subprocess.run(
            ["tar", "-C", directory, "--numeric-owner", f"--{compressor}", "-xf", archive], check=True
        )


def compare(plain: list[Path], compressor: str, target: Path) -> None:
    image, archives = make_image(plain, compressor)
    ours, theirs = [], []
    for _ in range(RUNS):
        with Host(target) as host:
            ours.append(timed(lambda: host.images.load(image, progress=False)))
        shutil.rmtree(target)
        target.mkdir()
        theirs.append(timed(lambda: unpack_by_tar(archives, target, compressor)))
        shutil.rmtree(target)
    mine, tar = statistics.median(ours), statistics.median(theirs)
    size = sum(path.stat().st_size for path in archives)
    print(f"{compressor}: {size / 1e6:.0f} MB in {len(archives)} layers")
    print(f"  tar        {tar * 1e3:8.0f} ms   [{min(theirs) * 1e3:.0f}-{max(theirs) * 1e3:.0f}]")
    print(f"  lxcwrap    {mine * 1e3:8.0f} ms   [{min(ours) * 1e3:.0f}-{max(ours) * 1e3:.0f}]")
    print(f"  ratio      {mine / tar:8.2f}      goal: at most {GOALS[compressor]}", flush=True)


def main(rootfs_tar: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory).chmod(0o711)
        plain = make_layers(Path(directory), rootfs_tar)
        print(f"image: {sum(path.stat().st_size for path in plain) / 1e6:.0f} MB unpacked")
        for compressor in GOALS:
            compare(plain, compressor, Path(directory) / "target")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
