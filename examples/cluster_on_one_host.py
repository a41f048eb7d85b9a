"""A store of five nodes (etcd), each in a container of its own, that loses some of them one after the other:
to a freeze, a cut cable, and a crash. Needs root, a package mirror and dnsmasq.

sudo .venv/bin/python examples/cluster_on_one_host.py
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from lxcwrap import Container, Host, Limits, Network, ready

BASE, IMAGE = "debian-base:bookworm", "debian-etcd:bookworm"
ETCDCTL = ["etcdctl", "--command-timeout=3s"]
PEERS = 2380
TIMEOUT_S = 30.0


class Cluster:
    """The nodes that run, and what they have promised to keep."""

    def __init__(self, host: Host, network: Network) -> None:
        self.host, self.network = host, network
        self.nodes: list[Container] = []
        self.promised: dict[str, str] = {}

    def add_node(self) -> None:
        """The others learn of it first, then it starts and gets the data from them."""
        name = f"store-{len(self.nodes) + 1}"
        peers = {node.name: f"http://{node.name}:{PEERS}" for node in self.nodes}
        peers[name] = f"http://{name}:{PEERS}"
        if self.nodes:
            etcdctl(self.nodes[0], "member", "add", name, f"--peer-urls={peers[name]}")
        node = self.host.containers.launch(
            IMAGE,
            [
                "etcd",
                f"--name={name}",
                "--data-dir=/var/lib/etcd/store",
                "--listen-client-urls=http://127.0.0.1:2379",
                "--advertise-client-urls=http://127.0.0.1:2379",
                f"--listen-peer-urls=http://0.0.0.0:{PEERS}",
                f"--initial-advertise-peer-urls={peers[name]}",
                f"--initial-cluster={','.join(f'{peer}={url}' for peer, url in peers.items())}",
                f"--initial-cluster-state={'existing' if self.nodes else 'new'}",
                "--strict-reconfig-check=false",  # it would wait 5 s for each; we wait until all are ready
                "--log-level=warn",
            ],
            name=name,
            network=self.network,
            limits=Limits(memory="256MiB", pids=64),
        )
        self.nodes.append(node.wait_ready(ready.http(2379, "/health")))

    def put(self, key: str, value: str, *, by: Container) -> None:
        """When this returns most nodes have it; while they elect who leads it takes some tries."""
        eventually(lambda: try_put(by, key, value), f"{by.name} takes {key}")
        self.promised[key] = value

    def leader(self) -> Container:
        """Who orders all changes."""
        status = {
            node.name: json.loads(etcdctl(node, "endpoint", "status", "--write-out=json"))
            for node in self.nodes
        }
        for node in self.nodes:
            found = status[node.name][0]["Status"]
            if found["leader"] == found["header"]["member_id"]:
                return node
        raise RuntimeError("no node leads")

    def check(self) -> None:
        """Every node that runs gets all that was promised, from its own data."""
        for node in self.nodes:
            eventually(partial(self.is_complete, node), f"{node.name} has all data")
        print(f"  {len(self.promised)} values in each of {len(self.nodes)} nodes")

    def is_complete(self, node: Container) -> bool:
        """By its own data, whatever the others say."""
        lines = etcdctl(node, "get", "", "--prefix", "--consistency=s").splitlines()
        return dict(zip(lines[::2], lines[1::2], strict=True)) == self.promised


def etcdctl(node: Container, *words: str) -> str:
    """Runs inside the node, as its clients need not reach it from elsewhere."""
    return node.exec([*ETCDCTL, *words]).stdout


def eventually(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {TIMEOUT_S:.0f} s: {what}")
        time.sleep(0.1)


def try_put(node: Container, key: str, value: str) -> bool:
    return node.exec([*ETCDCTL, "put", key, value], check=False).exit_code == 0


def make_image(host: Host) -> None:
    if BASE not in host.images:
        print(f"making {BASE} from packages, once ...")
        host.images.bootstrap(BASE, suite="bookworm")
    install = "apt-get install --yes --no-install-recommends etcd-server etcd-client"
    host.images.build_steps(BASE).run(f"apt-get update && {install}").build(tags=[IMAGE], network="host")


@contextmanager
def empty_cluster(host: Host) -> Iterator[Cluster]:
    """Removed at the end, as what an earlier run may have left is before."""
    make_image(host)
    remove(host)
    try:
        yield Cluster(host, host.networks.create("store", internal=True))
    finally:
        remove(host)


def remove(host: Host) -> None:
    if "store" in host.networks:
        for node in host.networks["store"].containers:
            node.remove(force=True)
        host.networks["store"].remove()


def main() -> None:
    with Host() as host, empty_cluster(host) as cluster:
        for number in range(1, 6):
            cluster.add_node()
            cluster.put(f"with {number}", "nodes", by=cluster.nodes[-1])
            print(f"{cluster.nodes[-1].name} was added")
        cluster.check()
        first, second, third, *_ = cluster.nodes

        print(f"{second.name} is frozen")
        second.pause()
        cluster.put("during the freeze", "nodes", by=first)
        second.unpause()
        cluster.check()

        print(f"{first.name} and {second.name} are cut off from the others")
        with cluster.network.partition([first, second]):
            cluster.put("during the partition", "nodes", by=third)
            print(f"  the lesser part takes changes: {try_put(first, 'lost', 'for ever')}")
        cluster.check()

        leader = cluster.leader()
        print(f"{leader.name}, which leads, is killed")
        leader.kill()
        cluster.nodes.remove(leader)
        cluster.put("after the crash", "nodes", by=cluster.nodes[0])
        cluster.check()

        print(f"{leader.name} is started again")
        cluster.nodes.append(leader.start())
        cluster.check()


if __name__ == "__main__":
    main()
