"""From the words of the command line to the exit code."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from io import TextIOWrapper

from .. import __version__
from .parsing import Commands, Parser, common

_INTERRUPTED, _BROKEN_PIPE = 130, 141  # 128 + SIGINT, SIGPIPE: what a shell says of who is ended by them


def parser() -> Parser:
    """Of all commands."""
    from . import containers, host, images, networks, running, watching

    shared = common()
    about = "Linux containers for Python."
    top = Parser(prog="lxcwrap", description=about, parents=[shared], allow_abbrev=False)
    top.add_argument("--version", action="version", version=f"lxcwrap {__version__}")
    commands = Commands(top.add_subparsers(required=True, metavar="command"), shared)
    for module in (running, containers, watching, images, networks, host):
        module.add(commands)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of the command line; its exit status."""
    _have_streams()
    parsers = parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parsers)
    given, unknown = parsers.parse_known_args(arguments, Namespace(root=None, debug=False))
    if unknown:
        given.parser.error(f"unknown option {unknown[0]}")
    if given.debug:
        import logging

        logging.basicConfig(level=logging.DEBUG)
    try:
        code = _answer(given)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _let_go_of_stdout()
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED


def _have_streams() -> None:
    """Who starts us may have closed ours: what is opened next would take their numbers, and be written to."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(fd)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # letters that it does not have


def _answer(given: Namespace) -> int:
    """Failures become one line that says what to do next."""
    from ..errors import LxcwrapError
    from .targets import say

    try:
        return int(given.run(given))
    except BrokenPipeError:
        raise
    except Exception as error:
        if given.debug:
            raise
        if isinstance(error, ExceptionGroup):
            say("\n".join(map(str, error.exceptions)))
        elif isinstance(error, LxcwrapError | OSError | ValueError):
            say(str(error))
        else:
            say(f"{type(error).__name__}: {error}: a fault of lxcwrap; --debug shows where")
        return int(given.failure)


def _let_go_of_stdout() -> None:
    """Python would try to write the rest at its exit, and complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def _complete(parsers: Parser) -> None:
    """For the shell, which asks us by a variable; with the extra ``cli``."""
    try:
        from argcomplete import autocomplete
    except ImportError:
        sys.exit(1)
    autocomplete(parsers)
