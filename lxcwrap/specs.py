"""What a user asks for: frozen values, checked when they are made. Nothing here touches the machine."""

from __future__ import annotations

import os
import re
import signal as _signal
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Literal, Protocol

from attrs import Attribute, field, frozen

from .errors import InvalidSpecError
from .netspecs import Endpoint, Port, Rate, as_rate
from .policies import HealthCheck, RestartPolicy

StrPath = str | os.PathLike[str]


class State(StrEnum):
    """OCI runtime states, plus PAUSED (LXC: FROZEN) and RESTARTING: ended, and about to be started again."""

    CREATING, CREATED, RUNNING = "creating", "created", "running"
    PAUSED, STOPPED, RESTARTING = "paused", "stopped", "restarting"

    @property
    def can_start(self) -> bool:
        """Whether `Container.start` would start it."""
        return self in (State.CREATED, State.STOPPED, State.RESTARTING)

    @property
    def is_alive(self) -> bool:
        """Whether it has processes: it runs, or is paused."""
        return self in (State.RUNNING, State.PAUSED)


_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")
_SIZE = re.compile(r"(\d{1,20}(?:\.\d{1,20})?)\s*([KMGTP]i?)?B?", re.IGNORECASE | re.ASCII)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_CAPABILITY = re.compile(r"[A-Z][A-Z_]+")
LEAST_DISK = 16 << 20


def check_name(name: str, kind: str = "container") -> str:
    """`name`, or InvalidSpecError: letters, digits, ``_ . -``, 128 at most, a letter or digit first."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSpecError(
            f"{kind} name {name!r}: use letters, digits, '_', '.' or '-', 128 at most, no sign first"
        )
    return name


def parse_size(value: int | str) -> int:
    """Bytes. In text ``"1MB"`` is 10**6, ``"1MiB"`` 2**20, and a bare ``"1m"`` 2**20 too, as in Docker."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidSpecError(f"size {value!r}: give bytes as an int, or text such as '256MiB'")
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value.strip())
        if not match:
            raise InvalidSpecError(f"size {value!r}: write a number and a unit, such as '256MiB' or '1GB'")
        number, unit = match[1], (match[2] or "").lower()
        base = 1000 if len(unit) == 1 and value.strip()[-1] in "bB" else 1024
        factor = base ** _POWERS[unit[0]] if unit else 1
        size = int(float(number) * factor) if "." in number else int(number) * factor
    if size < 0:
        raise InvalidSpecError(f"size {value!r}: must not be negative")
    return size


def parse_signal(value: str | int) -> int:
    """Number of a signal given as ``9``, ``"9"``, ``"KILL"``, ``"SIGKILL"`` or ``"RTMIN+3"``."""
    text = str(int(value) if isinstance(value, int) else value).upper().removeprefix("SIG")
    base, _, offset = text.partition("+")
    try:
        number = int(text) if text.isdigit() else _signal.Signals[f"SIG{base}"] + int(offset or 0)
    except (KeyError, ValueError):
        raise InvalidSpecError(f"unknown signal {value!r}: use a name such as 'TERM' or a number") from None
    if not 1 <= number <= 64:
        raise InvalidSpecError(f"signal {value!r}: must be within 1..64")
    return number


def check_text(text: str, what: str) -> str:
    """`text`, or InvalidSpecError: NUL bytes end the kernel's strings, and liblxc takes UTF-8 alone (names of
    files that are none are str with surrogates, see `os.fsdecode`)."""
    if "\0" in text:
        raise InvalidSpecError(f"{what}: {text!r} holds a NUL byte")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidSpecError(f"{what}: {text!r} cannot be written as UTF-8") from None
    return text


def check_argv(argv: Sequence[str] | None, what: str = "command") -> tuple[str, ...] | None:
    """As a tuple. TypeError for a plain str, InvalidSpecError for no word, an empty first one, and what
    `check_text` refuses."""
    if argv is None:
        return None
    if isinstance(argv, str | bytes):
        raise TypeError(
            f"{what} must be a list of strings, not {type(argv).__name__}; for a shell line use sh="
        )
    words = tuple(os.fspath(word) for word in argv)
    for word in words:
        if not isinstance(word, str):
            raise TypeError(f"{what}: each word must be a str, not {type(word).__name__}")
        check_text(word, what)
    if not words or not words[0]:
        raise InvalidSpecError(f"{what} is empty")
    return words


