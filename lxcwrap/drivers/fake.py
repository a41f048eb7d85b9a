"""Fakes of what is in this package, for tests of the layers above and of our users' programs.

A command in a fake container is a small Python program, found by the last part of its path; nothing of the
host is executed in its place, as nothing isolates it. It is a process: pipes, signals, exit codes are real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from . import AttachRefused, StartRefused
from .pidfd import start_time

# Name of a command to the source of the program that plays it.
PROGRAMS: Mapping[str, str] = {
    "true": "",
    "false": "raise SystemExit(1)",
    "echo": "import sys; print(*sys.argv[1:])",
    "cat": "import shutil, sys; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)",
    "env": "import os; print(*(f'{key}={value}' for key, value in os.environ.items()), sep='\\n')",
    "pwd": "import os; print(os.getcwd())",
    "sleep": "import sys, time; time.sleep(float(sys.argv[1]))",
    "exit": "import sys; raise SystemExit(int(sys.argv[1]))",
}


def find_program(programs: Mapping[str, str], argv: Sequence[str]) -> str | None:
    """The source that plays `argv`; None: there is no such command."""
    return programs.get(argv[0].rpartition("/")[2])


_NOT_FOUND = "raise SystemExit(127)"


def play(
    source: str,
    argv: Sequence[str],
    *,
    env: Sequence[str],
    stdio: tuple[int, int, int],
    keep_fds: Collection[int] = (),
    cwd: str = "/",
) -> subprocess.Popen[bytes]:
    """Run a program as a child process, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", source, *argv[1:]],
        stdin=stdio[0],
        stdout=stdio[1],
        stderr=stdio[2],
        env=dict(entry.partition("=")[::2] for entry in env),
        pass_fds=tuple(keep_fds),
        cwd=cwd if os.path.isdir(cwd) else "/",
        start_new_session=True,
    )


def exit_code(process: subprocess.Popen[bytes]) -> int:
    """How it ended, waited for: 128+signal if killed."""
    code = process.wait()
    return 128 - code if code < 0 else code


class FakeDriver:
    """A `Driver` whose containers are played by `programs`. Call number `fail_at`, from 1, is refused.

    calls: what was asked of it, such as ``("start", "web")``.
    """

    def __init__(
        self, lxc_path: str, programs: Mapping[str, str] = PROGRAMS, *, fail_at: int | None = None
    ) -> None:
        self.calls: list[tuple[str, str]] = []
        self._lxc_path = lxc_path
        self._programs = programs
        self._fail_at = fail_at

    def _refuses(self, operation: str, name: str) -> bool:
        self.calls.append((operation, name))
        return len(self.calls) == self._fail_at

    def start(
        self, name: str, config: Sequence[tuple[str, str]], argv: Sequence[str], *, keep_fds: Collection[int]
    ) -> int:
        rootfs = dict(config).get("lxc.rootfs.path", "").removeprefix("dir:")
        source = find_program(self._programs, argv)
        if self._refuses("start", name) or not os.path.isdir(rootfs) or source is None:
            raise StartRefused(name)
        env = [value for key, value in config if key == "lxc.environment"]
        process = play(source, argv, env=env, stdio=(0, 1, 2), keep_fds=keep_fds)
        with open(self._mark(name), "w", encoding="utf-8") as file:
            file.write(f"{process.pid} {start_time(process.pid)}")
        try:
            return exit_code(process)
        finally:
            os.unlink(self._mark(name))

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
        if self._refuses("attach", name) or not self._runs(name):
            raise AttachRefused(name)
        if callable(run):
            return _fork(run, stdio, cwd)
        source = find_program(self._programs, run)
        process = play(
            _NOT_FOUND if source is None else source, run, env=env, stdio=stdio, keep_fds=keep_fds, cwd=cwd
        )
        process.returncode = 0  # it is the caller's to wait for
        return process.pid

    def _mark(self, name: str) -> str:
        return f"{self._lxc_path}/{name}.running"

    def _runs(self, name: str) -> bool:
        try:
            with open(self._mark(name), encoding="utf-8") as file:
                pid, start = map(int, file.read().split())
        except (FileNotFoundError, ValueError):
            return False
        return start_time(pid) == start


def _fork(run: Callable[[Any], int], stdio: tuple[int, int, int], cwd: str) -> int:
    child = os.fork()
    if child == 0:
        status = 255
        try:
            os.chdir(cwd)
            for target, fd in enumerate(stdio):
                os.dup2(fd, target)
            status = run(None)
        finally:
            os._exit(status)
    return child


class FakeCgroups:
    """`Cgroups` of containers that are one process each, the one named in run.json below `containers`.

    limits: what was applied, by container id.
    """

    def __init__(self, containers: str | os.PathLike[str]) -> None:
        self.limits: dict[str, dict[str, Any]] = {}
        self._containers = os.fspath(containers)

    def pids(self, container_id: str) -> list[int]:
        try:
            with open(f"{self._containers}/{container_id}/run.json", "rb") as file:
                run = json.load(file)
        except FileNotFoundError:
            return []
        return [run["init_pid"]] if start_time(run["init_pid"]) == run["init_start"] else []

    def _pid(self, container_id: str) -> int:
        for pid in self.pids(container_id):
            return pid
        raise FileNotFoundError(container_id)

    def exists(self, container_id: str) -> bool:
        return bool(self.pids(container_id))

    def is_frozen(self, container_id: str) -> bool:
        return any(_is_stopped(pid) for pid in self.pids(container_id))

    def set_frozen(self, container_id: str, frozen: bool, *, timeout_s: float = 10.0) -> None:
        if not frozen and not self.exists(container_id):
            return  # here a stopped process can be killed, while a frozen one dies when it thaws
        pid = self._pid(container_id)
        os.kill(pid, signal.SIGSTOP if frozen else signal.SIGCONT)
        deadline = time.monotonic() + timeout_s
        while start_time(pid) and _is_stopped(pid) != frozen:
            if time.monotonic() > deadline:
                raise TimeoutError(f"not frozen within {timeout_s:g} s")
            time.sleep(0.0005)

    def apply_limits(self, container_id: str, limits: Mapping[str, Any]) -> None:
        self._pid(container_id)
        self.limits.setdefault(container_id, {}).update(limits)

    def oom_kills(self, container_id: str) -> int:
        return 0

    def read_stats(self, container_id: str) -> dict[str, int | None]:
        self._pid(container_id)
        limits = self.limits.get(container_id, {})
        names = (
            "cpu_ns cpu_user_ns cpu_system_ns throttled_ns memory_usage memory_inactive_file memory_peak "
            "swap_usage oom_kills read_bytes write_bytes"
        )
        found: dict[str, int | None] = dict.fromkeys(names.split(), 0)
        return {**found, "pids": 1, "memory_limit": limits.get("memory"), "pids_limit": limits.get("pids")}

    def kill_all(self, container_id: str, *, wait_s: float = 2.0) -> bool:
        deadline = time.monotonic() + wait_s
        for pid in self.pids(container_id):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.exists(container_id) and time.monotonic() < deadline:
            time.sleep(0.0005)
        return not self.exists(container_id)

    def remove(self, container_id: str, *, wait_s: float = 0.5) -> bool:
        self.limits.pop(container_id, None)
        return True

    def sweep(self, container_id: str) -> bool:
        return self.kill_all(container_id) and self.remove(container_id)

    def tidy(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _is_stopped(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] == b"T"
    except (FileNotFoundError, ProcessLookupError):
        return False
