"""How fast networks are, each figure beside its floor in the same run: medians, the two sides in turn.

    python benchmarks/network.py [--runs 20] [--only NAME ...]

Needs root, `lxc` (lxc-execute), `iproute2` and busybox-static. Everything lies in /dev/shm, so that the disk
is not measured.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

from core import Bench, milliseconds, quietly

from lxcwrap import Container, Host, Network

BRIDGE, SUBNET = "lxwbench", "10.111.77"
COUNT, THREADS = 200, 4


class NetworkBench(Bench):
    def __init__(self, host: Host, network: Network, scratch: Path, runs: int) -> None:
        super().__init__(host, scratch, runs)
        self.network = network
        with self.config.open("a") as file:
            file.write(
                f"lxc.net.0.type = veth\nlxc.net.0.link = {BRIDGE}\nlxc.net.0.flags = up\n"
                f"lxc.net.0.ipv4.address = {SUBNET}.2/24\nlxc.net.0.ipv4.gateway = {SUBNET}.1\n"
            )
        text = self.config.read_text().replace("lxc.net.0.type = empty\nlxc.net.0.flags = up\n", "")
        self.config.write_text(text)

    def run(self) -> None:
        execute = self.tool("lxc-execute", "floor", "/bin/true")
        for pause_s, when in ((0.0, "in turn"), (0.5, "0.5 s apart")):
            self.pair(
                f"run true on a network and remove / lxc-execute, {when}",
                lambda: self.host.containers.run("busybox", ["true"], network=self.network),
                lambda: quietly(execute),
                limit=0.5,
                pause_s=pause_s,
            )

    def plain(self) -> None:
        """The same without a network, to see what it costs."""
        self.pair(
            "run true on a network / without one",
            lambda: self.host.containers.run("busybox", ["true"], network=self.network),
            lambda: self.host.containers.run("busybox", ["true"]),
            limit=2.0,
            pause_s=0.2,
        )

    def connect(self) -> None:
        with self.host.containers.launch("busybox", ["sleep", "1000"]) as container:
            times: dict[str, list[float]] = {"connect": [], "disconnect": []}
            for _ in range(self.runs):
                times["connect"].append(milliseconds(lambda: self.network.connect(container)))
                times["disconnect"].append(milliseconds(lambda: self.network.disconnect(container)))
        for what, found in times.items():
            median, worst = sorted(found)[len(found) // 2], max(found)
            self.say(f"{what} while it runs", f"{median:8.2f} ms   worst {worst:.2f} ms (at most 10 ms)")

    def many(self) -> None:
        """Start time is to stay flat: the first and the last fifty are compared."""
        made: list[tuple[float, Container]] = []
        launch_one = partial(self.host.containers.launch, "busybox", ["sleep", "1000"], network=self.network)

        def launch() -> None:
            for _ in range(COUNT // THREADS):
                began = time.perf_counter()
                container = launch_one()
                made.append(((time.perf_counter() - began) * 1000, container))

        workers = [threading.Thread(target=launch) for _ in range(THREADS)]

        def launch_all() -> None:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        took = milliseconds(launch_all)
        what = f"launch {COUNT} on one network from {THREADS} threads, each"
        self.say(what, f"{took / COUNT:8.2f} ms   (at most 25 ms)")
        first, last = (sorted(took for took, _ in part)[25] for part in (made[:50], made[-50:]))
        self.say(
            "launch, as one thread sees it", f"{first:8.2f} ms for the first 50, {last:.2f} for the last"
        )
        for _, container in made:
            container.remove(force=True)


MEASURES = ("run", "plain", "connect", "many")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=MEASURES)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="lxcwrap-bench-", dir="/dev/shm"))
    scratch.chmod(0o711)
    quietly(["ip", "link", "add", BRIDGE, "type", "bridge"])
    try:
        quietly(["ip", "addr", "add", f"{SUBNET}.1/24", "dev", BRIDGE])
        quietly(["ip", "link", "set", BRIDGE, "up"])
        with Host(scratch / "host") as host:
            host.containers.run("busybox", ["true"])
            network = host.networks.create("bench")
            bench = NetworkBench(host, network, scratch, arguments.runs)
            for name in arguments.only:
                getattr(bench, name)()
            network.remove()
            host.close(stop_server=True)
    finally:
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False)
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
