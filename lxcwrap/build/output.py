"""What the command of a step writes: told as it comes, and its end kept for the error."""

from __future__ import annotations

import codecs
from collections import deque
from typing import Final, Literal

from ..progress import Report, StepOutput

_LINES: Final = 100
_LINE: Final = 10_000  # characters kept of one


class Output:
    """Takes what one step writes, on either stream."""

    def __init__(self, step: int, report: Report) -> None:
        self._step = step
        self._report = report
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {"stdout": decoder("replace"), "stderr": decoder("replace")}
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._begun = ""

    def __call__(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        text = self._decoders[stream].decode(data)
        if text:
            *complete, begun = (self._begun + text).split("\n")
            self._lines.extend(line[-_LINE:] for line in complete)
            self._begun = begun[-_LINE:]
            self._report(StepOutput(step=self._step, stream=stream, text=text))

    @property
    def tail(self) -> str:
        """The last lines of it."""
        return "\n".join((*self._lines, self._begun)).rstrip("\n")
