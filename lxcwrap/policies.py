"""What keeps a container up: when it is started again, and how it is probed. Frozen values, checked when they
are made. Nothing here touches the machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from attrs import Attribute, field, frozen

from .errors import InvalidSpecError


@frozen(kw_only=True)
class RestartPolicy:
    """When a container that has ended is started again: see `no`, `on_failure`, `always`, `unless_stopped`.

    The first restart comes after 0.1 s, each further one after twice the time, up to a minute; after a run of
    10 s or more it is 0.1 s again. `Container.stop`, `kill` and `remove` end it, until the next start.

    >>> RestartPolicy.on_failure(3)
    RestartPolicy(when='on_failure', max_retries=3)
    """

    when: Literal["no", "on_failure", "always", "unless_stopped"] = "no"
    max_retries: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.when not in ("no", "on_failure", "always", "unless_stopped"):
            raise InvalidSpecError(f"restart policy {self.when!r}: use RestartPolicy.always() or another")
        if self.max_retries is not None and (self.when != "on_failure" or self.max_retries < 1):
            raise InvalidSpecError(f"max_retries={self.max_retries}: at least 1, and for on_failure only")

    @classmethod
    def no(cls) -> RestartPolicy:
        """Never: the default."""
        return cls()

    @classmethod
    def on_failure(cls, max_retries: int | None = None) -> RestartPolicy:
        """When it ends with another exit code than 0, at most `max_retries` times from a start on."""
        return cls(when="on_failure", max_retries=max_retries)

    @classmethod
    def always(cls) -> RestartPolicy:
        """However it ends. `Host.resume` starts it even if it was stopped."""
        return cls(when="always")

    @classmethod
    def unless_stopped(cls) -> RestartPolicy:
        """However it ends. `Host.resume` starts it unless it was stopped."""
        return cls(when="unless_stopped")


# What an image asks for, too: no more work than the host can do, and no more than the kernel can wait.
_SHORTEST_S, _LONGEST_S = 0.001, 7 * 86400.0


def _is_duration(_: object, attribute: Attribute[Any], value: float) -> None:
    if not _SHORTEST_S <= value <= _LONGEST_S:
        raise InvalidSpecError(f"{attribute.name}={value!r}: must be from a millisecond to a week")


def _is_positive(_: object, attribute: Attribute[Any], value: int) -> None:
    if not value > 0:
        raise InvalidSpecError(f"{attribute.name}={value!r}: must be greater than zero")


def check_port(port: int) -> int:
    """`port`, or InvalidSpecError: 1 to 65535."""
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise InvalidSpecError(f"port {port!r}: must be within 1..65535")
    return port


def check_http_path(path: str) -> str:
    """`path`, or InvalidSpecError: what can stand in the first line of a request."""
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise InvalidSpecError(f"path {path!r}: write it as in a URL, beginning with '/'")
    return path


def _words(argv: Sequence[str]) -> tuple[str, ...]:
    if isinstance(argv, str | bytes):
        raise TypeError("a check's command is a list of strings; for a shell line use HealthCheck.shell()")
    words = tuple(argv)
    if not all(isinstance(word, str) for word in words):
        raise TypeError("a check's command is a list of strings")
    if any("\0" in word for word in words):
        raise InvalidSpecError("a check's command: a word holds a NUL byte")
    return words


@frozen(kw_only=True)
class HealthCheck:
    """How a container is probed as long as it runs. Make it by `command`, `shell`, `http`, `tcp` or `none`.

    It is probed every `interval_s` seconds, and healthy after one success. A probe fails when it takes longer
    than `timeout_s`; after `retries` failures in a row the container is unhealthy. In the first
    `start_period_s` failures do not count until the first success, and it is probed every `start_interval_s`.
    Times are from a millisecond to a week.

    >>> HealthCheck.http(80, "/health", interval_s=5).path
    '/health'
    """

    kind: Literal["none", "command", "http", "tcp"]
    argv: tuple[str, ...] = field(default=(), converter=_words)
    port: int = 0
    path: str = ""
    interval_s: float = field(default=30.0, validator=_is_duration)
    timeout_s: float = field(default=30.0, validator=_is_duration)
    start_period_s: float = 0.0
    start_interval_s: float = field(default=5.0, validator=_is_duration)
    retries: int = field(default=3, validator=_is_positive)

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.start_period_s <= _LONGEST_S:
            raise InvalidSpecError(f"start_period_s={self.start_period_s}: must be from 0 to a week")
        if self.kind == "command" and not (self.argv and self.argv[0]):
            raise InvalidSpecError("a check's command is empty")
        if self.kind in ("http", "tcp"):
            check_port(self.port)
        if self.kind == "http":
            check_http_path(self.path)

    @classmethod
    def none(cls) -> HealthCheck:
        """No check, whatever the image says."""
        return cls(kind="none")

    @classmethod
    def command(cls, argv: Sequence[str], **timing: float) -> HealthCheck:
        """Healthy when this command ends with 0 inside. timing: `interval_s` and so on, as fields."""
        return _timed("command", timing, argv=argv)

    @classmethod
    def shell(cls, line: str, **timing: float) -> HealthCheck:
        """As `command`, with a line for /bin/sh."""
        return _timed("command", timing, argv=("/bin/sh", "-c", line))

    @classmethod
    def http(cls, port: int, path: str = "/", **timing: float) -> HealthCheck:
        """Healthy when a GET of `path` at `port` of the container's own 127.0.0.1 or ::1 is answered by a
        status of 200 to 399."""
        return _timed("http", timing, port=port, path=path)

    @classmethod
    def tcp(cls, port: int, **timing: float) -> HealthCheck:
        """Healthy when `port` of the container's own 127.0.0.1 or ::1 takes a connection."""
        return _timed("tcp", timing, port=port)


TIMING = ("interval_s", "timeout_s", "start_period_s", "start_interval_s", "retries")


def _timed(kind: str, timing: dict[str, float], **what: Any) -> HealthCheck:
    for name in timing.keys() - set(TIMING):
        raise TypeError(f"unknown {name!r}: a check has {', '.join(TIMING)}")
    return HealthCheck(kind=kind, **what, **timing)  # type: ignore[arg-type]  # one of the kinds; retries: an int
