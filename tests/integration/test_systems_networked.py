"""systemd in a container on networks: they stay as they were set, whatever the image wants."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Endpoint, Host, Network, Port, RestartPolicy
from tests.integration.networked import Make, interfaces, launch, maker
from tests.polling import eventually

pytestmark = [pytest.mark.network, pytest.mark.slow]

_SOCKET = "[Socket]\nListenStream=80\nAccept=yes\n[Install]\nWantedBy=sockets.target\n"
_SERVICE = "[Service]\nExecStart=/bin/echo hello\nStandardOutput=socket\n"
_DHCP = "[Match]\nName=eth*\n[Network]\nDHCP=yes\n"
_UNITS = "/etc/systemd/system"


@pytest.fixture(scope="module")
def image(shared_root: Path, debian_system: str) -> Iterator[str]:
    """Debian that greets at port 80, and asks by DHCP for addresses of all its links."""
    with Host(shared_root) as host, host.containers.create(debian_system, init="system") as system:
        system.path(f"{_UNITS}/greet.socket").write_text(_SOCKET)
        system.path(f"{_UNITS}/greet@.service").write_text(_SERVICE)
        system.path("/etc/systemd/network/50-dhcp.network").write_text(_DHCP)
        for target, unit in (
            ("sockets.target", f"{_UNITS}/greet.socket"),
            ("multi-user.target", "/lib/systemd/system/systemd-networkd.service"),
            ("multi-user.target", "/lib/systemd/system/network-online.target"),
            ("network-online.target", "/lib/systemd/system/systemd-networkd-wait-online.service"),
        ):
            wants = system.path(f"{_UNITS}/{target}.wants")
            wants.mkdir(exist_ok=True)
            (wants / unit.rpartition("/")[2]).symlink_to(unit)
        made = system.commit("debian-greets:1")
        assert made.lower_dirs  # unpacked
    yield "debian-greets:1"
    with Host(shared_root) as host:
        host.images.remove("debian-greets:1")


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


def _is_up(system: Container) -> bool:
    return system.exec(["systemctl", "is-system-running"], check=False).stdout in ("running\n", "degraded\n")


def _greeting(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.recv(16).decode()
    except OSError:
        return ""


def _addresses(network: Network, system: Container) -> dict[str, object]:
    endpoint = system.networks[network.name]
    return {"ip": endpoint.ip, "ip6": endpoint.ip6, "mac": endpoint.mac}


def _resolves(container: Container, name: str, address: str | None) -> bool:
    found = container.exec(["getent", "ahosts", name], check=False).stdout.split()
    return address in found


def test_a_system_is_on_its_networks(host: Host, make: Make, image: str) -> None:
    """It boots without waiting for what nobody gives, is reached and found, and can be connected live."""
    net, more = make(ipv6=True), make()
    ports = [Port(80)]
    with (
        launch(host, name="peer", network=net) as peer,
        host.containers.launch(image, init="system", name="greeter", network=net, publish=ports) as system,
    ):
        before = _addresses(net, system)
        eventually(lambda: _is_up(system), within_s=60)
        assert system.exec(["systemctl", "--failed", "--plain", "--no-legend"]).stdout == ""
        assert system.exec(["networkctl", "--no-legend", "list", "eth0"]).stdout.split()[3:] == [
            "routable",
            "configured",
        ]
        for name, address in (("peer", peer.ip), ("peer", peer.networks[net.name].ip6)):
            assert _resolves(system, name, address)
        assert "greeter" in peer.exec(["nslookup", str(system.ip)]).stdout
        (binding,) = system.ports
        for address in ("127.0.0.1", "::1", net.gateway):
            assert _greeting(address, binding.host_port) == "hello\n", address
        more.connect(system, aliases=["second"])
        with launch(host, network=more) as third:
            assert third.exec(["nc", "second", "80"]).stdout == "hello\n"
            assert interfaces(system) == {"lo", "eth0", "eth1"}
        system.exec(["systemctl", "restart", "systemd-networkd"])
        more.disconnect(system)
        assert interfaces(system) == {"lo", "eth0"}
        assert _greeting(str(system.ip), 80) == "hello\n"
        assert _addresses(net, system) == before
        assert system.stop(timeout_s=30) == 0


@pytest.mark.parametrize("how", ["poweroff", "reboot", "killed"])
def test_a_system_is_restarted_with_its_network(host: Host, make: Make, image: str, how: str) -> None:
    """By its policy, whether it goes down by itself or its monitor is killed: same address, port, names."""
    net = make()
    options = {"network": {net: Endpoint(aliases=["also"])}, "publish": [Port(80, host_ip="127.0.0.1")]}
    restart = RestartPolicy.always()
    with (
        launch(host, network=net) as peer,
        host.containers.launch(image, init="system", name="again", restart=restart, **options) as system,  # type: ignore[arg-type]
    ):
        eventually(lambda: _is_up(system), within_s=60)
        (binding,), before = system.ports, _addresses(net, system)
        if how == "killed":
            os.kill(system._machinery.records(system.id).read("run")["monitor"], signal.SIGKILL)  # type: ignore[index]
        else:
            system.exec(["systemctl", "--no-block", how])
        eventually(lambda: system.restart_count == 1, within_s=60)
        eventually(lambda: _greeting("127.0.0.1", binding.host_port) == "hello\n", within_s=60)
        assert (_addresses(net, system), system.ports) == (before, (binding,))
        for name in ("again", "also"):
            assert peer.exec(["nc", name, "80"]).stdout == "hello\n"
        system.kill()
