"""How fast containers may send and receive by their networks, in the kernel.

On a bridge the host's end of a container's link limits both, out of its reach. A macvlan has no such end:
there its own link does, in its own network namespace.

What a container sends by a bridge goes through a device of the host's (see drivers/traffic.py), which stays
when the container has gone. In the container's directory, ``detours`` has a file of the name of each that may
be there: made before it, and removed after it.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import os
from contextlib import suppress

from ..drivers import links, traffic
from ..drivers.rtnetlink import Rtnetlink
from .names import detour_name, link_of_detour

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .plumbing import Wire

_DIRECTORY = "detours"
_CHANGING = "rates"


def apply(net: Rtnetlink, inside: Rtnetlink, wire: Wire, root: str) -> None:
    """Limit the link of `wire`, which is there, as it says; whatever limits it has. root: whose it is."""
    egress, ingress, detour = wire["egress_bps"], wire["ingress_bps"], detour_name(wire["link"])
    if wire["network"]["driver"] != "bridge":
        traffic.set_limits(inside, wire["interface"], detour, sent_bps=egress, received_bps=ingress)
        return
    notes = _notes(root, wire["container_id"])
    if egress:
        os.makedirs(notes, mode=0o700, exist_ok=True)
        os.close(os.open(f"{notes}/{detour}", os.O_CREAT | os.O_CLOEXEC, 0o600))
    traffic.set_limits(net, wire["link"], detour, sent_bps=ingress, received_bps=egress)
    if egress:
        net.apply(links.label(detour, root))
    else:
        _forget(notes, detour)


def forget(wire: Wire, netns_fd: int, root: str) -> None:
    """Remove what `apply` has made beside the link, which goes, or has gone."""
    detour = detour_name(wire["link"])
    if wire["network"]["driver"] != "bridge":
        with Rtnetlink(netns_fd) as inside:
            traffic.remove_detour(inside, wire["interface"], detour)
    elif os.path.exists(f"{_notes(root, wire['container_id'])}/{detour}"):
        _remove(root, wire["container_id"], detour)


def forget_all(root: str, container_id: str) -> None:
    """The same of a container that has ended; its lock is held."""
    with suppress(FileNotFoundError):  # it never had any
        for detour in os.listdir(_notes(root, container_id)):
            _remove(root, container_id, detour)


def _remove(root: str, container_id: str, detour: str) -> None:
    with Rtnetlink() as net:
        traffic.remove_detour(net, link_of_detour(detour), detour)
    _forget(_notes(root, container_id), detour)


def _forget(notes: str, detour: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(f"{notes}/{detour}")


def _notes(root: str, container_id: str) -> str:
    return f"{root}/containers/{container_id}/{_DIRECTORY}"


# --- changes of what runs -------------------------------------------------------------------------------


def begin_change(bundle: str) -> None:
    """From now on kernel and records may differ: who is killed leaves it to the next `Host`."""
    with suppress(FileNotFoundError):  # it is being removed
        os.close(os.open(f"{bundle}/{_CHANGING}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def end_change(bundle: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(f"{bundle}/{_CHANGING}")


def is_changing(bundle: str) -> bool:
    return os.path.exists(f"{bundle}/{_CHANGING}")
