"""Building from a Dockerfile, in turns with `buildah bud` of the same file: medians.

    python -m benchmarks.build [ROOTFS.tar]       as root; without an archive, mmdebstrap makes one

Both work on tmpfs and have the same Debian image in their own store. Cold: every step is run, by buildah in
its quickest way, chroot. Cached: the second build of a file that did not change, from the call to the tagged
image; of buildah with its process, as it has no other form.
Goals: cold at most 0.5 x `buildah bud`; 10 cached steps at most 20 ms.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lxcwrap import Host, Image

RUNS = 15
BASE = "localhost/debian:bookworm"
THREE_STEPS = f"""\
FROM {BASE}
RUN echo one > /etc/one && mkdir /srv/app
COPY . /srv/app/
RUN cp -r /srv/app /srv/copy && ls -R /srv > /etc/listing
"""
TEN_STEPS = f"""\
FROM {BASE}
ARG VERSION=1
ENV LANG=C.UTF-8 VERSION=$VERSION
RUN echo $VERSION > /etc/version
WORKDIR /srv/app
COPY one two ./
COPY sub sub/
RUN cat one two > three && ls -lR
LABEL version=$VERSION
EXPOSE 80
CMD ["cat", "three"]
"""


class Bench:
    def __init__(self, work: Path, rootfs: Path) -> None:
        self.host = Host(work / "ours")
        self.context = work / "context"
        (self.context / "sub").mkdir(parents=True)
        for name in ("one", "two", "sub/data"):
            (self.context / name).write_bytes(os.urandom(50_000))
        self._theirs = ["buildah", "--root", str(work / "theirs"), "--runroot", str(work / "r")]
        self._theirs += ["--storage-driver", "overlay"]
        self.host.images.import_rootfs(rootfs, tag=BASE, cmd=["bash"])
        self.host.images.save(BASE, work / "base.tar")
        self.buildah("pull", "-q", f"docker-archive:{work / 'base.tar'}")
        (work / "base.tar").unlink()

    def buildah(self, *argv: str) -> None:
        subprocess.run([*self._theirs, *argv], check=True, stdout=subprocess.DEVNULL)

    def ours(self, *, no_cache: bool) -> Image:
        return self.host.images.build(self.context, tags=["ours:1"], no_cache=no_cache, progress=False)

    def theirs(self, *options: str) -> None:
        self.buildah("bud", "-q", "--isolation=chroot", *options, "-t", "theirs:1", str(self.context))

    def compare(
        self, what: str, file: str, ours: Callable[[], object], theirs: Callable[[], object]
    ) -> float:
        """Our median in milliseconds, and what it is in theirs."""
        (self.context / "Dockerfile").write_text(file)
        ours(), theirs()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(RUNS):
            for act, found in zip((ours, theirs), times, strict=True):
                began = time.perf_counter()
                act()
                found.append((time.perf_counter() - began) * 1e3)
        mine, buildah = map(statistics.median, times)
        print(f"{what}")
        print(f"  buildah    {buildah:8.1f} ms   [{min(times[1]):.1f}-{max(times[1]):.1f}]")
        print(f"  lxcwrap    {mine:8.1f} ms   [{min(times[0]):.1f}-{max(times[0]):.1f}]")
        return mine / buildah


def main(rootfs: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        work = Path(directory)
        work.chmod(0o711)
        if rootfs is None:
            rootfs = work / "rootfs.tar"
            subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", "bookworm", rootfs], check=True)
        bench = Bench(work, rootfs)
        try:
            cold = bench.compare(
                "cold, 3 steps",
                THREE_STEPS,
                lambda: bench.ours(no_cache=True),
                lambda: bench.theirs("--no-cache"),
            )
            print(f"  ratio      {cold:8.2f}      goal: at most 0.5")
            bench.compare(
                "cached, 10 steps",
                TEN_STEPS,
                lambda: bench.ours(no_cache=False),
                lambda: bench.theirs("--layers"),
            )
            print("  goal: at most 20 ms", flush=True)
        finally:
            bench.host.close(stop_server=True)
            bench.buildah("rmi", "--all", "--force")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))
