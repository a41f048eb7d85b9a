"""``python -m lxcwrap check`` and ``resume``: the command line."""

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
    check.set_defaults(run=_check)
    resume = commands.add_parser("resume", help="start what should run and does not, as after a boot")
    resume.add_argument("--root", help="root directory (default: LXCWRAP_ROOT or /var/lib/lxcwrap)")
    resume.set_defaults(run=_resume)
    options = parser.parse_args(arguments)
    return int(options.run(options.root))


def _check(root: str | None) -> int:
    """0 when containers can run on this machine, else 1."""
    from .check import check

    report = check(root)
    print(report)
    return 0 if report.ok else 1


def _resume(root: str | None) -> int:
    """0 when all that should run does."""
    from .host import Host

    with Host(root) as host:
        host.resume()
    return 0


if __name__ == "__main__":
    sys.exit(main())