def check_env(env: Mapping[str, str] | None) -> dict[str, str]:
    """A dict of str to str; numbers are accepted as values, as most write ``env={"PORT": 80}``."""
    result = {}
    if env is not None and not isinstance(env, Mapping):
        raise TypeError(f"env= takes a dict, not {env!r}")
    for key, value in (env or {}).items():
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            raise TypeError(f"env: {key!r}={value!r}: names and values must be strings")
        if not key or "=" in key or "\n" in key:
            raise InvalidSpecError(f"env: {key!r}: a name is not empty, and without '=' and newlines")
        result[check_text(key, "env")] = check_text(str(value), f"env: {key}")
    return result


def _absolute(path: StrPath) -> str:
    text = os.fspath(path)
    if not text.startswith("/") or "\0" in text or ".." in PurePosixPath(text).parts:
        raise InvalidSpecError(f"path {text!r}: must be absolute and without '..'")
    return str(PurePosixPath("/" + text.lstrip("/")))  # POSIX lets "//" be another root


def _check_place(what: str, path: str) -> None:
    parts = PurePosixPath(path).parts
    if path == "/" or parts[1] in ("proc", "sys") or parts[1:3] == ("dev", ".lxcwrap"):
        raise InvalidSpecError(f"{what} {path!r}: /, /proc, /sys and /dev/.lxcwrap are the container's own")


def _optional_size(value: int | str | None) -> int | None:
    return None if value is None else parse_size(value)


def check_disk_size(size: int) -> int:
    """`size`, or InvalidSpecError: 16 MiB at least, and no more than a file can have."""
    if not LEAST_DISK <= size < 1 << 63:
        raise InvalidSpecError(f"disk size {size}: must be within 16MiB..8EiB")
    return size


def _positive(_: object, attribute: Attribute[Any], value: float | None) -> None:
    if value is not None and value <= 0:
        raise InvalidSpecError(f"{attribute.name}={value!r}: must be greater than zero")


@frozen(kw_only=True)
class Limits:
    """What a container may use; None is no limit. All can be changed while it runs.

    memory: bytes, or text such as ``"256MiB"``.  swap: bytes of swap on top of memory (0: none).
    cpus: processors' worth of time, such as 0.5.  cpu_weight: share of busy ones, 1..10000, normally 100.
    cpuset: processors it may run on, such as ``"0-1,4"``.  pids: number of processes and threads.
    read_bps, write_bps: bytes a second from and to each block device.
    network_rate: on each of its networks, in place of the network's own: see `Rate`.
    disk: bytes of what it writes, without volumes; only for one that is made with it, and then it can grow.

    >>> Limits(memory="256MiB", cpus=0.5).memory
    268435456
    """

    memory: int | None = field(default=None, converter=_optional_size, validator=_positive)
    swap: int | None = field(default=None, converter=_optional_size)
    cpus: float | None = field(default=None, validator=_positive)
    cpu_weight: int | None = field(default=None)
    cpuset: str | None = field(default=None)
    pids: int | None = field(default=None, validator=_positive)
    read_bps: int | None = field(default=None, converter=_optional_size, validator=_positive)
    write_bps: int | None = field(default=None, converter=_optional_size, validator=_positive)
    network_rate: Rate | None = field(default=None, converter=as_rate)
    disk: int | None = field(default=None, converter=_optional_size)

    def __attrs_post_init__(self) -> None:
        if self.disk is not None:
            check_disk_size(self.disk)
        if self.memory is not None and self.memory < 512 * 1024:
            raise InvalidSpecError(f"memory={self.memory}: less than 512KiB cannot hold a process")
        if self.swap is not None and self.memory is None:
            raise InvalidSpecError("swap= needs memory=: the kernel limits memory and swap together")
        if self.cpus is not None and self.cpus < 0.01:
            raise InvalidSpecError(f"cpus={self.cpus}: the kernel's smallest share is 0.01")
        if self.cpu_weight is not None and not 1 <= self.cpu_weight <= 10000:
            raise InvalidSpecError(f"cpu_weight={self.cpu_weight}: must be within 1..10000")
        if self.cpuset is not None and not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", self.cpuset):
            raise InvalidSpecError(f"cpuset={self.cpuset!r}: write processors as '0-1,4'")


class Named(Protocol):
    """What has a name, such as a `Volume`."""

    @property
    def name(self) -> str: ...


Propagation = Literal["private", "slave"]


