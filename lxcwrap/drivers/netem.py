"""Delay, jitter and loss of what a link sends (netem; linux/pkt_sched.h), until that is taken away again.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import struct

from .netlink_messages import CREATE, EXCLUSIVE, Request, attribute, attributes, text
from .rtnetlink import Rtnetlink
from .traffic import DELQDISC, NEWQDISC

_GETQDISC = 38
_KIND, _OPTIONS = 1, 2
_ROOT, _IN_BUCKET = 0xFFFFFFFF, 0x1_0001  # the place in the bucket of a limited rate, see traffic.py
_HANDLE = 0x2_0000
_TICK_NS = 64  # PSCHED_SHIFT: include/net/pkt_sched.h
_QUEUED = 100_000  # packets that may be on their way
_GONE = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
_TCMSG = struct.Struct("=BxxxiIII")

LONGEST_S = (0xFFFFFFFF * _TICK_NS) // 10**9


def impair(net: Rtnetlink, link: str, *, delay_s: float, jitter_s: float, loss: float) -> None:
    """Delay what `link` sends, by `jitter_s` more or less, and lose this share of it. FileExistsError: it is
    impaired already."""
    index = net.index(link)
    net.apply(netem(index, _place(net, index), delay_s=delay_s, jitter_s=jitter_s, loss=loss))


def mend(net: Rtnetlink, link: str) -> None:
    """Undo `impair`, if the link is still there, and impaired."""
    try:
        index = net.index(link)
        net.apply(no_netem(index, _place(net, index)))
    except OSError as error:
        if error.errno not in _GONE:
            raise


def netem(index: int, place: int, *, delay_s: float, jitter_s: float, loss: float) -> Request:
    """As ``tc qdisc add``."""
    delay, jitter = (round(each * 10**9) // _TICK_NS for each in (delay_s, jitter_s))
    options = struct.pack("=6I", delay, _QUEUED, round(loss * 0xFFFFFFFF), 0, 0, jitter)
    body = _TCMSG.pack(0, index, _HANDLE, place, 0) + text(_KIND, "netem") + attribute(_OPTIONS, options)
    return Request("delay link", str(index), NEWQDISC, CREATE | EXCLUSIVE, body)


def no_netem(index: int, place: int) -> Request:
    return Request("delay link no more", str(index), DELQDISC, 0, _TCMSG.pack(0, index, _HANDLE, place, 0))


def _place(net: Rtnetlink, index: int) -> int:
    """Within the bucket, if the link's rate is limited: else the limit would be gone."""
    for body in net.dump(_GETQDISC, _TCMSG.pack(0, index, 0, 0, 0)):
        _family, where, _handle, parent, _info = _TCMSG.unpack_from(body)
        if (where, parent) == (index, _ROOT) and attributes(body[_TCMSG.size :]).get(_KIND) == b"tbf\0":
            return _IN_BUCKET
    return _ROOT
