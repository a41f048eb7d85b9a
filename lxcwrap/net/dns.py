"""Names of containers: a name server for each bridge network, which asks the host's for all other names.

cache/names/<network>/hosts/<container>   what a container is called there, while it runs; the server looks
                                          at the directory, and knows it at once
cache/names/<network>/pid                 of the server: dnsmasq, as "nobody", on the network's bridge alone
It outlives who started it; whoever next brings a container to its network starts it anew if it was killed.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import suppress

from ..drivers.polling import readable
from .firewall import network_rules
from .names import hosts_text, reverse_zones
from .plumbing import locked

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .firewall import Network, Wire

_SERVER = "dnsmasq"
_PLACES = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER = "nobody"
_CACHED = 1000
_ENDED_WITHIN_S = 2.0
_UPSTREAM = "/etc/resolv.conf"


def has_names(network: Network) -> bool:
    """Whether there is a name server on it."""
    return bool(network["driver"] == "bridge" and network.get("dns", True))


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
        # The server passes over names that begin with a dot, and sees a file when it is renamed.
        temporary = f"{place}/.{container_id}.{os.getpid()}"
        with open(temporary, "w", opener=_readable) as file:
            file.write(hosts_text(addresses, names, network["name"]))
        os.rename(temporary, f"{place}/{container_id}")

    def withdraw(self, container_id: str, network_id: str | None = None) -> None:
        """It is not found any more: on this network, or at all."""
        with suppress(FileNotFoundError):
            for each in [network_id] if network_id else os.listdir(self._names):
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._names}/{each}/hosts/{container_id}")

    # --- servers ---

    def ensure(self, network: Network) -> None:
        """That the name server of a network runs, whose bridge is up. Who calls is where it is to live: a
        process of the fork-server's. Raises OSError: it does not start."""
        if not has_names(network) or self.pid(network["id"]):
            return
        with locked(f"{self._root}/run/names.lock"):
            if not self.pid(network["id"]):
                self._start(network)

    def pid(self, network_id: str) -> int:
        """Of the server, 0 if there is none: by its command line, as the number may be another's by now."""
        pid, words = self._recorded(network_id)
        return pid if f"--pid-file={self._names}/{network_id}/pid" in words else 0

    def _recorded(self, network_id: str) -> tuple[int, list[str]]:
        """The process in the pid file, and its command line, which is empty once it has begun to end."""
        try:
            with open(f"{self._names}/{network_id}/pid") as file:
                pid = int(file.read())
            with open(f"/proc/{pid}/cmdline") as file:
                return pid, [word for word in file.read().split("\0") if word]
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return 0, []

    def remove(self, network_id: str) -> None:
        """With its server, and all names on it."""
        with locked(f"{self._root}/run/names.lock"):
            if pid := self.pid(network_id):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            shutil.rmtree(f"{self._names}/{network_id}", ignore_errors=True)

    def _start(self, network: Network) -> None:
        import subprocess

        pid, words = self._recorded(network["id"])
        if pid and not words:
            _await_end(pid)
        place = f"{self._names}/{network['id']}"
        os.makedirs(f"{place}/hosts", exist_ok=True)
        for path, mode in ((self._names, 0o711), (place, 0o755), (f"{place}/hosts", 0o755)):
            os.chmod(path, mode)
        command = [program() or _SERVER, *_options(network, place)]
        done = subprocess.run(command, env={}, cwd="/", stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode:  # it goes on in the background when it serves
            raise OSError(0, f"{_SERVER} did not start: {done.stderr.decode(errors='replace').strip()}")


def _await_end(pid: int) -> None:
    """Whose memory is gone already, but maybe not its sockets, which have the address of the next server."""
    with suppress(ProcessLookupError), open(os.pidfd_open(pid), "rb") as ended:
        readable(ended.fileno(), timeout_s=_ENDED_WITHIN_S)


def _options(network: Network, place: str) -> list[str]:

    rules = network_rules(network)
    zones = [zone for subnet in rules.subnets for zone in reverse_zones(subnet)]
    # Names without a dot are of containers or nobody's. An internal network leads nowhere, by names neither.
    asks_nobody = ["--no-resolv", "--address=/#/"]
    return [
        "--conf-file=/dev/null",
        f"--interface={rules.bridge}",
        "--except-interface=lo",
        "--bind-interfaces",
        f"--hostsdir={place}/hosts",
        f"--pid-file={place}/pid",
        f"--log-facility={place}/log",
        f"--user={_USER}",
        f"--group={_group()}",
        "--no-hosts",
        "--domain-needed",
        f"--cache-size={_CACHED}",
        *(f"--local=/{zone}/" for zone in zones),
        *(asks_nobody if network["internal"] else [f"--resolv-file={_UPSTREAM}"]),
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
