"""Instructions with their variables in place, and what ARG makes of names.

What is only known once variables are in place (ports, signals, mounts) is checked here; `parse` has done so
already where there are none. Source: Dockerfile reference, "Environment replacement", "ARG".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, TypeVar

from attrs import evolve

from ..errors import DockerfileError, InvalidSpecError
from ..platforms import Platform
from ..specs import parse_signal
from . import mounts, words
from .instructions import (
    Add,
    Arg,
    Copy,
    Env,
    Expose,
    From,
    Heredoc,
    Instruction,
    Label,
    Run,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from .mounts import MountFlag, RunMount
from .source import MAX_LINE
from .words import WordError

_PORTS: Final = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp)?)?", re.ASCII | re.IGNORECASE)
_MAX_PORTS: Final = 65536

Some = TypeVar("Some", bound=Instruction)


def substitute(instruction: Some, variables: Mapping[str, str], *, escape: str = "\\") -> Some:
    """The instruction as it is to be carried out, of the same type. Raises DockerfileError.

    variables: what ENV and ARG have set up to here; for FROM the global ARGs. escape: the Dockerfile's.
    ARG is left as it is (see `declare`), ONBUILD too: its trigger is for another build.
    """
    result = _substituted(instruction, _Expander(instruction, variables, escape))
    assert isinstance(result, type(instruction))
    return result


def declare(
    arg: Arg,
    variables: Mapping[str, str],
    *,
    build_args: Mapping[str, str],
    global_args: Mapping[str, str] | None = None,
    escape: str = "\\",
) -> dict[str, str]:
    """What the names of an ARG become: from `build_args`, or the default, or `global_args`, in this order.

    Names that none of them knows stay unset. A default sees `variables` and the names before it.

    Raises DockerfileError: a default is malformed, or wants something set.
    """
    values: dict[str, str] = {}
    for name, default in arg.pairs:
        if name in build_args:
            values[name] = build_args[name]
        elif default is not None:
            values[name] = _Expander(arg, {**variables, **values}, escape).text(default)
        elif global_args and name in global_args:
            values[name] = global_args[name]
    return values


class _Expander:
    """Expands words of one instruction; what fails is reported with its place in the file."""

    def __init__(self, instruction: Instruction, variables: Mapping[str, str], escape: str) -> None:
        self._instruction, self._variables, self._escape = instruction, variables, escape

    def text(self, word: str) -> str:
        with self._placed(word):
            return words.expand(word, self._variables, escape=self._escape)

    def texts(self, several: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.text(word) for word in several)

    def pairs(self, pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        return tuple((self.text(name), self.text(value)) for name, value in pairs)

    def split(self, several: Iterable[str]) -> list[str]:
        result: list[str] = []
        for word in several:
            with self._placed(word):
                result += words.split_words(word, self._variables, escape=self._escape)
        return result

    def document(self, heredoc: Heredoc) -> Heredoc:
        if not heredoc.expand:
            return heredoc
        with self._placed(heredoc.raw):
            # Here the escape is always a backslash.
            content = words.expand(heredoc.content, self._variables, quotes=False)
        return evolve(heredoc, raw=content, expand=False, chomp=False)

    def mount(self, flag: MountFlag) -> RunMount:
        with self._placed(flag.text):
            return mounts.resolve(flag, self.text)

    @contextmanager
    def _placed(self, word: str) -> Iterator[None]:
        try:
            yield
        except WordError as error:
            raise self._error(word, error.column, error.reason) from None
        except ValueError as error:
            raise error if isinstance(error, DockerfileError) else self._error(word, 1, str(error)) from None

    def _error(self, word: str, column: int, reason: str) -> DockerfileError:
        at, original = self._instruction.at, self._instruction.original
        # The first that is written so was the first to be expanded; flags may be written otherwise.
        offset = original.find(word)
        if offset < 0:
            return at.error(reason)
        before = original[: offset + column - 1]
        lines, last = before.count("\n"), before.rpartition("\n")[2]
        column = len(last) + (1 if lines else at.column)
        return DockerfileError(at.file, at.line + lines, column, reason)


def _substituted(instruction: Instruction, expander: _Expander) -> Instruction:
    match instruction:
        case From():
            return _settled_from(instruction, expander)
        case Run(mount_flags=flags):
            return evolve(instruction, mounts=tuple(expander.mount(flag) for flag in flags))
        case Copy() | Add():
            return _transfer(instruction, expander)
        case Env(pairs=pairs) | Label(pairs=pairs):
            return evolve(instruction, pairs=_named(instruction, expander.pairs(pairs)))
        case Workdir(path=path):
            return evolve(instruction, path=expander.text(path))
        case User(user=user):
            return evolve(instruction, user=expander.text(user))
        case Volume(paths=paths):
            return evolve(instruction, paths=expander.texts(paths))
        case Expose(ports=ports):
            return evolve(instruction, ports=_ports(instruction, expander.split(ports)))
        case StopSignal(signal=signal):
            return evolve(instruction, signal=_signal(instruction, expander.text(signal)))
        case _:
            return instruction


def _settled_from(base: From, expander: _Expander) -> From:
    image, platform = expander.text(base.image), expander.text(base.platform)
    if not image:
        raise base.at.error(f"{base.image!r} is empty: give the ARG a value, or the variable a default")
    try:
        if platform:
            Platform.parse(platform)
    except InvalidSpecError as error:
        raise base.at.error(str(error)) from None
    return evolve(base, image=image, platform=platform)


def _transfer(instruction: Copy | Add, expander: _Expander) -> Copy | Add:
    moved = evolve(
        instruction,
        sources=expander.texts(instruction.sources),
        heredocs=tuple(expander.document(document) for document in instruction.heredocs),
        destination=expander.text(instruction.destination),
        chown=expander.text(instruction.chown),
        chmod=expander.text(instruction.chmod),
    )
    return evolve(moved, checksum=expander.text(moved.checksum)) if isinstance(moved, Add) else moved


def _named(instruction: Instruction, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    for name, value in pairs:
        if not name:
            raise instruction.at.error(f"the name of {value!r} is empty")
        if len(value) > MAX_LINE:
            raise instruction.at.error(f"{name} becomes longer than {MAX_LINE} characters")
    return pairs


def _signal(instruction: StopSignal, signal: str) -> str:
    try:
        parse_signal(signal)
    except InvalidSpecError as error:
        raise instruction.at.error(str(error)) from None
    return signal


def _ports(instruction: Expose, several: Iterable[str]) -> tuple[str, ...]:
    ports: dict[str, None] = {}
    count = 0
    for port in several:
        # Docker lets an address and a port of the host stand before it, and makes nothing of them.
        match = _PORTS.fullmatch(port.rpartition(":")[2])
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not match or not first <= last <= 65535:
            raise instruction.at.error(f"port {port[:80]!r}: write 80, 80/udp or 8000-8010/tcp")
        count += last - first + 1
        if count > _MAX_PORTS:
            raise instruction.at.error(f"more than {_MAX_PORTS} ports")
        protocol = (match[3] or "tcp").lower()
        ports.update((f"{number}/{protocol}", None) for number in range(first, last + 1))
    return tuple(ports)
