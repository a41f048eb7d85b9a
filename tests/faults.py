"""Death at a chosen line, for tests of what is left behind.

A process that is armed counts the lines of lxcwrap that it executes and sends itself SIGKILL before the n-th,
so that every point between two lines can be tried. A caller is armed in a fork of the test. The fork-server
is armed by its boot line; which of its processes is struck is said by the file `run/fault` in the root
directory: ``<role> <n>``. The first half is imported by the fork-server: no heavy imports.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lxcwrap import Host

# Function at which a role begins -> role. `child`: any process from its fork until it enters a role.
ROLES = {
    ("server.py", "_serve_one"): "server",
    ("nursery.py", "_serve"): "nursery",
    ("monitor.py", "stand_by"): "monitor",
    ("starter.py", "stand_by"): "starter",
    ("runner.py", "stand_by"): "runner",
    ("executor.py", "stand_by"): "executor",
    ("undertaker.py", "bury"): "undertaker",
    ("livemounts.py", "change"): "remounter",
    ("restarting.py", "do"): "restarter",
}
# At the end of the ids of containers made under `known_ids`, to find their cgroups by.
ID_MARK = f"fa{os.getpid():08x}"
_ID_BYTES = 32


class Countdown:
    """A trace function: calls `strike` before the n-th line of lxcwrap. control: file to ask at each role."""

    def __init__(self, strike: Callable[[], None], n: int = 0, control: str | None = None) -> None:
        self.strike = strike
        self.remaining = n
        self.counted = 0
        self.control = control
        self.pid = os.getpid()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if "/lxcwrap/" not in code.co_filename:
            return None
        if self.control:
            role = ROLES.get((os.path.basename(code.co_filename), code.co_name))
            if role and not (role == "server" and self.remaining):
                self._enter(role)
        return self._line

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            if self.control and os.getpid() != self.pid:
                self.pid = os.getpid()
                self._enter("child")
            self.counted += 1
            if self.remaining:
                self.remaining -= 1
                if not self.remaining and self._is_first():
                    self.strike()
        return self._line

    def _is_first(self) -> bool:
        """Whether no other armed process was struck before. The end of the file shows that one was."""
        if self.control:
            try:
                os.unlink(self.control)
            except FileNotFoundError:
                return False
        return True

    def _enter(self, role: str) -> None:
        assert self.control
        self.remaining = 0
        try:
            with open(self.control) as file:
                wanted, n = file.read().split()
        except FileNotFoundError:
            return
        if wanted == role:
            self.remaining = int(n)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def arm(root: str) -> None:
    """Called in a fork-server, before its main()."""
    sys.settrace(Countdown(die, control=f"{root}/run/fault"))


# --- in the test ----------------------------------------------------------------------------------------


@contextmanager
def armed_server(host: Host) -> Iterator[tuple[Callable[[str, int], None], Callable[[], bool]]]:
    """Fork-servers of `host` are armed within. Gives two functions: one sets role and line, for the first
    process that executes so many; the other disarms, and says whether one has been struck."""
    from lxcwrap.supervisor import spawning

    before, here = spawning.BOOT, str(Path(__file__).parents[1])
    call = f"sys.path.insert(0, {here!r}); from tests.faults import arm; arm({{root!r}}); "
    control = host.root / "run/fault"

    def set_fault(role: str, n: int) -> None:
        host._machinery.supervisor.stop()  # what waits now has entered its role already
        until(lambda: strangers(host.root), 5.0)
        control.write_text(f"{role} {n}")

    def was_struck() -> bool:
        struck = not control.exists()
        control.unlink(missing_ok=True)
        return struck

    spawning.BOOT = before.replace("from lxcwrap", call + "from lxcwrap", 1)
    try:
        yield set_fault, was_struck
    finally:
        spawning.BOOT = before
        was_struck()
        host._machinery.supervisor.stop()


@contextmanager
def known_ids() -> Iterator[None]:
    """Containers made within, also by forks, have ids that end with `ID_MARK`."""
    import secrets

    real = secrets.token_hex

    def token_hex(nbytes: int | None = None) -> str:
        found = real(nbytes)
        return found[: -len(ID_MARK)] + ID_MARK if nbytes == _ID_BYTES else found

    secrets.token_hex = token_hex
    try:
        yield
    finally:
        secrets.token_hex = real


@contextmanager
def striking(strike: Callable[[], None], n: int) -> Iterator[Countdown]:
    """`strike` before the n-th line of lxcwrap that the block executes in this thread; 0: only count."""
    countdown, before = Countdown(strike, n), sys.gettrace()
    sys.settrace(countdown)
    try:
        yield countdown
    finally:
        sys.settrace(before)


def killed_at(n: int, work: Callable[[], object]) -> bool:
    """Do `work` in a fork that is killed before its n-th line; whether that came. It must not raise."""
    assert threading.active_count() == 1, "a fork of a process with threads"
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with striking(die, n):
                work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, -signal.SIGKILL), f"line {n}: exit code {code}"
    return code != 0


# --- what may be there ----------------------------------------------------------------------------------


def assert_clean(root: Path, *, grace_s: float = 5.0) -> None:
    """When what was under way has ended, one new `Host` is enough to make the store consistent and to leave
    nothing that no record names."""
    from lxcwrap import Host

    until(lambda: strangers(root), grace_s)
    with Host(root):
        pass
    until(lambda: strangers(root) + remains(root), grace_s)


def until(look: Callable[[], list[str]], grace_s: float) -> None:
    deadline = time.monotonic() + grace_s
    while found := look():
        assert time.monotonic() < deadline, "left behind:\n  " + "\n  ".join(found)
        time.sleep(0.003)


def strangers(root: Path) -> list[str]:
    """Processes of this root directory, but for the fork-server, those that hold a running container, and
    those that wait for something to do; and locks of containers that do not run."""
    from lxcwrap.supervisor.client import Supervisor
    from lxcwrap.supervisor.records import Records

    holders, forwarders, found = set(), set(), []
    for bundle in (root / "containers").iterdir():
        records = Records(bundle)
        with suppress(FileNotFoundError):
            run = records.read("run")
            if run and not records.has("exit"):
                holders.add(run["monitor"])
                forwarders |= {
                    int(line.split()[0]) for line in (bundle / "forwarders").read_text().splitlines()
                }
            elif records.is_held():
                found.append(f"lock {bundle.name}: run={run}, exit={records.read('exit')}")
    ours = {pid: parent for pid, (parent, command) in processes().items() if str(root) in command}
    for pid in [pid for pid in ours if proc_text(pid, "comm") == "dnsmasq"]:
        del ours[pid]  # as long as there is its network
    server = Supervisor(root).pid()
    left = ours.keys() - {os.getpid(), server} - holders - forwarders
    if server is not None:  # its children, and theirs, that have nothing to do
        left -= {pid for pid in left if proc_text(pid, "comm") in ("lxcwrap-nursery", "lxcwrap-waiting")}
    return found + [f"process {pid} {proc_text(pid, 'comm')}" for pid in left if ours[pid] not in holders]


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line by pid."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                command = Path(entry.path, "cmdline").read_text(errors="replace")
                stat = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    found[int(entry.name)] = int(stat[1]), command
    return found


def proc_text(pid: int, file: str) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{file}").read_text().strip()
    return ""


def remains(root: Path) -> list[str]:
    """What is inconsistent, or belongs to nothing."""
    from lxcwrap.drivers.cgroups import CgroupHost
    from lxcwrap.storage.state import State
    from lxcwrap.supervisor.records import Records

    state, cgroups = State(root / "state.db"), CgroupHost()
    rows = {row["id"]: row["phase"] for row in state.connection.execute("SELECT id, phase FROM containers")}
    state.close()
    bundles = {bundle.name for bundle in (root / "containers").iterdir()}
    alive = {name for name in bundles if Records(root / "containers" / name).is_held()}
    elsewhere = {path.name for path in root.parent.glob("*/containers/*")} - bundles
    with_cgroup = {name for name in cgroups.leftovers() - elsewhere if name.endswith(ID_MARK)}
    cgroups.close()
    found = [f"phase {phase}: {name}" for name, phase in rows.items() if phase != "created"]
    found += [f"directory without a row: {name}" for name in bundles - rows.keys()]
    found += [f"row without a directory: {name}" for name in rows.keys() - bundles]
    found += [f"cgroup of a container that does not run: {name}" for name in with_cgroup - alive]
    found += [f"running without a cgroup: {name}" for name in alive - with_cgroup]
    found += [f"file {path}" for path in (root / "trash").iterdir()]
    found += [f"file {path}" for path in root.glob("containers/*/.*")]
    for name in rows.keys() & bundles:
        records = Records(root / "containers" / name)
        if (name in alive) != (records.has("run") and not records.has("exit")):
            found.append(
                f"{name}: held={name in alive}, run={records.read('run')}, exit={records.read('exit')}"
            )
    found += [
        f"mount {line}" for line in Path("/proc/1/mountinfo").read_text().splitlines() if str(root) in line
    ]
    return found
