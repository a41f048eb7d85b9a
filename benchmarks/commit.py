"""Committing a container that has written 200 MB, against `tar | compressor | tee file | sha256sum` of that.

    python -m benchmarks.commit       as root

Twenty files of 9 MB and three thousand small ones, of the content of this machine's programs. The container
runs, and is held still meanwhile. All is on tmpfs; what is deleted between runs is not timed. The compressors
are those lxcwrap uses, at its levels: `python -m isal.igzip`, as igzip itself is rarely installed, and zstd.
Goals: at most 1.0 x the pipeline without a compressor, 1.2 x with one.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from lxcwrap import Container, Host

RUNS = 11
LARGE, SMALL = 9_000_000, 6_666
Kind = Literal["none", "gzip", "zstd"]
COMPRESSORS: dict[Kind, str] = {
    "none": "",
    "gzip": f"| {sys.executable} -m isal.igzip -2",
    "zstd": "| zstd -q -3 -T0",
}
GOALS: dict[Kind, float] = {"none": 1.0, "gzip": 1.2, "zstd": 1.2}


def content(size: int) -> bytes:
    """So many bytes of programs and libraries."""
    data = bytearray()
    for path in sorted(Path("/usr/lib").rglob("*.so*")) + sorted(Path("/usr/bin").iterdir()):
        if path.is_file() and len(data) < size:
            data += path.read_bytes()
    return bytes(data * (size // len(data) + 1))[:size]


def write_files(container: Container) -> None:
    data = content(20 * LARGE + 3000 * SMALL)
    for number in range(20):
        container.path(f"/srv/large{number}").write_bytes(data[number * LARGE : (number + 1) * LARGE])
    for number, offset in enumerate(range(20 * LARGE, len(data), SMALL)):
        directory = container.path(f"/srv/{number // 75}")
        directory.mkdir(exist_ok=True)
        (directory / str(number)).write_bytes(data[offset : offset + SMALL])


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run_pipeline(upper: Path, compressor: str, target: Path) -> None:
    command = f"tar -C {upper} --numeric-owner -c . {compressor} | tee {target} | sha256sum >/dev/null"
    subprocess.run(["sh", "-c", command], check=True)


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        Path(directory).chmod(0o711)
        with Host(Path(directory) / "root") as host, host.containers.launch("busybox", ["sleep", "1h"]) as it:
            write_files(it)
            upper = host.root / "containers" / it.id / "upper"
            target = Path(directory) / "layer"
            for kind, compressor in COMPRESSORS.items():
                commit = partial(it.commit, "measured:1", compression=kind)
                pipeline = partial(run_pipeline, upper, compressor, target)
                ours, theirs = [], []
                for _ in range(RUNS):
                    ours.append(timed(commit))
                    stored = host.images["measured:1"].size
                    host.images["measured:1"].remove()
                    theirs.append(timed(pipeline))
                    target.unlink()
                report(kind, stored, ours, theirs)
        Host(Path(directory) / "root").close(stop_server=True)


def report(kind: Kind, size: int, ours: list[float], theirs: list[float]) -> None:
    mine, tar = statistics.median(ours), statistics.median(theirs)
    print(f"{kind}: {size / 1e6:.0f} MB")
    print(f"  pipeline   {tar * 1e3:8.0f} ms   [{min(theirs) * 1e3:.0f}-{max(theirs) * 1e3:.0f}]")
    print(f"  lxcwrap    {mine * 1e3:8.0f} ms   [{min(ours) * 1e3:.0f}-{max(ours) * 1e3:.0f}]")
    print(f"  ratio      {mine / tar:8.2f}      goal: at most {GOALS[kind]}")


if __name__ == "__main__":
    main()
