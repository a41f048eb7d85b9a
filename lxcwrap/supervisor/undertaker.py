"""What must be done about a container whose monitor ended: everything that the monitor left undone.

The fork-server calls it when a monitor dies; where that died too, the next `Host` does. Steps may be
repeated.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..drivers.pidfd import exit_code_of
from ..storage.outbox import tell_removal
from ..storage.root import RootDir
from ..storage.state import State
from . import journal, restarting, wiring
from .records import Records

if TYPE_CHECKING:
    from ..drivers.protocols import Cgroups

_REAP_TIMEOUT_S = 2.0
_SWEEP_TIMEOUT_S = 10.0  # on a machine with much else to do the killed take long to go


def is_settled(plan: Mapping[str, Any], cgroups: Cgroups) -> bool:
    """Whether a monitor that has ended left nothing to do."""
    if cgroups.exists(plan["id"]) or wiring.is_exposed(plan["bundle"]):
        return False
    records = Records(plan["bundle"])
    return not plan["auto_remove"] if records.has("exit") else not records.has("run")


def bury(
    plan: Mapping[str, Any], cgroups: Cgroups, init_pidfd: int | None, *, timeout_s: float
) -> dict[str, Any] | None:
    """Record how the run ended, as far as `init_pidfd` knows, and clear what is left.

    The order for a restart, which is then this process' to do, if `plan` is what the run was ordered by."""
    records = Records(plan["bundle"])
    try:
        held = records.held(timeout_s)
    except (BlockingIOError, FileNotFoundError):
        return None  # it runs again, or is being cleared by another; it was removed
    again = None
    with held:
        has_begun = records.has("run") or records.has("exit")
        run = records.read("run")
        if run and not records.has("exit"):
            with suppress(OSError):
                cgroups.set_frozen(plan["id"], False, timeout_s=0)  # the frozen die when they thaw
            code = exit_code_of(init_pidfd, wait_s=_REAP_TIMEOUT_S)
            error = None if code is not None else "its monitor was killed, so nobody saw how it ended"
            oom_killed = cgroups.exists(plan["id"]) and cgroups.oom_kills(plan["id"]) > 0
            if again := restarting.plan_next(dict(plan), code, time.time() - run["started_at"]):
                again = restarting.take_on(again, os.getpid())
            records.end(
                {"exit_code": code, "oom_killed": oom_killed, "error": error, "finished_at": time.time()}
            )
            if "quiet" not in plan:
                journal.note_end(plan["root"], plan["id"], code, oom_killed=oom_killed)
        swept = _sweep(cgroups, plan["id"])
        if wiring.is_exposed(plan["bundle"]):
            wiring.conceal(RootDir(plan["root"]), plan["id"])
        if plan["auto_remove"] and has_begun and swept:  # else the next Host does both
            remove_container(RootDir(plan["root"]), plan["id"])
    return again


def _sweep(cgroups: Cgroups, container_id: str) -> bool:
    deadline = time.monotonic() + _SWEEP_TIMEOUT_S
    while not (swept := cgroups.sweep(container_id)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return swept


def forget_record(state: State, root: RootDir, container_id: str) -> None:
    """From now on there is no such container."""
    with state.transaction() as change:
        query = "SELECT 1 FROM containers WHERE id = ? AND phase != 'building'"
        if change.execute(query, (container_id,)).fetchone():
            tell_removal(change, container_id)
        change.execute("DELETE FROM containers WHERE id = ?", (container_id,))


def remove_container(root: RootDir, container_id: str) -> None:
    """Forget a container that has ended. A directory without a row is swept by the next Host."""
    state = State(root.state_db)
    forget_record(state, root, container_id)
    state.close()
    root.discard(root.containers / container_id)
