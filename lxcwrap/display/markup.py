"""HTML and SVG by construction: what is not `Html` already is escaped, so nothing that a container says
can become markup."""

from __future__ import annotations

import re
from html import escape
from typing import Final

# All that HTML and XML cannot hold, and what turns the direction of text around.
_UNFIT: Final = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

_HARMLESS: Final = re.compile(r"[ \w.,:;/=()+@%#-]*").fullmatch


class Html(str):
    """Markup that we have made."""

    __slots__ = ()


def text(value: str) -> Html:
    """Text as markup."""
    if value.isascii() and _HARMLESS(value):  # as most of it is: a table has thousands
        return Html(value)
    return Html(escape(_UNFIT.sub("\ufffd", value)))


def tag(name: str, *children: str, **attributes: object) -> Html:
    """An element. An attribute named ``class_`` is class, ``view_box`` view-box; None leaves it out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(children: object) -> Html:
    """One after the other; those that are no `Html` as text."""
    return Html("".join(each if isinstance(each, Html) else text(each) for each in children))  # type: ignore[attr-defined]
