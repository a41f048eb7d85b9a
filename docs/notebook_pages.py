"""Sphinx extension: notebooks are pages, with the outputs that are stored in them. Nothing is run for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx


class NotebookParser(MystParser):
    """Reads a notebook as the Markdown that it amounts to."""

    supported = ("ipynb",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        super().parse("\n\n".join(_markdown(json.loads(inputstring))), document)


def _markdown(notebook: Mapping[str, Any]) -> Iterator[str]:
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
            continue
        yield _directive("code-block", "sh" if source.startswith("%%") else "python", source)
        for stream, outputs in groupby(cell["outputs"], lambda output: output.get("name")):
            if stream:  # written at once or piece by piece
                yield _output({"text/plain": [text for output in outputs for text in output["text"]]})
            else:
                yield from (_output(output["data"]) for output in outputs)


def _output(data: Mapping[str, Any]) -> str:
    if "text/html" in data:
        return _directive("raw", "html", f'<div class="shown">{"".join(data["text/html"])}</div>')
    return _directive("code-block", "text", "".join(data["text/plain"]).rstrip(), ":class: printed\n\n")


def _directive(name: str, argument: str, content: str, options: str = "") -> str:
    """In more backticks than there are in it."""
    fence = max(["```", *(f"`{run}" for run in re.findall("`{3,}", content))], key=len)
    return f"{fence}{{{name}}} {argument}\n{options}{content}\n{fence}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_source_suffix(".ipynb", "ipynb")
    app.add_source_parser(NotebookParser)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
