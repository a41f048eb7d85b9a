"""Everything lxcwrap raises.

LxcwrapError                       base of everything we raise
├── NotFoundError(LookupError)     ImageNotFoundError, ContainerNotFoundError, VolumeNotFoundError,
│                                  NetworkNotFoundError, SnapshotNotFoundError, PathNotFoundError
├── InvalidSpecError(ValueError)   refused before anything was touched
│   └── DockerfileError            with file, line and column
├── ConflictError                  NameInUseError, StillUsedError, WrongStateError, AddressInUseError,
│                                  PortInUseError, ExhaustedError
├── DriverError                    StartError, KernelError(OSError), SupervisorError
│   ├── RegistryError              RegistryAuthError
│   └── PathError(OSError)         PathExistsError, PathIsDirectoryError, PathNotDirectoryError,
│                                  PathDeniedError
├── ContentError                   DigestMismatchError, FormatError
├── ExecError                      BuildError, CommandFailedError, TimeoutExpired(TimeoutError),
│                                  CallError, NotReadyError
└── UnsupportedError               what this machine lacks, and the remedy

Facts are attributes; the message says what failed, on what, and what to do. Nobody has to parse it.
"""

from __future__ import annotations

import errno as _errno
import os
import re
import signal as _signal
from collections.abc import Sequence

from attrs import define

_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def _readable(output: str) -> str:
    """What a stranger's program wrote, as text that steers no terminal."""
    return "".join(char for char in _COLOURS.sub("", output) if char.isprintable() or char in "\n\t")


class LxcwrapError(Exception):
    """Base of all errors raised by lxcwrap."""


# --- something is not there -----------------------------------------------------------------------------


class NotFoundError(LxcwrapError, LookupError):
    """Something that was named does not exist."""


@define
class ImageNotFoundError(NotFoundError):
    """
    No stored image has this reference, id or id prefix; or the ids in `candidates` all begin with it.

    registry: what was asked for it, if it was not the store.
    """

    reference: str
    candidates: Sequence[str] = ()
    registry: str = ""

    def __str__(self) -> str:
        if self.registry:
            return f"{self.registry} has no {self.reference!r}: look for its tags there"
        if self.candidates:
            return f"{self.reference!r} begins more than one image id: {', '.join(self.candidates)}"
        return f"no image {self.reference!r}: pull(), build(), load() or bootstrap() it first"


@define
class ContainerNotFoundError(NotFoundError, KeyError):
    """No container has this name, id or unique id prefix; or the ids in `candidates` all begin with it."""

    container: str
    candidates: Sequence[str] = ()

    def __str__(self) -> str:
        if self.candidates:
            return f"{self.container!r} begins more than one container id: {', '.join(self.candidates)}"
        return f"no container {self.container!r}"


@define
class VolumeNotFoundError(NotFoundError, KeyError):
    """No volume has this name."""

    volume: str

    def __str__(self) -> str:
        return f"no volume {self.volume!r}"


@define
class SnapshotNotFoundError(NotFoundError, KeyError):
    """No snapshot has this name or id."""

    snapshot: str

    def __str__(self) -> str:
        return f"no snapshot {self.snapshot!r}"


@define
class NetworkNotFoundError(NotFoundError, KeyError):
    """No network has this name, id or unique id prefix."""

    network: str

    def __str__(self) -> str:
        return f"no network {self.network!r}: create() it first"


@define
class PathNotFoundError(NotFoundError, FileNotFoundError):
    """A path inside a container does not exist."""

    container: str
    path: str

    def __attrs_post_init__(self) -> None:
        self.errno, self.strerror = _errno.ENOENT, os.strerror(_errno.ENOENT)

    def __str__(self) -> str:
        return f"{self.container}: no such file or directory: {self.path}"


# --- bad input ------------------------------------------------------------------------------------------


class InvalidSpecError(LxcwrapError, ValueError):
    """What was asked for cannot be right. Nothing was touched."""


@define
class DockerfileError(InvalidSpecError):
    """A Dockerfile or .dockerignore is malformed: where (line and column, from 1), and what is wrong. Nothing
    was built."""

    file: str
    line: int
    column: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.reason}"


# --- it is there, but ... -------------------------------------------------------------------------------


class ConflictError(LxcwrapError):
    """The operation contradicts what already exists."""


