"""What every `Driver` does, shown on the fake and on liblxc alike."""

from __future__ import annotations

import os
import secrets
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from lxcwrap.drivers import AttachRefused, StartRefused
from lxcwrap.drivers.fake import FakeDriver
from lxcwrap.drivers.protocols import Driver

# Each command as a shell script, for the real one, and as a program for the fake.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "answer": ("exit $1", "import sys; raise SystemExit(int(sys.argv[1]))"),
    "repeat": ("cat", "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)"),
    "complain": ('echo "$1" >&2', "import sys; print(sys.argv[1], file=sys.stderr)"),
    "greet": ('echo "$GREETING"', "import os; print(os.environ['GREETING'])"),
    "count-env": ("tr '\\0' '\\n' < /proc/self/environ | grep -c =", "import os; print(len(os.environ))"),
    "where": ("pwd", "import os; print(os.getcwd())"),
    "say-on": ('eval "echo said >&$1"', "import os, sys; os.write(int(sys.argv[1]), b'said\\n')"),
    "has": ("test -e /proc/self/fd/$1", "import os, sys; os.fstat(int(sys.argv[1]))"),
}
ENV = ("PATH=/bin", "GREETING=hello")
_REFUSED = 99


class Ended(NamedTuple):
    code: int | None  # None: the start was refused
    stdout: bytes
    stderr: bytes


