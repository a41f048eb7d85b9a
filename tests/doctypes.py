"""Code on the pages of the documentation, checked by mypy: what no test runs, too, calls what there is.

python -m tests.doctypes
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from textwrap import indent

import lxcwrap
from tests.docpages import DOCS, blocks

# What pages take for granted. All else that a block does not define may be anything.
GIVEN = f"""
from typing import Any
import asyncio, os, lxcwrap
from lxcwrap import {", ".join(lxcwrap.__all__)}
from lxcwrap import aio, display, events, fixtures, ready
app: Container; box: Container; container: Container; db: Container; web: Container
front: Network; back: Network; data: Volume; site: Volume; host: Host; image: Image
"""
LAX = ("name-defined", "assignment", "no-redef", "union-attr", "import-untyped", "import-not-found")


def source(page: Path) -> str:
    """A module with a function for each block, that may await."""
    functions = (
        f"async def line_{block.line}() -> Any:\n{indent(block.code, '    ')}\n"
        for block in blocks(page)
        if block.language == "python"
    )
    return GIVEN + "".join(functions)


def main() -> int:
    with tempfile.TemporaryDirectory() as directory:
        for page in DOCS.glob("*.md"):
            Path(directory, f"{page.stem}.py").write_text(source(page))
        options = ["--config-file=", "--check-untyped-defs", "--follow-imports=silent"]
        command = ["mypy", *options, *(f"--disable-error-code={code}" for code in LAX), directory]
        return subprocess.run([sys.executable, "-m", *command], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
