"""The process that probes the health of one container as long as it runs: a child of its monitor, who forks
another if it is killed. It enters as an exec does, and dials within the container's network.

health.json   of the present or last run: status, failing_streak, checks: the last of them, oldest first
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time

from ..drivers import syscalls
from . import executor, journal
from .handover import hand
from .records import Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ..drivers.cgroups import CgroupHost

_KEPT = 5  # results
_MOST_OUTPUT = 4096  # bytes of each that are kept


def fork(bundle: str) -> int:
    """Fork it; its pid."""
    monitor = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            syscalls.close_all_from(3)
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == monitor:
                syscalls.set_process_name("lxcwrap-prober")
                _Prober(bundle).run()
        except BaseException as error:
            os.write(2, f"{bundle}: health checks: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(1)
    return child


class _Prober:
    def __init__(self, bundle: str) -> None:
        from ..drivers.cgroups import CgroupHost

        self.bundle = bundle
        self.records = Records(bundle)
        plan = self.records.read("plan") or {}
        self.id: str = plan["id"]
        self.root: str = plan["root"]
        self.check: dict[str, Any] = plan["health"]
        self.cgroups = CgroupHost()
        # Another was killed: it goes on where that was.
        self.health = self.records.read("health") or {"status": "starting", "failing_streak": 0, "checks": []}
        run = self.records.read("run") or {}
        self.started_at: float = run["started_at"]
        self.init_pid: int = run["init_pid"]
        # Of whom the network is, if it is another's: see executor.enter_network.
        self.lender = self.init_pid if plan["network"].startswith("container:") else None

    def run(self) -> NoReturn:
        while True:
            time.sleep(self.check["start_interval_s" if self._is_lenient() else "interval_s"])
            if not self.cgroups.is_frozen(self.id):  # a probe would wait for its thaw
                self._note(*self._probe())

    def _is_lenient(self) -> bool:
        """In the time that it is given to start, and without a success until now."""
        is_young = time.time() < self.started_at + self.check["start_period_s"]
        return is_young and bool(self.health["status"] == "starting")

    def _note(self, began: float, exit_code: int | None, output: str) -> None:
        health = self.health
        before = health["status"]
        if exit_code == 0:
            health["status"], health["failing_streak"] = "healthy", 0
        elif not self._is_lenient():
            health["failing_streak"] += 1
            if health["failing_streak"] >= self.check["retries"]:
                health["status"] = "unhealthy"
        result = {"started_at": began, "ended_at": time.time(), "exit_code": exit_code, "output": output}
        health["checks"] = [*health["checks"], result][-_KEPT:]
        self.records.write("health", health)
        if health["status"] != before:
            journal.note(self.root, "health", self.id, status=health["status"])

    def _probe(self) -> tuple[float, int | None, str]:
        """When it began, exit code (None: it took too long), and what it said."""
        began, kind, timeout_s = time.time(), self.check["kind"], self.check["timeout_s"]
        if kind == "command":
            order = {**self.check["order"], "netns_of": self.lender, "stdio": ["stdout", "stderr"]}
            return began, *run_command(order, self.cgroups, timeout_s)
        from ..drivers import dialing

        port, netns_fd = self.check["port"], self._network()
        try:
            with dialing.loopback(lambda host: dialing.tcp(netns_fd, host, port, timeout_s)) as sock:
                if kind == "tcp":
                    return began, 0, ""
                status = dialing.http_status(sock, self.check["path"], timeout_s)
                return began, 0 if 200 <= status < 400 else 1, f"status {status}"
        except TimeoutError:
            return began, None, "timed out"
        except (OSError, ValueError) as error:
            return began, 1, str(error)
        finally:
            os.close(netns_fd)

    def _network(self) -> int:
        """While the container runs its init is not reaped: what is at its pid is that."""
        return os.open(f"/proc/{self.init_pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def run_command(order: dict[str, Any], cgroups: CgroupHost, timeout_s: float) -> tuple[int | None, str]:
    """Exit code and the beginning of the output of a command inside; None: it was killed when its time was
    over, or could not be started."""
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    client, answers = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with channel, client:
        with theirs, answers:
            child = os.fork()
            if child == 0:
                try:
                    channel.close()
                    client.close()
                    answers.close()
                    os.close(reader)
                    os.close(writer)
                    executor.stand_by(theirs)
                finally:
                    os._exit(0)
            entry_fds = cgroups.entry_fds(order["id"])
            hand(
                channel,
                order,
                [answers.fileno(), writer, writer, *entry_fds],
            )
            for fd in (writer, *entry_fds):
                os.close(fd)
        try:
            return _follow(client, reader, timeout_s)
        finally:
            os.close(reader)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _follow(client: socket.socket, reader: int, timeout_s: float) -> tuple[int | None, str]:
    from . import wire

    deadline, output, pidfd = time.monotonic() + timeout_s, b"", -1
    poll = select.poll()
    poll.register(client, select.POLLIN)
    poll.register(reader, select.POLLIN)
    try:
        # A flood of output must not keep it from being over.
        while (left_s := deadline - time.monotonic()) > 0 and (events := poll.poll(left_s * 1000)):
            for fd, _event in sorted(events, key=lambda event: event[0] != reader):  # output first
                if fd == reader:
                    data = os.read(reader, 65536)
                    output = (output + data)[:_MOST_OUTPUT]
                    if not data:
                        poll.unregister(reader)
                elif (received := wire.receive(client)) is None:
                    return None, "its process was killed"
                elif received[0]["event"] == "started":
                    pidfd = received[1][0]
                else:
                    answer = received[0]
                    said = answer.get("error") or output.decode(errors="replace")
                    return answer["exit_code"], str(said)
        if pidfd >= 0:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return None, f"timed out\n{output.decode(errors='replace')}"
    finally:
        if pidfd >= 0:
            os.close(pidfd)