@define
class NameInUseError(ConflictError):
    """The name belongs to another object."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"the {self.kind} name {self.name!r} is in use: remove that {self.kind} or choose another name"


@define
class StillUsedError(ConflictError):
    """The object cannot be removed while others use it."""

    kind: str
    name: str
    users: Sequence[str] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r} is still used by {', '.join(self.users)}: remove these first"


@define
class WrongStateError(ConflictError):
    """The container's state does not allow the operation."""

    container: str
    state: str
    operation: str

    def __str__(self) -> str:
        return f"cannot {self.operation} {self.container}: it is {self.state}"


@define
class AddressInUseError(ConflictError):
    """The address or subnet belongs to `user`: a container, or a network or route it overlaps with."""

    address: str
    user: str

    def __str__(self) -> str:
        return f"{self.address} is in use by {self.user}: choose another"


@define
class PortInUseError(ConflictError):
    """The port of the host belongs to `user`: another container, or a process that listens there; `pid` and
    `command` say which, if it can be seen."""

    protocol: str
    host_ip: str
    host_port: int
    user: str
    pid: int | None = None
    command: str = ""

    def __str__(self) -> str:
        at = f"{self.host_ip} " if self.host_ip else ""
        return f"{self.protocol} port {at}{self.host_port} is in use by {self.user}: choose another"


@define
class ExhaustedError(ConflictError):
    """All of `where` is taken: there is no free `what`, an address or a subnet."""

    what: str
    where: str

    def __str__(self) -> str:
        return f"no free {self.what} in {self.where}: remove what is not needed, or give a larger one"


# --- the machine said no --------------------------------------------------------------------------------


class DriverError(LxcwrapError):
    """The runtime or the kernel refused."""


@define
class StartError(DriverError):
    """A container could not be started. `log_tail` holds the last lines of liblxc's own log."""

    container: str
    reason: str = ""
    log_tail: str = ""

    def __str__(self) -> str:
        log = f"\n{self.log_tail.rstrip()}" if self.log_tail else ""
        return f"cannot start {self.container}: {self.reason or 'liblxc refused'}{log}"


class KernelError(DriverError, OSError):
    """A system call failed: `errno`, `filename` and `operation` say which."""

    def __init__(self, errno: int, operation: str, filename: str | None = None) -> None:
        super().__init__(errno, f"{operation}: {os.strerror(errno)}", filename)
        self.operation = operation

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.errno, self.operation, self.filename)


class PathError(DriverError, OSError):
    """A file operation inside a container failed: `errno`, `container` and `path` say how and where."""

    def __init__(self, errno: int, container: str, path: str, reason: str = "") -> None:
        super().__init__(errno, reason or os.strerror(errno), path)
        self.container = container
        self.path = path

    def __str__(self) -> str:
        return f"{self.container}: {self.strerror}: {self.path}"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.errno, self.container, self.path, self.strerror)


class PathExistsError(PathError, FileExistsError):
    """Something is at the path inside the container already."""


class PathIsDirectoryError(PathError, IsADirectoryError):
    """The path inside the container is a directory, and a file is needed."""


class PathNotDirectoryError(PathError, NotADirectoryError):
    """The path inside the container is not a directory, and one is needed."""


class PathDeniedError(PathError, PermissionError):
    """What the path inside the container leads to must not be touched."""


_PATH_ERRORS: dict[int, type[PathError]] = {
    _errno.EEXIST: PathExistsError,
    _errno.EISDIR: PathIsDirectoryError,
    _errno.ENOTDIR: PathNotDirectoryError,
    _errno.EPERM: PathDeniedError,
    _errno.EACCES: PathDeniedError,
}


def path_error(errno: int, container: str, path: str, reason: str = "") -> PathError | PathNotFoundError:
    """The error for `errno` at `path` inside `container`, of the type that also is the builtin's."""
    if errno == _errno.ENOENT:
        return PathNotFoundError(container, path)
    return _PATH_ERRORS.get(errno, PathError)(errno, container, path, reason)


@define
class SupervisorError(DriverError):
    """A process that holds a container, or the fork-server, ended in the midst of a request."""

    what: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what}{': ' + self.detail if self.detail else ''}"


