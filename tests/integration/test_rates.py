"""Limits of how fast containers send and receive, measured, changed while they run, and gone with them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest

from lxcwrap import (
    Container,
    Endpoint,
    Host,
    InvalidSpecError,
    KernelError,
    Limits,
    Rate,
    RestartPolicy,
    UnsupportedError,
)
from lxcwrap.net import kernel, rates
from tests.integration.networked import Make, interfaces, launch, maker, reaches
from tests.integration.rated import SIZE, detours, in_force, least_s, line
from tests.polling import eventually

M = 1_000_000
SLOW, SLOW_BPS = "20Mbit", 20 * M
Line = tuple[Container | None, Container | None, str]


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


def is_limited(way: Line, bps: int) -> bool:
    """Never faster. Slower only on a machine that is busy, so it may be tried again."""
    least = least_s(bps)

    def is_near() -> bool:
        with line(*way) as one:
            taken = one.seconds()
        assert taken > least * 0.95, f"{taken:.3f} s, and {least:.3f} s is the least"
        return taken < least * 3

    eventually(is_near, within_s=30)
    return True


def is_free(way: Line) -> bool:
    """Far faster than what `is_limited` takes."""

    def is_fast() -> bool:
        with line(*way) as one:
            return one.seconds() < least_s(SLOW_BPS) / 4

    eventually(is_fast, within_s=30)
    return True


# --- measured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [4, 6])
def test_a_network_limits_each_container_both_ways(host: Host, make: Make, version: int) -> None:
    """To the host and back, to each other; by IPv4 and IPv6. What the container sends keeps its address."""
    network = make(ipv6=True, rate=SLOW)
    gateway = str(network.gateway if version == 4 else network.gateway6)
    with launch(host, network=network) as one, launch(host, network=network) as other:
        endpoints = [each.networks[network.name] for each in (one, other)]
        ip, other_ip = (str(each.ip if version == 4 else each.ip6) for each in endpoints)
        assert is_limited((one, None, gateway), SLOW_BPS)
        assert is_limited((None, one, ip), SLOW_BPS)
        assert is_limited((one, other, other_ip), SLOW_BPS)
        assert network.rate == Rate(egress=SLOW, ingress=SLOW) == endpoints[0].rate


def test_each_direction_has_its_own_limit(host: Host, make: Make) -> None:
    """And what has none is far faster; so is a network without any, which has nothing of it."""
    sends, receives, free = make(rate=Rate(egress=SLOW)), make(rate=Rate(ingress=SLOW)), make()
    with launch(host, network=[sends, receives, free]) as one:
        ips = [str(endpoint.ip) for endpoint in one.networks.values()]
        assert is_limited((one, None, sends.gateway), SLOW_BPS) and is_free((None, one, ips[0]))
        assert is_free((one, None, receives.gateway)) and is_limited((None, one, ips[1]), SLOW_BPS)
        assert is_free((one, None, free.gateway)) and is_free((None, one, ips[2]))
        assert in_force(one) == {"eth0": (SLOW_BPS, 0), "eth1": (0, SLOW_BPS), "eth2": (0, 0)}
        assert one.networks[free.name].rate is None and free.rate is None


def test_it_holds_from_the_first_instruction(host: Host, make: Make) -> None:
    """Of a command that sends all it has at once."""
    network = make(rate=Rate(egress=SLOW))
    with socket.create_server((network.gateway, 0)) as listener:
        send = f"head -c {SIZE} /dev/zero | nc {network.gateway} {listener.getsockname()[1]}"
        timed = f"read before _ </proc/uptime; {send}; read after _ </proc/uptime; echo $before $after"
        with host.containers.launch("busybox", sh=timed, network=network) as one:
            listener.settimeout(30)
            receiver, _ = listener.accept()
            with receiver, receiver.makefile("rb") as file:
                assert len(file.read()) == SIZE
            one.wait(timeout_s=30)
            before, after = map(float, one.logs().split())
            assert after - before > least_s(SLOW_BPS) * 0.9


def test_a_limit_is_no_way_around_the_firewall(host: Host, make: Make) -> None:
    """What is led through the device is judged as before: by the address it says it comes from."""
    network = make(rate="100Mbit")
    with (
        launch(host, network=network, cap_add=["NET_ADMIN", "NET_RAW"]) as one,
        launch(host, network=network) as other,
    ):
        assert reaches(one, other.ip)
        one.exec(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:99"])
        assert not reaches(one, other.ip)


def test_a_macvlan_is_limited_within(host: Host, make: Make) -> None:
    """By its link in the container's own network; live, and without a trace."""
    link = f"lxwr{os.getpid()}"
    subprocess.run(["ip", "link", "add", link, "up", "type", "veth", "peer", f"{link}p"], check=True)
    try:
        subprocess.run(["ip", "link", "set", f"{link}p", "up"], check=True)
        network = make(driver="macvlan", parent=link, subnet="10.87.31.0/24", rate=SLOW)
        with (
            launch(host, network=network) as one,
            launch(host, network={network: Endpoint(rate=Rate())}) as two,
        ):
            assert in_force(one) == {"eth0": (SLOW_BPS, SLOW_BPS)} and in_force(two) == {"eth0": (0, 0)}
            assert is_limited((one, two, str(two.ip)), SLOW_BPS)
            assert is_limited((two, one, str(one.ip)), SLOW_BPS)
            network.limit(None)
            assert in_force(one) == {"eth0": (0, 0)} and interfaces(one) == {"lo", "eth0"}
            assert is_free((one, two, str(two.ip)))
            network.limit(SLOW, container=one)
            network.disconnect(one)
            assert interfaces(one) == {"lo"}
    finally:
        subprocess.run(["ip", "link", "delete", link], check=True)


