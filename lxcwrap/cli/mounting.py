"""``-v``, ``--mount`` and ``--tmpfs`` as Docker's users write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .. import Mount

_OF_VOLUMES = ("ro", "rw", "exec", "noexec", "nocopy", "slave", "rslave", "private", "rprivate")
_NAMES = {"src": "source", "dst": "target", "destination": "target", "ro": "readonly"}


def _unknown(option: str, text: str, what: Iterable[str], known: Iterable[str]) -> ValueError:
    return ValueError(f"{option} {text!r}: unknown {', '.join(sorted(what))}; known are {', '.join(known)}")


def volume(text: str) -> Mount:
    """``SOURCE:TARGET[:OPTIONS]``: a path of the host, where SOURCE begins with ``/ . ~``, else a volume; a
    TARGET alone gets a volume without name."""
    from .. import Mount

    source, _, rest = text.partition(":")
    target, _, words = rest.partition(":")
    if not target:
        return Mount(kind="volume", target=source)
    options = [word for word in words.split(",") if word]
    if unknown := set(options) - set(_OF_VOLUMES):
        raise _unknown("-v", text, unknown, _OF_VOLUMES)
    common: dict[str, Any] = {"read_only": "ro" in options, "exec": "noexec" not in options}
    if source.startswith(("/", ".", "~")):
        slave = "slave" in options or "rslave" in options
        return Mount.bind(source, target, propagation="slave" if slave else "private", **common)
    return Mount.volume(source, target, copy="nocopy" not in options, **common)


def mount(text: str) -> Mount:
    """``type=bind,source=/srv,target=/data,readonly``: Docker's keys."""
    from .. import Mount

    given: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        given[_NAMES.get(name, name)] = value
    read_only = given.pop("readonly", "false") not in ("false", "0")
    kind, source, target = given.pop("type", "volume"), given.pop("source", ""), given.pop("target", "")
    if kind == "bind":
        made = Mount.bind(source, target, read_only=read_only, propagation=_propagation(given))
    elif kind == "tmpfs":
        mode = int(given.pop("tmpfs-mode", "1777"), 8)
        made = Mount.tmpfs(target, size=given.pop("tmpfs-size", None), mode=mode)
    elif kind == "volume" and source:
        copy = given.pop("volume-nocopy", "false") in ("false", "0")
        subpath = given.pop("volume-subpath", "")
        made = Mount.volume(source, target, read_only=read_only, copy=copy, subpath=subpath)
    elif kind == "volume":
        made = Mount(kind="volume", target=target, read_only=read_only)
    else:
        raise ValueError(f"--mount {text!r}: type must be bind, volume or tmpfs")
    if given:
        raise ValueError(f"--mount {text!r}: unknown for {kind}: {', '.join(sorted(given))}")
    return made


def _propagation(given: dict[str, str]) -> Any:
    return given.pop("bind-propagation", "private").removeprefix("r")


def tmpfs(text: str) -> Mount:
    """``TARGET[:size=64m,mode=1777,exec]``."""
    from .. import Mount

    target, _, words = text.partition(":")
    given: dict[str, str] = {}
    for word in filter(None, words.split(",")):
        name, _, value = word.partition("=")
        given[name] = value
    if unknown := given.keys() - {"size", "mode", "exec", "noexec", "rw"}:
        raise _unknown("--tmpfs", text, unknown, ("size", "mode", "exec"))
    return Mount.tmpfs(
        target, size=given.get("size"), mode=int(given.get("mode", "1777"), 8), exec="exec" in given
    )
