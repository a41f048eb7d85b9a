"""After a boot, or when nobody was left to restart what has ended: what should run is started."""

from __future__ import annotations

from contextlib import suppress

from . import lifecycle
from .errors import ContainerNotFoundError, LxcwrapError, WrongStateError
from .machinery import Machinery
from .specs import State


def resume(machinery: Machinery) -> list[str]:
    """The ids of the containers that were started. Raises ExceptionGroup, when all have been tried."""
    started, errors = [], []
    query = "SELECT id FROM containers WHERE phase = 'created' ORDER BY created_at, id"
    for row in machinery.state.connection.execute(query).fetchall():
        with suppress(ContainerNotFoundError, WrongStateError):  # another was faster
            try:
                if _should_run(machinery, row["id"]):
                    lifecycle.start(machinery, row["id"])
                    started.append(row["id"])
            except (ContainerNotFoundError, WrongStateError):
                raise
            except LxcwrapError as error:
                errors.append(error)
    if errors:
        raise ExceptionGroup("some containers could not be started", errors)
    return started


def _should_run(machinery: Machinery, container_id: str) -> bool:
    run = lifecycle.look(machinery, container_id)
    policy = lifecycle.spec_of(machinery, container_id).restart
    if run.state is not State.STOPPED or policy.when == "no":
        return False
    if policy.when == "always":
        return True
    if (machinery.bundle(container_id) / "stopped").exists():
        return False
    if policy.when == "unless_stopped":
        return True
    # On failure: nobody saw how it ended, as all was cut off; or nobody is left to do the restart.
    restart = machinery.records(container_id).read("restart") or {}
    return run.exit.get("exit_code") is None or bool(restart.get("waiter"))
