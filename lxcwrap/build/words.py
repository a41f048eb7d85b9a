"""Variables, quotes and escapes in a Dockerfile's words.

Nothing is run, and no command or arithmetic substitution exists. An escape outside of quotes gives the next
character as it is; within double quotes it does so for ``"``, ``$`` and itself; within single quotes nothing
is special. Names nobody set are empty. Source: Dockerfile reference, "Environment replacement"; where that is
silent, the lexer of BuildKit.

>>> expand("${dir:-/srv}/$name", {"name": "web"})
'/srv/web'
>>> split_words("8080 $more", {"more": "81 82"})
['8080', '81', '82']
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from . import shellpatterns

MAX_LENGTH: Final = 1 << 20
"""How many characters variables may bring into one text."""

SPACE: Final = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""White space, as a class of a regular expression: as Go sees it, without Python's separators of ASCII."""

_MAX_DEPTH: Final = 32
_MAX_WORK: Final = 1 << 26  # characters compared by patterns: some tenths of a second
_NAME: Final = re.compile(r"\d+|[@*#?$!-]|[^\W\d]\w*")
_SPACES: Final = re.compile(f"[{SPACE}]+")
_HEREDOC: Final = re.compile(r"<<[ \t\r]*")


class WordError(Exception):
    """A word is malformed, or a variable that must be set is not. `column` counts from 1 within the text."""

    def __init__(self, column: int, reason: str) -> None:
        super().__init__(reason)
        self.column = column
        self.reason = reason


def expand(text: str, variables: Mapping[str, str], *, escape: str = "\\", quotes: bool = True) -> str:
    """`text` with its variables, and without its quotes and escapes. Raises WordError.

    quotes: False: they are text, as in a heredoc.
    """
    return "".join(piece for piece, _ in Lexer(text, variables, escape=escape, quotes=quotes).scan())


