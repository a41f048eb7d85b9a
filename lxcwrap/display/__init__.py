"""How things are shown: in notebooks, light and dark, and as plain text. Nothing is taken for markup.

blocks      what is shown, as values; markup, style, written: made HTML and text of
containers, stores, values      one noun or value after the other
charts, live, graph             drawings, and what goes on being drawn
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..results import Stats
    from .charts import Figure
    from .listing import Listing


def bundle(thing: object) -> dict[str, str]:
    """What IPython asks for: by MIME type."""
    from .values import page
    from .written import as_html, as_text

    shown = page(thing)
    return {"text/html": as_html(shown), "text/plain": as_text(shown)}


def html(thing: object) -> str:
    """For front ends that ask for this alone."""
    from .values import page
    from .written import as_html

    return as_html(page(thing))


def table(things: Iterable[object]) -> Listing:
    """Values of one kind as a table: processes of `Container.top`, changes, log lines, events..

    >>> print(table([]))
    nothing
    """
    from .listing import Listing

    return Listing(tuple(things))


def plot(samples: Iterable[Stats]) -> Figure:
    """A drawing of what a container used: of the values of `Container.stats_stream`, or of
    `LiveStats.samples`.

    Raises InvalidSpecError: there are fewer than two.
    """
    from .charts import Figure

    return Figure(tuple(samples))
