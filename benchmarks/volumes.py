"""How fast volumes are, beside the file system they lie on, in the same run: medians, the sides in turn.

    python benchmarks/volumes.py [--runs 9]

Needs root and a C compiler. A filter is a cost of each system call, however short it is, so the bare file
system is measured behind one of a single instruction too.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from lxcwrap import Host, Mount

HERE = Path(__file__).parent
TOTAL = 64 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=9)
    runs: int = parser.parse_args().runs
    scratch = Path(tempfile.mkdtemp(prefix="lxcwrap-bench-", dir="/dev/shm"))
    scratch.chmod(0o711)
    program = scratch / "bin/throughput"
    program.parent.mkdir()
    subprocess.run(["cc", "-O2", "-static", "-o", program, HERE / "throughput.c"], check=True)
    try:
        with Host(scratch / "host") as host:
            measure(host, program, runs)
            host.close(stop_server=True)
    finally:
        shutil.rmtree(scratch)


def measure(host: Host, program: Path, runs: int) -> None:
    volume = host.volumes.create("bench")
    mounts = [Mount.volume(volume, "/data"), Mount.bind(program.parent, "/bin/bench", read_only=True)]
    with host.containers.launch("busybox", ["sleep", "1000"], mounts=mounts) as container:

        def inside(block: str) -> str:
            return container.exec(["/bin/bench/throughput", "/data/file", block, str(TOTAL)]).stdout

        def bare(block: str, *filtered: str) -> str:
            command = [str(program), str(volume.path / "bare"), block, str(TOTAL), *filtered]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout

        def bare_filtered(block: str) -> str:
            return bare(block, "filtered")

        for name, block in (("4 KiB", "4096"), ("1 MiB", str(1 << 20))):
            compare(name, block, runs, (inside, bare, bare_filtered))
    volume.remove()


def compare(name: str, block: str, runs: int, sides: tuple[Callable[[str], str], ...]) -> None:
    found = [[tuple(map(float, side(block).split())) for side in sides] for _ in range(runs)]
    for number, what in enumerate(("write", "read")):
        volume, bare, filtered = (
            statistics.median(row[side][number] for row in found) for side in range(len(sides))
        )
        ratio = f"ratio {volume / bare:.2f} (at least 0.97)"
        behind = f"floor behind a filter {filtered:.2f}   ratio {volume / filtered:.2f}"
        figure = f"{volume:8.2f} GB/s   floor {bare:.2f}   {ratio}   {behind}"
        print(f"{what} a volume, {name} at a time / its file system   {figure}", flush=True)


if __name__ == "__main__":
    main()
