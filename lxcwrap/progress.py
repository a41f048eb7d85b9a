"""What long work tells of itself: typed events, for pull, push, build and load.

An operation sends events to a callable, from whichever of its threads, one at a time. What the callable
raises ends the operation, which then leaves nothing behind.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from attrs import frozen

from .oci import Descriptor

Operation = Literal["pull", "push", "build", "load", "save"]
Phase = Literal["waiting", "transferring", "unpacking", "present", "mounted", "done", "failed"]


@frozen(kw_only=True)
class TransferProgress:
    """How far one blob or layer is. It is done when `phase` is one of the last four.

    item: its digest. done_bytes of total_bytes (None: unknown) are those transferred or read. Phases come in
    any order, and some not at all: ``present`` was there already, ``mounted`` came from another repository
    of the registry.
    """

    operation: Operation
    item: str
    phase: Phase
    done_bytes: int = 0
    total_bytes: int | None = None


@frozen(kw_only=True)
class StepStarted:
    """A build step begins: `step` of `total`, counted from 1 over all stages."""

    operation: Operation = "build"
    step: int
    total: int
    stage: str
    instruction: str


@frozen(kw_only=True)
class StepOutput:
    """What the command of a build step has written."""

    operation: Operation = "build"
    step: int
    stream: Literal["stdout", "stderr"]
    text: str


@frozen(kw_only=True)
class StepFinished:
    """A build step is done. cached: it was taken from the build cache."""

    operation: Operation = "build"
    step: int
    cached: bool
    duration_s: float


ProgressEvent = TransferProgress | StepStarted | StepOutput | StepFinished
Report = Callable[[ProgressEvent], object]
"""Takes events, from any thread."""

Progress = Report | bool | None
"""What users give as ``progress=``: a callable; False: silence; None or True: a bar, where one is seen."""


@contextmanager
def reporting(progress: Progress) -> Iterator[Report]:
    """The function to report events to within the block, one at a time, from any thread."""
    lock = threading.Lock()

    def report(event: ProgressEvent) -> None:
        if callable(progress):
            with lock:
                progress(event)

    yield report


def tell_transfers(report: Report, operation: Operation) -> Callable[[Descriptor, Phase, int], None]:
    """A function that reports how far a blob is, in bytes."""

    def tell(descriptor: Descriptor, phase: Phase, done_bytes: int) -> None:
        report(
            TransferProgress(
                operation=operation,
                item=descriptor.digest,
                phase=phase,
                done_bytes=done_bytes,
                total_bytes=descriptor.size,
            )
        )

    return tell
