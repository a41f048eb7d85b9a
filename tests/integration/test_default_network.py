"""Which network a container has if nothing is said of one."""

from __future__ import annotations

import socket

import pytest

from lxcwrap import Container, Host, InvalidSpecError, Port
from tests.integration.networked import SERVE, interfaces
from tests.polling import eventually


def _answers(container: Container) -> bool:
    (binding,) = container.ports
    try:
        with socket.create_connection((binding.host_ip, binding.host_port), timeout=5) as connection:
            return connection.recv(16) == b"hello\n"
    except OSError:  # the server is between two
        return False


def test_what_is_published_is_reached_without_a_word_of_networks(fresh_host: Host) -> None:
    """By the default network, which is made."""
    port = Port(80, host_ip="127.0.0.1")
    with fresh_host.containers.launch("busybox", sh=SERVE, publish=[port]) as container:
        assert set(container.networks) == {"default"} and container.ip is not None
        eventually(lambda: _answers(container))
        assert fresh_host.networks["default"].containers == (container,)
    fresh_host.networks["default"].remove()


def test_nothing_published_no_network(fresh_host: Host) -> None:
    """Loopback alone, until it is connected."""
    port = Port(80, host_ip="127.0.0.1")
    with fresh_host.containers.launch("busybox", sh=SERVE, publish=[]) as container:
        assert interfaces(container) == {"lo"} and container.ip is None and not container.networks
        with pytest.raises(InvalidSpecError, match="connect"):
            container.publish(port)
        assert "default" not in fresh_host.networks
        network = fresh_host.networks.create("later")
        network.connect(container)
        container.publish(port)
        eventually(lambda: _answers(container))
    network.remove()


def test_none_and_a_published_port_exclude_each_other(fresh_host: Host) -> None:
    """What was said is not changed."""
    with pytest.raises(InvalidSpecError, match="network"):
        fresh_host.containers.create("busybox", network="none", publish=[Port(80)])
    assert not fresh_host.containers and not fresh_host.networks