@frozen(kw_only=True)
class Mount:
    """Something mounted into a container. Make it by `Mount.bind`, `Mount.tmpfs` or `Mount.volume`.

    >>> Mount.tmpfs("/run", size="16MiB").size
    16777216
    """

    kind: Literal["bind", "tmpfs", "volume"]
    target: str = field(converter=_absolute)
    source: str = ""
    read_only: bool = False
    exec: bool = True
    size: int | None = field(default=None, converter=_optional_size, validator=_positive)
    mode: int = 0o1777
    subpath: str = ""
    copy: bool = True
    propagation: Propagation = "private"

    def __attrs_post_init__(self) -> None:
        _check_place("mount target", self.target)
        if self.subpath:
            _absolute("/" + self.subpath)
        if self.propagation not in ("private", "slave"):
            raise InvalidSpecError(f"propagation={self.propagation!r}: must be 'private' or 'slave'")

    @classmethod
    def bind(
        cls,
        source: StrPath,
        target: StrPath,
        *,
        read_only: bool = False,
        exec: bool = True,
        propagation: Propagation = "private",
    ) -> Mount:
        """A file or directory of the host, at `target`. Files made inside by root belong to the host's root.

        propagation: ``"slave"``: what the host mounts below `source` later is seen inside, too. What is
        mounted inside is never seen by the host.
        Raises InvalidSpecError when `source` does not exist or `target` is not absolute.
        """
        path = os.path.abspath(os.path.expanduser(os.fspath(source)))
        if not os.path.exists(path):
            raise InvalidSpecError(f"bind source {path!r} does not exist: create it first")
        return cls(
            kind="bind",
            source=path,
            target=os.fspath(target),
            read_only=read_only,
            exec=exec,
            propagation=propagation,
        )

    @classmethod
    def tmpfs(
        cls, target: StrPath, *, size: int | str | None = None, mode: int = 0o1777, exec: bool = False
    ) -> Mount:
        """An empty file system in memory, gone at its stop. `size`: bytes or text; None: half the memory."""
        return cls(kind="tmpfs", target=os.fspath(target), size=size, mode=mode, exec=exec)

    @classmethod
    def volume(
        cls,
        source: str | Named,
        target: StrPath,
        *,
        read_only: bool = False,
        exec: bool = True,
        subpath: str = "",
        copy: bool = True,
    ) -> Mount:
        """The named volume `source` at `target`; made if there is none. See `Volume`.

        subpath: the directory or file in it that is mounted, instead of all of it; it must be there at the
        start. copy: let a volume that is empty begin with what the image has at `target`.
        """
        return cls(
            kind="volume",
            source=check_name(source if isinstance(source, str) else source.name, "volume"),
            target=os.fspath(target),
            read_only=read_only,
            exec=exec,
            subpath=subpath,
            copy=copy,
        )


_ULIMITS = (
    "as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack"
)


@frozen(kw_only=True)
class Ulimit:
    """A limit of each process, as setrlimit(2): `name` such as ``nofile``; None is unlimited."""

    name: str = field()
    soft: int | None = None
    hard: int | None = None

    @name.validator
    def _known(self, _: object, value: str) -> None:
        if value not in _ULIMITS.split():
            raise InvalidSpecError(f"ulimit {value!r}: must be one of {_ULIMITS}")

    def __attrs_post_init__(self) -> None:
        soft, hard = (float("inf") if value is None else value for value in (self.soft, self.hard))
        if not 0 <= soft <= hard:
            raise InvalidSpecError(f"ulimit {self.name}: soft={self.soft} must be within 0..hard={self.hard}")


@frozen(kw_only=True)
class Device:
    """A device of the host for the container: `path` on the host, `target` inside, `access` of ``rwm``."""

    path: str = field(converter=_absolute)
    target: str = ""
    access: str = "rwm"

    def __attrs_post_init__(self) -> None:
        if not self.access or set(self.access) - set("rwm"):
            raise InvalidSpecError(f"device access {self.access!r}: use letters of 'rwm'")
        if self.target:
            _check_place("device target", _absolute(self.target))


@frozen(kw_only=True)
class Security:
    """How far a container is loosened. The default is tight; every field is one explicit step away from it.

    privileged: no id range, all capabilities, all devices, no seccomp, no masks: root inside is root outside.
    seccomp, no_new_privs, masked_paths: False switches that one protection off.
    """

    privileged: bool = False
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    seccomp: bool = True
    no_new_privs: bool = True
    masked_paths: bool = True
    devices: tuple[Device, ...] = ()

    def __attrs_post_init__(self) -> None:
        for name in (*self.cap_add, *self.cap_drop):
            if not _CAPABILITY.fullmatch(name):
                raise InvalidSpecError(f"capability {name!r}: write it as 'NET_ADMIN', or 'ALL'")


