"""What commands print: a table, coloured where someone looks at it, or JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from typing import Any, NamedTuple

Facts = Mapping[str, Any]


class Column(NamedTuple):
    """What of an item's facts is shown, under which head."""

    head: str
    text: Callable[[Facts], str]
    is_number: bool = False


def show(items: Iterable[Facts], columns: Sequence[Column], *, as_json: bool) -> None:
    """All items at once."""
    from ..progress.board import clean

    found = list(items)
    if as_json:
        return print_json(found)
    rows = [[clean(column.text(facts)) for column in columns] for facts in found]
    if _is_terminal() and find_spec("rich"):
        _rich_table(rows, columns)
    else:
        for line in _lines(rows, columns):
            print(line)


def print_json(value: object) -> None:
    """Indented."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False))


def print_json_line(value: object) -> None:
    """One line of a stream, seen at once."""
    print(json.dumps(plain(value), ensure_ascii=False), flush=True)


def plain(value: Any) -> Any:
    """As JSON has it: values of lxcwrap as objects, times in ISO 8601, what else there may be as text."""
    from attrs import asdict, has

    if has(type(value)):
        return plain(asdict(value, recurse=False))
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, bool | int | float | None) else str(value)


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _lines(rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> Iterable[str]:
    from ..progress.board import cells

    heads = [column.head for column in columns]
    widths = [max(cells(row[index]) for row in (heads, *rows)) for index in range(len(columns))]
    for row in (heads, *rows):
        padded = []
        for text, width, column in zip(row, widths, columns, strict=True):
            space = " " * (width - cells(text))
            padded.append(space + text if column.is_number else text + space)
        yield "  ".join(padded).rstrip()


def _rich_table(rows: Sequence[Sequence[str]], columns: Sequence[Column]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.head, justify="right" if column.is_number else "left", overflow="ellipsis")
    for row in rows:
        table.add_row(*(Text(text, style=_STYLES.get(text.partition(" ")[0], "")) for text in row))
    Console().print(table)


# By the first word of a cell.
_STYLES = {
    **{"running": "green", "healthy": "green", "ok": "green"},
    **{"paused": "yellow", "restarting": "yellow", "degraded": "yellow"},
    **{"unhealthy": "red", "missing": "red"},
}
