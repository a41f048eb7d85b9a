"""How fast networks are, each figure beside its floor in the same run: medians, the two sides in turn.

    python benchmarks/network.py [--runs 20] [--only NAME ...]

Needs root, `lxc` (lxc-execute), `iproute2`, `wrk`, busybox-static and a package mirror. Everything lies in
/dev/shm, so that the disk is not measured.
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from core import Bench, milliseconds, quietly

from lxcwrap import Container, Host, Network, Port, ready

BRIDGE, SUBNET = "lxwbench", "10.111.77"
COUNT, THREADS = 200, 4
MANY = 500  # of them at once, on a network that has room


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

    def publish(self) -> None:
        """All addresses: with a process for ::1; 127.0.0.1: by the kernel alone."""
        for host_ip in ("", "127.0.0.1"):
            with self.host.containers.launch("busybox", ["sleep", "1000"], network=self.network) as container:
                times: dict[str, list[float]] = {"publish": [], "unpublish": []}
                port = Port(80, host_ip=host_ip)
                for _ in range(self.runs):
                    times["publish"].append(milliseconds(lambda: container.publish(port)))  # noqa: B023
                    times["unpublish"].append(milliseconds(lambda: container.unpublish(port)))  # noqa: B023
            for what, found in times.items():
                median, worst = sorted(found)[len(found) // 2], max(found)
                label = f"{what} at {host_ip or 'all addresses'}"
                self.say(label, f"{median:8.2f} ms   worst {worst:.2f} ms (at most 10 ms)")

    def names(self) -> None:
        """By the host, of a network's name server: the first query of a new container, and later ones."""
        first: list[float] = []
        for number in range(self.runs):
            name = f"name{number}"
            with self.host.containers.launch("busybox", ["sleep", "9"], name=name, network=self.network):
                first.append(milliseconds(partial(ask, self.network.gateway, name)))
                later = [milliseconds(partial(ask, self.network.gateway, name)) for _ in range(100)]
        self.say("first answer of a name", f"{sorted(first)[len(first) // 2]:8.2f} ms")
        self.say("answer of a name", f"{sorted(later)[50]:8.2f} ms   (at most 1 ms)")

    def throughput(self) -> None:
        """TCP from a container to another on one network, beside the same by hand."""
        own, bare = [], []
        with (
            self.host.containers.launch("busybox", ["sleep", "1000"], network=self.network) as one,
            self.host.containers.launch("busybox", ["sleep", "1000"], network=self.network) as other,
            by_hand() as (here, there),
        ):
            namespaces = [f"/proc/{container.init_pid}/ns/net" for container in (one, other)]
            for _ in range(max(3, self.runs // 4)):
                own.append(gbits(namespaces[0], namespaces[1], str(other.ip)))
                bare.append(gbits(here, there, HAND_IP))
        ours, floor = (sorted(found)[len(found) // 2] for found in (own, bare))
        ratio = f"{ours / floor:.2f} x (at least 0.95)"
        self.say("TCP between containers / by hand", f"{ours:8.2f} Gbit/s   floor {floor:.2f}   {ratio}")

    def http(self) -> None:
        """Requests through a published port, beside those to the container's own address."""
        image = self.host.images.bootstrap("nginx", suite="bookworm", packages=["nginx-light"])
        command = ["nginx", "-g", "daemon off;"]
        with self.host.containers.launch(
            image, command, network=self.network, publish=[Port(80, host_ip="127.0.0.1")]
        ) as web:
            web.wait_ready(ready.http(80))
            ways = (f"http://127.0.0.1:{web.ports[0].host_port}/", f"http://{web.ip}/")
            found = [[requests(way) for way in ways] for _ in range(max(5, self.runs // 4))]
        published, direct = (sorted(side)[len(side) // 2] for side in zip(*found, strict=True))
        ratio = f"{published / direct:.2f} x (at least 0.95)"
        self.say(
            "requests by 127.0.0.1 / to its address", f"{published:8.0f} /s   floor {direct:.0f}   {ratio}"
        )

    def flat(self) -> None:
        """Start time is to stay flat, however many there are: one after the other."""
        network = self.host.networks.create("flat", subnet="10.112.64.0/22")
        launch = partial(self.host.containers.launch, "busybox", ["sleep", "10000"], network=network)
        made: list[Container] = []
        try:
            times = [milliseconds(lambda: made.append(launch())) for _ in range(MANY)]
        finally:
            for container in made:
                container.remove(force=True)
            network.remove()
        ends = (50, 200, 350, MANY)
        medians = (f"{sorted(times[end - 50 : end])[25]:.1f} ms by the {end}th" for end in ends)
        self.say(f"launch of {MANY}, one after the other", "   ".join(medians))

    def many(self) -> None:
        """From several threads."""
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


def requests(url: str) -> float:
    """That are answered in a second, over 16 connections kept open."""
    done = subprocess.run(["wrk", "-t1", "-c16", "-d2s", url], capture_output=True, text=True, check=True)
    assert "Non-2xx" not in done.stdout, done.stdout
    (rate,) = re.findall(r"Requests/sec: +([0-9.]+)", done.stdout)
    return float(rate)


def ask(server: str, name: str) -> None:
    """Until the name server has an answer."""
    label = bytes([len(name)]) + name.encode()
    question = struct.pack(">6H", 7, 0x100, 1, 0, 0, 0) + label + b"\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((server, 53))
        while True:
            client.send(question)
            if struct.unpack_from(">H", client.recv(512), 6)[0]:
                return


@contextmanager
def by_hand() -> Iterator[tuple[str, str]]:
    """Two namespaces on a bridge, as made by hand: their paths."""
    bridge, names = "lxwbenchb", ("lxwbencha", "lxwbenchc")
    quietly(["ip", "link", "add", bridge, "type", "bridge"])
    quietly(["ip", "link", "set", bridge, "up"])
    try:
        for number, name in enumerate(names, start=1):
            quietly(["ip", "netns", "add", name])
            link = f"lxwbench{number}"
            quietly(["ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name])
            quietly(["ip", "link", "set", link, "master", bridge, "up"])
            inside = ["ip", "-n", name]
            quietly([*inside, "addr", "add", f"{HAND_IP.rpartition('.')[0]}.{number}/24", "dev", "eth0"])
            quietly([*inside, "link", "set", "eth0", "up"])
        yield f"/run/netns/{names[0]}", f"/run/netns/{names[1]}"
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)
        quietly(["ip", "link", "del", bridge])


def gbits(sender: str, receiver: str, address: str) -> float:
    """Of TCP between processes of two namespaces, in a second."""
    take = f"nsenter --net={receiver} {sys.executable} -c".split()
    server = subprocess.Popen([*take, RECEIVE], stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    quietly([*f"nsenter --net={sender} {sys.executable} -c".split(), SEND, address])
    return int(server.communicate()[0]) * 8 / 1e9


HAND_IP = "10.111.78.2"
RECEIVE = """
import socket
server = socket.create_server(("", 5201)); print(flush=True)
connection, _ = server.accept()
buffer, total = bytearray(1 << 20), 0
while count := connection.recv_into(buffer): total += count
print(total)
"""
SEND = """
import socket, sys, time
connection, data = socket.create_connection((sys.argv[1], 5201)), bytes(1 << 20)
end = time.monotonic() + 1
while time.monotonic() < end: connection.sendall(data)
"""
MEASURES = ("run", "plain", "connect", "publish", "names", "throughput", "many", "http", "flat")


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
