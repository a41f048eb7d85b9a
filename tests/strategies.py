"""Hypothesis strategies, and the archives that tests are made of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from lxcwrap.storage.layerwriter import Member, tar_chunks
from lxcwrap.storage.tarstream import Entry, Kind

OWN_IDS = (os.geteuid(), os.getegid())


def entry(name: str | bytes, kind: Kind = Kind.FILE, **facts: Any) -> Entry:
    """An entry that belongs to whoever runs the tests, so that unpacking it needs no privilege."""
    defaults = {"uid": OWN_IDS[0], "gid": OWN_IDS[1], "mode": 0o755 if kind is Kind.DIRECTORY else 0o644}
    return Entry(name=os.fsencode(name), kind=kind, **{**defaults, **facts})


def file(name: str | bytes, content: bytes = b"", **facts: Any) -> Member:
    return entry(name, size=len(content), **facts), (content,)


def directory(name: str | bytes, **facts: Any) -> Member:
    return entry(name, Kind.DIRECTORY, **facts), ()


def symlink(name: str | bytes, target: bytes, **facts: Any) -> Member:
    return entry(name, Kind.SYMLINK, link=target, **facts), ()


def hard_link(name: str | bytes, target: bytes, **facts: Any) -> Member:
    return entry(name, Kind.HARDLINK, link=target, **facts), ()


def archive(*members: Member) -> bytes:
    return b"".join(tar_chunks(members))


# --- trees ----------------------------------------------------------------------------------------------

_BYTES = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"0"))
file_names = (_BYTES | st.sampled_from((b"a", b"b", "ünï".encode(), b"n" * 255))).filter(
    lambda name: name not in (b".", b"..") and not name.startswith(b".wh.")
)
modes = st.integers(0, 0o7777)
ids = st.sampled_from((0, 1, 1000, 65534, 8**7 - 1, 8**7, 2**32 - 2))
times_ns = st.integers(-(2**31), 2**34).map(lambda seconds: seconds * 10**9)
contents = st.binary(max_size=2000) | st.sampled_from((b"", b"\0" * 512, b"x" * 512, b"y" * 70000))
attributes = st.dictionaries(
    st.sampled_from((b"user.a", b"user.b.c")), st.binary(max_size=40), max_size=2
).map(lambda xattrs: tuple(sorted(xattrs.items())))


@st.composite
def tar_trees(draw: st.DrawFn) -> list[Member]:
    """The members of one layer in canonical order: directories, files, links, devices, whiteouts."""
    return _members(draw, b"", 3)


def _members(draw: st.DrawFn, prefix: bytes, depth: int) -> list[Member]:
    members: list[Member] = [(_described(draw, prefix or b"./", Kind.DIRECTORY), ())]
    if prefix and draw(st.booleans()):
        members.append((Entry(prefix + b".wh..wh..opq", Kind.FILE), ()))
    for name in sorted(draw(st.sets(file_names, max_size=4))):
        path = prefix + name
        choice = draw(st.sampled_from((*Kind, "whiteout")))
        if choice is Kind.DIRECTORY and depth and len(path) < 2000:
            members += _members(draw, path + b"/", depth - 1)
        elif choice is Kind.FILE:
            content = draw(contents)
            members.append((_described(draw, path, Kind.FILE, size=len(content)), (content,)))
        elif choice is Kind.SYMLINK:
            target = draw(file_names | st.sampled_from((b"../..", b"/", b"t" * 300)))
            members.append((_described(draw, path, Kind.SYMLINK, link=target), ()))
        elif choice is Kind.HARDLINK and (
            files := [it for it, _ in members if it.kind is Kind.FILE and b".wh." not in it.name]
        ):
            first = draw(st.sampled_from(files))
            members.append((first._replace(name=path, kind=choice, link=first.name, size=0, xattrs=()), ()))
        elif choice in (Kind.CHAR, Kind.BLOCK):
            members.append((_described(draw, path, Kind(choice), device=(draw(st.integers(1, 4095)), 3)), ()))
        elif choice is Kind.FIFO:
            members.append((_described(draw, path, Kind.FIFO), ()))
        elif choice == "whiteout" and len(name) < 250:
            members.append((Entry(prefix + b".wh." + name, Kind.FILE), ()))
    return members


def _described(draw: st.DrawFn, name: bytes, kind: Kind, **facts: Any) -> Entry:
    has_xattrs = kind in (Kind.FILE, Kind.DIRECTORY)
    return Entry(
        name=name,
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else draw(modes),
        uid=draw(ids),
        gid=draw(ids),
        mtime_ns=draw(times_ns),
        xattrs=draw(attributes) if has_xattrs else (),
        **facts,
    )


# --- hostile archives -----------------------------------------------------------------------------------

_HOSTILE_PARTS = st.sampled_from(
    (b"", b".", b"..", b"a", b"b", b"c", b".wh.a", b".wh..wh..opq", b".wh.", b"x" * 256)
)
hostile_paths = st.lists(_HOSTILE_PARTS, max_size=5).map(b"/".join)


@st.composite
def hostile_members(draw: st.DrawFn, targets: Iterable[bytes] = ()) -> list[Member]:
    """Entries that fight one another and try to get out: dots, absolute names, links to everywhere."""
    links = hostile_paths | st.sampled_from((b"/", b"..", b"../../..", b"a", b"/a/b", *targets))
    members: list[Member] = []
    for _ in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from((Kind.FILE, Kind.DIRECTORY, Kind.SYMLINK, Kind.HARDLINK, Kind.FIFO)))
        content = b"hostile" if kind is Kind.FILE else b""
        link = draw(links) if kind in (Kind.SYMLINK, Kind.HARDLINK) else b""
        name = draw(hostile_paths | links)
        members.append((entry(name, kind, link=link, size=len(content)), (content,)))
    return members