class Runtime:
    """A driver with one container, whose `start` blocks in a child, as it does in the runner of a monitor."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.name = secrets.token_hex(32)
        self.lxc_path = directory
        self.rootfs = directory / "rootfs"
        (directory / self.name).mkdir()
        for name in ("bin", "proc", "dev", "sys", "tmp"):
            (self.rootfs / name).mkdir(parents=True)
        if kind == "lxc":
            busybox = shutil.which("busybox")
            assert busybox is not None
            shutil.copy(busybox, self.rootfs / "bin/busybox")
            for name in ("cat", "grep", "sh", "test", "tr"):
                (self.rootfs / "bin" / name).symlink_to("busybox")
            for name, (script, _) in COMMANDS.items():
                path = self.rootfs / "bin" / name
                path.write_text(f"#!/bin/sh\n{script}\n")
                path.chmod(0o755)

    def driver(self) -> Driver:
        if self.kind == "fake":
            return FakeDriver(str(self.lxc_path), {name: source for name, (_, source) in COMMANDS.items()})
        from lxcwrap.drivers.liblxc import LxcDriver

        return LxcDriver(str(self.lxc_path))

    @property
    def config(self) -> list[tuple[str, str]]:
        common = [("lxc.rootfs.path", f"dir:{self.rootfs}"), ("lxc.environment", "PATH=/bin")]
        common += [("lxc.environment", "GREETING=hello"), ("lxc.autodev", "1"), ("lxc.net.0.type", "empty")]
        common += [("lxc.console.path", "none"), ("lxc.tty.max", "0"), ("lxc.pty.max", "16")]
        return [*common, ("lxc.mount.auto", "proc:mixed"), ("lxc.log.file", f"{self.lxc_path}/log")]

    @contextmanager
    def started(
        self,
        *argv: str,
        config: Sequence[tuple[str, str]] | None = None,
        input: bytes | None = b"",
        keep_fds: Sequence[int] = (),
    ) -> Iterator[Holder]:
        """`argv` as the container's main process; `input` None: its stdin stays open within the block."""
        holder = Holder(self, argv, self.config if config is None else config, keep_fds)
        try:
            if input is not None:
                holder.end_input(input)
            yield holder
        finally:
            holder.end()

    def run(self, *argv: str, **options: object) -> Ended:
        with self.started(*argv, **options) as holder:  # type: ignore[arg-type]  # as the caller has them
            return holder.wait()

    def attach(self, *argv: str, stdin: bytes = b"", cwd: str = "/", keep_fds: Sequence[int] = ()) -> Ended:
        """Run a command inside. `code` is None when it could not be entered."""
        return self.enter(argv, stdin, cwd, keep_fds)

    def enter(
        self,
        run: Sequence[str] | Callable[[object], int],
        stdin: bytes = b"",
        cwd: str = "/",
        keep_fds: Sequence[int] = (),
    ) -> Ended:
        """In a child, as attachers are: liblxc does not close all it opens."""
        with ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            files[0].write(stdin)
            files[0].seek(0)
            child = os.fork()
            if child == 0:
                stdio = (files[0].fileno(), files[1].fileno(), files[2].fileno())
                self._enter(run, stdio, cwd, keep_fds)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            for file in files:
                file.seek(0)
            return Ended(None if code == _REFUSED else code, files[1].read(), files[2].read())

    def _enter(
        self,
        run: Sequence[str] | Callable[[object], int],
        stdio: tuple[int, int, int],
        cwd: str,
        keep_fds: Sequence[int],
    ) -> NoReturn:
        code = _REFUSED
        try:
            pid = self.driver().attach(self.name, run, env=ENV, stdio=stdio, keep_fds=keep_fds, cwd=cwd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except AttachRefused:
            pass
        finally:
            os._exit(code)


class Holder:
    """The child that sits in `start`."""

    def __init__(
        self,
        runtime: Runtime,
        argv: Sequence[str],
        config: Sequence[tuple[str, str]],
        keep_fds: Sequence[int],
    ) -> None:
        self._ends = [os.pipe() for _ in range(4)]  # stdin, stdout, stderr, result
        self.pid = os.fork()
        if self.pid == 0:
            self._hold(runtime, argv, config, keep_fds)
        self._pidfd = os.pidfd_open(self.pid)
        for _, writer in self._ends[1:]:
            os.close(writer)
        os.close(self._ends[0][0])
        self._stdin = self._ends[0][1]

    def _hold(
        self,
        runtime: Runtime,
        argv: Sequence[str],
        config: Sequence[tuple[str, str]],
        keep_fds: Sequence[int],
    ) -> None:
        try:
            os.close(self._ends[0][1])
            os.setsid()
            if runtime.kind == "lxc":
                from lxcwrap.drivers import mounts
                from lxcwrap.drivers.cgroups import CgroupHost

                cgroups = CgroupHost()
                mounts.private_mount_namespace()
                cgroups.hide_from_liblxc()
            for target, fd in enumerate((self._ends[0][0], self._ends[1][1], self._ends[2][1])):
                os.dup2(fd, target)
            code = runtime.driver().start(runtime.name, config, argv, keep_fds=keep_fds)
            os.write(self._ends[3][1], str(code).encode())
        except StartRefused:
            os.write(self._ends[3][1], b"refused")
        except BaseException as error:
            os.write(self._ends[3][1], repr(error).encode())
        finally:
            os._exit(0)

    def end_input(self, data: bytes = b"") -> None:
        if self._stdin >= 0:
            os.write(self._stdin, data)
            os.close(self._stdin)
            self._stdin = -1

    def init_pid(self) -> int:
        """The pid of the main process, when it is there."""
        deadline = time.monotonic() + 10
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        while not (found := children.read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return int(found[-1])

    def wait(self) -> Ended:
        assert select.select([self._pidfd], [], [], 10)[0], "the container does not end"
        stdout, stderr, result = (os.read(reader, 65536) for reader, _ in self._ends[1:])
        return Ended(None if result == b"refused" else int(result), stdout, stderr)

    def end(self) -> None:
        self.end_input()
        if not select.select([self._pidfd], [], [], 10)[0]:
            os.kill(self.init_pid(), signal.SIGKILL)
        os.waitpid(self.pid, 0)
        for fd in (self._pidfd, *(reader for reader, _ in self._ends[1:])):
            os.close(fd)


@pytest.fixture(params=["fake", pytest.param("lxc", marks=pytest.mark.lxc)])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    if request.param == "lxc":
        for directory in (tmp_path, *tmp_path.parents):
            if not directory.stat().st_mode & 0o001:
                directory.chmod(directory.stat().st_mode | 0o011)
    yield Runtime(request.param, tmp_path)


def await_running(runtime: Runtime) -> None:
    """Wait until the container can be entered."""
    deadline = time.monotonic() + 10
    while runtime.attach("answer", "0").code is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- start ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 3, 255])
def test_start_returns_the_exit_code(runtime: Runtime, code: int) -> None:
    """Exactly what the main process ended with, once it has ended."""
    assert runtime.run("/bin/answer", str(code)).code == code


