"""Namespaces made ahead of the start that will need them: 2 ms that a start need not wait for."""

from __future__ import annotations

import os

from ..drivers import namespaces
from ..ids import IdMap

Pair = list[int]
_MOST = 8


class NamespacePool:
    """Pairs of user and network namespace by the base of their id range. Each is used once."""

    def __init__(self) -> None:
        self._ready: dict[int, Pair] = {}
        self._wanted: list[int] = []

    def take(self, base: int) -> Pair:
        """A prepared pair for `base`, now the caller's; empty when there is none."""
        return self._ready.pop(base, [])

    def expect(self, *bases: int) -> None:
        """Starts with these id ranges are likely next: the same again after a removal, or the next one up."""
        for base in bases:
            if base not in self._ready and base not in self._wanted:
                self._wanted.append(base)

    def prepare_one(self) -> bool:
        """Make one wanted pair; False when there was nothing to do."""
        if not self._wanted:
            return False
        base = self._wanted.pop(0)
        try:
            pair = namespaces.make_pair(IdMap(base))
        except OSError as error:
            print(f"no namespaces ahead: {error}", flush=True)  # the start itself will say it to the caller
            return True
        while len(self._ready) >= _MOST:
            close_pair(self._ready.pop(next(iter(self._ready))))
        self._ready[base] = pair
        return True

    def close(self) -> None:
        while self._ready:
            close_pair(self._ready.popitem()[1])


def close_pair(pair: Pair) -> None:
    for fd in pair:
        os.close(fd)