# --- changed --------------------------------------------------------------------------------------------


def test_limits_change_while_it_runs(host: Host, make: Make) -> None:
    """Of the network, of the container on all of its own, of the container on this one: the nearest holds."""
    network, other = make(), make()
    with launch(host, network=[network, other]) as one, launch(host, network=network) as two:
        assert in_force(one) == {"eth0": (0, 0), "eth1": (0, 0)} and is_free((one, two, str(two.ip)))
        network.limit("40Mbit")
        assert in_force(one) == {"eth0": (40 * M, 40 * M), "eth1": (0, 0)}
        assert in_force(two) == {"eth0": (40 * M, 40 * M)}
        one.update(Limits(network_rate=Rate(egress=SLOW)))
        assert in_force(one) == {"eth0": (SLOW_BPS, 0), "eth1": (SLOW_BPS, 0)}
        assert is_limited((one, two, str(two.ip)), SLOW_BPS)
        network.limit("30Mbit", container=one)
        assert in_force(one) == {"eth0": (30 * M, 30 * M), "eth1": (SLOW_BPS, 0)}
        assert one.networks[network.name].rate == Rate(egress=30 * M, ingress=30 * M)
        network.limit(Rate(), container=one)
        assert in_force(one)["eth0"] == (0, 0) and one.networks[network.name].rate is None
        network.limit(None, container=one)
        assert in_force(one)["eth0"] == (SLOW_BPS, 0)
        one.update(Limits(memory="64MiB"))
        one.update(Limits(network_rate=Rate()))
        assert in_force(one) == {"eth0": (0, 0), "eth1": (0, 0)}
        assert one.spec.limits == Limits(memory="64MiB", network_rate=Rate())
        network.limit(None)
        assert in_force(two) == {"eth0": (0, 0)} and reaches(one, two.ip)


def test_who_is_connected_later_is_limited(host: Host, make: Make) -> None:
    """By the network, or by what was said of it; and is free of it when it is disconnected."""
    network, before = make(rate="30Mbit"), detours(host)
    with launch(host) as one:
        network.connect(one)
        assert in_force(one) == {"eth0": (30 * M, 30 * M)} and len(detours(host) - before) == 1
        network.disconnect(one)
        assert detours(host) == before
        assert network.connect(one, rate=Rate(ingress="1Gbit")).rate == Rate(ingress=10**9)
        assert in_force(one) == {"eth0": (0, 10**9)}


def test_they_are_kept_over_restarts(host: Host, make: Make) -> None:
    """Also what was changed while it did not run, and whoever starts it anew."""
    network, policy = make(rate="30Mbit"), RestartPolicy.always()
    with launch(host, network=network, limits=Limits(network_rate="25Mbit"), restart=policy) as one:
        assert in_force(one) == {"eth0": (25 * M, 25 * M)}
        pid = one.init_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)  # its monitor starts it anew
        eventually(lambda: one.state.is_alive and one.init_pid not in (None, pid), within_s=30)
        assert in_force(one) == {"eth0": (25 * M, 25 * M)}
        one.stop(timeout_s=0)
        one.update(Limits(network_rate=Rate(egress=SLOW)))
        one.start()
        assert in_force(one) == {"eth0": (SLOW_BPS, 0)} and is_limited((one, None, network.gateway), SLOW_BPS)
        one.stop(timeout_s=0)
        network.limit("1Mbit", container=one)
        with Host(host.root) as another:
            another.containers[one.id].start()
        assert in_force(one) == {"eth0": (M, M)}


