"""The events, and what users give to be told of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import frozen

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
