"""/etc/hosts and /etc/resolv.conf of a container: as its networks are when it starts, and when they change
while it runs. They are files in its directory, mounted over those of its image.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress

from ..net.dns import resolv_conf
from ..net.plumbing import Wire, addresses
from .records import Records

Files = Mapping[str, str]  # text by path
_HOSTS, _RESOLV = "/etc/hosts", "/etc/resolv.conf"
_LOOPBACK = "127.0.1.1"
_OWN_NAME = f"{_LOOPBACK}\t"  # how the line with the container's name begins in a plan's /etc/hosts
_LARGEST = 1 << 20  # who has made more of a file has made it its own


def connected(planned: Files, wires: Sequence[Wire]) -> Files:
    """Those of a container on networks."""
    hosts = with_addresses(planned[_HOSTS], _addresses(wires))
    return {**planned, _HOSTS: hosts, _RESOLV: resolv_conf(wires)}


def sharing(planned: Files, directory: str) -> Files:
    """Those of a container whose network is another's: names and name servers are the other's, from
    `directory`; what the container adds goes behind."""
    more = planned[_HOSTS].partition(_OWN_NAME)[2].partition("\n")[2]
    return {**planned, _HOSTS: _read(f"{directory}/hosts") + more, _RESOLV: _read(f"{directory}/resolv.conf")}


def with_addresses(hosts: str, addresses: Sequence[str]) -> str:
    """/etc/hosts with lines for the container's own name at its `addresses`, in place of a loopback one."""
    before, _, after = hosts.partition(_OWN_NAME)
    name, end, rest = after.partition("\n")
    return before + "".join(f"{address}\t{name}{end}" for address in addresses) + rest


def rewrite(bundle: str, sharers: Sequence[str], before: Sequence[Wire], after: Sequence[Wire]) -> None:
    """Those of a container that runs in directory `bundle`, and of `sharers` of its network: it was on the
    networks `before`, and is on those `after`. What has been changed within stays as it is."""
    plan = Records(bundle).read("plan")
    if plan is None:
        return
    name = plan["files"][_HOSTS].partition(_OWN_NAME)[2].partition("\n")[0]
    old = {_LOOPBACK, *_addresses(before), *_addresses(after)}
    new = _addresses(after) or [_LOOPBACK]
    for place in (f"{each}/files" for each in (bundle, *sharers)):
        for path, text in _texts(f"{place}/hosts"):
            _overwrite(path, text, _renewed(text, [f"{each}\t{name}\n" for each in old], new, name))
        for path, text in _texts(f"{place}/resolv.conf"):
            if text == resolv_conf(before):
                _overwrite(path, text, resolv_conf(after))


def _renewed(hosts: str, old: Sequence[str], addresses: Sequence[str], name: str) -> str:
    """With lines for `name` at `addresses`, where the first of the `old` ones was."""
    kept: list[str] = []
    place = None
    for line in hosts.splitlines(keepends=True):
        if line in old:
            place = len(kept) if place is None else place
        else:
            kept.append(line)
    if place is not None:
        kept[place:place] = [f"{address}\t{name}\n" for address in addresses]
    return "".join(kept)


def _addresses(wires: Sequence[Wire]) -> list[str]:
    return [address for wire in wires for address in addresses(wire)]


def _read(path: str) -> str:
    with suppress(FileNotFoundError), open(path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()
    return ""


def _texts(path: str) -> Iterator[tuple[str, str]]:
    """Of the file, if it is there, and as small as we make it."""
    with suppress(FileNotFoundError):
        if os.stat(path).st_size <= _LARGEST:
            yield path, _read(path)


def _overwrite(path: str, old: str, new: str) -> None:
    """In place, as it is mounted; at once, and blank lines are left behind if killed."""
    if new != old:
        before, data = (text.encode(errors="surrogateescape") for text in (old, new))
        with closing(open(path, "r+b", buffering=0)) as file:
            file.write(data.ljust(len(before), b"\n"))
            file.truncate(len(data))
