"""Published ports: reached by whom they should be, and by nobody else; whose they are, and until when."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from lxcwrap import Container, Host, InvalidSpecError, Network, Port, PortBinding, PortInUseError
from lxcwrap.specs import State
from tests.integration.networked import Make, launch, maker
from tests.integration.outside import HOST, HOST6, ITS, ITS6, outside
from tests.polling import eventually

# Tells everyone the address that it sees them with, and holds a large file.
SERVE = r"""
    mkdir -p /www/cgi-bin && head -c 3000000 /dev/zero > /www/large
    cat > /www/cgi-bin/who <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n%s' "$REMOTE_ADDR"
END
    chmod +x /www/cgi-bin/who && exec httpd -f -p 80 -h /www
"""
LOCAL = "127.0.0.1"


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def front(make: Make) -> Network:
    return make(ipv6=True)


def serve(host: Host, *ports: Port, **options: object) -> Container:
    container = host.containers.launch("busybox", sh=SERVE, publish=ports, **options)  # type: ignore[arg-type]
    eventually(lambda: b":0050 " in container.exec(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout_bytes)
    return container


def ask(address: str, port: int, path: str = "/cgi-bin/who", *, timeout_s: float = 3.0) -> bytes:
    """What the server says, as the host asks."""
    with socket.create_connection((address, port), timeout=timeout_s) as connection:
        return talk(connection, path)


def talk(connection: socket.socket, path: str = "/cgi-bin/who") -> bytes:
    connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    with connection.makefile("rb") as file:
        return file.read().partition(b"\r\n\r\n")[2]


def answers(address: str, port: int) -> bool:
    try:
        return bool(ask(address, port, timeout_s=0.5))
    except OSError:
        return False


def asks(container: Container, address: str, port: int) -> bool:
    """Whether a container gets an answer there."""
    try:
        with container.socket(port, host=address, timeout_s=1) as connection:
            return bool(talk(connection))
    except OSError:
        return False


def free_ports(count: int) -> int:
    """The first of so many that nobody has."""
    for first in range(20000, 60000, count):
        if not any(answers(LOCAL, port) for port in range(first, first + count)):
            with suppress(OSError), socket.create_server(("", first)):
                return first
    raise AssertionError("all ports are taken")


def only(container: Container) -> int:
    (binding,) = container.ports
    return binding.host_port


# --- who reaches them -----------------------------------------------------------------------------------


def test_reached_from_everywhere(host: Host, front: Network, make: Make) -> None:
    """The host by all its addresses, other machines, the container itself, peers, other networks."""
    with serve(host, Port(80), network=front) as web, outside() as machine:
        port = only(web)
        for address in (LOCAL, "::1", HOST, HOST6, front.gateway, str(front.gateway6)):
            assert ask(address, port), address
        for address, seen in ((HOST, f"::ffff:{ITS}"), (HOST6, ITS6)):
            with machine.connect((address, port)) as connection:
                assert talk(connection) == f"[{seen}]".encode()
        with launch(host, network=front) as peer, launch(host, network=make(ipv6=True)) as far:
            for container in (web, peer, far):
                for address in (HOST, HOST6):
                    assert asks(container, address, port), (container, address)


def test_large_answers_come_whole(host: Host, front: Network) -> None:
    """By the kernel, and by the process for ::1, several at a time."""
    with serve(host, Port(80), network=front) as web, ThreadPoolExecutor(8) as pool:
        port = only(web)
        for address in (LOCAL, "::1"):
            found = pool.map(lambda _, address=address: ask(address, port, "/large", timeout_s=20), range(8))
            assert {len(body) for body in found} == {3_000_000}


def echo() -> None:
    """A server of UDP, run inside: it ends at ``end``."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.bind(("::", 53))
    server.settimeout(20)
    while (received := server.recvfrom(100))[0] != b"end":
        server.sendto(b"heard " + received[1][0].encode(), received[1])


@contextmanager
def echoing(container: Container) -> Iterator[None]:
    server = threading.Thread(target=container.call, args=(echo,))
    server.start()
    eventually(lambda: ":0035 " in container.exec(["cat", "/proc/net/udp6"]).stdout)
    yield
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"end", (str(container.ip), 53))
    server.join()


def test_udp(host: Host, front: Network) -> None:
    """By the same addresses; others are seen with their own."""
    container = launch(host, network=front, publish=[Port(53, protocol="udp")])
    with outside() as machine, container, echoing(container):
        for address in (LOCAL, "::1", HOST, HOST6):
            assert heard(host_socket(address), (address, only(container)))
        for address, seen in ((HOST, f"::ffff:{ITS}"), (HOST6, ITS6)):
            where = address, only(container)
            assert heard(machine.connect(where, udp=True), where) == f"heard {seen}".encode()


