"""Names of containers: a name server for each bridge network, which asks the host's for all other names; and
one for each set of networks that containers are on at once.

cache/names/<network>/hosts/<container>   what a container is called there, while it runs; the servers look
                                          at the directory, and know it at once
cache/names/<server>/pid                  of the server: dnsmasq, as "nobody". That of a network has its id,
                                          and listens on its bridge alone; that of several at an address of
                                          127.0.0.0/8, to which the firewall leads the questions of containers
                                          that are on all of them
cache/names/<server>/log                  of what it does; emptied now and then: each container adds to it
cache/names/<server>/of/<network>         those several

They outlive who started them; whoever next brings a container to a network starts them anew if they were
killed. A server of several networks that no container asks ends when another one is started.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress
from typing import NamedTuple

from ..drivers.polling import readable
from .firewall import network_rules
from .names import has_names, hosts_text, reverse_zones, server_of, shared_address
from .plumbing import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from contextlib import AbstractContextManager

    from .firewall import Network, Wire

_SERVER = "dnsmasq"
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER = "nobody"
_CACHED = 1000
_MOST_LOG = 1 << 20
_ENDED_WITHIN_S = 2.0
_UPSTREAM = "/etc/resolv.conf"


def program() -> str | None:
    """Of the name server; None: it is not installed."""
    return shutil.which(_SERVER, path=_PLACES)


class NameServers:
    """Those of the root directory `root`."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        self._names = f"{self._root}/cache/names"

    # --- names ---

    def announce(self, wire: Wire, names: Iterable[str]) -> None:
        """From now on, at once, a container is found on this network by its `names`, the first its own."""

        network = wire["network"]
        if not has_names(network):
            return
        addresses = [address for address in (wire["ip"], wire["ip6"]) if address]
        place, container_id = f"{self._names}/{network['id']}/hosts", wire["container_id"]
        os.makedirs(place, exist_ok=True)
        # The server passes over names that begin with a dot, and sees a file when it is renamed. Nobody else
        # announces this container; what a killed one has left is written anew, or withdrawn.
        temporary = f"{place}/.{container_id}"
        with open(temporary, "w", opener=_readable) as file:
            file.write(hosts_text(addresses, names, network["name"]))
        os.rename(temporary, f"{place}/{container_id}")

    def withdraw(self, container_id: str, network_id: str | None = None) -> None:
        """It is not found any more: on this network, or at all."""
        with suppress(FileNotFoundError):
            for each in [network_id] if network_id else os.listdir(self._names):
                for name in (container_id, f".{container_id}"):
                    with suppress(FileNotFoundError):
                        os.unlink(f"{self._names}/{each}/hosts/{name}")

    # --- servers ---

    def missing(self, networks: Iterable[Network]) -> list[Server]:
        """Those that a container on these networks needs, and that do not run."""
        return [server for server in _servers(networks) if not self.pid(server.id)]

    def ensure(self, networks: Iterable[Network]) -> None:
        """That none is missing; their bridges are up. Who calls is where they are to live: a process of the
        fork-server's. Raises OSError: one does not start."""
        networks = list(networks)
        for server in _servers(networks):
            self._trim(f"{self._names}/{server.id}/log")
        if missing := self.missing(networks):
            with self._locked():
                for server in missing:
                    if not self.pid(server.id):
                        self._start(server)

    def _trim(self, log: str) -> None:
        with suppress(FileNotFoundError):
            if os.stat(log).st_size > _MOST_LOG:
                os.truncate(log, 0)  # who writes appends

    def pid(self, server_id: str) -> int:
        """Of the server, 0 if there is none: by its command line, as the number may be another's by now."""
        pid, words = self._recorded(server_id)
        return pid if self._sign(server_id) in words and _is_trusted(pid) else 0

    def _recorded(self, server_id: str) -> tuple[int, list[str]]:
        """The process in the pid file, and its command line, which is empty once it has begun to end."""
        try:
            with open(f"{self._names}/{server_id}/pid") as file:
                pid = int(file.read())
        except (OSError, ValueError):
            return 0, []
        return pid, _words(pid)

    def _found(self, server_id: str) -> int:
        """`pid`, also where that file is damaged."""
        if pid := self.pid(server_id):
            return pid
        if not os.path.exists(f"{self._names}/{server_id}/log"):
            return 0  # it was never started
        pids = map(int, filter(str.isdecimal, os.listdir("/proc")))
        found = (pid for pid in pids if self._sign(server_id) in _words(pid) and _is_trusted(pid))
        return next(found, 0)

    def _sign(self, server_id: str) -> str:
        return f"--pid-file={self._names}/{server_id}/pid"

    def remove(self, network_id: str) -> None:
        """With its server, and those of several, and all names on it."""
        with self._locked():
            for each in [network_id, *(each for each, members in self._shared() if network_id in members)]:
                self._kill(each)
                shutil.rmtree(f"{self._names}/{each}", ignore_errors=True)

    def remove_others(self, known: Callable[[], Iterable[str]]) -> None:
        """Of all networks but the `known` ones: one may have been removed while somebody needed it."""
        shared = dict(self._shared())
        there = (
            set(_listed(self._names)) - shared.keys()
        )  # first: those of new networks come after the record
        for network_id in there.union(*shared.values()).difference(known()):
            self.remove(network_id)

    def _kill(self, server_id: str) -> None:
        if pid := self._found(server_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _shared(self) -> list[tuple[str, set[str]]]:
        """The servers of several networks, and these."""
        found = ((each, set(_listed(f"{self._names}/{each}/of"))) for each in _listed(self._names))
        return [(each, members) for each, members in found if members]

    def _kill_idle(self) -> None:
        """The servers of several networks that no container asks: none is on just these."""
        networks: dict[str, set[str]] = {}
        for network_id in _listed(self._names):
            for container_id in _listed(f"{self._names}/{network_id}/hosts"):
                networks.setdefault(container_id, set()).add(network_id)
        for each, members in self._shared():
            if members not in networks.values():
                self._kill(each)

    def _start(self, server: Server) -> None:
        pid, words = self._recorded(server.id)
        if pid and not words:
            _await_end(pid)
        place = f"{self._names}/{server.id}"
        ids = [network["id"] for network in server.networks]
        hosts = [f"{self._names}/{each}/hosts" for each in ids]
        members = [f"{place}/of/{each}" for each in ids if len(ids) > 1]
        for path in (place, *hosts, *members):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o755)
        os.chmod(self._names, 0o711)
        if pid := self._found(server.id):
            with open(f"{place}/pid", "w") as file:
                file.write(f"{pid}\n")
        else:
            _run([program() or _SERVER, *_options(server, place, hosts)])
        if members:
            self._kill_idle()

    def _locked(self) -> AbstractContextManager[None]:
        return locked(f"{self._root}/run/names.lock")