@define
class RegistryError(DriverError):
    """A registry could not be reached, or refused. `status`: of its HTTP answer; None: there was none."""

    registry: str
    operation: str
    reason: str
    status: int | None = None

    def __str__(self) -> str:
        status = f" (HTTP {self.status})" if self.status else ""
        return f"{self.registry}: cannot {self.operation}: {self.reason}{status}"


@define
class RegistryAuthError(RegistryError):
    """A registry wants other credentials than were found, or forbids it to those."""


# --- content is not what it should be -------------------------------------------------------------------


class ContentError(LxcwrapError):
    """Bytes from outside (archive, image, result) are not acceptable."""


@define
class DigestMismatchError(ContentError):
    """Content does not have the digest it was announced with. It was not kept."""

    what: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.what}: digest is {self.actual}, expected {self.expected}"


@define
class FormatError(ContentError, ValueError):
    """An archive or document is malformed or hostile. Nothing of it was kept."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


# --- a command did not do well --------------------------------------------------------------------------


class ExecError(LxcwrapError):
    """A command in a container did not end as wished."""


def describe_exit(exit_code: int | None) -> str:
    """How a command ended, in words: ``exit code 3``, ``killed by SIGKILL``, ``command not found``."""
    if exit_code is None:
        return "its exit code is unknown"
    if exit_code == 125:
        return "exit code 125 (it was not started)"
    if exit_code == 127:
        return "exit code 127 (command not found)"
    if exit_code == 126:
        return "exit code 126 (command cannot be run)"
    if 128 < exit_code <= 192:
        try:
            return f"exit code {exit_code} (killed by {_signal.Signals(exit_code - 128).name})"
        except ValueError:
            pass
    return f"exit code {exit_code}"


@define
class CommandFailedError(ExecError):
    """A checked command ended with another exit code than 0."""

    argv: Sequence[str]
    exit_code: int | None
    stdout: str | bytes = ""
    stderr: str | bytes = ""
    container: str = ""
    oom_killed: bool = False

    def __str__(self) -> str:
        tail = self.stderr if isinstance(self.stderr, str) else self.stderr.decode(errors="replace")
        tail = _readable(tail.rstrip()[-1000:])
        oom = "; the kernel killed a process for want of memory: raise its limit" if self.oom_killed else ""
        return f"{list(self.argv)!r}: {describe_exit(self.exit_code)}{oom}" + (f"\n{tail}" if tail else "")


@define
class BuildError(ExecError):
    """A step of a build failed: there is no image, and nothing of the step. Those before it stay cached.

    step: its number, counted from 1 over all stages. instruction: as written. line: in the Dockerfile, from
    1; None for steps in Python. exit_code: None if no command was run. log: the last of what it wrote.
    """

    step: int
    instruction: str
    reason: str
    line: int | None = None
    exit_code: int | None = None
    log: str = ""

    def __str__(self) -> str:
        where = f" (line {self.line})" if self.line else ""
        log = f"\n{_readable(self.log.rstrip()[-2000:])}" if self.log else ""
        return f"step {self.step}{where}, {self.instruction}: {self.reason}{log}"


@define
class TimeoutExpired(ExecError, TimeoutError):
    """The time given was over. `stdout` and `stderr` hold what had been written by then."""

    operation: str
    timeout_s: float
    stdout: str | bytes = ""
    stderr: str | bytes = ""

    def __str__(self) -> str:
        return f"{self.operation}: not done after {self.timeout_s:g} s"


@define
class NotReadyError(ExecError):
    """A container ended while its readiness was waited for. `log_tail`: the last lines it wrote."""

    container: str
    reason: str
    exit_code: int | None = None
    log_tail: str = ""

    def __str__(self) -> str:
        log = f"\n{self.log_tail.rstrip()}" if self.log_tail else ""
        how = describe_exit(self.exit_code)
        return f"{self.container} ended before it was ready ({self.reason}): {how}{log}"


@define
class CallError(ExecError):
    """A function called inside a container could not be sent, run or answered. `traceback` is from inside."""

    function: str
    reason: str
    traceback: str = ""

    def __str__(self) -> str:
        inside = f"\n{self.traceback.rstrip()}" if self.traceback else ""
        return f"call of {self.function}: {self.reason}{inside}"


@define
class UnsupportedError(LxcwrapError):
    """This machine lacks something. `remedy` says what mends it."""

    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.what}{': ' + self.remedy if self.remedy else ''}"