def test_a_killed_main_process_gives_128_and_the_signal(runtime: Runtime) -> None:
    """As shells count."""
    with runtime.started("/bin/repeat", input=None) as holder:
        await_running(runtime)
        os.kill(holder.init_pid(), signal.SIGKILL)
        assert holder.wait().code == 128 + signal.SIGKILL


def test_the_main_process_has_the_callers_streams(runtime: Runtime) -> None:
    """0, 1 and 2 of the process that starts are the main process'."""
    assert runtime.run("/bin/repeat", input=b"over and out") == Ended(0, b"over and out", b"")
    assert runtime.run("/bin/complain", "no") == Ended(0, b"", b"no\n")


def test_the_environment_is_that_of_the_config(runtime: Runtime) -> None:
    """Repeated keys add up."""
    assert runtime.run("/bin/greet").stdout == b"hello\n"


def test_only_kept_descriptors_reach_the_main_process(runtime: Runtime) -> None:
    """What is named is there under its number, what is not named is closed."""
    reader, kept = os.pipe()
    lost = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(lost, True)
    try:
        assert runtime.run("/bin/say-on", str(kept), keep_fds=[kept]).code == 0
        assert os.read(reader, 100) == b"said\n"
        assert runtime.run("/bin/has", str(lost), keep_fds=[kept]).code == 1
    finally:
        for fd in (reader, kept, lost):
            os.close(fd)


@pytest.mark.parametrize("rootfs", [None, "", "dir:/nonexistent/rootfs"])
def test_without_its_rootfs_nothing_starts(runtime: Runtime, rootfs: str | None) -> None:
    """Never on the root of the host, which liblxc would take."""
    config = [(key, value) for key, value in runtime.config if key != "lxc.rootfs.path"]
    config += [] if rootfs is None else [("lxc.rootfs.path", rootfs)]
    assert runtime.run("/bin/answer", "0", config=config).code is None


# --- attach ---------------------------------------------------------------------------------------------


def test_a_container_that_does_not_run_cannot_be_entered(runtime: Runtime) -> None:
    """Neither before its start nor after its end."""
    assert runtime.attach("answer", "0").code is None
    assert runtime.run("/bin/answer", "0").code == 0
    assert runtime.attach("answer", "0").code is None


def test_commands_run_inside(runtime: Runtime) -> None:
    """With their own streams, exit code, directory, descriptors, and exactly the environment given."""
    reader, kept = os.pipe()
    with runtime.started("/bin/repeat", input=None):
        await_running(runtime)
        assert runtime.attach("answer", "7").code == 7
        assert runtime.attach("repeat", stdin=b"to and fro") == Ended(0, b"to and fro", b"")
        assert runtime.attach("complain", "no") == Ended(0, b"", b"no\n")
        assert runtime.attach("greet").stdout == b"hello\n"
        assert int(runtime.attach("count-env").stdout) <= len(ENV) + 2  # a shell adds PWD, liblxc `container`
        assert runtime.attach("where", cwd="/tmp").stdout == b"/tmp\n"
        assert runtime.attach("where", cwd="/nonexistent").stdout == b"/\n"
        assert runtime.attach("say-on", str(kept), keep_fds=[kept]).code == 0
    os.close(kept)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"said\n"


def test_an_unknown_command_ends_with_an_error(runtime: Runtime) -> None:
    """It does not raise: the pid was there before the command was looked for."""
    with runtime.started("/bin/repeat", input=None):
        await_running(runtime)
        assert runtime.attach("nonesuch").code not in (0, None)


def test_a_function_runs_inside(runtime: Runtime) -> None:
    """In a child of the caller's, with the streams given; its result is the exit code."""

    def inside(_: object) -> int:
        os.write(1, f"in {os.getcwd()}: ".encode() + os.read(0, 100))
        return 5

    with runtime.started("/bin/repeat", input=None):
        await_running(runtime)
        assert runtime.enter(inside, b"said", "/tmp") == Ended(5, b"in /tmp: said", b"")


def test_a_function_that_raises_fails(runtime: Runtime) -> None:
    """Its exit code is none of a function that did well."""

    def inside(_: object) -> int:
        raise OSError("no")

    with runtime.started("/bin/repeat", input=None):
        await_running(runtime)
        assert runtime.enter(inside).code not in (0, None)
