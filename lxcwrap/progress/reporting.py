"""From what a user gave as ``progress=`` to the function that work reports to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..oci import Descriptor
from .events import Operation, Phase, Progress, ProgressEvent, Report, TransferProgress


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
