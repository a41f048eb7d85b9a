"""Services that come back, by their policies or when the machine has booted, with all they had."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Container, Endpoint, HealthCheck, Host, Limits, Mount, Network, Port, RestartPolicy, State
from lxcwrap.net.firewall import Firewall
from tests.integration.networked import Make, launch, maker
from tests.polling import eventually

# What it says at port 80 is in a volume, and counts its starts.
_SERVE = "echo x >> /data/starts; while true; do wc -l < /data/starts | nc -l -p 80; done"
_POLICY = RestartPolicy.always()


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


def _service(host: Host, name: str, networks: dict[Network, Endpoint], volume: str) -> Container:
    options: dict[str, Any] = {
        "network": networks,
        "publish": [Port(80)],
        "mounts": [Mount.volume(volume, "/data")],
        "limits": Limits(memory="64MiB", pids=50),
        "health": HealthCheck.tcp(9, interval_s=0.05, retries=1),
        "restart": _POLICY,
    }
    return host.containers.launch("busybox", sh=_SERVE, name=name, **options)


def _said(address: str, port: int) -> str:
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            return connection.recv(16).decode().strip()
    except OSError:  # between two connections nobody listens
        return ""


def _facts(container: Container) -> tuple[object, ...]:
    return dict(container.networks), container.ports


def _monitor(container: Container) -> int:
    record: Any = container._machinery.records(container.id).read("run")
    return int(record["monitor"])


def _kill(pid: int) -> None:
    process = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([process], [], [])
    os.close(process)


def _check(service: Container, peer: Container, name: str, starts: int) -> None:
    """It is reached in every way, says how often it was started, and its health is looked at."""
    (binding,) = service.ports
    for address in ("127.0.0.1", "::1", str(service.ip)):
        port = 80 if address == service.ip else binding.host_port
        eventually(lambda a=address, p=port: _said(a, p) == str(starts), within_s=30)  # type: ignore[misc]
    eventually(lambda: peer.exec(["nc", name, "80"], check=False).stdout == f"{starts}\n", within_s=30)
    eventually(lambda: service.health is not None and service.health.status == "unhealthy", within_s=30)
    assert service.stats().pids_limit == 50


@pytest.mark.parametrize("victim", ["process", "monitor"])
def test_a_restart_brings_all_back(host: Host, make: Make, victim: str) -> None:
    """Addresses, names, ports at every address of the host, volume, limits, health check; twice."""
    first, second = make(ipv6=True), make()
    networks = {first: Endpoint(aliases=["www"]), second: Endpoint()}
    service = _service(host, "comes-back", networks, "kept")
    with launch(host, network=first) as peer, launch(host, network=second) as other, service:
        before = _facts(service)
        _check(service, peer, "www", 1)
        for count in (1, 2):
            _kill(_monitor(service) if victim == "monitor" else service.init_pid or 0)
            eventually(lambda c=count: service.restart_count == c, within_s=30)  # type: ignore[misc]
            assert _facts(service) == before
            _check(service, peer, "www", count + 1)
            _check(service, other, "comes-back", count + 1)
    host.volumes.remove("kept")


def test_what_changed_while_it_ran_holds_after_a_restart(host: Host, make: Make) -> None:
    """Networks and ports, given and taken; also while it waits to be restarted."""
    first, second, third = make(), make(), make()
    service = _service(host, "changing", {first: Endpoint()}, "kept")
    with launch(host, network=second) as peer, service:
        second.connect(service, aliases=["new"])
        (old,) = service.ports
        service.unpublish(old)
        service.publish(Port(80))
        os.kill(service.init_pid or 0, signal.SIGKILL)
        eventually(lambda: service.state is State.RESTARTING)
        first.disconnect(service)
        third.connect(service)
        eventually(lambda: service.restart_count == 1, within_s=30)
        assert set(service.networks) == {second.name, third.name}
        _check(service, peer, "new", 2)
        assert old not in service.ports and not _said("127.0.0.1", old.host_port)
    host.volumes.remove("kept")


def _boot(host: Host) -> None:
    """Of the root directory leave what a boot leaves, the files: all processes, links and rules are gone."""
    machinery = host._machinery
    for pid in _processes(host.root):
        with suppress(ProcessLookupError):
            _kill(pid)
    eventually(lambda: not any(machinery.cgroups.pids(container.id) for container in host.containers))
    for container in host.containers:
        machinery.cgroups.remove(container.id)
    for network in host.networks:
        subprocess.run(["ip", "link", "del", str(network.bridge)], check=True)
    table = Firewall(host.root).tables.name
    for family in ("inet", "bridge"):
        subprocess.run(["nft", "delete", "table", family, table], check=True)


def _processes(root: Path) -> Iterator[int]:
    """Those that have it on their command line: fork-server and all its children, name servers."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if os.fsencode(root) in Path(f"/proc/{pid}/cmdline").read_bytes() and int(pid) != os.getpid():
                yield int(pid)


def test_a_boot_brings_all_back(fresh_host: Host) -> None:
    """resume() is enough: services of two networks find each other, are reached, have volumes and limits."""
    number = os.getpid() % 250  # of subnets that nobody is given who asks for any while the links are gone
    front = fresh_host.networks.create("front", subnet=f"10.201.{number}.0/24", ipv6=True)
    back = fresh_host.networks.create("back", subnet=f"10.202.{number}.0/24", internal=True)
    fresh_host.volumes.create("sized", size="20MiB")
    web = _service(fresh_host, "web", {front: Endpoint(aliases=["www"]), back: Endpoint()}, "plain")
    db = _service_of(fresh_host, "db", back, "sized")
    client = launch(fresh_host, name="client", network=front, restart=_POLICY)
    stopped = launch(fresh_host, name="stopped", network=front, restart=RestartPolicy.unless_stopped())
    stopped.stop(timeout_s=0)
    before = [_facts(each) for each in (web, db, client)]
    _check(web, client, "www", 1)
    _boot(fresh_host)
    with Host(fresh_host.root) as host:
        assert {each.name for each in host.resume()} == {"web", "db", "client"}
        assert [_facts(each) for each in (web, db, client)] == before
        _check(web, client, "www", 2)
        eventually(lambda: web.exec(["nc", "db", "80"], check=False).stdout == "2\n", within_s=30)
        assert client.exec(["nc", "-w1", str(db.ip), "80"], check=False).exit_code  # of a network apart
        assert db.exec(["df", "-m", "/data"]).stdout.splitlines()[-1].split()[1] < "20"
        assert not stopped.state.is_alive
        assert host.resume() == []
        for container in host.containers:
            container.remove(force=True)
        for network in host.networks:
            network.remove()
        host.volumes.prune()


def _service_of(host: Host, name: str, network: Network, volume: str) -> Container:
    mounts = [Mount.volume(volume, "/data")]
    return host.containers.launch(
        "busybox", sh=_SERVE, name=name, network=network, mounts=mounts, restart=_POLICY
    )
