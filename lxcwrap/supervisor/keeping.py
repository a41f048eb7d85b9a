"""Faults kept up for a caller by a child of the fork-server: they are over if the caller is killed."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack, suppress

from ..drivers import netem
from ..drivers.rtnetlink import Rtnetlink
from . import wire


def keep_impaired(request: wire.Message, client: socket.socket) -> None:
    """Delay and lose what the links of `request` send, and answer; mend them when the caller shuts its side
    of the connection, and answer again."""
    try:
        with Rtnetlink() as net, ExitStack() as undo:
            for link in request["links"]:
                netem.impair(net, link, **request["impairment"])
                undo.callback(netem.mend, net, link)
            wire.send(client, {"impaired": True})
            client.recv(1)
        wire.send(client, {"impaired": False})
    except OSError as error:
        with suppress(OSError):  # nobody waits for an answer any more
            wire.send(client, {"error": str(error.strerror or error), "errno": error.errno or errno.EIO})
