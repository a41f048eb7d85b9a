"""One line of a Dockerfile, taken apart: keyword, flags, and arguments in the ways instructions want them.

Every part knows its place, so that whatever is wrong is reported with the line and column it stands at.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, TypedDict

from attrs import define, field, frozen

from ..errors import DockerfileError
from . import words
from .instructions import Command, ExecForm, Heredoc, Place, ShellForm
from .source import Line
from .words import SPACE, WordError

KEYWORDS: Final = (
    "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL"
    " USER VOLUME WORKDIR"
).split()

_BLANK: Final = re.compile(r"[\t\v\f\r ]+")
_NOT_BLANK: Final = re.compile(r"[^\t\v\f\r ]+")
_SPACES: Final = re.compile(f"[{SPACE}]*")
_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")


@frozen
class Word:
    """A part of a line as written; `offset`: where in the line it begins."""

    text: str
    offset: int


class Common(TypedDict):
    """The fields that all instructions have."""

    at: Place
    text: str
    original: str


@cache
def _quoted_word(escape: str) -> re.Pattern[str]:
    # Quotes and escapes stay as they are; a quote that nothing closes goes on to the end.
    e = re.escape(escape)
    return re.compile(
        rf"""(?:[^{SPACE}'"{e}]|{e}.|'[^']*(?:'|\Z)|"(?:[^"{e}]|{e}.)*(?:"|\Z))+""",
        re.DOTALL,
    )


