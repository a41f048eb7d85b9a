"""The noun `Container`: one container, known by its id. Properties read what is true now; none is cached."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from signal import SIGKILL
from socket import socket as Socket
from types import TracebackType
from typing import TYPE_CHECKING, Literal, ParamSpec, TypeVar, Unpack

from . import committing, faults, inside, lifecycle, limiting, networking, ready
from .calling import Calls
from .copying import CopyResult, copy_in, copy_out
from .errors import ContainerNotFoundError, WrongStateError
from .execution import OnOutput, Popen, Stream
from .files import ContainerPath, Root
from .image import Image, tag_reference
from .imagechanges import ImageChanges
from .imageconfig import History
from .machinery import Machinery
from .netspecs import Endpoint, Port, PortBinding
from .ready import Check
from .results import Change, Completed, Health, LogLine, Process, Stats
from .shown import Shown
from .specs import ContainerSpec, Limits, State, StrPath, check_name, parse_signal
from .storage.logreader import read_lines, read_text
from .supervisor import journal, restarting
from .waiting import Flow, Steps, flow, flows, steps, waits

if TYPE_CHECKING:
    from .display.blocks import Page
    from .display.live import LiveLogs, LiveStats
    from .snapshot import Snapshot

P = ParamSpec("P")
T = TypeVar("T")


class Container(Shown):
    """One container. Obtained from `host.containers`; equal when it is the same container.

    As a context manager it is stopped and removed at the end of the block.
    """

    __slots__ = ("_id", "_machinery")

    def __init__(self, machinery: Machinery, container_id: str) -> None:
        self._machinery = machinery
        self._id = container_id

    # --- what it is ---

    @property
    def id(self) -> str:
        """64 hex digits; never changes."""
        return self._id

    @property
    def name(self) -> str:
        """Unique under its host. Raises ContainerNotFoundError when it was removed, as all that follow."""
        return str(lifecycle.row(self._machinery, self._id)["name"])

    @property
    def image(self) -> Image:
        """The image it was made from."""
        return Image(self._machinery, lifecycle.row(self._machinery, self._id)["image_id"])

    @property
    def spec(self) -> ContainerSpec:
        """All it was made with: image and caller merged."""
        return lifecycle.spec_of(self._machinery, self._id)

    @property
    def labels(self) -> Mapping[str, str]:
        """Those of its image, and those it was made with."""
        return self.spec.labels

    @property
    def created_at(self) -> datetime:
        """When it was made, in UTC."""
        return datetime.fromtimestamp(lifecycle.row(self._machinery, self._id)["created_at"], UTC)

    # --- how it is ---

    @property
    def state(self) -> State:
        """Its state now."""
        return self._look().state

    @property
    def exit_code(self) -> int | None:
        """Exit code of its last run, 128+signal if killed; None while it runs, before its first run, and when
        nobody could see it end (`error` then says why)."""
        return self._look().exit.get("exit_code")

    @property
    def restart_count(self) -> int:
        """How often its policy has restarted it since a user started it."""
        return restarting.done_so_far(self._machinery.records(self._id))

    @property
    def health(self) -> Health | None:
        """As its health check has found it, in its present or last run; None when it has none."""
        return lifecycle.health(self._machinery, self._id)

    @property
    def oom_killed(self) -> bool:
        """Whether the kernel killed one of its processes for want of memory, in its last run or until now."""
        return lifecycle.was_oom_killed(self._machinery, self._id)

    @property
    def error(self) -> str | None:
        """Why its last run could not start, or ended without an exit code."""
        return self._look().exit.get("error")

    @property
    def init_pid(self) -> int | None:
        """Process id of its PID 1 as the host sees it; None when it does not run."""
        run = self._look()
        return run.run["init_pid"] if run.state.is_alive else None

    @property
    def started_at(self) -> datetime | None:
        """When its present or last run began; None before the first."""
        return _moment(self._look().run.get("started_at"))

    @property
    def finished_at(self) -> datetime | None:
        """When its last run ended; None while it runs."""
        return _moment(self._look().exit.get("finished_at"))

    # --- its network ---

    @property
    def ip(self) -> str | None:
        """Its address on the first network it is on, the same at each start; None: it is on none."""
        return next((endpoint.ip for endpoint in self.networks.values()), None)

    @property
    def networks(self) -> Mapping[str, Endpoint]:
        """How it is on each network it is on, by the network's name."""
        return networking.endpoints(self._machinery, self._id)

    @property
    def ports(self) -> tuple[PortBinding, ...]:
        """Ports of the host that lead to it, also while it does not run; by the container's ports."""
        lifecycle.row(self._machinery, self._id)
        return self._machinery.port_store.bindings(self._id)

    def publish(self, *ports: Port) -> tuple[PortBinding, ...]:
        """Let more ports of the host lead to it: at once if it runs, and at its next starts.

        Raises PortInUseError; InvalidSpecError: it is on no network that others may reach; UnsupportedError:
        the kernel does not have the protocol. Then nothing has changed.
        """
        return networking.publish(self._machinery, self._id, ports)

    def unpublish(self, *ports: Port | PortBinding) -> None:
        """Let ports of the host lead to it no more: with a `Port` all that lead to that port of it, where it
        does not say which. Connections through them go on.

        Raises InvalidSpecError: there is none; then nothing has changed.
        """
        networking.unpublish(self._machinery, self._id, ports)

    def socket(self, port: int, *, host: str = "127.0.0.1", timeout_s: float = 10.0) -> Socket:
        """A TCP connection to a port of its own, published or not: dialled from inside its network.

        host: address to dial there, such as another container's. The socket keeps the time-out. Raises what
        connect(2) does (ConnectionRefusedError, TimeoutError..); WrongStateError when it does not run.
        """
        return networking.dial(self._machinery, self._id, self.name, port, host, timeout_s)

    def _look(self) -> lifecycle.Run:
        return lifecycle.look(self._machinery, self._id)

    def _require(self, operation: str, *states: State) -> lifecycle.Run:
        run = self._look()
        if run.state not in states:
            raise WrongStateError(self.name, run.state, operation)
        return run

    # --- its life ---

    def start(self) -> Container:
        """Start it; it runs its main process when this returns.

        Raises WrongStateError when it runs, StartError when it cannot be; the error holds liblxc's log.
        """
        lifecycle.start(self._machinery, self._id)
        return self

    @waits
    def stop(self, *, timeout_s: float = 10.0) -> Steps[int | None]:
        """Send its stop signal, kill it after `timeout_s`; its exit code. Does nothing when it does not
        run."""
        spec = self.spec
        ended = yield from lifecycle.stop(self._machinery, self._id, spec.name, spec.stop_signal, timeout_s)
        return ended.get("exit_code")

    def kill(self, signal: str | int = "KILL") -> None:
        """Send the main process a signal, such as ``"HUP"``; a paused one gets it when it goes on, but for
        KILL. After KILL or its stop signal it is not restarted. Raises WrongStateError when it does not run.
        """
        number = parse_signal(signal)
        states = [State.RUNNING, State.PAUSED]
        if number in (SIGKILL, self.spec.stop_signal):
            run = self._require("kill", *states, State.RESTARTING)
            lifecycle.call_off_restart(self._machinery, self._id)
        else:
            run = self._require("kill", *states)
        if number == SIGKILL:
            lifecycle.kill(self._machinery, self._id)
        elif run.state.is_alive:
            lifecycle.send(run, number)

    @waits
    def restart(self, *, timeout_s: float = 10.0) -> Steps[Container]:
        """Stop, if it runs, and start."""
        yield from steps(self.stop)(timeout_s=timeout_s)
        return self.start()

    def pause(self) -> None:
        """Freeze all its processes. Raises WrongStateError unless it runs."""
        self._require("pause", State.RUNNING)
        self._machinery.cgroups.set_frozen(self._id, True)
        journal.note(self._machinery.root.path, "paused", self._id)

    def unpause(self) -> None:
        """Let its processes go on. Raises WrongStateError unless it is paused."""
        self._require("unpause", State.PAUSED)
        self._machinery.cgroups.set_frozen(self._id, False)
        journal.note(self._machinery.root.path, "unpaused", self._id)

    def frozen(self) -> AbstractContextManager[None]:
        """In a ``with`` block none of its processes runs, as if its machine did not answer; blocks may be
        nested. It goes on when this process ends, however that does. Raises WrongStateError when it does not
        run."""
        return faults.frozen(self._machinery, self._id)

    def kill9(self) -> AbstractContextManager[None]:
        """In a ``with`` block it has been killed, by SIGKILL and without notice, and does not restart; at the
        end it is started again, unless it was removed. Raises WrongStateError when it does not run.

        If this process is killed within the block it stays down.
        """
        return faults.killed(self._machinery, self._id)

    @waits
    def wait(self, *, timeout_s: float | None = None) -> Steps[int | None]:
        """Wait for its end; its exit code. Raises TimeoutExpired; WrongStateError if it was never started."""
        ended = yield from lifecycle.wait(self._machinery, self._id, self.name, timeout_s)
        return ended.get("exit_code")

    @waits
    def wait_ready(self, check: Check | None = None, *, timeout_s: float = 60.0) -> Steps[Container]:
        """Wait until it does what it is for: until `check` of `lxcwrap.ready` holds, or it is healthy.

        Raises NotReadyError at once when it ends, with the last it wrote; TimeoutExpired, with the same in
        `stdout`; InvalidSpecError when there is no `check`, and it has no health check.
        """
        yield from steps(ready.wait)(self, check, timeout_s)
        return self

    def remove(self, *, force: bool = False) -> None:
        """Remove it with all it has written. Raises WrongStateError while it runs; `force` kills it first."""
        lifecycle.remove(self._machinery, self._id, self.name, force=force)

    def rename(self, name: str) -> None:
        """Give it another name, at any time. Raises NameInUseError."""
        check_name(name)
        lifecycle.rename(self._machinery, self._id, name)

    def update(self, limits: Limits) -> None:
        """Change its limits, now if it runs, and for its next start. Fields that are None keep what was set.

        Raises UnsupportedError for a controller this host lacks, or rates of networks that its kernel cannot
        limit; then nothing was changed.
        """
        limiting.update(self._machinery, self._id, limits)

    # --- commands inside ---

    @waits
    def exec(
        self,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        input: bytes | str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | int | None = None,
        cwd: str | None = None,
        timeout_s: float | None = None,
        check: bool = True,
        on_output: OnOutput | None = None,
    ) -> Steps[Completed]:
        """Run a command inside and collect its output, as `lxcwrap.run` does. It is isolated as the
        container.

        `user` and `cwd` default to the main process'. on_output: called with ``"stdout"`` or ``"stderr"`` and
        the bytes, as they come. Raises CommandFailedError (unless ``check=False``),
        TimeoutExpired (the command is killed; what it wrote is on the error), WrongStateError when the
        container does not run.
        """
        return (
            yield from inside.execute(
                self._machinery,
                self._id,
                argv,
                sh,
                input=input,
                env=env,
                user=user,
                cwd=cwd,
                timeout_s=timeout_s,
                check=check,
                on_output=on_output,
            )
        )

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        user: str | int | None = None,
        cwd: str | None = None,
        tty: bool = False,
    ) -> Popen:
        """Start a command inside and return at once, as `subprocess.Popen`: PIPE gives real files, a file or
        descriptor is used directly, None is /dev/null. With `tty` it has a terminal of its own, whose master
        is `Popen.tty`.

        Raises WrongStateError when the container does not run.
        """
        return inside.popen(
            self._machinery,
            self._id,
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=env,
            user=user,
            cwd=cwd,
            tty=tty,
        )

    def attach(
        self,
        argv: Sequence[str] = ("/bin/sh",),
        *,
        env: Mapping[str, str] | None = None,
        user: str | int | None = None,
        cwd: str | None = None,
    ) -> int:
        """Run a command on this process' own terminal, keys, Ctrl-C, window size and all; its exit code.

        Raises ExecError when stdin is no terminal.
        """
        return inside.attach(self._machinery, self._id, argv, env=env, user=user, cwd=cwd)

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a Python function of this program inside the container, also in one without Python; its result.

        It runs as root inside; what it writes to stdout and stderr is written to those of this process.
        Modules it needs must be imported where it is defined: inside, nothing is imported from the container.
        The result must be plain data. What it raises is raised here, with the traceback from inside as a
        note. Lambdas, and functions of a notebook or script, need the extra ``lxcwrap[call]``.
        Raises CallError when it cannot be sent, or answered; WrongStateError when the container does not run.
        """
        return self.calling().call(function, *args, **kwargs)

    def calling(
        self,
        *,
        timeout_s: float | None = None,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        imports: Sequence[str] = (),
    ) -> Calls:
        """`call`, with options: ``box.calling(timeout_s=5, imports=["numpy"]).call(mean, [1, 2])``.

        timeout_s: after so many seconds it is killed, and TimeoutExpired raised, with what it wrote. user:
        whom it runs as, by default root. env: variables on top of the container's. imports: modules that are
        imported before it enters the container, as the function will need them.
        """
        return Calls(self._machinery, self._id, timeout_s=timeout_s, user=user, env=env, imports=imports)

    def function(self, function: Callable[P, T], /) -> Callable[P, T]:
        """Decorator: each call of the function is a `call` in this container. With options:
        ``@box.calling(timeout_s=5).function``."""
        return self.calling().function(function)

    # --- files ---

    def path(self, path: str) -> ContainerPath:
        """A path inside, to be used as a `pathlib.Path`. Works on running and on stopped containers."""
        return ContainerPath(self._open_root, path, container=self.name)

    def copy_in(self, source: StrPath, target: str) -> CopyResult:
        """Copy a file or directory of the host into it, as `docker cp`; it belongs to root inside."""
        return copy_in(self._open_root, source, target)

    def copy_out(self, source: str, target: StrPath) -> CopyResult:
        """Copy a file or directory out of it, as `docker cp`. Links are never followed out of it."""
        return copy_out(self._open_root, source, target)

    def diff(self) -> tuple[Change, ...]:
        """What was added, modified and deleted since it was made from its image, by path."""
        return committing.diff(self._machinery, self._id)

    def commit(
        self,
        reference: str | None = None,
        *,
        message: str = "",
        author: str = "",
        compression: Literal["gzip", "zstd", "none"] = "gzip",
        pause: bool = True,
        **changes: Unpack[ImageChanges],
    ) -> Image:
        """Make an image of its own, with what it has written as one more layer; volumes are not part of it.

        reference: a name for it. message, author: for its history. pause: hold a running container still
        meanwhile; else what is written meanwhile raises FormatError. changes: how its containers start, where
        that is to differ: see `ImageChanges`. SOURCE_DATE_EPOCH makes it reproducible.
        """
        references = [tag_reference(reference)] if reference else []
        by = History(author=author, comment=message)
        image_id = committing.commit(self._machinery, self._id, changes, by, compression, pause, references)
        return Image(self._machinery, image_id)

    def snapshot(self, name: str | None = None, *, pause: bool = True) -> Snapshot:
        """Keep its file system as it is now, to launch others with it: each as fast as from an image.

        Part of it are the files of volumes it can write to, nameless and named, so that each container
        launched has copies of its own; not what is in memory: tmpfs, processes. A running container is held
        still meanwhile, so files are as after a power cut at that moment; with ``pause=False`` what is
        written meanwhile raises FormatError. Bind mounts, volumes it can only read and networks are given to
        the others as they are. Other containers must not write to its volumes meanwhile: FormatError.

        name: under ``host.snapshots``, until it is removed. Without one it ends with this process, or what is
        left of that is cleared by the next `Host`. Raises NameInUseError.
        """
        from .snapshot import Snapshot

        return Snapshot(self._machinery, committing.snapshot(self._machinery, self._id, name, pause))

    @contextmanager
    def _open_root(self) -> Iterator[Root]:
        with inside.open_root(self._machinery, self._id) as root:
            yield root

    # --- what it says and uses ---

    def logs(
        self,
        *,
        tail: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        stream: Literal["stdout", "stderr"] | None = None,
    ) -> str:
        """What it wrote to stdout and stderr, in order, as text; the last `tail` lines only, if given."""
        return read_text(self._logs, tail=tail, since=since, until=until, stream=stream)

    @flows
    def log_lines(
        self,
        *,
        follow: bool = False,
        tail: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        stream: Literal["stdout", "stderr"] | None = None,
        timeout_s: float | None = None,
    ) -> Flow[LogLine]:
        """The same line by line, with time and stream. `follow` waits for more and ends with the
        container."""
        return flow(read_lines)(
            self._logs,
            tail=tail,
            since=since,
            until=until,
            stream=stream,
            follow=follow,
            is_finished=self._is_finished,
            timeout_s=timeout_s,
        )

    @property
    def _logs(self) -> str:
        lifecycle.row(self._machinery, self._id)  # a removed one has no logs, not empty ones
        return os.fspath(self._machinery.bundle(self._id) / "logs")

    def _is_finished(self) -> bool:
        try:
            return not self._look().state.is_alive
        except ContainerNotFoundError:  # it was removed meanwhile
            return True

    def stats(self) -> Stats:
        """What it uses now. Raises WrongStateError when it does not run."""
        from .stats import read

        run = self._require("take statistics of", State.RUNNING, State.PAUSED)
        return read(self._machinery.cgroups, self._id, run.run["init_pid"])

    @flows
    def stats_stream(self, *, interval_s: float = 1.0) -> Flow[Stats]:
        """What it uses now, and again after each interval, with `Stats.cpu_share`; ends with the container.
        Raises WrongStateError when it does not run."""
        from .stats import stream

        return stream(self.stats, interval_s)

    def live_stats(self, *, interval_s: float = 1.0, window_s: float = 60.0) -> LiveStats:
        """What it uses, drawn in a notebook as it changes, with other cells running, until it ends, or a cell
        is interrupted; of the last `window_s` seconds. As a ``with`` block: as long as that runs.

        Raises WrongStateError when it does not run; InvalidSpecError: the interval is not over 0, or longer
        than the window.
        """
        from .display.live import LiveStats

        self._require("take statistics of", State.RUNNING, State.PAUSED)
        return LiveStats([(self.name, self.stats)], interval_s, window_s)

    def live_logs(self, *, tail: int = 20, lines: int = 200) -> LiveLogs:
        """What it writes, in a notebook as it comes, as `live_stats`. tail: how many lines to begin with;
        lines: how many to keep in sight."""
        from .display.live import LiveLogs

        directory = self._logs

        def read(is_finished: Callable[[], bool]) -> Iterator[LogLine]:
            return read_lines(directory, tail=tail, follow=True, is_finished=is_finished)

        return LiveLogs(self.name, read, self._is_finished, lines)

    def top(self) -> tuple[Process, ...]:
        """Its processes now, PID 1 first. Raises WrongStateError when it does not run."""
        from .stats import processes

        self._require("list the processes of", State.RUNNING, State.PAUSED)
        idmap = self._machinery.idmap(lifecycle.row(self._machinery, self._id)["slot"])
        return processes(self._machinery.cgroups, self._id, idmap)

    def _page(self) -> Page:
        from .display.containers import card

        try:
            stats = self.stats()
        except (FileNotFoundError, ContainerNotFoundError, WrongStateError):
            stats = None
        return card(self._machinery, self._id, stats)

    # --- as a value ---

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        lifecycle.discard(self._machinery, self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Container) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str]:
        return self._id, str(self._machinery.root.path)

    def __repr__(self) -> str:
        try:
            return f"<Container {self.name} ({self._id[:12]}): {self.state}>"
        except LookupError:
            return f"<Container {self._id[:12]}: removed>"


def _moment(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC)
