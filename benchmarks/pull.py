"""Pulling a Debian image of about 250 MB (four gzip layers) from a registry on loopback, and `skopeo copy`.

    python benchmarks/pull.py [ROOTFS.tar]       as root; without an archive, mmdebstrap makes one

Debian's docker-registry serves it. skopeo copies into a containers-storage of its own, by the driver overlay.
Both begin with nothing and work on one file system, that of TMPDIR or else tmpfs, in turns; what is deleted
between runs is not timed. Goal: at most 0.7 x `skopeo copy`.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unpack import make_image, make_layers

from lxcwrap import Host

RUNS = 15
GOAL = 0.7
CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: "127.0.0.1:0"}}
"""


@contextmanager
def registry(work: Path) -> Iterator[str]:
    """The name of one that is empty."""
    config, log = work / "registry.yml", work / "registry.log"
    config.write_text(CONFIG.format(directory=work / "registry"))
    with (
        log.open("wb") as output,
        subprocess.Popen(["docker-registry", "serve", config], stdout=output, stderr=output) as process,
    ):
        try:
            while "listening on" not in log.read_text():
                if process.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(0.01)
            yield log.read_text().partition("listening on ")[2].partition('"')[0]
        finally:
            process.kill()


def skopeo(source: str, destination: str) -> None:
    command = ["skopeo", "--insecure-policy", "copy", "--quiet"]
    tls = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    subprocess.run([*command, *tls, source, destination], check=True)


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


class Turns:
    def __init__(self, name: str, work: Path) -> None:
        self._name = name
        self._ours, self._theirs = work / "ours", work / "theirs"

    def ours(self) -> tuple[float, float]:
        """Seconds of a pull, and of another one that finds everything."""
        with Host(self._ours) as host:
            first, second = (timed(lambda: host.images.pull(self._name, progress=False)) for _ in "12")
        shutil.rmtree(self._ours)
        return first, second

    def theirs(self) -> float:
        store = f"containers-storage:[overlay@{self._theirs}/root+{self._theirs}/run]{self._name}"
        took = timed(lambda: skopeo(f"docker://{self._name}", store))
        subprocess.run(["umount", self._theirs / "root/overlay"], check=True)  # skopeo leaves it mounted
        shutil.rmtree(self._theirs)
        return took


def main(rootfs_tar: Path | None = None) -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/dev/shm")) as directory:
        work = Path(directory)
        work.chmod(0o711)
        with registry(work) as name:
            archive, layers = make_image(make_layers(work, rootfs_tar), "gzip")
            skopeo(f"oci-archive:{archive}", f"docker://{name}/debian:1")
            turns = Turns(f"{name}/debian:1", work)
            pairs = [(turns.ours(), turns.theirs()) for _ in range(RUNS)]
            sizes = [path.stat().st_size for path in layers]
    ours, again = zip(*(found for found, _ in pairs), strict=True)
    theirs = [took for _, took in pairs]
    mine, other = statistics.median(ours), statistics.median(theirs)
    print(f"image        {sum(sizes) / 1e6:8.0f} MB in {len(sizes)} layers")
    print(f"skopeo copy  {other * 1e3:8.0f} ms   [{min(theirs) * 1e3:.0f}-{max(theirs) * 1e3:.0f}]")
    print(f"lxcwrap      {mine * 1e3:8.0f} ms   [{min(ours) * 1e3:.0f}-{max(ours) * 1e3:.0f}]")
    print(f"ratio        {mine / other:8.2f}      goal: at most {GOAL}")
    print(f"pulled again {statistics.median(again) * 1e3:8.1f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
