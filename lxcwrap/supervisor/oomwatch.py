"""Notices that the kernel kills processes of a container for want of memory.

No heavy imports here (handover.py).
"""

from __future__ import annotations

import os
import select
import time

_SETTLE_S = 0.02  # cgroup v1 gives the alarm before it kills
_TRIES = 50
_REST_S = 1.0  # between two that are told: a container may lose processes all the time


class OomWatch:
    """fds: those of `CgroupHost.oom_fds`. `alarm`: what poll(2) tells of the last when there is something to
    `hear`."""

    def __init__(self, fds: list[int]) -> None:
        self.fds = fds
        self.alarm = select.POLLIN if len(fds) > 1 else select.POLLPRI
        self.told = 0
        self.tries = 0
        self.rests_until = 0.0
        self.look_at: float | None = None

    def count(self) -> int:
        """Of those killed until now."""
        if not self.fds:
            return 0
        # memory.oom_control of v1 and memory.events of v2 have the same line
        count = os.pread(self.fds[0], 4096, 0).partition(b"oom_kill ")[2].partition(b"\n")[0]
        return int(count or 0)

    def hear(self) -> bool:
        """The alarm."""
        if len(self.fds) > 1:
            os.read(self.fds[1], 8)
        else:
            self.count()  # or the alarm goes on
        self.tries = _TRIES
        if self.look_at is None:
            self.look_at = max(time.monotonic() + _SETTLE_S, self.rests_until)
        return True

    def patience_ms(self) -> float | None:
        """When to ask `has_news`; None: after an alarm."""
        return None if self.look_at is None else max(0.0, self.look_at - time.monotonic()) * 1000

    def has_news(self) -> bool:
        """Whether it is time to tell of processes that were killed."""
        now = time.monotonic()
        if self.look_at is None or now < self.look_at:
            return False
        self.tries -= 1
        if found := self.has_more():
            self.rests_until = now + _REST_S
        self.look_at = now + _SETTLE_S if not found and self.tries else None
        return found

    def has_more(self) -> bool:
        """Whether there are some that were not told; now they are."""
        before, self.told = self.told, self.count()
        return self.told > before
