"""The shape of a Dockerfile: lines, comments, directives, documents, stages, triggers."""

from __future__ import annotations

import pytest

from lxcwrap.build.instructions import (
    Copy,
    Dockerfile,
    Env,
    ExecForm,
    Heredoc,
    Instruction,
    Onbuild,
    Place,
    Run,
    ShellForm,
    User,
    Workdir,
)
from lxcwrap.build.parser import parse, parse_trigger
from lxcwrap.errors import DockerfileError


def instructions(text: str | bytes) -> tuple[Instruction, ...]:
    """Those of the last stage."""
    return parse(text).stages[-1].instructions


def one(text: str) -> Instruction:
    """The only instruction behind a FROM that is put before it."""
    (instruction,) = instructions("FROM base\n" + text)
    return instruction


def shell_form(instruction: Instruction) -> ShellForm:
    assert isinstance(instruction, Run)
    assert isinstance(instruction.command, ShellForm)
    return instruction.command


def line_of(text: str) -> str:
    """What the shell of a RUN is given."""
    return shell_form(one(text)).script


# --- lines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("RUN a b", "a b"),
        ("run a", "a"),
        ("rUn\ta  b ", "a  b"),
        ("   RUN a", "a"),
        ("RUN a \\\n  b", "a   b"),
        ("RUN a\\\nb", "ab"),
        ("RUN a \\  \t\n b", "a  b"),
        ("RUN a \\\n# no\n   # no, too\n b", "a  b"),
        ("RUN a \\\n\n   \n\n b", "a  b"),
        ("RUN a # b", "a # b"),
        ("RUN a \\\n b # c", "a  b # c"),
        ("RUN a \\", "a"),
        ("RUN a \\\n", "a"),
        ("RUN a \\\n# last\n", "a"),
        ("RUN \\\na", "a"),
        ("\\\nRUN a", "a"),
        ("RU\\\nN a", "a"),
        ("\\\n  RUN a", "a"),
        ("RUN a\n\\\n", "a"),
        ("RUN a\n \\\n  ", "a"),
        ("RUN a \\\\", "a \\\\"),
        ("RUN a \\\\\\", "a \\\\\\"),
        ("RUN a \\ b", "a \\ b"),
        ("RUN a\r\n", "a"),
        ("RUN a \\\r\n b\r\n", "a  b"),
        ("RUN a \\\r\n\r\n b", "a  b"),
        ("RUN a\u00a0b", "a\u00a0b"),
        ("RUN -- --flag", "--flag"),
        ("RUN --network=none -- --flag", "--flag"),
        ("RUN echo $a \"$b\" '$c' \\$d", "echo $a \"$b\" '$c' \\$d"),
    ],
)
def test_lines_are_joined(text: str, line: str) -> None:
    """A line goes on behind an escape character; comments and empty lines do not end it."""
    assert line_of(text) == line


def test_another_escape_character() -> None:
    """With the directive, a backquote continues a line and a backslash does not."""
    file = parse("# escape=`\nFROM a\nWORKDIR c:\\\nRUN a `\n b \\\nUSER b")
    workdir, run, user = file.stages[0].instructions
    assert file.escape == "`"
    assert isinstance(workdir, Workdir) and workdir.path == "c:\\"
    assert isinstance(run, Run) and run.command == ShellForm("a  b \\")
    assert isinstance(user, User)


@pytest.mark.parametrize(
    ("head", "escape", "syntax"),
    [
        ("", "\\", ""),
        ("# syntax=docker/dockerfile:1\n", "\\", "docker/dockerfile:1"),
        ("#syntax=a b\n# EsCaPe = `\n", "`", "a b"),
        ("# \t escape\t=\t`  \n", "`", ""),
        ("# check=skip=all;error=true\n# escape=`\n", "`", ""),
        ("# about\n# escape=`\n", "\\", ""),
        ("\n# escape=`\n", "\\", ""),
        ("# other=1\n# escape=`\n", "\\", ""),
        ("#!/usr/bin/env build\n# escape=`\n", "\\", ""),
        ("\ufeff# escape=`\n", "`", ""),
        ("# escape=`\r\n", "`", ""),
        ("FROM b\n# escape=`\n", "\\", ""),
    ],
)
def test_directives_stand_at_the_top(head: str, escape: str, syntax: str) -> None:
    """Whatever is no directive ends them; what looks like one after that is a comment."""
    file = parse(head + "FROM a\n")
    assert (file.escape, file.syntax) == (escape, syntax)


