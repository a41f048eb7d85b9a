"""``python -m lxcwrap check``: the command line."""

from __future__ import annotations

import argparse
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a command of the command line; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m lxcwrap", description="Linux containers for Python.")
    commands = parser.add_subparsers(required=True, metavar="command")
    check = commands.add_parser(
        "check", help="say what this machine has and lacks, with the commands that mend it"
    )
    check.add_argument("--root", help="root directory to look at (default: LXCWRAP_ROOT or /var/lib/lxcwrap)")
    return _check(parser.parse_args(arguments).root)


def _check(root: str | None) -> int:
    """0 when containers can run on this machine, else 1."""
    from .check import check

    report = check(root)
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