@cache
def _flag_word(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    return re.compile(rf"""(?:[^{SPACE}'"{e}]|{e}.|(['"])(?:(?!\1)[^{e}]|{e}.)*\1)+""", re.DOTALL)


@cache
def _flag_parts(escape: str) -> re.Pattern[str]:
    e = re.escape(escape)
    return re.compile(rf"""{e}(.)|(['"])((?:(?!\2)[^{e}]|{e}.)*)\2""", re.DOTALL)


def _unquoted(text: str, escape: str) -> str:
    """A flag without its quotes and escapes; variables in it are substituted later."""

    def plain(match: re.Match[str]) -> str:
        return match[1] or re.sub(re.escape(escape) + "(.)", r"\1", match[3] or "", flags=re.DOTALL)

    return _flag_parts(escape).sub(plain, text)


def suggestion(name: str, known: Sequence[str]) -> str:
    """What to write instead of an unknown `name`."""
    near = difflib.get_close_matches(name[:32], known, 1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


@define
class Statement:
    """A line with its keyword in capitals, its flags, and the rest. `heredocs` come when they are read."""

    file: str
    line: Line
    escape: str
    keyword: str
    keyword_offset: int
    flags: list[Word]
    rest: Word
    place: Place | None = None
    original: str = ""
    heredocs: tuple[Heredoc, ...] = field(default=())

    @classmethod
    def split(cls, file: str, line: Line, escape: str, start: int = 0) -> Statement:
        """The instruction that begins at `start` of the line. Raises DockerfileError."""
        text = line.text
        spaces = _SPACES.match(text, start)
        start = spaces.end() if spaces else start
        keyword = _NOT_BLANK.match(text, start)
        assert keyword
        blank = _BLANK.match(text, keyword.end())
        statement = cls(file, line, escape, keyword[0].upper(), start, [], Word("", len(text)))
        if statement.keyword not in KEYWORDS:
            hint = suggestion(statement.keyword, KEYWORDS)
            raise statement.error(f"unknown instruction {keyword[0][:40]!r}: {hint}")
        rest = statement._take_flags(blank.end() if blank else len(text))
        bare = text[rest:].rstrip()
        indent = len(bare) - len(bare.lstrip())
        statement.rest = Word(bare[indent:], rest + indent)
        return statement

    def _take_flags(self, start: int) -> int:
        """Where the arguments begin. A word ``--`` ends the flags."""
        text = self.line.text
        while True:
            spaces = _SPACES.match(text, start)
            start = spaces.end() if spaces else start
            if not text.startswith("--", start):
                return start
            match = _flag_word(self.escape).match(text, start)
            end = match.end() if match else start
            if text[end : end + 1] in ("'", '"'):
                raise self.error("a closing quote is missing", end)
            word = text[start:end]
            start, begin = (end + 1 if text[end : end + 1] == self.escape else end), start
            if word == "--":
                return start
            self.flags.append(Word(_unquoted(word, self.escape), begin))

    def error(self, reason: str, offset: int | None = None) -> DockerfileError:
        """At `offset` of the line, or where the instruction begins."""
        at = self.keyword_offset if offset is None else offset
        return DockerfileError(self.file, *self.line.position(at), reason)

    def common(self) -> Common:
        assert self.place
        return {"at": self.place, "text": self.line.text[self.keyword_offset :], "original": self.original}

    # --- arguments --------------------------------------------------------------------------------------

    def require(self, what: str) -> Word:
        """All that follows the flags. Raises DockerfileError: nothing does."""
        if not self.rest.text:
            raise self.error(f"{self.keyword} needs {what}")
        return self.rest

    def template(self, word: Word) -> str:
        """A text in which variables may stand. Raises DockerfileError if none could make it right."""
        try:
            words.check(word.text, escape=self.escape)
        except WordError as error:
            raise self.error(error.reason, word.offset + error.column - 1) from None
        return word.text

    def fields(self) -> list[Word]:
        """The arguments, parted by white space alone."""
        return [
            Word(match[0], self.rest.offset + match.start()) for match in _NOT_BLANK.finditer(self.rest.text)
        ]

    def words(self) -> list[Word]:
        """The arguments, at least one, parted by white space outside of quotes."""
        text = self.require("name=value").text
        if (len(text) - len(text.rstrip(self.escape))) % 2:
            text = text[:-1]  # an escape character with nothing behind it
        if not (found := list(_quoted_word(self.escape).finditer(text))):
            raise self.error(f"{self.keyword} needs name=value", self.rest.offset)
        return [Word(match[0], self.rest.offset + match.start()) for match in found]

    def array(self, word: Word | None = None) -> tuple[str, ...] | None:
        """The texts of a JSON array; None: it is none, and so plain text, as Docker has it.

        Raises DockerfileError: it holds something other than texts.
        """
        word = word or self.rest
        if not word.text.startswith("["):
            return None
        try:
            items = json.loads(word.text, parse_constant=_refuse, parse_int=float)
        except (ValueError, RecursionError):
            return None
        if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
            raise self.error('a JSON array must hold texts only: ["a", "b"]', word.offset)
        if any(_UNUSABLE.search(item) for item in items):
            raise self.error("a NUL or half a surrogate pair cannot be in an argument", word.offset)
        return tuple(items)

    def command(self, word: Word | None = None) -> Command:
        """The exec form if it is a JSON array, the shell form if not."""
        word = word or self.require('a command, or ["program", "argument"]')
        argv = self.array(word)
        return ShellForm(word.text) if argv is None else ExecForm(argv)

    def options(
        self, *, texts: Iterable[str] = (), switches: Iterable[str] = (), lists: Iterable[str] = ()
    ) -> Options:
        """The flags, checked: those not named here are unknown. Raises DockerfileError."""
        options = Options(self, tuple(texts), tuple(switches), tuple(lists))
        for flag in self.flags:
            options.add(flag)
        return options


def _refuse(constant: str) -> None:
    raise ValueError(constant)


class Options:
    """The flags of one instruction, by name, and without the dashes."""

    def __init__(
        self, statement: Statement, texts: Sequence[str], switches: Sequence[str], lists: Sequence[str]
    ) -> None:
        self._statement = statement
        self._texts, self._switches, self._lists = texts, switches, lists
        self._values: dict[str, list[Word]] = {}

    def add(self, flag: Word) -> None:
        name, equals, value = flag.text[2:].partition("=")
        known = (*self._texts, *self._switches, *self._lists)
        if name not in known:
            hint = suggestion(f"--{name}", [f"--{each}" for each in known]) if known else "it takes none"
            raise self._statement.error(
                f"unknown flag --{name} for {self._statement.keyword}: {hint}", flag.offset
            )
        if name in self._values and name not in self._lists:
            raise self._statement.error(f"--{name} is here twice: remove one", flag.offset)
        if name in self._switches:
            if not equals:
                value = "true"
            if value.lower() not in ("true", "false"):
                raise self._statement.error(f"--{name} is true or false, not {value!r}", flag.offset)
        elif not equals:
            raise self._statement.error(f"--{name} needs a value: --{name}=...", flag.offset)
        self._values.setdefault(name, []).append(Word(value, flag.offset))

    def word(self, name: str) -> Word | None:
        return self._values[name][0] if name in self._values else None

    def text(self, name: str) -> str:
        return word.text if (word := self.word(name)) else ""

    def template(self, name: str) -> str:
        """A text with variables; those malformed are reported where the flag begins."""
        word = self.word(name)
        if word is None:
            return ""
        try:
            words.check(word.text, escape=self._statement.escape)
        except WordError as error:
            raise self._statement.error(f"--{name}: {error.reason}", word.offset) from None
        return word.text

    def switch(self, name: str) -> bool | None:
        word = self.word(name)
        return None if word is None else word.text.lower() == "true"

    def all(self, name: str) -> list[Word]:
        return self._values.get(name, [])