def test_comments_may_be_in_any_encoding() -> None:
    """Only instructions must be UTF-8."""
    assert instructions(b"# caf\xe9\nFROM a\nUSER caf\xc3\xa9\n") == instructions("#\nFROM a\nUSER café\n")


def test_a_place_and_a_text_belong_to_each_instruction() -> None:
    """First line, column and last line; joined and as written."""
    _, run, env = (
        parse("FROM a\nUSER b\n\n  RUN x \\\n# c\n   y <<E\ndoc\nE\nENV a=1\n").stages[0].instructions
    )
    assert run.at == Place("Dockerfile", 4, 3, 8)
    assert run.original == "RUN x \\\n# c\n   y <<E\ndoc\nE"
    assert run.text == "RUN x    y <<E"
    assert env.at == Place("Dockerfile", 9, 1, 9)


# --- exec and shell form --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "argv"),
    [
        ('["a"]', ("a",)),
        ('[ "a" , "b c" ]', ("a", "b c")),
        ('["\\u00e9\\n", "$a"]', ("é\n", "$a")),
        ('["<<E"]', ("<<E",)),
        ("['a']", None),
        ('["a"', None),
        ('["a",]', None),
        ('["a"] && b', None),
        ('"["a"]"', None),
        ("[a]", None),
        ("[NaN]", None),
        ("[" * 90000, None),
        ("[ -f a ] && b", None),
        ('{"a": "b"}', None),
    ],
)
def test_an_array_of_texts_is_the_exec_form(written: str, argv: tuple[str, ...] | None) -> None:
    """What is no JSON at all is the shell's."""
    run = one(f"RUN {written}")
    assert isinstance(run, Run)
    assert run.command == (ShellForm(written) if argv is None else ExecForm(argv))


# --- documents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "document"),
    [
        ("<<E", Heredoc(name="E", raw="x\n\ty\n")),
        ("<<-E", Heredoc(name="E", raw="x\n\ty\n", chomp=True)),
        ("<<'E'", Heredoc(name="E", raw="x\n\ty\n", expand=False)),
        ('<<"E"', Heredoc(name="E", raw="x\n\ty\n", expand=False)),
        ("<<''E", Heredoc(name="E", raw="x\n\ty\n", expand=False)),
        ("<<\\E", Heredoc(name="E", raw="x\n\ty\n")),
        ("3<<E", Heredoc(name="E", raw="x\n\ty\n")),
        ("<<  E", Heredoc(name="E", raw="x\n\ty\n")),
        ("cat <<E | wc", Heredoc(name="E", raw="x\n\ty\n")),
        ("cat <<-E > $f", Heredoc(name="E", raw="x\n\ty\n", chomp=True)),
        ("<<E \\\n sh", Heredoc(name="E", raw="x\n\ty\n")),
    ],
)
def test_a_document_follows_its_line(head: str, document: Heredoc) -> None:
    """Its name may be quoted, and then nothing is expanded; ``<<-`` takes leading tabs away."""
    (heredoc,) = shell_form(one(f"RUN {head}\nx\n\ty\nE\n")).heredocs
    assert heredoc == document
    assert heredoc.content == ("x\ny\n" if document.chomp else "x\n\ty\n")


@pytest.mark.parametrize(
    ("name", "end"),
    [("$E", "$E"), ("'a b'", "a b"), ("a\\'b", "a'b"), ("a.txt", "a.txt"), ("Ende·é", "Ende·é")],
)
def test_names_of_documents(name: str, end: str) -> None:
    """The line that ends a document is its name without quotes, and nothing else."""
    (heredoc,) = shell_form(one(f"RUN <<{name}\n {end}\n{end} \n{end}\n")).heredocs
    assert (heredoc.name, heredoc.raw) == (end, f" {end}\n{end} \n")


@pytest.mark.parametrize(
    "line",
    [
        'echo "<<E"',
        "cat <<<E",
        "echo $((1<<2))",
        "echo it's <<E",
        "echo '<<E'",
        "cat <E",
        "a<<E",
        "cat <<",
        "<<E<<F",
    ],
)
def test_what_announces_no_document(line: str) -> None:
    """Quoted, a here-string, arithmetic, within a word; or a quote that only the shell can judge."""
    assert line_of(f"RUN {line}") == line


def test_documents_in_a_row() -> None:
    """They follow each other; one may hold the other's name, comments and continuations."""
    run, user = instructions("FROM a\nRUN x <<A <<-B\nB\n# c\ny \\\nA\n\tA\n\tB\nUSER b\n")
    command = shell_form(run)
    assert [document.content for document in command.heredocs] == ["B\n# c\ny \\\n", "A\n"]
    assert command.script == "x <<A <<-B\nB\n# c\ny \\\nA\n\tA\nB"
    assert isinstance(user, User)


