"""Commands on networks and volumes."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from .creation import pairs
from .output import Column, show
from .parsing import Commands, completed_by
from .targets import each, host_of, listed

if TYPE_CHECKING:
    from .. import Container, Network, Volume


def add(commands: Commands) -> None:
    commands.add("networks", _networks, "list networks", json=True)
    network = commands.group("network", "make, list and remove networks; connect containers")
    network.add("ls", _networks, "list networks", json=True)
    create = network.add("create", _create_network, "make a network")
    create.add_argument("--subnet", metavar="10.88.1.0/24", help="default: a free one")
    create.add_argument("--gateway", metavar="ADDRESS")
    create.add_argument("--ipv6", action="store_true", help="a subnet of IPv6, too")
    create.add_argument("--internal", action="store_true", help="no way out, and none in")
    create.add_argument("-d", "--driver", choices=("bridge", "macvlan", "ipvlan"), default="bridge")
    create.add_argument("--parent", metavar="LINK", help="of this host, for macvlan and ipvlan")
    create.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    create.add_argument("name")
    remove = network.add("rm", _remove_networks, "remove networks")
    completed_by(remove.add_argument("name", nargs="+"), "networks")
    connect = network.add("connect", _connect, "let a container be on a network, too")
    connect.add_argument("--alias", action="append", default=[], metavar="NAME")
    connect.add_argument("--ip", metavar="ADDRESS")
    connect.add_argument("--ip6", metavar="ADDRESS")
    for parser in (connect, network.add("disconnect", _disconnect, "take a container off a network")):
        completed_by(parser.add_argument("network"), "networks")
        completed_by(parser.add_argument("container"), "containers")
    commands.add("volumes", _volumes, "list volumes", json=True)
    volume = commands.group("volume", "make, list and remove volumes")
    volume.add("ls", _volumes, "list volumes", json=True)
    create = volume.add("create", _create_volume, "make a volume")
    create.add_argument("--size", metavar="SIZE", help="the most it may hold, such as 1GiB")
    create.add_argument("--label", action="append", default=[], metavar="NAME=VALUE")
    create.add_argument("name")
    remove = volume.add("rm", _remove_volumes, "remove volumes, with their files")
    completed_by(remove.add_argument("name", nargs="+"), "volumes")


def _networks(given: Namespace) -> int:
    with host_of(given) as host:
        found = listed(host.networks, _network_facts)
    columns = (
        Column("NAME", lambda facts: facts["name"]),
        Column("DRIVER", lambda facts: facts["driver"]),
        Column("SUBNET", lambda facts: ", ".join(filter(None, (facts["subnet"], facts["subnet6"])))),
        Column("INTERNAL", lambda facts: "yes" if facts["internal"] else ""),
        Column("CONTAINERS", lambda facts: ", ".join(facts["containers"])),
    )
    show(found, columns, as_json=given.json)
    return 0


def _network_facts(network: Network) -> dict[str, Any]:
    return {
        "id": network.id,
        "name": network.name,
        "driver": network.driver,
        "subnet": network.subnet,
        "gateway": network.gateway,
        "subnet6": network.subnet6,
        "internal": network.internal,
        "containers": listed(network.containers, _name),
        "created_at": network.created_at,
        "labels": network.labels,
    }


def _create_network(given: Namespace) -> int:
    with host_of(given) as host:
        network = host.networks.create(
            given.name,
            subnet=given.subnet,
            gateway=given.gateway,
            ipv6=given.ipv6,
            internal=given.internal,
            driver=given.driver,
            parent=given.parent,
            labels=pairs(given.label, "--label"),
        )
        print(network.id)
    return 0


def _remove_networks(given: Namespace) -> int:
    with host_of(given) as host:
        return each(given.name, lambda name: host.networks[name].remove())


def _connect(given: Namespace) -> int:
    with host_of(given) as host:
        network = host.networks[given.network]
        network.connect(given.container, aliases=given.alias, ip=given.ip, ip6=given.ip6)
    return 0


def _disconnect(given: Namespace) -> int:
    with host_of(given) as host:
        host.networks[given.network].disconnect(given.container)
    return 0


def _volumes(given: Namespace) -> int:
    from ..display.words import size

    with host_of(given) as host:
        found = listed(host.volumes, _volume_facts)
    columns = (
        Column("NAME", lambda facts: facts["name"]),
        Column("USED", lambda facts: size(facts["used"]), is_number=True),
        Column("SIZE", lambda facts: size(facts["size"]), is_number=True),
        Column("CONTAINERS", lambda facts: ", ".join(facts["containers"])),
    )
    show(found, columns, as_json=given.json)
    return 0


def _volume_facts(volume: Volume) -> dict[str, Any]:
    return {
        "name": volume.name,
        "size": volume.size,
        "used": volume.used,
        "path": volume.path,
        "containers": listed(volume.containers, _name),
        "created_at": volume.created_at,
        "labels": volume.labels,
    }


def _name(container: Container) -> str:
    return container.name


def _create_volume(given: Namespace) -> int:
    with host_of(given) as host:
        labels = pairs(given.label, "--label")
        print(host.volumes.create(given.name, size=given.size, labels=labels).name)
    return 0


def _remove_volumes(given: Namespace) -> int:
    with host_of(given) as host:
        return each(given.name, host.volumes.remove)
