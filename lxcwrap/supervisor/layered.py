"""Overlays over id-mapped layers, by whichever way the kernel offers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

from ..drivers import mounts

Plan = Mapping[str, Any]
supports_descriptors = cache(mounts.supports_descriptor_lowers)


def clones(stack: ExitStack, paths: Iterable[str], userns_fd: int | None) -> Iterator[int]:
    """Detached id-mapped mounts of `paths`, which end with `stack`."""
    for path in paths:
        fd = mounts.idmapped_clone(path, userns_fd, mounts.NODEV)
        stack.callback(os.close, fd)
        yield fd


def overlay_over(
    lowers: Sequence[int],
    upper: mounts.Upper,
    scratch: str,
    options: Sequence[str] = (),
    by_descriptors: bool | None = None,
) -> int:
    """A detached overlay. by_descriptors None: what the kernel offers; if False, the caller must be in a
    mount namespace of its own, and `scratch` is made and used."""
    if supports_descriptors() if by_descriptors is None else by_descriptors:
        return mounts.overlay_by_descriptors(lowers, upper, options=options, attributes=mounts.NODEV)
    os.makedirs(scratch, exist_ok=True)
    return mounts.overlay_by_paths(lowers, upper, scratch=scratch, options=options, attributes=mounts.NODEV)
