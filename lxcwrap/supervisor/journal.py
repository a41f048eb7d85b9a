"""What happens to processes, told when it has. Of changes of the records see storage/outbox.py.

No heavy imports here (handover.py).
"""

from __future__ import annotations

import os
import time

from ..storage import eventlog
from .handover import flat_json


def note(root: str | os.PathLike[str], kind: str, container_id: str, **facts: object) -> None:
    """A disk that is full, or a root directory that is gone, costs the event, not what it tells of."""
    line = flat_json({"time": time.time(), "kind": kind, "id": container_id, **facts}) + "\n"
    try:
        eventlog.append(root, line)
    except OSError:
        pass


def note_end(root: str, container_id: str, exit_code: int | None, *, oom_killed: bool) -> None:
    """The end of a run; oom_killed: and what led to it was not told yet."""
    if oom_killed:
        note(root, "oom", container_id)
    note(root, "exited", container_id, exit_code=exit_code)