def host_socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


def heard(client: socket.socket, where: tuple[str, int]) -> bytes:
    with client:
        client.settimeout(3)
        client.connect(where)
        client.send(b"?")
        return client.recv(100)


def test_who_sends_before_is_led_there_afterwards(host: Host, front: Network) -> None:
    """By UDP the kernel would lead on as it has begun, as long as somebody sends."""
    with launch(host, network=front) as container, echoing(container), outside() as machine:
        (binding,) = container.publish(Port(53, protocol="udp"))
        container.unpublish(binding)
        with machine.connect((HOST, binding.host_port), udp=True) as early:
            early.send(b"nobody is there")
            with pytest.raises(ConnectionRefusedError):
                early.recv(100)
            container.publish(Port(53, host_port=binding.host_port, protocol="udp"))
            early.send(b"?")
            assert early.recv(100).startswith(b"heard ")


def test_at_one_address_of_the_host(host: Host, front: Network) -> None:
    """127.0.0.1 and ::1 are for the host alone; another address for who asks there."""
    with outside() as machine:
        for address, elsewhere in ((LOCAL, HOST), ("::1", HOST6), (HOST, LOCAL), (HOST6, "::1")):
            with serve(host, Port(80, host_ip=address), network=front) as web:
                assert ask(address, only(web))
                assert not answers(elsewhere, only(web))
                for reached in (HOST, HOST6):
                    assert machine.connects((reached, only(web))) == (reached == address)


def test_of_one_version_of_ip(host: Host, front: Network, make: Make) -> None:
    """All addresses of IPv4, or of IPv6; a network without IPv6 has none, but for ::1."""
    with serve(host, Port(80, host_ip="0.0.0.0"), network=front) as web:
        assert answers(LOCAL, only(web)) and not answers("::1", only(web))
    with serve(host, Port(80, host_ip="::"), network=front) as web:
        assert answers("::1", only(web)) and not answers(LOCAL, only(web))
    plain = make()
    with serve(host, Port(80), network=plain) as web:
        assert answers("::1", only(web)) and answers(LOCAL, only(web))
        with pytest.raises(InvalidSpecError):
            web.publish(Port(81, host_ip="::"))


def test_other_networks_do_not_reach_the_container_itself(host: Host, front: Network, make: Make) -> None:
    """What is published is the port of the host; the container's own stays closed to them."""
    with (
        serve(host, Port(80), network=front) as web,
        launch(host, network=make()) as far,
        outside() as machine,
    ):
        assert not asks(far, str(web.ip), 80)
        assert not machine.connects((str(web.ip), 80))
        assert not machine.connects((HOST, 80))


# --- whose they are -------------------------------------------------------------------------------------


def test_ranges(host: Host, front: Network) -> None:
    """In step, at ports that are given or free."""
    first = free_ports(3)
    with serve(host, Port("79-81", host_port=f"{first}-{first + 2}"), Port("80-82"), network=front) as web:
        given = {
            port.container_port: port.host_port
            for port in web.ports
            if port.host_port in range(first, first + 3)
        }
        assert given == {79: first, 80: first + 1, 81: first + 2}
        assert [port.container_port for port in web.ports] == [79, 80, 80, 81, 81, 82]
        assert answers(LOCAL, first + 1) and not answers(LOCAL, first)


