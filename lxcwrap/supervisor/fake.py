"""A `Supervisor` without root, LXC and isolation, for tests: in its containers run the programs of
drivers/fake.py. Records, logs, answers, signals and exit codes are as the real one's.

It has no file systems and no terminals, and refuses what needs them.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..drivers.fake import PROGRAMS
from . import wire
from .client import Conversation, Supervisor

_BOOT = "import sys; sys.path.insert(0, {path!r}); from lxcwrap.supervisor.fakeserver import main; main()"


class FakeSupervisor(Supervisor):
    """As `client.Supervisor`. Request number `fail_at`, from 1, gets no answer: its process died, as it were.

    requests: what was asked.  programs: see `drivers.fake.PROGRAMS`; may be changed at any time.
    """

    def __init__(self, programs: Mapping[str, str] = PROGRAMS, *, fail_at: int | None = None) -> None:
        self.programs = dict(programs)
        self.requests: list[Mapping[str, object]] = []
        self.fail_at = fail_at
        self._control: socket.socket | None = None

    def ask(self, message: Mapping[str, object], fds: Sequence[int] = (), *, what: str) -> Conversation:
        self.requests.append(message)
        ours, theirs = socket.socketpair()
        with theirs:
            if len(self.requests) != self.fail_at:
                socket.send_fds(self._server(), [b"c"], [theirs.fileno()])
                wire.send(ours, {**message, "programs": self.programs}, fds)
        return Conversation(ours, what)

    def pid(self) -> int | None:
        return None

    def stop(self) -> None:
        """Let go of the process that starts containers. They go on."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _server(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            boot = _BOOT.format(path=str(Path(__file__).parents[2]))
            with theirs:  # it leaves at once a process that is nobody's child
                subprocess.run([sys.executable, "-I", "-S", "-c", boot], stdin=theirs.fileno(), check=True)
        return self._control
