"""Runs of tests: each has a root directory of its own, which ends with the last of its processes.

PARENT/lxcwrap-run-<token>/   one run; PARENT: LXCWRAP_TEST_DIR, else in memory if there is room, else on disk
    lock        held (flock, shared) by each process of the run, as long as it lives
    run.json    where its root directory is; and, if it is to outlive its run, for whom
    locks/      held by whoever makes what several processes share
    root/       the root directory, unless another was given

Nobody having the lock, the run is over: who left last clears it, or after kill -9 the next run's `sweep`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from .errors import LxcwrapError, NotFoundError, StillUsedError
from .host import Host
from .storage.images import locked

PREFIX = "lxcwrap-run-"
RUN_LABEL = "lxcwrap.run"
MADE_OF_LABEL = "lxcwrap.made-of"  # digest of what was asked for: of what other runs may use again
_ON_DISK = Path("/var/lib/lxcwrap-runs")
_IN_MEMORY = Path("/dev/shm")
_ROOM = 4 << 30  # bytes: databases and images would fill what is smaller


def parents() -> list[Path]:
    """Where runs may be; new ones are in the first."""
    if given := os.environ.get("LXCWRAP_TEST_DIR"):
        return [Path(given).absolute()]
    if not _IN_MEMORY.is_dir() or os.statvfs(_IN_MEMORY).f_flag & os.ST_NOEXEC:
        return [_ON_DISK]
    roomy = shutil.disk_usage(_IN_MEMORY).free > _ROOM
    return [_IN_MEMORY, _ON_DISK] if roomy else [_ON_DISK, _IN_MEMORY]


class Run:
    """This process' part in a run of tests.

    token: names the run; its processes agree upon it. root: in place of a root directory of its own; what the
    run has made there is known by the label `RUN_LABEL`. begin: is called by the first of its processes, with
    others waiting.
    """

    def __init__(
        self, token: str, *, root: Path | None = None, begin: Callable[[Host], object] = lambda host: None
    ) -> None:
        self.token, self._pid = token, os.getpid()
        self._directory = _find(token) or parents()[0] / f"{PREFIX}{token}"
        self._lock, is_first = self._join()
        (self._directory / "locks").mkdir(mode=0o700, exist_ok=True)
        try:
            self.host = Host(self._directory / "root" if root is None else root)
            self._write(root=str(self.host.root), is_own=root is None)
            if is_first:
                begin(self.host)
                fcntl.flock(self._lock, fcntl.LOCK_SH)
        except BaseException:
            os.close(self._lock)  # what there is goes by `sweep`
            raise

    def _join(self) -> tuple[int, bool]:
        """The lock, and whether it is held by this process alone."""
        while True:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory.chmod(0o711)  # the containers' root must get through
            with suppress(FileNotFoundError):  # the last one has left just now
                fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    is_first = True
                except BlockingIOError:
                    fcntl.flock(fd, fcntl.LOCK_SH)
                    is_first = False
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), (self._directory / "lock").stat()):
                        return fd, is_first
                os.close(fd)

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Others of the run who want the same wait meanwhile."""
        name = sha256(what.encode()).hexdigest()
        with locked(self._directory / "locks" / name, fcntl.LOCK_EX):
            yield

    def keep(self, kept_for: str) -> None:
        """Let it outlive its end, until a `sweep` that is told so."""
        self._write(kept_for=kept_for)

    def leave(self) -> None:
        """The last to do so clears it, unless it is to be kept. A forked process has its parent's lock, and
        does nothing."""
        self.host.close()
        if os.getpid() != self._pid:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            if "kept_for" not in _read(self._directory):
                _clear(self._directory)
        finally:
            os.close(self._lock)

    def _write(self, **facts: object) -> None:
        with self.locked("run.json"):
            path = self._directory / "run.json"
            part = path.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps({**_read(self._directory), **facts}))
            part.rename(path)


def kept_root(token: str) -> Path | None:
    """The root directory of a run that has ended, but was kept."""
    directory = _find(token)
    facts = _read(directory) if directory else {}
    return Path(facts["root"]) if "kept_for" in facts else None


def sweep(kept_for: Collection[str] = (), *, but: str = "") -> None:
    """Clear the runs that are over: killed ones, and those kept for one of `kept_for`; not that of `but`."""
    for parent in parents():
        for directory in parent.glob(f"{PREFIX}*"):
            if directory.name != PREFIX + but and _is_ours(directory):
                _sweep(directory, kept_for)


def _sweep(directory: Path, kept_for: Collection[str]) -> None:
    with suppress(FileNotFoundError):
        fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            facts = _read(directory)
            if "kept_for" not in facts or facts["kept_for"] in kept_for:
                with suppress(LxcwrapError):  # such as one of a newer version: it stays
                    _clear(directory)
        except BlockingIOError:
            pass  # it goes on
        finally:
            os.close(fd)


def _clear(directory: Path) -> None:
    """Remove what the run has made, and its directory; for the one who has the lock alone."""
    facts = _read(directory)
    if facts and Path(facts["root"]).exists():
        with Host(facts["root"]) as host:
            token = directory.name.removeprefix(PREFIX)
            remove(host, lambda labels: bool(facts["is_own"]) or labels.get(RUN_LABEL) == token)
            if facts["is_own"]:
                host.close(stop_server=True)
    shutil.rmtree(directory)


def remove(host: Host, is_meant: Callable[[Mapping[str, str]], bool]) -> None:
    """Containers, snapshots, volumes and networks, by their labels."""
    for container in host.containers:
        with suppress(NotFoundError):
            if is_meant(container.labels):
                container.remove(force=True)
    for snapshot in host.snapshots:
        with suppress(NotFoundError, StillUsedError):
            if is_meant(snapshot.spec.labels):
                snapshot.remove()
    for each in (*host.volumes, *host.networks):
        with suppress(NotFoundError, StillUsedError):
            if is_meant(each.labels):
                each.remove()


def _find(token: str) -> Path | None:
    places = (parent / f"{PREFIX}{token}" for parent in parents())
    return next((place for place in places if place.is_dir() and _is_ours(place)), None)


def _is_ours(directory: Path) -> bool:
    """Not made by another user, where all may write."""
    with suppress(FileNotFoundError):
        return directory.lstat().st_uid == os.geteuid() and directory.is_dir()
    return False


def _read(directory: Path) -> dict[str, str]:
    with suppress(FileNotFoundError):
        facts: dict[str, str] = json.loads((directory / "run.json").read_text())
        return facts
    return {}
