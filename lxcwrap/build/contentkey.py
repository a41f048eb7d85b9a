"""The key of a COPY or ADD: what names its result, whatever the times of its files are."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence

from ..digests import Digest, digest_of
from ..inroot import naming, opened
from .context import Found, Source
from .filedigests import kept_xattrs
from .placement import Placement
from .selecting import Item, Selected, select


def key(source: Source | None, placement: Placement, *, working_dir: str = "/") -> Digest:
    """
    Names what `place` would do, for the build cache. Nothing is read that is known from an earlier build.

    source: None if all sources are inline or a URL. Names in ``--chown`` are looked up in the target, so the
    key of the layers below belongs to that of the step, unless `placement.link`.

    Raises PathNotFoundError: a source is not there; InvalidSpecError: it is ignored; PathError, FormatError.
    """
    request = _request(source, placement, working_dir)
    if source is None or placement.url or not placement.sources:
        return digest_of(request)
    if not source.identity:
        return _content_key(source, placement, request)
    name = digest_of(_fields(source.identity, *placement.sources, *placement.exclude, request.hex()))
    known = source.digests.recall_tree(name)
    if not known:
        known = _content_key(source, placement, request)
        source.digests.keep_tree(name, known)
    return Digest(known)


def _fields(*values: object) -> bytes:
    """Values, told apart: none of them holds a NUL."""
    return b"".join(os.fsencode(str(value)) + b"\0" for value in values)


def _request(source: Source | None, placement: Placement, working_dir: str) -> bytes:
    """All that counts beside the files: also the number of things in each list, so that none runs over."""
    inline = [(file.name, digest_of(file.content)) for file in placement.inline]
    return _fields(
        placement.target(working_dir),
        placement.chown,
        placement.chmod,
        placement.link,
        placement.parents,
        placement.unpacks,
        placement.checksum,
        placement.url and placement.url_name,
        source.owner if source else None,
        inline,
        # An archive is unpacked at once: what is left out of it is no matter of the walk.
        placement.exclude if placement.unpacks else (),
        len(placement.sources),
    )


def _content_key(source: Source, placement: Placement, request: bytes) -> Digest:
    digest = hashlib.sha256(request)
    for selected in select(source, placement):
        digest.update(_fields(selected.name, len(selected.items)))
        for line in _lines(source, selected):
            digest.update(line)
    return Digest(f"sha256:{digest.hexdigest()}")


def _lines(source: Source, selected: Selected) -> Iterator[bytes]:
    files = [item for item in selected.items if stat.S_ISREG(item.mode)]
    contents = iter(_digests(source, files))
    first_names: dict[tuple[int, int], str] = {}
    for item in selected.items:
        status = item.found.status
        facts: list[object] = [item.path, f"{item.mode:o}"]
        if source.owner is None:
            facts += [status.st_uid, status.st_gid]
        if stat.S_ISREG(item.mode):
            facts.append(next(contents).hex())
            if status.st_nlink > 1:
                facts.append(first_names.setdefault((status.st_dev, status.st_ino), item.path))
        elif stat.S_ISLNK(item.mode):
            facts.append(link_target(source, item.found))
        elif stat.S_ISDIR(item.mode):
            facts.append(_attributes(source, item.found))
        else:
            facts.append(status.st_rdev)
        yield _fields(len(facts), *facts)


def _digests(source: Source, files: Sequence[Item]) -> list[bytes]:
    known = [(item.found.status, functools.partial(source.file, item.found)) for item in files]
    return source.digests.of(known, remember=not source.identity)


def _attributes(source: Source, found: Found) -> str:
    with opened(source.directory(found.at)) as fd:
        return repr(kept_xattrs(fd))


def link_target(source: Source, found: Found) -> str:
    """What the link says."""
    with naming(source.name, found.at), opened(source.pin(found)) as fd:
        return os.readlink("", dir_fd=fd)