def test_a_document_alone_is_the_script() -> None:
    """What stands alone is given to the shell itself; with ``#!`` it is a program."""
    text = "FROM a\nRUN <<-A\n\tx\nA\nRUN <<B\n#!/bin/x\nB\nRUN <<C cat\n#!\nC\n"
    script, program, other = map(shell_form, instructions(text))
    assert (script.script, script.program, other.program) == ("x\n", None, None)
    assert program.program and program.program.content == "#!/bin/x\n"


def test_documents_as_files() -> None:
    """COPY and ADD make files of them; only RUN, COPY and ADD have any."""
    copy = one("COPY a <<b.txt <<'c' /d/\n1\nb.txt\n2\nc\n")
    assert isinstance(copy, Copy)
    assert (copy.sources, copy.destination) == (("a",), "/d/")
    assert [(file.name, file.content, file.expand) for file in copy.heredocs] == [
        ("b.txt", "1\n", True),
        ("c", "2\n", False),
    ]
    user = one("USER <<E")
    assert isinstance(user, User) and user.user == "<<E"


def test_documents_keep_their_line_ends() -> None:
    """What a document holds is the author's; the line that ends it may have another line end."""
    assert line_of("RUN <<E\r\na\r\nE\r\n") == "a\r\n"


# --- stages and triggers --------------------------------------------------------------------------------


def test_stages() -> None:
    """ARGs before the first FROM are global; each FROM begins a stage."""
    file = parse(
        "ARG a=1\nARG b\nFROM x:$a AS One\nUSER u\nARG c\nFROM --platform=$P one as two-2\nFROM scratch\n"
    )
    assert [arg.pairs for arg in file.global_args] == [(("a", "1"),), (("b", None),)]
    assert [(stage.index, stage.alias, stage.base.image) for stage in file.stages] == [
        (0, "one", "x:$a"),
        (1, "two-2", "one"),
        (2, "", "scratch"),
    ]
    assert [len(stage.instructions) for stage in file.stages] == [2, 0, 0]
    assert file.stages[1].base.platform == "$P"


def test_stages_are_found() -> None:
    """By name in any case, the last before the one that asks; by number where numbers count."""
    file = parse("FROM a AS x\nFROM b AS X\nFROM x AS x\n")

    def index(name: str, **where: int | bool | None) -> int | None:
        stage = Dockerfile.find(file, name, **where)  # type: ignore[arg-type]
        return None if stage is None else stage.index

    assert (index("X"), index("x", before=2), index("x", before=0)) == (2, 1, None)
    assert (index("0"), index("2"), index("3"), index("1", before=1)) == (0, 2, None, None)
    assert (index("0", by_number=False), index(""), index("²"), index("9" * 5000)) == (None, None, None, None)


def test_triggers_are_read_and_kept() -> None:
    """ONBUILD holds its instruction, and the text that the next build reads again."""
    onbuild = one("ONBUILD  run --network=none x \\\n y <<E\ndoc\nE\n")
    assert isinstance(onbuild, Onbuild)
    assert onbuild.expression == "run --network=none x  y <<E\ndoc\nE"
    assert isinstance(onbuild.trigger, Run)
    assert onbuild.trigger.at == Place("Dockerfile", 2, 10, 5)
    at = Place("Other", 7, 1, 7)
    again = parse_trigger(onbuild.expression, at)
    assert isinstance(again, Run)
    assert (again.command, again.network, again.at) == (onbuild.trigger.command, "none", at)


@pytest.mark.parametrize(
    "expression", ["", "# x", "FROM a", "ONBUILD RUN a", "MAINTAINER a", "RUN a\nRUN b", "X", "RUN"]
)
def test_bad_triggers_of_a_base_image(expression: str) -> None:
    """An image can hold anything; what is wrong is reported at the FROM that wanted it."""
    with pytest.raises(DockerfileError) as failure:
        parse_trigger(expression, Place("D", 3, 2, 3))
    assert (failure.value.file, failure.value.line, failure.value.column) == ("D", 3, 2)


def test_old_form_of_env() -> None:
    """``ENV name value``: all the rest is the value."""
    env = one("ENV name some  value=1 \\\n more")
    assert isinstance(env, Env)
    assert env.pairs == (("name", "some  value=1  more"),)
