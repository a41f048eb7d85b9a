"""Networks and containers drawn: these in a row, below a line for each network, dots where they meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import frozen

from ..machinery import Machinery
from ..progress.board import cells, clean, fitted
from ..shown import Shown
from . import words
from .blocks import Cell, Drawing, Facts, Page
from .containers import Listed, listed, port, tone
from .markup import Html, text
from .written import as_file

_MAX_CONTAINERS: Final = 40  # of those on networks; more would be no drawing any more
_COLUMN, _BOX, _BOX_HEIGHT, _LEFT = 168, 148, 44, 132
_TOP, _PORT, _ROW = 30, 15, 46
_COLOURS: Final = 6
_LABEL: Final = 19  # characters


@frozen
class _Net:
    name: str
    subnet: str
    internal: bool
    colour: int


class Graph(Shown):
    """The networks of a host and the containers on them, as they were when it was made. A notebook shows it;
    ``str()`` is the same in words."""

    __slots__ = ("_containers", "_left_out", "_networks")

    def __init__(self, machinery: Machinery) -> None:
        stored = [
            (machinery.network_store.row(each)["name"], machinery.network_store.spec(each))
            for each in reversed(machinery.network_store.ids())
        ]
        self._networks = [
            _Net(name, spec.subnet, spec.internal, number % _COLOURS + 1)
            for number, (name, spec) in enumerate(stored)
        ]
        order = {network.name: number for number, network in enumerate(self._networks)}
        found = [each for each in reversed(listed(machinery)) if each.endpoints]
        found.sort(key=lambda each: min(order.get(end["name"], len(order)) for end in each.endpoints))
        self._containers, self._left_out = found[:_MAX_CONTAINERS], len(found) - _MAX_CONTAINERS

    def _page(self) -> Page:
        counts = (len(self._networks), "network"), (len(self._containers), "container")
        note = ", ".join(words.count(*each) for each in counts)
        note += f" and {self._left_out} more" if self._left_out > 0 else ""
        return [Facts(title=Cell("Networks"), note=note), Drawing(svg=self._drawing(), text=str(self))]

    @property
    def svg(self) -> str:
        """The drawing with its colours, to be written into a file."""
        return as_file(self._drawing())

    def _drawing(self) -> Html:
        ports = max((len(each.ports) for each in self._containers), default=0)
        box_y = _TOP + ports * _PORT
        first_y = box_y + _BOX_HEIGHT + 34
        width = _LEFT + max(1, len(self._containers)) * _COLUMN
        height = first_y + max(0, len(self._networks) - 1) * _ROW + 28
        level = {network.name: first_y + number * _ROW for number, network in enumerate(self._networks)}
        parts = [_line(network, level[network.name], width) for network in self._networks]
        for number, container in enumerate(self._containers):
            parts.append(_stem(container, _LEFT + number * _COLUMN, box_y, level, self._networks))
        return Html(
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'
        )

    def __str__(self) -> str:
        lines = []
        for network in self._networks:
            lines.append(f"{network.name}  {network.subnet}{'  internal' if network.internal else ''}")
            for container in self._containers:
                for end in container.endpoints:
                    if end["name"] == network.name:
                        ports = ", ".join(map(port, container.ports))
                        lines.append(f"  {container.name}  {end['ip']}  {ports}".rstrip())
        return "\n".join(map(clean, lines)) or "no networks"

    def __repr__(self) -> str:
        return f"<Graph of {words.count(len(self._networks), 'network')}>"


def _line(network: _Net, y: int, width: int) -> str:
    dashes = ' stroke-dasharray="5 4"' if network.internal else ""
    return (
        f'<text class="lx-strong lx-p{network.colour}" y="{y - 2}">{_short(network.name, 18)}</text>'
        f'<text y="{y + 12}">{text(network.subnet)}</text>'
        f'<path class="lx-l{network.colour}" d="M{_LEFT - 16},{y}H{width - 10}"{dashes}><title>'
        f"{text(network.name)}{', internal' if network.internal else ''}</title></path>"
    )


def _stem(container: Listed, x: int, y: int, level: dict[str, int], networks: Sequence[_Net]) -> str:
    """A container, what leads to it from the host, and where it is."""
    colours = {network.name: network.colour for network in networks}
    ends = [end for end in container.endpoints if end["name"] in level]
    middle = x + 22
    lowest = max((level[end["name"]] for end in ends), default=y)
    ports = [
        f'<text class="lx-fg" x="{middle - 4}" y="{y - 10 - (len(container.ports) - 1 - number) * _PORT}">'
        f"{_short(port(row), _LABEL)}</text>"
        for number, row in enumerate(container.ports)
    ]
    arrow = (
        f'<path class="lx-arrow" d="M{middle - 10},{y - 6 - len(ports) * _PORT}V{y}m-3,-5l3,5l3,-5"/>'
        if ports
        else ""
    )
    parts = [
        f'<path class="lx-rule" d="M{middle},{y + _BOX_HEIGHT}V{lowest}"/>',
        arrow,
        *ports,
        f'<rect class="lx-box" x="{x}" y="{y}" width="{_BOX}" height="{_BOX_HEIGHT}" rx="6"/>',
        f'<circle style="fill:var(--lx-{tone(container)})" cx="{x + 14}" cy="{y + 17}" r="4"/>',
        f'<text class="lx-strong" x="{x + 25}" y="{y + 21}">{_short(container.name, 17)}</text>',
        f'<text x="{x + 25}" y="{y + 36}">{_short(container.image, _LABEL)}</text>',
        *(_dot(end, middle, level[end["name"]], colours[end["name"]]) for end in ends),
    ]
    return "".join(parts)


def _dot(end: Any, x: int, y: int, colour: int) -> str:
    return (
        f'<circle class="lx-p{colour}" cx="{x}" cy="{y}" r="4.5"/>'
        f'<text class="lx-fg" x="{x + 10}" y="{y - 6}">{text(end["ip"])}</text>'
    )


def _short(value: str, columns: int) -> Html:
    word = clean(value)
    return text(word if cells(word) <= columns else fitted(word, columns + 2).replace("...", "\u2026"))
