"""What build steps made, found again by the key of all that decided it.

A row names the layer and its blob and so keeps them from being collected: what a build made and no image
names lives as long as its row. A row is written when its layer is complete, in one transaction.
"""

from __future__ import annotations

import json
import time
from typing import Final, Self

from attrs import frozen

from ..digests import Digest, chain_id, digest_of
from ..storage.layers import IngestedLayer
from ..storage.state import State

_VERSION: Final = 1  # changed when the same key would mean other content
_FRESH_S: Final = 3600.0  # how exactly it is known when a row was last of use


def step_key(**facts: object) -> Digest:
    """The key of a step that `facts` decide, all of them JSON values."""
    return digest_of(json.dumps({"version": _VERSION, **facts}, sort_keys=True).encode())


@frozen
class Tree:
    """A file system as layers, the lowest first. `chain`: the chain id of each."""

    layers: tuple[IngestedLayer, ...] = ()
    chain: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What names its content: the chain id of its topmost layer; empty for ``scratch``."""
        return self.chain[-1] if self.chain else ""

    def above(self, layer: IngestedLayer) -> str:
        """The chain id that `layer` has on top of it."""
        if not self.chain:
            return layer.diff_id
        return chain_id_on(self.id, layer.diff_id)

    def with_layer(self, layer: IngestedLayer | None) -> Self:
        """None: as it is."""
        if layer is None:
            return self
        return type(self)((*self.layers, layer), (*self.chain, self.above(layer)))


def chain_id_on(parent: str, diff_id: str) -> str:
    # The chain id of a stack is made from that of the stack below in the way it is made from two layers'.
    return chain_id((parent, diff_id))


@frozen
class Made:
    """What a step made, and when, in Unix seconds. layer: None: it changed no file."""

    layer: IngestedLayer | None
    created_at: float


class BuildCache:
    """The rows of one root directory. Safe from any thread and process."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._found: set[str] = set()

    def find(self, key: str) -> Made | None:
        """What the step of `key` made, if that is known."""
        query = "SELECT * FROM build_cache WHERE key = ?"
        row = self._state.connection.execute(query, (key,)).fetchone()
        if row is None:
            return None
        if time.time() - row["used_at"] > _FRESH_S:
            self._found.add(key)
        layer = None
        if row["chain_id"]:
            layer = IngestedLayer(row["blob"], row["size"], row["diff_id"], row["media_type"])
        return Made(layer, row["created_at"])

    def keep(self, key: str, chain: str | None, made: Made) -> None:
        """From now on the step of `key` made this, whatever it made before."""
        layer = made.layer
        facts = (layer.diff_id, layer.digest, layer.size, layer.media_type) if layer else (None,) * 4
        with self._state.transaction() as change:
            change.execute(
                "INSERT OR REPLACE INTO build_cache"
                " (key, chain_id, diff_id, blob, size, media_type, created_at, used_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (key, chain, *facts, made.created_at, time.time()),
            )

    def touch(self) -> None:
        """Note that what was found has been of use, for those who remove what is not. At most once an hour:
        a build that finds all it needs writes nothing."""
        keys, self._found = self._found, set()
        if keys:
            now = time.time()
            with self._state.transaction() as change:
                change.executemany(
                    "UPDATE build_cache SET used_at = ? WHERE key = ?", [(now, key) for key in keys]
                )
