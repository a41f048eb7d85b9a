"""Where lines are shown: a terminal, redrawn in place, or the output of a notebook's cell."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, TextIO

from .board import cells, fitted

_LOG_KEPT: Final = 20


class View(Protocol):
    """Draws; what it raises ends the showing, not the work."""

    def draw(self, final: Sequence[str], live: Sequence[str]) -> None: ...

    def close(self, final: Sequence[str], live: Sequence[str]) -> None:
        """The last lines; nothing is drawn after this."""


def find_view() -> View | None:
    """Where the user looks, if anywhere: a notebook or the terminal of stderr."""
    if (shell := notebook_shell()) is not None:
        return NotebookView(shell)
    stream = sys.stderr
    if stream is None or stream.closed or not stream.isatty() or os.environ.get("TERM", "dumb") == "dumb":
        return None
    return TerminalView(stream)


def notebook_shell() -> Any:
    """IPython's shell, if it talks to a notebook; it is not imported for that."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell if getattr(shell, "kernel", None) is not None else None


class TerminalView:
    """Final lines scroll away above, live ones are replaced in place and gone at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._widths: list[int] = []  # of the live lines that stand there

    def draw(self, final: Sequence[str], live: Sequence[str]) -> None:
        size = os.get_terminal_size(self._stream.fileno())
        columns, rows = size.columns or 80, size.lines or 24  # a serial line does not know its size
        shown = [fitted(line, columns - 1) for line in live[: max(rows - 2, 0)]]
        text = self._erasing(columns) + "".join(f"{line}\n" for line in (*final, *shown))
        encoding = self._stream.encoding or "ascii"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
        self._widths = [cells(line) for line in shown]

    def close(self, final: Sequence[str], live: Sequence[str]) -> None:
        self.draw(final, ())

    def _erasing(self, columns: int) -> str:
        # A window that became narrower has broken the lines that stood there.
        rows = sum(max(1, -(-width // columns)) for width in self._widths)
        return f"\x1b[{rows}A\r\x1b[J" if rows else ""


class NotebookView:
    """One output of the cell, updated: the last final lines, and the live ones below."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._handle: Any = None
        self._final: deque[str] = deque(maxlen=_LOG_KEPT)

    def draw(self, final: Sequence[str], live: Sequence[str]) -> None:
        self._final.extend(final)
        data = {"text/plain": "\n".join((*self._final, *live))}
        if self._handle is None:
            from IPython.display import display  # type: ignore[import-not-found, unused-ignore]

            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)

    close = draw
