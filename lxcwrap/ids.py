"""User-id ranges: how ids inside a container map to ids on the host. For the fork-server too: light."""

from __future__ import annotations

from typing import NamedTuple

RANGE_SIZE = 65536
# systemd reserves 0x00080000..0x6FFF0000 for containers; we take the upper part (systemd UIDS-GIDS).
FIRST_BASE = 0x40000000
LAST_BASE = 0x6FFE0000
OVERFLOW_ID = 65534


class IdMap(NamedTuple):
    """Ids 0..size-1 inside are base..base+size-1 on the host. ``IdMap(0, 1 << 32)`` is the identity."""

    base: int
    size: int = RANGE_SIZE

    @property
    def is_identity(self) -> bool:
        return self.base == 0

    def to_host(self, inner_id: int) -> int:
        """Host id of `inner_id`; ValueError when the range does not hold it."""
        if not 0 <= inner_id < self.size:
            raise ValueError(f"id {inner_id} is outside the container's range of {self.size} ids")
        return self.base + inner_id

    def to_inner(self, host_id: int) -> int:
        """Id inside the container; the overflow id (65534) when the host id is not mapped."""
        inner = host_id - self.base
        return inner if 0 <= inner < self.size else OVERFLOW_ID


IDENTITY = IdMap(0, 1 << 32)
