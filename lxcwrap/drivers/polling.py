"""Waiting for descriptors by poll(2): select(2) knows none above 1023, which a fork-server soon has."""

from __future__ import annotations

import select


def readable(*fds: int, timeout_s: float | None = None) -> list[int]:
    """Those of `fds` that are readable or at their end, once there is one; none after `timeout_s`."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return [fd for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000)]
