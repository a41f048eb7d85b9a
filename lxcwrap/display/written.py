"""Blocks as HTML and as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Final

from ..progress.board import cells, clean, fitted
from .blocks import Block, Cell, Drawing, Facts, Output, Page, Table
from .markup import Html, join, tag, text
from .style import SHEET

_MAX_HTML_ROWS: Final = 500
_MAX_TEXT_ROWS: Final = 60
_MAX_COLUMNS: Final = 44  # of a cell, as plain text
_FULL: Final = 0.9  # a meter that shows more is red
_STYLE: Final = Html(f"<style>{SHEET}</style>")


# --- HTML ---


def as_html(page: Page) -> Html:
    # The other two names keep MathJax away, for which dollars in a command would be formulas.
    return Html(
        f'<div class="lxcwrap tex2jax_ignore mathjax_ignore">{_STYLE}{"".join(map(_html, page))}</div>'
    )


def as_file(svg: Html) -> str:
    """A drawing that brings its own colours."""
    begin, _, rest = svg.partition(">")
    return f'{begin} class="lxcwrap">{_STYLE}{rest}'


@singledispatch
def _html(block: Block) -> Html:
    raise TypeError(block)


@_html.register
def _(table: Table) -> Html:
    title = _title(Cell(table.title, "name"), table.note) if table.title else Html("")
    if not table.rows:
        return join((title, tag("div", table.empty, class_="lx-dim")))
    columns = _columns(table)
    heads = "".join(f'<th class="lx-head-{kind}">{text(head)}</th>' for _, head, kind in columns)
    rows = "".join(
        f"<tr>{''.join(_td(row[number]) for number, _, _ in columns)}</tr>"
        for row in table.rows[:_MAX_HTML_ROWS]
    )
    more = _more(len(table.rows) - _MAX_HTML_ROWS)
    body = Html(f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
    return join((title, body, tag("div", more, class_="lx-dim") if more else ""))


def _columns(table: Table) -> list[tuple[int, str, str]]:
    """Number, head and kind of those that have any text."""
    columns: list[tuple[int, str, str]] = []
    for number, head in enumerate(table.heads):
        kind = next((row[number].kind for row in table.rows if row[number].text), None)
        if kind:
            columns.append((number, head, kind))
    return columns


def _td(cell: Cell) -> str:
    hint = f' title="{text(cell.hint)}"' if cell.hint else ""
    return f'<td class="lx-{cell.kind} lx-{cell.tone}"{hint}>{_inner(cell)}</td>'


def _inner(cell: Cell) -> str:
    dot = '<span class="lx-dot"></span>' if cell.kind == "state" else ""
    meter = ""
    if cell.share is not None:
        full = " lx-full" if cell.share >= _FULL else ""
        width = min(100.0, 100 * max(0.0, cell.share))
        meter = f'<span class="lx-meter{full}"><i style="width:{width:.0f}%"></i></span>'
    return f"{dot}{cell.drawing}{text(cell.text)}{meter}"


def _title(cell: Cell, note: str) -> Html:
    dot = Html('<span class="lx-dot"></span>') if cell.tone else ""
    return tag(
        "div", dot, tag("b", cell.text), tag("span", note, class_="lx-dim"), class_=f"lx-h lx-{cell.tone}"
    )


@_html.register
def _(facts: Facts) -> Html:
    rows = "".join(
        f'<dt>{text(name)}</dt><dd class="lx-{cell.kind.replace("number", "text")} lx-{cell.tone}"'
        f"{f' title={chr(34)}{text(cell.hint)}{chr(34)}' if cell.hint else ''}>{_inner(cell)}</dd>"
        for name, cell in facts.facts
        if cell.text
    )
    return join((_title(facts.title, facts.note), Html(f"<dl>{rows}</dl>") if rows else ""))


@_html.register
def _(output: Output) -> Html:
    lines = Html(
        "\n".join(
            (f'<span class="lx-dim">{text(before)}</span> ' if before else "")
            + (f'<span class="lx-{tone}">{text(clean(line))}</span>' if tone else text(clean(line)))
            for before, line, tone in output.lines
        )
    )
    title = _title(Cell(output.title, "name"), "") if output.title else ""
    box = tag("div", tag("pre", lines), class_="lx-out lx-follows" if output.follows else "lx-out")
    return join((title, box))


@_html.register
def _(drawing: Drawing) -> Html:
    return drawing.svg


# --- plain text ---


def as_text(page: Page) -> str:
    return "\n\n".join(filter(None, ("\n".join(_lines(block)) for block in page)))


@singledispatch
def _lines(block: Block) -> Iterator[str]:
    raise TypeError(block)


@_lines.register
def _(table: Table) -> Iterator[str]:
    if table.title:
        yield clean(f"{table.title}  {table.note}".rstrip())
    if not table.rows:
        yield table.empty
        return
    columns = _columns(table)
    rows = [[_word(row[number]) for number, _, _ in columns] for row in table.rows[:_MAX_TEXT_ROWS]]
    numbers = [kind == "number" for _, _, kind in columns]
    lines = [[head for _, head, _ in columns], *rows]
    widths = [max(map(cells, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(map(_padded, line, widths, numbers)).rstrip()
    if more := _more(len(table.rows) - _MAX_TEXT_ROWS):
        yield more


def _word(cell: Cell) -> str:
    return fitted(clean(cell.text.replace("\n", " ")), _MAX_COLUMNS)


def _padded(word: str, width: int, right: bool) -> str:
    padding = " " * (width - cells(word))
    return padding + word if right else word + padding


@_lines.register
def _(facts: Facts) -> Iterator[str]:
    yield clean(f"{facts.title.text}  {facts.note}".rstrip())
    width = max((len(name) for name, _ in facts.facts), default=0)
    for name, cell in facts.facts:
        if cell.text:
            yield f"  {name:{width}}  {clean(cell.text.replace(chr(10), ' '))}"


@_lines.register
def _(output: Output) -> Iterator[str]:
    if output.title:
        yield clean(output.title)
    for before, line, _ in output.lines:
        yield f"{before} {clean(line)}".lstrip() if before else clean(line)


@_lines.register
def _(drawing: Drawing) -> Iterator[str]:
    yield drawing.text


def _more(left_out: int) -> str:
    return f"... and {left_out} more" if left_out > 0 else ""