def test_free_ports_stay_the_containers(host: Host, front: Network) -> None:
    """Over restarts; and they are none that the kernel gives to programs by itself."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with serve(host, Port(80), Port(80), network=front) as web:
        ports = web.ports
        assert len({port.host_port for port in ports}) == 2
        assert not any(low <= port.host_port <= high for port in ports)
        web.stop(timeout_s=0)
        assert web.ports == ports and not answers(LOCAL, ports[0].host_port)
        web.start()
        assert web.ports == ports
        eventually(lambda: answers(LOCAL, ports[0].host_port) and answers("::1", ports[0].host_port))


def test_a_port_of_another_container_is_refused(host: Host, front: Network) -> None:
    """Before anything is made, also when that does not run, or has it at an address that is part of it."""
    port = free_ports(1)
    with host.containers.create(
        "busybox", network=front, publish=[Port(80, host_port=port, host_ip=LOCAL)]
    ) as one:
        count = len(host.containers)
        for taken in (
            Port(1, host_port=port),
            Port(1, host_port=port, host_ip="0.0.0.0"),
            one.spec.publish[0],
        ):
            with pytest.raises(PortInUseError) as caught:
                host.containers.create("busybox", network=front, publish=[taken])
            assert (caught.value.user, caught.value.host_port) == (one.name, port)
        assert len(host.containers) == count
        others = [Port(1, host_port=port, host_ip="::1"), Port(1, host_port=port, protocol="udp")]
        with host.containers.create("busybox", network=front, publish=others) as other:
            assert len(other.ports) == 2


@pytest.mark.parametrize("address", [LOCAL, "::", "::1"])
def test_a_port_that_a_process_listens_at_is_refused(host: Host, front: Network, address: str) -> None:
    """Whether the container is made, given one more, or started again."""
    port = free_ports(1)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with launch(host, network=front, publish=[Port(80, host_port=port)]) as container:
        container.stop(timeout_s=0)
        eventually(lambda: not is_taken(family, address, port))
        with listening(family, address, port):
            with pytest.raises(PortInUseError) as caught:
                container.start()
            assert caught.value.host_port == port and not container.state.is_alive
            other = free_ports(1) + 1
        with listening(family, address, other):
            with pytest.raises(PortInUseError):
                launch(host, network=front, publish=[Port(80, host_port=other)])
            with pytest.raises(PortInUseError):
                container.publish(Port(80, host_port=other))
        assert only(container) == port
        container.start()


def is_taken(family: int, address: str, port: int) -> bool:
    with suppress(OSError), listening(family, address, port):
        return False
    return True


@contextmanager
def listening(family: int, address: str, port: int) -> Iterator[None]:
    with socket.create_server((address, port), family=family):
        yield


def test_what_cannot_be_published_is_refused(host: Host, front: Network, make: Make) -> None:
    """Without a network that others may reach; at an address that the host does not have."""
    for network, port in (
        ("none", Port(80)),
        (make(internal=True), Port(80)),
        (front, Port(80, host_ip="203.0.113.9")),
        (front, Port(80, host_ip="2001:db8:ffff::9")),
    ):
        with pytest.raises(InvalidSpecError):
            launch(host, network=network, publish=[port])


def test_the_same_port_in_turn(host: Host, front: Network) -> None:
    """It is free when the container has gone, at once."""
    port = Port(80, host_port=free_ports(1))
    for _ in range(5):
        host.containers.run("busybox", ["true"], network=front, publish=[port])
    for _ in range(5):
        launch(host, network=front, publish=[port]).remove(force=True)


# --- while it runs --------------------------------------------------------------------------------------


def test_publish_and_unpublish_while_it_runs(host: Host, front: Network) -> None:
    """From then on; connections that there are go on."""
    port = free_ports(1)
    with serve(host, network=front) as web:
        assert not web.ports
        (binding,) = web.publish(Port(80, host_port=port))
        assert binding == PortBinding(container_port=80, host_port=port, host_ip="", protocol="tcp")
        assert web.ports == (binding,)
        for address in (LOCAL, "::1"):
            with socket.create_connection((address, port)) as connection:
                web.unpublish(Port(80))
                with pytest.raises(ConnectionRefusedError):
                    ask(address, port)
                assert talk(connection)
            web.publish(Port(80, host_port=port))
        web.unpublish(*web.ports)
        with pytest.raises(InvalidSpecError):
            web.unpublish(Port(80))


def test_publish_while_it_does_not_run(host: Host, front: Network) -> None:
    """Then it counts from the next start on."""
    with serve(host, network=front) as web:
        web.stop(timeout_s=0)
        (binding,) = web.publish(Port(80))
        assert not answers(LOCAL, binding.host_port)
        web.start()
        eventually(lambda: answers(LOCAL, binding.host_port) and answers("::1", binding.host_port))


def test_ports_follow_the_networks(host: Host, front: Network, make: Make) -> None:
    """When the first one goes they lead to the address on the next, and back."""
    other = make()
    with serve(host, Port(80), network=[front, other]) as web:
        port = only(web)
        for act, does in ((front.disconnect, True), (other.disconnect, False), (front.connect, True)):
            act(web)
            for address in (LOCAL, "::1"):
                eventually(partial(is_reached, address, port, does))


def is_reached(address: str, port: int, does: bool) -> bool:
    return answers(address, port) == does


def test_nothing_leads_to_a_container_that_was_killed(host: Host, front: Network) -> None:
    """Whoever was killed, another may have the port."""
    with serve(host, Port(80), network=front) as web:
        port = only(web)
        run = host._machinery.records(web.id).read("run") or {}
        os.kill(run["monitor"], signal.SIGKILL)
        eventually(lambda: web.state == State.STOPPED)
        eventually(lambda: not answers(LOCAL, port) and not answers("::1", port))
        with socket.create_server((LOCAL, port)):
            pass
