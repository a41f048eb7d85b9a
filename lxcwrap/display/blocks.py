"""What is shown, before it is markup or plain text: tables, cards, output, drawings. Frozen values, pure.

Text in them may come from a container or an image. It is not trusted, and made harmless where it is written
out: see markup.py and plain.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import field, frozen

from .markup import Html

Kind = Literal["text", "name", "code", "number", "dim", "state"]
Tone = Literal["", "good", "busy", "bad", "idle"]


@frozen
class Cell:
    """A word or number. tone: of the dot before a state. share: 0 to 1, drawn as a meter. hint: all of it,
    where `text` is short. drawing: shown beside it, in markup only."""

    text: str
    kind: Kind = "text"
    tone: Tone = field(default="", kw_only=True)
    share: float | None = field(default=None, kw_only=True)
    hint: str = field(default="", kw_only=True)
    drawing: Html = field(default=Html(""), kw_only=True)


@frozen(kw_only=True)
class Table:
    """Rows under heads. note: beside the title. empty: what stands in place of no rows. Columns without any
    text are not shown."""

    title: str = ""
    note: str = ""
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = "none"


@frozen(kw_only=True)
class Facts:
    """Names and values, of one thing. title: what it is; note: dim, beside it."""

    title: Cell
    note: str = ""
    facts: Sequence[tuple[str, Cell]] = ()


@frozen(kw_only=True)
class Output:
    """What a command wrote, line by line with a tone. follows: the newest is in sight."""

    title: str = ""
    lines: Sequence[tuple[str, str, Tone]]  # what stands before it, dim; the line; its tone
    follows: bool = False


@frozen(kw_only=True)
class Drawing:
    """SVG, and the same in words."""

    svg: Html
    text: str


Block = Table | Facts | Output | Drawing
Page = Sequence[Block]
