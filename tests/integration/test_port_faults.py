"""kill -9 of who publishes, between any two lines: records, kernel and the process for ::1 say the same."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from lxcwrap import Container, Host, Port
from lxcwrap.net.firewall import Exposed
from tests import faults
from tests.polling import eventually
from tests.walk import kernel

# Every how many lines one is struck. 1 tries them all, in ten minutes.
STRIDE = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "23"))


@pytest.fixture(scope="module")
def host(roots: str) -> Iterator[Host]:
    with Host(f"{roots}/port-faults") as host:
        network = host.networks.create("first")  # makes locks, and opens what stays open
        with host.containers.launch("busybox", ["sleep", "9"], network=network) as first:
            first.publish(Port(80))
        network.remove()
        with Host(host.root), Host(host.root):  # SQLite keeps descriptors it closed for the next time
            faults.assert_clean(host.root)
        yield host
        host.close(stop_server=True)


@pytest.fixture
def container(host: Host) -> Iterator[Container]:
    network = host.networks.create("front")
    with host.containers.launch(
        "busybox", ["sleep", "1000"], network=network, publish=[Port(80)]
    ) as container:
        yield container
    network.remove()
    host._machinery.supervisor.stop()


def check(host: Host, container: Container, ever: set[int]) -> None:
    """What leads to it, by the records, in the kernel and in its directory."""
    store = host._machinery.port_store
    recorded = {port.host_port for port in container.ports}
    exposed = store._firewall.exposed(container.id) or Exposed()
    assert {port.host_port for port in exposed.ports} == recorded
    faults.until(lambda: kernel.wrong(host), 5.0)
    assert all(map(is_served, recorded))
    ever |= recorded
    eventually(lambda: all(map(is_served, recorded)) and not any(map(is_served, ever - recorded)))


def is_served(port: int) -> bool:
    try:
        socket.create_connection(("::1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def publish(container: Container) -> None:
    container.publish(Port(81))


def unpublish(container: Container) -> None:
    container.unpublish(Port(80))


@pytest.mark.parametrize("act", [publish, unpublish])
def test_who_publishes_may_be_killed_at_any_line(
    host: Host, container: Container, act: Callable[[Container], None]
) -> None:
    """The next Host puts it right; then it can be done."""
    n, was_struck, ever = 1, True, {port.host_port for port in container.ports}
    while was_struck:
        eventually(lambda: threading.active_count() == 1)
        with Host(host.root) as callers:
            was_struck = faults.killed_at(n, lambda: act(callers.containers[container.id]))
        with Host(host.root):
            check(host, container, ever)
        for port in container.ports:
            container.unpublish(port)
        (binding,) = container.publish(Port(80))
        with socket.create_connection(("::1", binding.host_port)):
            pass
        n += STRIDE
    print(f"{act.__name__}: {n // STRIDE} points of {n} lines")  # noqa: T201  # for pytest -s