def split_words(text: str, variables: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """The words of `text` once expanded; what a variable brings in is split too, if not quoted."""
    return list(words_of(Lexer(text, variables, escape=escape).scan()))


def check(text: str, *, escape: str = "\\", quotes: bool = True) -> None:
    """Raises WordError if no variables could make this right."""
    Lexer(text, {}, escape=escape, quotes=quotes, keep_variables=True).scan()


Piece = tuple[str, bool]
"""Text, and whether it is to stay together where words are split."""


def words_of(pieces: list[Piece]) -> Iterator[str]:
    """The words that pieces make. Quotes around nothing make none."""
    word: list[str] = []
    for text, whole in pieces:
        for part in (text,) if whole else _split(text):
            if part is not None:
                word.append(part)
            elif joined := "".join(word):
                yield joined
                word = []
    if joined := "".join(word):
        yield joined


def _split(text: str) -> Iterator[str | None]:
    """The parts of `text`, with None for the space between them."""
    first, *rest = _SPACES.split(text)
    yield first
    for part in rest:
        yield None
        yield part


@cache
def _plain(special: str) -> re.Pattern[str]:
    return re.compile(f"[^{re.escape(special)}]+")


class Lexer:
    """Reads one text. keep_variables, keep_quotes: leave those as written, which only splits and checks."""

    def __init__(
        self,
        text: str,
        variables: Mapping[str, str],
        *,
        escape: str = "\\",
        quotes: bool = True,
        keep_variables: bool = False,
        keep_quotes: bool = False,
    ) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._quotes = "'\"" if quotes else ""
        self._keep_variables = keep_variables
        self._keep_quotes = keep_quotes
        self._position = self._depth = self._work = self._length = 0
        self.quoted = False
        """Whether there were quotes."""

    def scan(self, stop: str = "", *, opened: int = 0, keep_escapes: bool = False) -> list[Piece]:
        """The pieces up to the end, or up to `stop`, which must come and ends what began at `opened`."""
        pieces = list[Piece]()
        plain = _plain("$<" + self._quotes + self._escape + stop)
        while character := self._peek():
            if character == stop:
                self._position += 1
                return pieces
            if character == "$":
                pieces.append((self._variable(), False))
            elif character in self._quotes:
                pieces.append((self._quotation(character, keep_escapes), True))
            elif character == self._escape:
                kept = keep_escapes or self._keep_quotes
                pieces.append((self._take(2)[0 if kept else 1 :], True))
            elif heredoc := _HEREDOC.match(self._text, self._position):
                pieces.append((self._take(len(heredoc[0])), True))
            elif run := plain.match(self._text, self._position):
                pieces.append((self._take(len(run[0])), False))
            else:
                pieces.append((self._take(), False))
        if stop:
            raise self._error(f"'{stop}' is missing in ${{...}}", opened)
        return pieces

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self, count: int = 1) -> str:
        taken = self._text[self._position : self._position + count]
        self._position += len(taken)
        return taken

    def _error(self, reason: str, position: int | None = None) -> WordError:
        return WordError((self._position if position is None else position) + 1, reason)

    def _charge(self, length: int) -> None:
        self._length += length
        if self._length > MAX_LENGTH:
            raise self._error(f"variables bring more than {MAX_LENGTH} characters here")

    def _quotation(self, quote: str, keep_escapes: bool) -> str:
        start, pieces = self._position, list[str]()
        self.quoted = True
        self._position += 1
        while character := self._peek():
            if character == quote:
                self._position += 1
                return self._text[start : self._position] if self._keep_quotes else "".join(pieces)
            if quote == '"' and character == "$":
                pieces.append(self._variable())
            elif quote == '"' and character == self._escape:
                pair = self._text[self._position : self._position + 2]
                taken = self._take(2 if pair[1:] in ('"', "$", self._escape) else 1)
                pieces.append(taken if keep_escapes else taken[-1])
            else:
                pieces.append(self._take())
        raise self._error(f"a closing {quote} is missing", start)

    def _variable(self) -> str:
        start = self._position
        self._position += 1
        value = self._braced(start) if self._peek() == "{" else self._bare()
        self._charge(len(value))
        return self._text[start : self._position] if self._keep_variables else value

    def _bare(self) -> str:
        return self._variables.get(name, "") if (name := self._name()) else "$"

    def _name(self) -> str:
        match = _NAME.match(self._text, self._position)
        return self._take(len(match[0])) if match else ""

    def _braced(self, start: int) -> str:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._error(f"more than {_MAX_DEPTH} substitutions within each other", start)
        self._position += 1
        name = self._name()
        value = self._substituted(name, self._variables.get(name), start)
        self._depth -= 1
        return value

    def _substituted(self, name: str, value: str | None, start: int) -> str:
        """What stands for ``${name...}``, of which the name has been read."""
        colon = ":" if self._peek() == ":" else ""
        operator = self._take(1 + len(colon))[len(colon) :]
        if not name or (colon and operator not in ("-", "+", "?")):
            raise self._bad(start)
        match operator:
            case "}":
                return value or ""
            case "-" | "+" | "?":
                unset = value is None or (bool(colon) and not value)
                return self._conditional(name, operator, value or "", unset, start)
            case "#" | "%":
                return self._trimmed(operator, value or "", start)
            case "/":
                return self._replaced(value or "", start)
        raise self._bad(start)

    def _bad(self, start: int) -> WordError:
        if not self._peek():
            return self._error("'}' is missing in ${...}", start)
        return self._error(
            "not a substitution: write ${name}, and behind the name one of :- - :+ + :? ? # ## % %% / //, or"
            " nothing; a dollar sign that is text needs the escape character before it",
            start,
        )

    def _word(self, stop: str, start: int, *, keep_escapes: bool) -> str:
        return "".join(piece for piece, _ in self.scan(stop, opened=start, keep_escapes=keep_escapes))

    def _conditional(self, name: str, operator: str, value: str, unset: bool, start: int) -> str:
        word = self._word("}", start, keep_escapes=False)
        if operator == "?" and unset and not self._keep_variables:
            raise self._error(f"{name}: {word or 'give it a value'}", start)
        if operator == "+":
            return "" if unset else word
        return word if unset else value

    def _trimmed(self, operator: str, value: str, start: int) -> str:
        longest = self._peek() == operator
        self._position += longest
        segments = self._pattern(self._word("}", start, keep_escapes=True), value, start)
        trim = shellpatterns.without_prefix if operator == "#" else shellpatterns.without_suffix
        return trim(value, segments, longest=longest)

    def _replaced(self, value: str, start: int) -> str:
        every = self._peek() == "/"
        self._position += every
        pattern = self._word("/", start, keep_escapes=True)
        text = self._word("}", start, keep_escapes=True)
        segments = self._pattern(pattern, value, start)
        try:
            return shellpatterns.replaced(value, segments, text, every=every, max_length=MAX_LENGTH)
        except ValueError as error:
            raise self._error(str(error), start) from None

    def _pattern(self, pattern: str, value: str, start: int) -> shellpatterns.Segments:
        self._work += (len(value) + 1) * (len(pattern) + 1)
        if self._work > _MAX_WORK:
            raise self._error("these patterns and values are too long to compare", start)
        try:
            # Not yet known variables may stand in it.
            return shellpatterns.parse("" if self._keep_variables else pattern)
        except ValueError as error:
            raise self._error(str(error), start) from None
