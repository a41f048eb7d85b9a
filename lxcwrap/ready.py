"""When a container does what it is for: conditions for `Container.wait_ready`.

web.wait_ready(ready.http(80, "/health"), timeout_s=10)
db.wait_ready(ready.all(ready.tcp(5432), ready.log("ready to accept connections")))
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from .drivers import dialing
from .errors import InvalidSpecError, NotReadyError, SupervisorError, TimeoutExpired, WrongStateError
from .policies import check_http_path, check_port
from .results import Completed, Health, LogLine
from .specs import State, check_argv
from .waiting import Steps, Wait, waits

_SHORTEST_S, _LONGEST_S = 0.002, 0.1  # pauses between two looks
_LOG_TAIL = 20  # lines


class Target(Protocol):
    """What is asked of a `Container`."""

    @property
    def name(self) -> str: ...
    @property
    def state(self) -> State: ...
    @property
    def health(self) -> Health | None: ...
    @property
    def exit_code(self) -> int | None: ...
    @property
    def started_at(self) -> datetime | None: ...
    def socket(self, port: int, *, host: str, timeout_s: float) -> socket.socket: ...
    def exec(self, argv: Sequence[str], *, timeout_s: float, check: bool) -> Completed: ...
    def logs(self, *, tail: int) -> str: ...
    def log_lines(self, *, since: datetime | None) -> Iterable[LogLine]: ...


# Looks at a container now, for so many seconds at most: why it is not ready, or "" when it is.
Look = Callable[[float], str]
# Begins to look at a container. Any such function can be given to `wait_ready`.
Check = Callable[[Target], Look]


def http(port: int, path: str = "/", *, status: int = 200) -> Check:
    """A GET of `path` at `port` of its own loopback is answered with `status`."""
    check_port(port), check_http_path(path)

    def begin(container: Target) -> Look:
        def look(remaining_s: float) -> str:
            with _dialled(container, port, remaining_s) as sock:
                actual = dialing.http_status(sock, path, remaining_s)
            return "" if actual == status else f"port {port}, {path}: status {actual}"

        return look

    return begin


def tcp(port: int) -> Check:
    """`port` of its own loopback takes connections."""
    check_port(port)

    def begin(container: Target) -> Look:
        def look(remaining_s: float) -> str:
            _dialled(container, port, remaining_s).close()
            return ""

        return look

    return begin


def _dialled(container: Target, port: int, timeout_s: float) -> socket.socket:
    return dialing.loopback(lambda host: container.socket(port, host=host, timeout_s=timeout_s))


def log(pattern: str) -> Check:
    """It has written a line, since it was started, in which the regular expression `pattern` is found."""
    expression = re.compile(pattern)

    def begin(container: Target) -> Look:
        since = container.started_at

        def look(_: float) -> str:
            nonlocal since
            for line in container.log_lines(since=since):
                if expression.search(line.text):
                    return ""
                since = line.time
            return f"no line with {pattern!r} in its log"

        return look

    return begin


def command(argv: Sequence[str]) -> Check:
    """This command ends with 0 inside."""
    words = check_argv(argv) or ()

    def begin(container: Target) -> Look:
        def look(remaining_s: float) -> str:
            done = container.exec(words, timeout_s=remaining_s, check=False)
            said = (done.stderr or done.stdout).strip()[-200:]
            return f"{list(words)!r}: exit code {done.exit_code} {said}".rstrip() if done.exit_code else ""

        return look

    return begin


def healthy() -> Check:
    """Its health check has succeeded."""

    def begin(container: Target) -> Look:
        def look(_: float) -> str:
            health = container.health
            if health is None:
                raise InvalidSpecError(
                    f"{container.name} has no health check: give health=, or another check"
                )
            last = f": {health.results[-1].output.strip()[:200]}" if health.results else ""
            return "" if health.status == "healthy" else f"{health.status}{last}"

        return look

    return begin


def all(*checks: Check) -> Check:
    """All of them hold; each need hold once."""

    def begin(container: Target) -> Look:
        looks = [check(container) for check in checks]

        def look(remaining_s: float) -> str:
            while looks:
                if reason := looks[0](remaining_s):
                    return reason
                looks.pop(0)
            return ""

        return look

    return begin


@waits
def wait(container: Target, check: Check | None, timeout_s: float) -> Steps[None]:
    """See `Container.wait_ready`."""
    deadline, pause_s = time.monotonic() + timeout_s, _SHORTEST_S
    look, before = (check or healthy())(container), ""
    while reason := _look(look, max(deadline - time.monotonic(), _SHORTEST_S)):
        state = container.state
        if state in (State.CREATING, State.CREATED):
            raise WrongStateError(container.name, state, "wait for")
        if state is State.STOPPED:
            log_tail = container.logs(tail=_LOG_TAIL)
            raise NotReadyError(container.name, before or reason, container.exit_code, log_tail)
        if time.monotonic() > deadline:
            what = f"{container.name} is not ready ({reason})"
            raise TimeoutExpired(what, timeout_s, container.logs(tail=_LOG_TAIL))
        before = reason
        yield Wait(None, pause_s)
        pause_s = min(1.5 * pause_s, _LONGEST_S)


def _look(look: Look, remaining_s: float) -> str:
    """What is no failure of ours is a reason."""
    try:
        return look(remaining_s)
    except (OSError, ValueError, SupervisorError, TimeoutExpired, WrongStateError) as error:
        if isinstance(error, InvalidSpecError):
            raise
        return str(error) or type(error).__name__
