"""What is known of a container on disk, in its directory. Written by its monitor, read by anybody.

lock        held (an OFD lock) by the monitor as long as it or liblxc's process lives; the kernel frees it
plan.json   how to start it, complete: written by the caller at creation
run.json    of the present or last run: monitor, monitor_start, init_pid, started_at, boot
restart.json, stopped  whether it is to be started again, and by whom (restarting.py)
exit.json   how the last run ended: exit_code, oom_killed, finished_at, error
exit.part   what becomes exit.json, empty while it runs: who holds it open reads how the run ended even if
            the directory is deleted at once
Files are written under another name and renamed: a reader sees the old or the new one, never a part.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

from ..drivers.pidfd import lives, start_time
from .handover import flat_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = dict[str, Any]
else:
    Record = dict
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        return False
    return True


class Held:
    """The lock, held by `fd` until the end of a ``with``, or until nobody knows of it any more."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            # Not by closing alone: a forked child of this process has the descriptor, too.
            _lock(fd, fcntl.F_UNLCK)
            os.close(fd)

    __del__ = __exit__


class Records:
    """The records of one container; `path` is its directory."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def read(self, name: str) -> Record | None:
        """One of ``plan``, ``run``, ``exit``; None when there is none."""
        import json  # here, as the monitor must stay light (handover.py)

        try:
            with open(f"{self.path}/{name}.json", "rb") as file:
                record: Record = json.loads(file.read())
                return record
        except FileNotFoundError:
            return None

    def has(self, name: str) -> bool:
        return os.path.exists(f"{self.path}/{name}.json")

    def write(self, name: str, record: Record) -> None:
        import json

        temporary = f"{self.path}/.{name}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8", opener=_private) as file:
            file.write(json.dumps(record))
        os.rename(temporary, f"{self.path}/{name}.json")

    def sweep(self) -> None:
        """Delete what killed processes were about to write."""
        for name in os.listdir(self.path):
            pid = name.rpartition(".")[2]
            if name.startswith(".") and pid.isdecimal() and not start_time(int(pid)):
                try:
                    os.unlink(f"{self.path}/{name}")
                except FileNotFoundError:
                    pass  # by another

    def begin(self, run: Record) -> None:
        """Record that a run has begun, and a place for its end."""
        try:
            os.unlink(f"{self.path}/exit.part")  # of a run whose monitor was killed
        except FileNotFoundError:
            pass
        os.close(os.open(f"{self.path}/exit.part", os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self.write("run", run)

    def end(self, record: Record) -> None:
        """Record how the run ended."""
        with open(f"{self.path}/exit.part", "w", encoding="utf-8") as file:
            file.write(flat_json(record))
        os.rename(f"{self.path}/exit.part", f"{self.path}/exit.json")

    def remove(self, name: str) -> None:
        try:
            os.unlink(f"{self.path}/{name}.json")
        except FileNotFoundError:
            pass

    def hold(self, timeout_s: float) -> int:
        """Take the lock; the descriptor returned holds it. Raises BlockingIOError: the container runs, or
        another keeps the lock for `timeout_s` seconds; FileNotFoundError: it was removed."""
        fd = self._open_lock()
        try:
            self._take(fd, timeout_s)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def held(self, timeout_s: float) -> Held:
        """`hold`, until the end of a ``with``."""
        held = Held(self._open_lock())
        try:
            self._take(held.fd, timeout_s)
        except BaseException:
            held.__exit__()
            raise
        return held

    def _open_lock(self) -> int:
        return os.open(f"{self.path}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _take(self, fd: int, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not _lock(fd, fcntl.F_WRLCK):
            if self.monitor_lives() or time.monotonic() > deadline:
                raise BlockingIOError(f"{self.path} is in use by another process")
            time.sleep(0.001)
        if not os.path.samestat(os.fstat(fd), os.stat(f"{self.path}/lock")):
            raise FileNotFoundError(f"{self.path} was removed")

    def monitor_lives(self) -> bool | None:
        """Of the present run; None when there is none."""
        run = self.read("run")
        if run is None or self.has("exit"):
            return None
        return lives(run["monitor"], run["monitor_start"], run.get("boot"))

    def is_held(self) -> bool:
        """Whether a monitor lives. Asks the kernel without taking the lock."""
        try:
            fd = os.open(f"{self.path}/lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
        finally:
            os.close(fd)


def _private(path: str, flags: int) -> int:
    # A plan holds the container's environment, which often holds its secrets.
    return os.open(path, flags | os.O_CLOEXEC, 0o600)
