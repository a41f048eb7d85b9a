"""Names for containers on several networks: those of all that they are on, and of no others."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from lxcwrap import Container, Host, Network
from lxcwrap.drivers import netns
from lxcwrap.net.dns import NameServers
from lxcwrap.net.names import server_of
from lxcwrap.supervisor import wiring
from tests.integration.networked import Make, launch, maker
from tests.integration.test_names import NO_SUCH_NAME, PTR, answer_of, lookup, of, question
from tests.polling import eventually


@pytest.fixture
def make(host: Host) -> Iterator[Make]:
    with maker(host) as make:
        yield make


@pytest.fixture
def networks(make: Make) -> tuple[Network, Network]:
    return make(ipv6=True), make(ipv6=True)


@contextmanager
def asker(container: Container, server: str) -> Iterator[Callable[..., tuple[int, list[bytes]]]]:
    """Asks from within the network of a container, always from the same port."""
    with wiring.network_of(container._machinery.bundle(container.id)) as fd, netns.within(fd):
        client = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_DGRAM)

    def ask(name: str, kind: int = 1, timeout_s: float = 5.0) -> tuple[int, list[bytes]]:
        client.settimeout(timeout_s)
        client.sendto(question(name, kind), (server, 53))
        return answer_of(client.recv(4096), name)

    with client:
        yield ask


def shared(host: Host, *networks: Network) -> int:
    """The process of their common name server."""
    return NameServers(host.root).pid(server_of(network.id for network in networks))


def known(container: Container, name: str) -> set[str]:
    """What the C library finds: Python's runs within."""
    return set(container.call(_resolve, name))


def _resolve(name: str) -> list[str]:
    try:
        return [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    except socket.gaierror:
        return []


def test_it_finds_those_of_all(host: Host, networks: tuple[Network, Network]) -> None:
    """By name and alias, by IPv4 and IPv6, and back; whichever of its networks is first; what is on several
    of them has all its addresses."""
    front, back = networks
    with launch(host, network=front, hostname="web") as web, launch(host, hostname="db") as db:
        back.connect(db, aliases=["postgres"])
        for order in ([front, back], [back, front]):
            with launch(host, network=order, hostname="app") as app:
                assert known(app, "web") == of(web, front)
                for name in ("db", "postgres", f"db.{back.name}"):
                    assert known(app, name) == of(db, back)
                with asker(app, order[0].gateway) as ask:
                    assert len(ask("app")[1]) == 2
                for address in of(web, front) | of(db, back):
                    assert "name = " in lookup(app, address)
                assert "NXDOMAIN" in lookup(app, "nobody")


def test_all_on_the_same_networks_ask_the_same_server(host: Host, networks: tuple[Network, Network]) -> None:
    """In whatever order; who is on one alone asks its own, and knows nothing of the other."""
    front, back = networks
    with launch(host, network=[front, back]), launch(host, network=front, hostname="web") as web:
        first = shared(host, front, back)
        with launch(host, network=[back, front], hostname="app"), launch(host, network=back) as db:
            assert first and shared(host, back, front) == first
            assert known(db, "app") and not known(db, "web") and known(web, "app")


def test_a_name_server_answers_its_own_network_only(host: Host, networks: tuple[Network, Network]) -> None:
    """Not who asks it from another one, by IPv4 or IPv6, nor at the address of the common one."""
    front, back = networks
    with launch(host, network=[front, back], hostname="app"), launch(host, network=back) as stranger:
        command = f"/proc/{shared(host, front, back)}/cmdline"
        with open(command) as file:
            listening = file.read().partition("--listen-address=")[2].partition("\0")[0]
        for server in (front.gateway, str(front.gateway6), listening):
            with asker(stranger, server) as ask, pytest.raises(OSError):
                ask("app", timeout_s=0.3)
        with asker(stranger, back.gateway) as ask:
            assert ask("app")[1]


def test_it_follows_connect_and_disconnect(host: Host, networks: tuple[Network, Network], make: Make) -> None:
    """At once, also for who goes on asking from the same port; names of a network that it has left are
    unknown again."""
    front, back = networks
    third = make()
    with (
        launch(host, network=front, hostname="app") as app,
        launch(host, network=front, hostname="web"),
        launch(host, network=back, hostname="db"),
        launch(host, network=third, hostname="log"),
        asker(app, front.gateway) as ask,
    ):
        names = {front: "web", back: "db", third: "log"}

        def finds() -> set[Network]:
            return {network for network, name in names.items() if ask(name)[0] != NO_SUCH_NAME}

        assert finds() == {front}
        back.connect(app)
        assert finds() == {front, back}
        third.connect(app)
        assert finds() == {front, back, third}
        back.disconnect(app)
        assert finds() == {front, third}
        third.disconnect(app)
        assert finds() == {front}
        back.connect(app)
        assert finds() == {front, back}
        app.restart(timeout_s=0)
        assert known(app, "db") and known(app, "web") and not known(app, "log")


def test_an_internal_network_adds_its_names(host: Host, make: Make) -> None:
    """To a container that has a way out; on internal ones alone it has none by names."""
    front, one, other = make(), make(internal=True), make(internal=True)
    with launch(host, network=one, hostname="db"), launch(host, network=[one, other]) as inner:
        with launch(host, network=[front, one]) as app, asker(app, front.gateway) as ask:
            assert ask("db")[0] == 0
            assert ask(f"{reversed_address(one.gateway)}.in-addr.arpa", PTR) == (NO_SUCH_NAME, [])
        with asker(inner, one.gateway) as ask:
            assert ask("db")[0] == 0
            assert ask("deb.debian.org") == (NO_SUCH_NAME, [])


def reversed_address(address: str) -> str:
    return ".".join(reversed(address.split(".")))


def test_the_server_is_replaced_and_ends_unused(
    host: Host, networks: tuple[Network, Network], make: Make
) -> None:
    """Killed, it is back with the next that needs it; unused, it ends with the next that is started, and at
    the latest with one of its networks."""
    front, back = networks
    third = make()
    with launch(host, network=[front, back]) as app, launch(host, network=front, hostname="web"):
        first = shared(host, front, back)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: not shared(host, front, back))
        with launch(host, network=[front, back]):
            assert shared(host, front, back) not in (0, first)
            assert known(app, "web")
        third.connect(app)
        eventually(lambda: not shared(host, front, back))
        last = shared(host, front, back, third)
        assert last
    third.remove()
    eventually(lambda: not os.path.exists(f"/proc/{last}"))
    assert not os.path.exists(f"{host.root}/cache/names/{server_of(n.id for n in (front, back, third))}")


