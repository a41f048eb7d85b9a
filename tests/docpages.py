"""Pages of the documentation, followed to the letter: their code blocks are run, in order.

A block with a caption is a file of that name; `pycon` is typed into Python, with the answers that it shows;
`python` and `sh` are run. What cannot be comes after a line that says why: ``% Not run: needs a registry.``

python -m tests.docpages docs/tutorial.md
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from attrs import frozen

DOCS = Path(__file__).parents[1] / "docs"
_BLOCK = re.compile(
    r"^(?P<reason>% Not run: [^\n]+\n)?```\{code-block\} (?P<language>\w+)\n(?::caption: (?P<caption>\S+)\n)?"
    r"(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@frozen
class Block:
    """page, line: where it begins. language: of Pygments. file: what it is to be written to, or ""."""

    page: Path
    line: int
    language: str
    file: str
    code: str
    is_run: bool


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    assert len(_BLOCK.findall(text)) == text.count("```{code-block}"), f"a block of {page.name} is not seen"
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(
            page, line, match["language"], match["caption"] or "", match["code"], match["reason"] is None
        )


def follow(page: Path) -> None:
    """Do what it says, in the current directory. Raises what goes wrong, with the page and its line."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.is_run:
            continue
        if block.file:
            path = Path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code)
        elif block.language in _RUN:
            _RUN[block.language](block, names)


def _python(block: Block, names: dict[str, Any]) -> None:
    exec(compile("\n" * block.line + block.code, str(block.page), "exec"), names)


def _typed(block: Block, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.code, {}, block.page.name, str(block.page), block.line)
    test.globs = names
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS)
    try:
        runner.run(test, clear_globs=False)
    except doctest.DocTestFailure as failure:
        example = failure.example
        raise AssertionError(
            f"{block.page.name}:{block.line + example.lineno + 1}: {example.source}gives {failure.got}"
        ) from None
    except doctest.UnexpectedException as failure:
        raise failure.exc_info[1] from None


def _shell(block: Block, names: dict[str, Any]) -> None:
    """As root, with the programs of this environment."""
    # Where lxcwrap is not installed, as for its own tests in a checkout, nothing tells pytest of it.
    is_known = any(found.value == "lxcwrap.pytest_plugin" for found in entry_points(group="pytest11"))
    pytest = f"{sys.executable} -m pytest{'' if is_known else ' -p lxcwrap.pytest_plugin'}"
    line = block.code.replace("sudo .venv/bin/pytest", pytest)
    done = subprocess.run(["sh", "-ec", line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{block.page.name}:{block.line}: {done.stdout}"


_RUN = {"python": _python, "pycon": _typed, "sh": _shell}


if __name__ == "__main__":
    follow(Path(sys.argv[1]))
