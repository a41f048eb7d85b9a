"""Text to `Dockerfile`: pure, bounded in time and memory, and exact about where something is wrong.

>>> file = parse("FROM busybox AS base\\nRUN echo hello > /greeting\\n")
>>> [instruction.name for instruction in file.stages[0].instructions]
['RUN']
"""

from __future__ import annotations

from typing import Final

from attrs import define, evolve, field

from ..errors import DockerfileError
from .heredocs import Announced, all_announced
from .instructions import Arg, Dockerfile, From, Heredoc, Instruction, Onbuild, Place, Stage
from .readers import READERS
from .source import Line, Source
from .statement import Statement
from .substitution import substitute

MAX_INSTRUCTIONS: Final = 5000

_WITH_HEREDOCS: Final = ("ADD", "COPY", "RUN")
_NO_TRIGGERS: Final = ("FROM", "MAINTAINER", "ONBUILD")


def parse(content: bytes | str, file: str = "Dockerfile") -> Dockerfile:
    """The whole file. `file` is its name in errors. Raises DockerfileError."""
    source = Source.open(content, file)
    stages = _Stages(source)
    while line := source.next():
        stages.add(_read(source, line))
    return stages.finish()


def parse_trigger(expression: str, at: Place) -> Instruction:
    """The ONBUILD that a base image's config keeps as `expression`; `at`: where its FROM stands.

    Raises DockerfileError: it is not one instruction, or none that may be a trigger.
    """
    try:
        source = Source.open(expression, at.file)
        line = source.next()
        trigger = _read(source, line) if line else None
        if not trigger or trigger.name in _NO_TRIGGERS or source.next():
            raise at.error("it must be one instruction, and neither FROM, MAINTAINER nor ONBUILD")
    except DockerfileError as error:
        reason = f"ONBUILD of the base image, {expression[:80]!r}: {error.reason}"
        raise at.error(reason) from None
    return evolve(trigger, at=at)


def _read(source: Source, line: Line) -> Instruction:
    statement = Statement.split(source.file, line, source.escape)
    inner = _trigger(statement) if statement.keyword == "ONBUILD" else statement
    if inner.keyword in _WITH_HEREDOCS and inner.array() is None:
        inner.heredocs = tuple(_document(source, inner, found) for found in all_announced(line.text))
    first, column = line.position(0)
    statement.place = Place(source.file, first, column, source.line_number)
    statement.original = source.original(first).lstrip()
    return _made(statement) if inner is statement else _onbuild(statement, inner)


def _made(statement: Statement) -> Instruction:
    instruction = READERS[statement.keyword](statement)
    if "$" not in statement.line.text:
        substitute(instruction, {}, escape=statement.escape)  # what is final is checked at once
    return instruction


def _trigger(statement: Statement) -> Statement:
    statement.options()
    offset = statement.require("an instruction").offset
    inner = Statement.split(statement.file, statement.line, statement.escape, offset)
    if inner.keyword in _NO_TRIGGERS:
        raise inner.error(f"{inner.keyword} cannot be a trigger: ONBUILD takes any other instruction")
    return inner


def _onbuild(statement: Statement, inner: Statement) -> Onbuild:
    documents = "".join(f"\n{document.raw}{document.name}" for document in inner.heredocs)
    expression = statement.rest.text + documents
    line, column = statement.line.position(inner.keyword_offset)
    common = statement.common()
    inner.place = evolve(common["at"], line=line, column=column)
    inner.original = expression
    return Onbuild(expression=expression, trigger=_made(inner), **common)


def _document(source: Source, statement: Statement, found: Announced) -> Heredoc:
    raw = source.document(found.name, chomp=found.chomp)
    if raw is None:
        raise statement.error(f"the document does not end: no line is {found.name!r} alone", found.offset)
    return Heredoc(name=found.name, raw=raw, expand=found.expand, chomp=found.chomp)


@define
class _Stages:
    """Gathers instructions into stages."""

    source: Source
    global_args: list[Arg] = field(factory=list)
    stages: list[tuple[From, list[Instruction]]] = field(factory=list)
    count: int = 0

    def add(self, instruction: Instruction) -> None:
        self.count += 1
        if self.count > MAX_INSTRUCTIONS:
            raise instruction.at.error(f"more than {MAX_INSTRUCTIONS} instructions")
        match instruction:
            case From():
                self.stages.append((instruction, []))
            case Arg() if not self.stages:
                self.global_args.append(instruction)
            case _ if not self.stages:
                raise instruction.at.error(f"{instruction.name} before any FROM: begin with FROM image")
            case _:
                self.stages[-1][1].append(instruction)

    def finish(self) -> Dockerfile:
        if not self.stages:
            raise self.source.error(max(self.source.line_number, 1), 1, "no FROM: begin with FROM image")
        return Dockerfile(
            file=self.source.file,
            escape=self.source.escape,
            syntax=self.source.directives.get("syntax", ""),
            global_args=tuple(self.global_args),
            stages=tuple(
                Stage(index=index, base=base, instructions=tuple(instructions))
                for index, (base, instructions) in enumerate(self.stages)
            ),
        )
