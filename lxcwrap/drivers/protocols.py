"""What the layers above need of the machine, as protocols, each with a real implementation (liblxc.py,
cgroups.py) and an equally behaved fake (fake.py); tests/conformance holds both to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol


class Driver(Protocol):
    """A runtime, for one directory of containers. Names are container ids; keys of `config` may repeat."""

    def start(
        self, name: str, config: Sequence[tuple[str, str]], argv: Sequence[str], *, keep_fds: Collection[int]
    ) -> int:
        """Start in the foreground and return, when init has ended, its exit code (128+signal if killed).

        The process' own 0, 1, 2 and `keep_fds` become init's, and no other descriptor. Raises StartRefused.
        """

    def attach(
        self,
        name: str,
        run: Callable[[Any], int] | Sequence[str],
        *,
        env: Sequence[str],
        stdio: tuple[int, int, int],
        keep_fds: Collection[int] = (),
        cwd: str = "/",
        config: Sequence[tuple[str, str]] = (),
        limits_itself: bool = False,
    ) -> int:
        """Run an argv, or a function of this process, inside, with `env` (``NAME=value``) and nothing else.

        config: settings for the process, which are not taken over from those of the container.
        limits_itself: it has all capabilities in the container until it lets go of them.
        Returns the pid, a child of the caller's to wait for. Raises AttachRefused.
        """


class Cgroups(Protocol):
    """What the objects of the API need of control groups; for the meaning see `cgroups.CgroupHost`."""

    def exists(self, container_id: str) -> bool: ...
    def pids(self, container_id: str) -> list[int]: ...
    def is_frozen(self, container_id: str) -> bool: ...
    def set_frozen(self, container_id: str, frozen: bool, *, timeout_s: float = 10.0) -> None: ...
    def apply_limits(self, container_id: str, limits: Mapping[str, Any]) -> None: ...
    def oom_kills(self, container_id: str) -> int: ...
    def read_stats(self, container_id: str) -> dict[str, int | None]: ...
    def kill_all(self, container_id: str, *, wait_s: float = 2.0) -> bool: ...
    def remove(self, container_id: str, *, wait_s: float = 0.5) -> bool: ...
    def sweep(self, container_id: str) -> bool: ...
    def tidy(self) -> bool: ...
    def close(self) -> None: ...
