"""From what a user gave as ``progress=`` to the function that work reports to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..oci import Descriptor
from .events import Operation, Phase, Progress, ProgressEvent, Report, TransferProgress
from .views import find_view


@contextmanager
def reporting(progress: Progress) -> Iterator[Report]:
    """The function to report events to within the block, one at a time, from any thread.

    A bar is shown once the block has taken half a second: in a notebook, or if stderr is a terminal.
    """
    if callable(progress):
        yield _one_at_a_time(progress)
    elif progress is False or (view := find_view()) is None:
        yield _ignore
    else:
        from .display import Display

        with Display(view) as display:
            yield display.report


def _one_at_a_time(progress: Report) -> Report:
    lock = threading.Lock()

    def report(event: ProgressEvent) -> None:
        with lock:
            progress(event)

    return report


def _ignore(event: ProgressEvent) -> None:
    pass


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