def hosts_of(container: Container) -> list[str]:
    """The addresses at its own name in /etc/hosts."""
    lines = container.path("/etc/hosts").read_text().splitlines()
    return [line.split("\t")[0] for line in lines if line.endswith("\tme")]


def server_named(container: Container) -> str:
    return container.path("/etc/resolv.conf").read_text().partition("nameserver ")[2].partition("\n")[0]


def test_its_files_follow(host: Host, networks: tuple[Network, Network]) -> None:
    """/etc/hosts has its name at all its addresses, /etc/resolv.conf a server that it reaches; and so has who
    shares its network. The lines of others stay."""
    front, back = networks
    options = {"hostname": "me", "extra_hosts": {"other": "192.0.2.9"}}
    with (
        launch(host, **options) as container,
        launch(host, network=f"container:{container.name}") as sharer,
    ):
        for network in (front, back):
            network.connect(container)
        for each in (container, sharer):
            assert set(hosts_of(each)) == of(container, front) | of(container, back)
            assert server_named(each) == front.gateway
        front.disconnect(container)
        for each in (container, sharer):
            assert set(hosts_of(each)) == of(container, back)
            assert server_named(each) == back.gateway
        back.disconnect(container)
        assert hosts_of(container) == ["127.0.1.1"] and server_named(container) == ""
        assert "192.0.2.9\tother\n" in container.path("/etc/hosts").read_text()


def test_what_it_has_made_of_its_files_stays(host: Host, networks: tuple[Network, Network]) -> None:
    """A name server of its own choice, a line that it has deleted, and one that it has added."""
    front, back = networks
    with launch(host, network=front, hostname="me") as container:
        hosts = "127.0.0.1\tlocalhost\n192.0.2.9\tmine\n"
        container.path("/etc/hosts").write_text(hosts)
        container.path("/etc/resolv.conf").write_text("nameserver 192.0.2.53\n")
        back.connect(container)
        front.disconnect(container)
        assert container.path("/etc/hosts").read_text() == hosts
        assert server_named(container) == "192.0.2.53"
