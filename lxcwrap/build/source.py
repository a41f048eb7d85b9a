"""A Dockerfile as lines: what is one instruction, and where in the file each of its characters stands.

A line that ends with the escape character goes on in the next; comments and empty lines between do not end
it. Documents (``<<EOF``) are taken from the lines that follow.

Source: Dockerfile reference, "Format", "Parser directives", "Here-documents".
"""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import Final

from attrs import define, field, frozen

from ..errors import DockerfileError
from .words import SPACE

MAX_FILE: Final = 1 << 20
MAX_LINE: Final = 128 << 10
"""Longest instruction, without its documents; execve(2) takes no longer word."""

_DIRECTIVE: Final = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S(?:.*\S)?)\s*")
_LEADING: Final = re.compile(f"[{SPACE}]*")
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")


@frozen
class Span:
    """A line of the file within a joined one: from `offset` of the text on, at `line` and `column` from 1."""

    offset: int
    line: int
    column: int


@frozen(kw_only=True)
class Line:
    """One instruction, its continuations joined. `spans`: the lines of the file it was joined of."""

    text: str
    spans: tuple[Span, ...]

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column in the file of a place in `text`."""
        span = self.spans[bisect_right(self.spans, offset, key=lambda span: span.offset) - 1]
        return span.line, span.column + offset - span.offset


@define
class Source:
    """Hands out a file's lines, from first to last."""

    file: str
    _lines: list[str]
    escape: str = field(default="\\", init=False)
    directives: dict[str, str] = field(factory=dict, init=False)
    line_number: int = field(default=0, init=False)
    """How many lines of the file have been handed out."""

    @classmethod
    def open(cls, content: bytes | str, file: str) -> Source:
        """With its parser directives read. Raises DockerfileError."""
        # Comments may be in any encoding; instructions are checked when they are read.
        text = content.decode(errors="surrogateescape") if isinstance(content, bytes) else content
        if len(content) > MAX_FILE:
            raise DockerfileError(file, 1, 1, f"larger than {MAX_FILE} bytes: COPY what is no instruction")
        lines = text.removeprefix("\ufeff").split("\n")
        source = cls(file, lines[:-1] if not lines[-1] else lines)
        source._read_directives()
        return source

    def error(self, line: int, column: int, reason: str) -> DockerfileError:
        return DockerfileError(self.file, line, column, reason)

    def original(self, first_line: int) -> str:
        """From that line to the last one handed out, as written."""
        return "\n".join(self._lines[first_line - 1 : self.line_number]).strip("\r\n")

    def _read_directives(self) -> None:
        for number, line in enumerate(self._lines, 1):
            match = _DIRECTIVE.fullmatch(line.strip())
            if not match or (name := match[1].lower()) not in ("syntax", "escape", "check"):
                return
            if name in self.directives:
                raise self.error(number, 1, f"the directive '{name}' is here twice: remove one")
            if name == "escape" and match[2] not in ("\\", "`"):
                raise self.error(number, match.start(2) + 1, "escape must be \\ or `")
            self.directives[name] = match[2]
            self.escape = self.directives.get("escape", "\\")

    def next(self) -> Line | None:
        """The next instruction; None: there is none."""
        while self.line_number < len(self._lines):
            line = self._take()
            indent = _LEADING.match(line)
            start = indent.end() if indent else 0
            text = line[start:]
            if text and not text.startswith("#"):
                joined = self._joined(text, start)
                if _LEADING.sub("", joined.text, count=1):
                    return joined
        return None

    def _take(self) -> str:
        self.line_number += 1
        return self._lines[self.line_number - 1].rstrip("\r")

    def _joined(self, text: str, start: int) -> Line:
        spans = [Span(0, self.line_number, start + 1)]
        text, more = self._continued(text)
        pieces, length = [text], len(text)
        while more and self.line_number < len(self._lines):
            line = self._take()
            if not (bare := _LEADING.sub("", line, count=1)) or bare.startswith("#"):
                continue
            spans.append(Span(length, self.line_number, 1))
            text, more = self._continued(line)
            pieces.append(text)
            length += len(text)
        joined = Line(text="".join(pieces), spans=tuple(spans))
        if length > MAX_LINE:
            raise self.error(*joined.position(0), f"longer than {MAX_LINE} characters: make it a script")
        self._check(joined)
        return joined

    def _continued(self, line: str) -> tuple[str, bool]:
        """The line without the escape character at its end, and whether there was one: two are text."""
        bare = line.rstrip(" \t")
        if bare.endswith(self.escape) and not bare.endswith(self.escape * 2):
            return bare[:-1], True
        return line, False

    def _check(self, line: Line) -> None:
        if bad := _UNUSABLE.search(line.text):
            raise self.error(*line.position(bad.start()), "NUL or not UTF-8: save the file as UTF-8 text")

    def document(self, name: str, *, chomp: bool) -> str | None:
        """The lines up to one that is `name`, which is read too; None: there is none such."""
        first = self.line_number
        while self.line_number < len(self._lines):
            line = self._take()
            if (line.lstrip("\t") if chomp else line) == name:
                return "".join(f"{line}\n" for line in self._lines[first : self.line_number - 1])
            self._check(Line(text=line, spans=(Span(0, self.line_number, 1),)))
        return None
