"""The network of a container that starts: complete before its first instruction."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Any

from ..drivers import mounts, netns
from ..drivers.pidfd import open_same
from ..drivers.rtnetlink import Rtnetlink
from ..net import plumbing, rates
from ..net.dns import NameServers
from ..net.firewall import MARK as EXPOSED
from ..net.firewall import Firewall, port_rows
from ..storage.root import RootDir
from ..storage.state import State
from . import forwarder, hostfiles, wire
from .records import Records

Plan = Mapping[str, Any]
StrPath = str | os.PathLike[str]
# In the directory of a container that has been on a network ever: for others nobody need ask the records.
MARK = "networked"
# The same of one that has another name, which is not announced yet.
_RENAMED = "renamed"


def plug_in(plan: Plan, netns_fd: int, monitor: int) -> Plan:
    """Make the links of the container in its new namespace; its plan, that knows its addresses.

    The caller is in the host's network namespace, and the container's lock is held: who connects it from now
    on waits until it runs.
    """
    kind, _, owner = plan["network"].partition(":")
    if kind == "container":
        return {**plan, "files": hostfiles.sharing(plan["files"], f"{plan['lxc_path']}/{owner}/files")}
    if kind == "host" and "draft" not in plan:
        return {**plan, "files": hostfiles.sharing(plan["files"], "/etc")}
    if not is_networked(plan["bundle"]):
        return plan
    root = RootDir(plan["root"])
    with closing(State(root.state_db)) as state:
        connected = plumbing.wires(state.connection, plan["id"])
        if not connected:
            return plan
        firewall = Firewall(root.path)
        firewall.container_added(plan["id"], connected, lambda: port_rows(state.connection, plan["id"]))
        with Rtnetlink() as net:
            plumbing.plug_all(net, netns_fd, connected, str(root.run))
        announce(state.connection, root, plan["id"])
    NameServers(root.path).ensure(each["network"] for each in connected)
    forwarder.end(plan["bundle"])
    if exposed := firewall.exposed(plan["id"]):
        forwarder.begin(str(root.path), plan["id"], exposed.forwards, monitor)
    return {**plan, "files": hostfiles.connected(plan["files"], connected)}


@contextmanager
def _showing(bundle: StrPath) -> Iterator[None]:
    """Who lets a container be found, or not any more, looks within at what there is, and acts upon it."""
    fd = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def announce(connection: sqlite3.Connection, root: RootDir, container_id: str) -> None:
    """Let a container, if it runs or is about to, be found by its present names."""
    bundle = root.containers / container_id
    with suppress(FileNotFoundError), _showing(bundle):  # it was removed
        if is_exposed(bundle):
            _announce(connection, root, container_id)
        with suppress(FileNotFoundError):
            os.unlink(bundle / _RENAMED)


def withdraw(root: RootDir, container_id: str, network_id: str) -> None:
    """Let a container not be found on this network any more."""
    bundle = root.containers / container_id
    with suppress(FileNotFoundError), _showing(bundle):
        NameServers(root.path).withdraw(container_id, network_id)


def begin_rename(bundle: StrPath) -> None:
    """To be called before the new name is on record, and `announce` afterwards."""
    os.close(os.open(f"{os.fspath(bundle)}/{_RENAMED}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def is_renamed(bundle: StrPath) -> bool:
    """Whether somebody is renaming it, or was killed meanwhile."""
    return os.path.exists(f"{os.fspath(bundle)}/{_RENAMED}")


def _announce(connection: sqlite3.Connection, root: RootDir, container_id: str) -> None:
    query = "SELECT name, json_extract(spec, '$.hostname') AS hostname FROM containers WHERE id = ?"
    row = connection.execute(query, (container_id,)).fetchone()
    for each in plumbing.wires(connection, container_id):
        names = (row["name"], row["hostname"], *json.loads(each["aliases"]))
        NameServers(root.path).announce(each, names)


def borrowed(plan: Plan) -> int | None:
    """The network namespace of the other container that this one is to be in; None: it borrows none."""
    kind, _, owner = plan["network"].partition(":")
    return _open_netns(f"{plan['lxc_path']}/{owner}") if kind == "container" else None


class NotRunning(Exception):
    """A container without processes has no network."""


@contextmanager
def network_of(bundle: StrPath) -> Iterator[int]:
    """The network namespace of the container with this directory. Raises NotRunning."""
    fd = _open_netns(bundle)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_netns(bundle: StrPath) -> int:
    run = Records(bundle).read("run")
    pidfd = open_same(run["init_pid"], run["init_start"]) if run else None
    if run is None or pidfd is None:
        name = os.path.basename(bundle)[:12]
        raise NotRunning(f"container {name}, whose network is to be used, does not run")
    try:
        # By a pid that is used again only when we let go of it.
        return os.open(f"/proc/{run['init_pid']}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotRunning(os.path.basename(bundle)) from None
    finally:
        os.close(pidfd)


@contextmanager
def marked(bundle: StrPath) -> Iterator[None]:
    """Mark a container as one that may have endpoints. Who changes them does so within: one after the
    other."""
    with plumbing.locked(f"{os.fspath(bundle)}/{MARK}"):
        yield


def sysfs(plan: Plan, netns_fd: int | None) -> int | None:
    """A detached /sys for a container whose user namespace does not own its network: to one that does not the
    kernel gives none. None: liblxc mounts it."""
    if not plan.get("sysfs"):
        return None
    with nullcontext() if netns_fd is None else netns.within(netns_fd):
        attributes = mounts.RDONLY | mounts.NOSUID | mounts.NODEV | mounts.NOEXEC
        return mounts.new_filesystem("sysfs", [], attributes)


def is_networked(bundle: str) -> bool:
    """Whether the container in directory `bundle` has been on a network ever."""
    return os.path.exists(f"{bundle}/{MARK}")


def is_exposed(bundle: StrPath) -> bool:
    """Whether the firewall may still have something of the container in directory `bundle`."""
    return os.path.exists(f"{os.fspath(bundle)}/{EXPOSED}")


def conceal(root: RootDir, container_id: str) -> None:
    """Nothing leads any more to a container that has ended; its lock is held."""
    bundle = root.containers / container_id
    with suppress(FileNotFoundError), _showing(bundle):  # it removed itself
        NameServers(root.path).withdraw(container_id)
        forwarder.end(str(bundle))
        rates.forget_all(str(root.path), container_id)
        Firewall(root.path).container_removed(container_id)


def serve_names(request: wire.Message, client: socket.socket) -> None:
    """See to it that these networks have their name servers."""
    try:
        NameServers(request["root"]).ensure(request["networks"])
        wire.send(client, {"done": True})
    except OSError as error:
        wire.send(client, {"error": str(error.strerror or error)})
