"""Whether kernel, files and processes are exactly as the records say."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lxcwrap import Container, Host
from lxcwrap.drivers.netlink_dumps import read_addresses, read_links
from lxcwrap.drivers.nftables import Nftables
from lxcwrap.drivers.rtnetlink import Rtnetlink
from lxcwrap.net.dns import NameServers
from lxcwrap.net.firewall import Exposed, Firewall, network_rules, port_rows
from lxcwrap.net.names import bridge_name, has_names, is_host_name
from lxcwrap.net.ruleset import Part
from lxcwrap.supervisor import wiring
from tests import faults
from tests.integration.test_names import query
from tests.leaks import read, tables

_NFT = Nftables()


def wrong(host: Host) -> list[str]:
    """What is there and should not be, or is missing."""
    found = [*faults.strangers(host.root), *faults.remains(host.root)]
    for part in (_records, _links, _rules, _names, _servers, _files):
        found += part(host)
    for container in host.containers:
        if container.state.is_alive:
            found += _inside(host, container)
    return found


def _alive(host: Host) -> list[Container]:
    return [each for each in host.containers if each.state.is_alive]


def _networks(host: Host) -> list[dict[str, Any]]:
    store = host._machinery.network_store
    return [store.network(network_id) for network_id in store.ids()]


def _records(host: Host) -> Iterator[str]:
    database = host._machinery.state.connection
    yield from (f"foreign key {tuple(row)}" for row in database.execute("PRAGMA foreign_key_check"))
    yield from (f"integrity {row[0]}" for row in database.execute("PRAGMA quick_check") if row[0] != "ok")
    owned = database.execute("SELECT * FROM endpoints WHERE owner_pid IS NOT NULL")
    yield from (f"endpoint with an owner {tuple(row)}" for row in owned)
    yield from (f"mark {path.name}" for path in (host.root / "run").glob("*.unsure"))


def _differ(what: str, there: Iterable[Any], wanted: Iterable[Any]) -> Iterator[str]:
    there, wanted = set(there), set(wanted)
    yield from (f"{what} left: {each}" for each in there - wanted)
    yield from (f"{what} missing: {each}" for each in wanted - there)


def _links(host: Host) -> Iterator[str]:
    with Rtnetlink() as net:
        links = read_links(net)
    names = [each.name for each in links if each.name.startswith(bridge_name(""))]
    bridges = {name for name in names if _is_labelled(host, name)}
    yield from _differ("bridge", bridges, _bridges(host))
    indices = {each.ifindex for each in links if each.name in bridges}
    wires = [wire for each in _alive(host) for wire in host._machinery.network_store.wires(each.id)]
    ports = (each.name for each in links if each.master in indices)
    yield from _differ("link", ports, (wire["link"] for wire in wires))


def _bridges(host: Host) -> set[str]:
    """Those that there must be: without one, or with one in part, may be a network that nobody needs, if who
    was to make or remove it was killed."""
    names = {network["bridge"] for network in _networks(host)}
    wires = [wire for each in _alive(host) for wire in host._machinery.network_store.wires(each.id)]
    needed = {wire["network"]["bridge"] for wire in wires}
    return {name for name in names if name in needed or _is_labelled(host, name)}


def _is_labelled(host: Host, bridge: str) -> bool:
    """As each is when it is complete."""
    return read(Path("/sys/class/net", bridge, "ifalias")).strip() == str(host.root)


def _inside(host: Host, container: Container) -> Iterator[str]:
    wires = host._machinery.network_store.wires(container.id)
    run = container._look().run
    try:
        with wiring.network_of(host._machinery.bundle(container.id)) as fd, Rtnetlink(fd) as net:
            links = {link.name for link in read_links(net)}
            there = {address.interface.partition("/")[0] for address in read_addresses(net)}
        mounts = Path(f"/proc/{run['init_pid']}/mountinfo").read_text().splitlines()
    except (OSError, wiring.NotRunning):
        return  # it has just ended
    yield from _differ(
        f"interface in {container.name}", links, {"lo", *(wire["interface"] for wire in wires)}
    )
    leased = {address for wire in wires for address in (wire["ip"], wire["ip6"]) if address}
    own = {each for each in there if each not in ("127.0.0.1", "::1") and not each.startswith("fe80")}
    yield from _differ(f"address in {container.name}", own, leased)
    volumes = [line.split()[4] for line in mounts if line.split()[4].startswith("/v/")]
    yield from _differ(f"volume in {container.name}", volumes, (m.target for m in container.spec.mounts))
    if len(volumes) != len(set(volumes)):
        yield f"mounted twice in {container.name}: {volumes}"
    if (limit := _pids_limit(container.id)) != container.spec.limits.pids:
        yield f"limit of pids of {container.name}: {limit}, not {container.spec.limits.pids}"


def _pids_limit(container_id: str) -> int | None:
    for path in ("pids/lxcwrap/{}/c/pids.max", "lxcwrap/{}/pids.max"):
        file = Path("/sys/fs/cgroup", path.format(container_id))
        if file.exists():
            text = file.read_text().strip()
            return None if text == "max" else int(text)
    return None


# --- the firewall ---


def _rules(host: Host) -> Iterator[str]:
    store, database = host._machinery.network_store, host._machinery.state.connection
    networks = _networks(host)
    rules, bridges = [network_rules(network) for network in networks], _bridges(host)
    parts: list[Part] = [each for each in rules if each.bridge in bridges]
    for each in _alive(host):
        exposed = Exposed.of(store.wires(each.id), port_rows(database, each.id))
        parts += [*exposed.parts, *exposed.servers]
    wanted = {(where, element.replace('"', "")) for part in parts for where, element in part.elements()}
    name = Firewall(host.root).tables.name
    families = [family for family, table in tables() if table == name]
    if (families and not networks) or (bridges and not families):
        yield f"firewall tables {families} of {len(networks)} networks"
    there = set()
    for family in families:
        for item in _NFT.query(f"list table {family} {name}"):
            elements = item.get("set") or item.get("map") or {}
            there |= {(elements["name"], _flat(each)) for each in elements.get("elem", ())}
    may_be = {(where, element.replace('"', "")) for part in rules for where, element in part.elements()}
    yield from _differ("firewall element", there - (may_be - wanted), wanted)
    marked = {path.parent.name for path in host.root.glob("containers/*/exposed")}
    alive = {each.id for each in _alive(host)}
    yield from (f"mark of a container that does not run: {each}" for each in marked - alive)
    unmarked = {each for each in alive - marked if store.wires(each)}
    yield from (f"no mark of a container on networks: {each}" for each in unmarked)


def _flat(value: Any) -> str:
    """As in the language of nft."""
    if isinstance(value, list):
        return " : ".join(map(_flat, value))
    if isinstance(value, dict):
        if "concat" in value:
            return " . ".join(map(_flat, value["concat"]))
        if "prefix" in value:
            return f"{value['prefix']['addr']}/{value['prefix']['len']}"
        return _flat(value.get("elem") or value.get("val"))
    return str(value)


# --- names ---


def _names(host: Host) -> Iterator[str]:
    """Those who run are found by their present names, on each of their networks, and nobody else is."""
    store = host._machinery.network_store
    places = Path(host.root, "cache/names")
    there = {path.name for path in places.iterdir()} if places.exists() else set()
    yield from (f"names of a network that has gone: {each}" for each in there - _known_servers(host))
    files = {(path.parts[-3], path.name) for path in places.glob("*/hosts/*")}
    wires = [(each, wire) for each in _alive(host) for wire in store.wires(each.id)]
    wires = [(each, wire) for each, wire in wires if has_names(wire["network"])]
    yield from _differ("names of", files, ((wire["network_id"], each.id) for each, wire in wires))
    for container, wire in wires:
        network = wire["network"]
        if NameServers(host.root).pid(network["id"]):
            for name in filter(is_host_name, (container.name, container.id[:12])):
                answer = _asked(network["gateway"], name)
                if answer != {wire["ip"]}:
                    yield f"{name} on {network['name']}: {answer}, not {wire['ip']}"


def _known_servers(host: Host) -> set[str]:
    """Of networks that there are: of each, and of several together."""
    known = {network["id"] for network in _networks(host)}
    shared = NameServers(host.root)._shared()
    return known | {server for server, members in shared if members <= known}


def _asked(server: str, name: str) -> set[str] | str:
    try:
        return {socket.inet_ntop(socket.AF_INET, data) for data in query(server, name)[1]}
    except OSError as error:
        return str(error)


def _servers(host: Host) -> Iterator[str]:
    """Each has its network, and those for ::1 their container."""
    known = _known_servers(host)
    alive = {each.id for each in _alive(host)}
    for pid, (_, command) in faults.processes().items():
        if str(host.root) in command and faults.proc_text(pid, "comm") == "dnsmasq":
            of = re.search(r"--pid-file=\S*/([0-9a-f]+)/pid", command)
            if of is None or of[1] not in known or NameServers(host.root).pid(of[1]) != pid:
                yield f"name server {pid} of {of and of[1][:12]}"
    for path in host.root.glob("containers/*/forwarders"):
        if path.parent.name not in alive:
            yield f"list of forwarders: {path}"


def _files(host: Host) -> Iterator[str]:
    volumes = {path.name for path in (host.root / "volumes").iterdir()}
    yield from _differ("directory of a volume", volumes, (each.name for each in host.volumes))
    for volume in volumes:
        yield from _differ(
            f"in volume {volume}", set(os.listdir(host.root / "volumes" / volume)) - {"lock"}, {"data"}
        )
    yield from (f"draft {path}" for path in host.root.glob("images/**/*.part"))