def test_they_are_kept_by_resume(fresh_host: Host) -> None:
    """When all processes were killed at once, as by a reboot."""
    network = fresh_host.networks.create(f"resumed-{os.getpid()}", rate=SLOW)
    one = launch(fresh_host, network=network, restart=RestartPolicy.always())
    server = fresh_host._machinery.supervisor.pid()
    monitor = one._machinery.records(one.id).read("run")["monitor"]  # type: ignore[index]
    assert server is not None
    for pid in (server, monitor):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: fresh_host._machinery.records(one.id).monitor_lives() is False)
    with Host(fresh_host.root) as host:
        assert host.resume() == [one]
        assert in_force(one) == {"eth0": (SLOW_BPS, SLOW_BPS)} and len(detours(host)) == 1
        one.remove(force=True)
        assert not detours(host)


@pytest.mark.parametrize("bps", [1_000, 10**12])
def test_the_least_and_the_most(host: Host, make: Make, bps: int) -> None:
    """The kernel takes."""
    with launch(host, network=make(rate=bps)) as one:
        assert in_force(one) == {"eth0": (bps, bps)}


# --- left, or refused -----------------------------------------------------------------------------------


def test_nothing_is_left_of_who_was_killed(host: Host, make: Make) -> None:
    """With all that would have cleared up after it: the device that outlives its namespace, too."""
    network, before = make(rate=SLOW), detours(host)
    with launch(host, network=network) as one:
        monitor = one._machinery.records(one.id).read("run")["monitor"]  # type: ignore[index]
        assert len(detours(host) - before) == 1
        os.kill(monitor, signal.SIGKILL)
        eventually(lambda: detours(host) == before, within_s=30)


def test_who_has_no_limit_has_nothing_of_it(host: Host, make: Make) -> None:
    """No device, no note, no discipline of queueing on its link."""
    network, before = make(), detours(host)
    with launch(host, network=network) as one:
        assert detours(host) == before and not (host.root / "containers" / one.id / "detours").exists()
        (wire,) = host._machinery.network_store.wires(one.id)
        shown = subprocess.run(
            ["ip", "link", "show", wire["link"]], capture_output=True, text=True, check=True
        )
        assert "qdisc noqueue" in shown.stdout


def test_a_kernel_without_limits_is_found_before_anything_is_made(
    host: Host, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And all without limits goes on."""
    network = make()
    with launch(host, network=network) as one:
        monkeypatch.setattr(kernel, "_probe", lambda kind: "no such device" if kind == "rate limits" else "")
        for attempt in (
            lambda: host.networks.create("refused", rate="1Mbit"),
            lambda: launch(host, name="refused", network={network: Endpoint(rate="1Mbit")}),
            lambda: launch(host, name="refused", limits=Limits(network_rate="1Mbit")),
            lambda: one.update(Limits(network_rate="1Mbit", memory="64MiB")),
            lambda: network.limit("1Mbit"),
            lambda: network.limit("1Mbit", container=one),
        ):
            with pytest.raises(UnsupportedError):
                attempt()
        network.disconnect(one)
        with pytest.raises(UnsupportedError):
            network.connect(one, rate="1Mbit")
        network.connect(one, rate=Rate())
        assert "refused" not in host.networks and "refused" not in host.containers
        assert one.spec.limits == Limits() and network.rate is None and in_force(one) == {"eth0": (0, 0)}


def test_what_the_kernel_refuses_changes_nothing(
    host: Host, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was changed before it."""
    network = make(rate="30Mbit")
    with launch(host, network=network) as one, launch(host, network=network) as two:
        apply, refused = rates.apply, two._machinery.network_store.wires(two.id)[0]["link"]

        def fail(net: object, inside: object, wire: dict[str, object], root: str) -> None:
            if wire["link"] == refused and wire["egress_bps"] == SLOW_BPS:
                raise OSError(12, "no memory")
            apply(net, inside, wire, root)  # type: ignore[arg-type]

        monkeypatch.setattr(rates, "apply", fail)
        attempts: tuple[Callable[[], object], ...] = (
            lambda: network.limit(SLOW),
            lambda: network.limit(SLOW, container=two),
            lambda: two.update(Limits(network_rate=SLOW)),
        )
        for attempt in attempts:
            with pytest.raises(KernelError):
                attempt()
            assert in_force(one) == in_force(two) == {"eth0": (30 * M, 30 * M)}
            assert network.rate == two.networks[network.name].rate == Rate(egress="30Mbit", ingress="30Mbit")
            assert two.spec.limits == Limits()


def test_who_is_not_there_cannot_be_limited(host: Host, make: Make) -> None:
    """Nor who has the network of another."""
    network = make()
    with launch(host) as one, launch(host, network="host") as two:
        with pytest.raises(InvalidSpecError):
            network.limit("1Mbit", container=one)
        with pytest.raises(InvalidSpecError):
            two.update(Limits(network_rate="1Mbit"))
        with pytest.raises(InvalidSpecError):
            launch(host, network="host", limits=Limits(network_rate="1Mbit"))
