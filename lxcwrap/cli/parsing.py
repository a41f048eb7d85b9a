"""The parsers of all commands: what they have in common, and what completes their words."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

Run = Callable[[Namespace], int]


class Parser(ArgumentParser):
    """Ends with `failure` when it cannot understand: scripts tell that from what a command ends with."""

    failure = 2

    def error(self, message: str) -> Any:
        self.exit(self.failure, f"{self.prog}: {message}: see {self.prog} --help\n")


class Commands:
    """Where a module adds its commands."""

    def __init__(self, actions: Any, common: ArgumentParser) -> None:
        self._actions = actions
        self._common = common

    def add(
        self, name: str, run: Run, text: str, *, failure: int = 1, json: bool = False, help_by_h: bool = True
    ) -> Parser:
        """A command, `run` when it is given. failure: exit code when we fail at it. json: it takes --json."""
        parser: Parser = self._actions.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            parents=[self._common],
            allow_abbrev=False,
            add_help=help_by_h,
        )
        parser.failure = 2 if failure == 1 else failure
        parser.set_defaults(run=run, failure=failure, parser=parser)
        if not help_by_h:
            parser.add_argument("--help", action="help", help="show this")
        if json:
            parser.add_argument("--json", action="store_true", help="for scripts")
        return parser

    def group(self, name: str, text: str) -> Commands:
        """Commands of a command: ``network create``."""
        parser = self._actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        return Commands(parser.add_subparsers(required=True, metavar="command"), self._common)


def common() -> ArgumentParser:
    """What can be given before a command and after it."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument(
        "--root",
        default=argparse.SUPPRESS,
        metavar="DIR",
        help="root directory (default: LXCWRAP_ROOT or /var/lib/lxcwrap)",
    )
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks and what is logged"
    )
    return parser


def completed_by(action: argparse.Action, collection: str) -> None:
    """Let the shell complete it by the names in a collection of the host."""

    def names(parsed_args: Namespace, **_: object) -> list[str]:
        from .. import Host

        with Host(getattr(parsed_args, "root", None)) as host:
            if collection == "images":
                return [tag for image in host.images for tag in image.tags]
            return [each.name for each in getattr(host, collection)]

    action.completer = names  # type: ignore[attr-defined]  # argcomplete's
