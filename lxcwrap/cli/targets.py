"""What commands act on: the host, and several things one after the other."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .. import Host

T = TypeVar("T")
F = TypeVar("F")


def host_of(given: Namespace) -> Host:
    from .. import Host

    return Host(given.root)


def say(text: str) -> None:
    """To who sits before it; output is on stdout alone."""
    from ..progress.board import clean

    lines = (clean(line) for line in text.rstrip().splitlines())
    print("lxcwrap:", "\n".join(lines) or "failed", file=sys.stderr, flush=True)


def listed(things: Iterable[T], facts: Callable[[T], F]) -> list[F]:
    """Facts of those that nobody has removed meanwhile."""
    from ..errors import NotFoundError

    found = []
    for thing in things:
        with suppress(NotFoundError):
            found.append(facts(thing))
    return found


def each(names: Iterable[str], act: Callable[[str], object]) -> int:
    """Do it to all, whatever happens to one; tell of each. The exit code."""
    from ..errors import LxcwrapError

    failed = False
    for name in names:
        try:
            result = act(name)
            print(name if result is None else result, flush=True)
        except LxcwrapError as error:
            say(str(error))
            failed = True
    return int(failed)
