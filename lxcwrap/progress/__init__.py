"""What long work tells of itself: typed events, for pull, push, build, load and save; and a bar made of them.

An operation sends events to a callable, from whichever of its threads, one at a time. It waits while the
callable works; what the callable raises ends the operation, which then leaves nothing behind.
"""

from .events import (
    Operation,
    Phase,
    Progress,
    ProgressEvent,
    Report,
    StepFinished,
    StepOutput,
    StepStarted,
    TransferProgress,
)
from .reporting import reporting, tell_transfers

__all__ = [
    "Operation",
    "Phase",
    "Progress",
    "ProgressEvent",
    "Report",
    "StepFinished",
    "StepOutput",
    "StepStarted",
    "TransferProgress",
    "reporting",
    "tell_transfers",
]