class Server(NamedTuple):
    """A process that knows the names on these networks."""

    id: str
    networks: list[Network]


def _servers(networks: Iterable[Network]) -> list[Server]:
    """Of each network with names, and of all together."""
    named = [network for network in networks if has_names(network)]
    groups = [[network] for network in named] + ([named] if len(named) > 1 else [])
    return [Server(server_of(network["id"] for network in group), group) for group in groups]


def _listed(path: str) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return [name for name in os.listdir(path) if not name.startswith(".")]
    return []


def _words(pid: int) -> list[str]:
    """Of the command line."""
    try:
        with open(f"/proc/{pid}/cmdline", errors="replace") as file:
            return [word for word in file.read().split("\0") if word]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _is_trusted(pid: int) -> bool:
    """Whether it is root's, or of whom the servers run as: anybody may choose a command line."""
    import pwd

    with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/status", "rb") as file:
        uids = next(line for line in file if line.startswith(b"Uid:")).split()[1:]
        return {int(uid) for uid in uids} <= {0, pwd.getpwnam(_USER).pw_uid}
    return False


def _run(command: Sequence[str]) -> None:
    """Until it serves, in the background."""
    import subprocess

    done = subprocess.run(command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        raise OSError(0, f"{_SERVER} did not start: {done.stderr.decode(errors='replace').strip()}")


def _await_end(pid: int) -> None:
    """Whose memory is gone already, but maybe not its sockets, which have the address of the next server."""
    with suppress(ProcessLookupError), open(os.pidfd_open(pid), "rb") as ended:
        readable(ended.fileno(), timeout_s=_ENDED_WITHIN_S)


def _options(server: Server, place: str, hosts: Sequence[str]) -> list[str]:
    rules = [network_rules(network) for network in server.networks]
    zones = {zone for each in rules for subnet in each.subnets for zone in reverse_zones(subnet)}
    if len(rules) > 1:
        listening = [f"--listen-address={shared_address(server.id)}"]
    else:
        listening = [f"--interface={rules[0].bridge}", "--except-interface=lo"]
    # Names without a dot are of containers or nobody's. An internal network leads nowhere, by names neither.
    is_internal = all(each.internal for each in rules)
    others = ["--no-resolv", "--address=/#/"] if is_internal else [f"--resolv-file={_UPSTREAM}"]
    return [
        "--conf-file=/dev/null",
        *listening,
        "--bind-interfaces",
        *(f"--hostsdir={each}" for each in hosts),
        f"--pid-file={place}/pid",
        f"--log-facility={place}/log",
        f"--user={_USER}",
        f"--group={_group()}",
        "--no-hosts",
        "--domain-needed",
        f"--cache-size={_CACHED}",
        *(f"--local=/{zone}/" for zone in sorted(zones)),
        *others,
    ]


def _group() -> str:
    import grp
    import pwd

    return grp.getgrgid(pwd.getpwnam(_USER).pw_gid).gr_name


def resolv_conf(wires: Sequence[Wire]) -> str:
    """For a container on these networks. By ndots:0 names without a dot are looked up as they are first."""
    servers = [wire["network"]["gateway"] for wire in wires if has_names(wire["network"])]
    if servers:
        return f"nameserver {servers[0]}\noptions ndots:0\n"
    if all(wire["network"]["internal"] for wire in wires):
        return ""
    return _upstream()


def _upstream() -> str:
    """The host's, without servers that only the host reaches."""
    with suppress(FileNotFoundError), open(_UPSTREAM, errors="replace") as file:
        return "".join(line for line in file if not line.startswith(("nameserver 127.", "nameserver ::1")))
    return ""


def _readable(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o644)