@frozen(kw_only=True)
class ContainerSpec:
    """All that was asked of one container, complete: what the image gave and what the caller gave, merged."""

    image_id: str
    name: str = field()
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(factory=dict)
    cwd: str = field(default="/", converter=_absolute)
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str = ""
    labels: Mapping[str, str] = field(factory=dict)
    stop_signal: int = _signal.SIGTERM
    mounts: tuple[Mount, ...] = ()
    limits: Limits = field(factory=Limits)
    read_only: bool = False
    tty: bool = False
    stdin_open: bool = False
    init: bool | Literal["system"] = True
    ulimits: tuple[Ulimit, ...] = ()
    sysctls: Mapping[str, str] = field(factory=dict)
    shm_size: int = field(default=64 << 20, converter=parse_size, validator=_positive)
    extra_hosts: Mapping[str, str] = field(factory=dict)
    oom_score_adj: int = 0
    security: Security = field(factory=Security)
    auto_remove: bool = False
    network_mode: str = "own"  # or "host", or "container:ID"
    networks: Mapping[str, Endpoint] = field(factory=dict)
    publish: tuple[Port, ...] = ()
    restart: RestartPolicy = field(factory=RestartPolicy)
    health: HealthCheck | None = None
    log_max_bytes: int = field(default=16 << 20, converter=parse_size, validator=_positive)
    log_max_files: int = 3

    @property
    def volumes(self) -> tuple[str, ...]:
        """The names of the volumes it has."""
        return tuple(mount.source for mount in self.mounts if mount.kind == "volume" and mount.source)

    @property
    def is_system(self) -> bool:
        """Whether its PID 1 is the image's own init, which boots a system."""
        return self.init == "system"

    def __attrs_post_init__(self) -> None:
        check_name(self.name)
        if self.init not in (True, False, "system"):
            raise InvalidSpecError(f"init={self.init!r}: must be True, False or 'system'")
        if not isinstance(self.limits, Limits):
            raise TypeError(f"limits= takes Limits(...), not {self.limits!r}")
        if not isinstance(self.restart, RestartPolicy):
            raise TypeError(f"restart= takes a RestartPolicy, not {self.restart!r}")
        if self.health is not None and not isinstance(self.health, HealthCheck):
            raise TypeError(f"health= takes a HealthCheck, not {self.health!r}")
        if self.auto_remove and self.restart.when != "no":
            raise InvalidSpecError("a container that removes itself cannot be restarted: use one of the two")
        if self.network_mode != "own":
            self._check_borrowed_network()
        if self.log_max_files < 1:
            raise InvalidSpecError(f"log_max_files={self.log_max_files}: must be at least 1")
        if not -1000 <= self.oom_score_adj <= 1000:
            raise InvalidSpecError(f"oom_score_adj={self.oom_score_adj}: must be within -1000..1000")
        if self.hostname and not re.fullmatch(r"[a-zA-Z0-9]([a-zA-Z0-9.-]{0,62}[a-zA-Z0-9])?", self.hostname):
            raise InvalidSpecError(f"hostname {self.hostname!r}: letters, digits, '-' and '.', 64 at most")
        targets = [mount.target for mount in self.mounts]
        for target in targets:
            if targets.count(target) > 1:
                raise InvalidSpecError(f"two mounts at {target}: each target can be used once")

    def _check_borrowed_network(self) -> None:
        kind, _, owner = self.network_mode.partition(":")
        if not (self.network_mode == "host" or (kind == "container" and owner)):
            raise InvalidSpecError(
                f"network {self.network_mode!r}: must be a network's name, 'none', 'host' or 'container:NAME'"
            )
        if self.networks or self.publish:
            raise InvalidSpecError(
                f"network={self.network_mode!r}: it has no network of its own to connect or publish ports of"
            )
        if self.limits.network_rate:
            raise InvalidSpecError(f"network={self.network_mode!r}: what others have it cannot limit")
        if any(name.startswith("net.") for name in self.sysctls):
            raise InvalidSpecError(f"network={self.network_mode!r}: sysctls net.* would not be its own")
