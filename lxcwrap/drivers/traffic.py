"""Limits of the rate at which a link passes traffic, changeable while it runs (tc, linux/pkt_sched.h).

What the kernel sends through a link waits in a token bucket (tbf) of the link's own. What comes in by it
cannot wait there: it is led through another device (ifb), and waits in that one's bucket.
Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import struct

from . import links
from .netlink_messages import CREATE, REPLACE, Request, attribute, nested, text
from .rtnetlink import Rtnetlink

NEWQDISC, DELQDISC, NEWTFILTER, GETTFILTER = 36, 37, 44, 46
_ROOT, _INGRESS, _INGRESS_PARENT = 0xFFFFFFFF, 0xFFFF0000, 0xFFFFFFF1
_BUCKET = 0x1_0000  # 1:0; another discipline can be put into it, at 1:1, and stays when the rate changes
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST, _ETHERNET = 1, 4, 6, 1
_U32_SELECTOR, _U32_ACTION, _U32_TERMINAL = 5, 7, 1
_MIRRED_PARMS, _STOLEN, _REDIRECT = 2, 4, 1
_EVERY_PROTOCOL = 0x0300  # ETH_P_ALL in network order
_NOTHING_THERE = (errno.ENOENT, errno.EINVAL, errno.ENODEV)

_LEAST_BURST = 128 << 10  # a packet of 64 KiB must pass in one piece
_BURST_S, _QUEUE_S = 0.005, 0.05


def set_limits(net: Rtnetlink, link: str, detour: str, *, sent_bps: int = 0, received_bps: int = 0) -> None:
    """Bits a second that `link` sends and receives, 0 for no limit; called again, it changes them. For the
    host's end of a container's veth, `sent_bps` is what the container receives.

    detour: name of the device for what is received; it exists as long as there is such a limit.
    """
    index = net.index(link)
    if sent_bps:
        net.apply(shape(index, sent_bps))
    else:
        _apply_if_there(net, unshape(index))
    if received_bps:
        _limit_received(net, index, detour, received_bps)
    else:
        remove_detour(net, link, detour)


def _limit_received(net: Rtnetlink, index: int, detour: str, bps: int) -> None:
    try:
        net.apply(links.ifb(detour))
        _apply_if_there(net, _no_ingress(index))  # a filter that is there leads to an earlier one
    except FileExistsError:
        pass
    through = net.index(detour)
    net.apply(shape(through, bps))
    if not net.dump(GETTFILTER, _tc(index, parent=_INGRESS)):  # it comes last
        net.apply(*redirect(index, through))


def remove_detour(net: Rtnetlink, link: str, detour: str) -> None:
    """Of what `link` receives, even when that has gone already; nothing if there is none."""
    try:
        _apply_if_there(net, _no_ingress(net.index(link)))  # first, as it would lead to nowhere
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
    _apply_if_there(net, links.delete(detour))


def _apply_if_there(net: Rtnetlink, request: Request) -> None:
    try:
        net.apply(request)
    except OSError as error:
        if error.errno not in _NOTHING_THERE:
            raise


def shape(index: int, bps: int) -> Request:
    """A token bucket for what the link sends: at most `bps` bits a second; replaces one that is there."""
    rate = max(bps // 8, 1)
    burst = min(max(_LEAST_BURST, int(rate * _BURST_S)), 1 << 30)
    limit = min(burst + max(_LEAST_BURST, int(rate * _QUEUE_S)), 1 << 31)
    ratespec = struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    parms = ratespec + bytes(len(ratespec)) + struct.pack("=III", limit, 0, 0)
    options = nested(
        _OPTIONS,
        attribute(_TBF_PARMS, parms),
        attribute(_TBF_RATE64, struct.pack("=Q", rate)),
        attribute(_TBF_BURST, struct.pack("=I", burst)),
    )
    body = _tc(index, handle=_BUCKET, parent=_ROOT) + text(_KIND, "tbf") + options
    return Request("limit link", str(index), NEWQDISC, CREATE | REPLACE, body)


def unshape(index: int) -> Request:
    """Takes our bucket away, no other discipline that somebody has put in its place."""
    return Request("unlimit link", str(index), DELQDISC, 0, _tc(index, handle=_BUCKET, parent=_ROOT))


def redirect(index: int, to: int) -> tuple[Request, Request]:
    """What the link receives is sent through the link `to` first. By u32, which all kernels have."""
    ingress = _tc(index, handle=_INGRESS, parent=_INGRESS_PARENT) + text(_KIND, "ingress")
    any_packet = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + bytes(16)
    where = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, to)
    action = nested(1, text(_KIND, "mirred"), nested(_OPTIONS, attribute(_MIRRED_PARMS, where)))
    options = nested(_OPTIONS, attribute(_U32_SELECTOR, any_packet), nested(_U32_ACTION, action))
    rule = _tc(index, parent=_INGRESS, info=1 << 16 | _EVERY_PROTOCOL) + text(_KIND, "u32") + options
    return (
        Request("make ingress of link", str(index), NEWQDISC, CREATE, ingress),
        Request("redirect link", str(index), NEWTFILTER, CREATE, rule),
    )


def _no_ingress(index: int) -> Request:
    body = _tc(index, handle=_INGRESS, parent=_INGRESS_PARENT)
    return Request("delete ingress of link", str(index), DELQDISC, 0, body)


def _tc(index: int, *, handle: int = 0, parent: int = 0, info: int = 0) -> bytes:
    """struct tcmsg"""
    return struct.pack("=BxxxiIII", 0, index, handle, parent, info)
