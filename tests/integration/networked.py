"""Networks and containers for the real tests of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lxcwrap import Container, Host, Network

Make = Callable[..., Network]
SERVE = "while true; do echo hello | nc -l -p 80; done"


@contextmanager
def maker(host: Host) -> Iterator[Make]:
    """Makes networks on free subnets, which are gone afterwards, with the containers on them."""
    made: list[Network] = []

    def create(**options: object) -> Network:
        name = f"net-{os.getpid()}-{len(made)}"
        made.append(host.networks.create(name, **options))  # type: ignore[arg-type]
        return made[-1]

    yield create
    for network in made:
        if network in host.networks:
            for container in network.containers:
                container.remove(force=True)
            network.remove()


def launch(host: Host, **options: object) -> Container:
    return host.containers.launch("busybox", ["sleep", "1000"], **options)  # type: ignore[arg-type]


def reaches(container: Container, address: str | None) -> bool:
    ping = "ping6" if ":" in str(address) else "ping"
    return container.exec([ping, "-c1", "-W1", str(address)], check=False).exit_code == 0


def interfaces(container: Container) -> set[str]:
    return set(container.call(os.listdir, "/sys/class/net"))


def default_route(container: Container) -> list[str]:
    """The gateway, ``dev`` and the interface; empty: there is none."""
    lines = container.exec(["ip", "route"]).stdout.splitlines()
    return next((line.split()[2:] for line in lines if line.startswith("default ")), [])
