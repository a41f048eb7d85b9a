"""Whatever stands in a Dockerfile: it is read as it was meant, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from attrs import asdict
from hypothesis import given
from hypothesis import strategies as st

from lxcwrap.build.instructions import Dockerfile, Heredoc, Instruction, Place
from lxcwrap.build.parser import parse, parse_trigger
from lxcwrap.build.statement import KEYWORDS
from lxcwrap.build.substitution import substitute
from lxcwrap.errors import DockerfileError

_fragments = st.one_of(
    st.sampled_from([f"{keyword} " for keyword in KEYWORDS]),
    st.sampled_from(["\n", "\\\n", "\r\n", "#", " ", "<<E", "\nE\n", "<<-", "\ufeff", "[", '"a"', "]", ","]),
    st.sampled_from(["=", "$a", "${a:-", "}", "'", '"', "\\", "`", "--", "--mount=", "target=/", "--from="]),
    st.text(max_size=3),
)
_files = st.lists(_fragments, max_size=30).map("".join)


def _check_places(file: Dockerfile, text: str) -> None:
    lines = text.count("\n") + 1
    for stage in file.stages:
        for instruction in (stage.base, *stage.instructions):
            at = instruction.at
            assert 1 <= at.line <= at.end_line <= lines
            assert at.column >= 1
            assert instruction.original in text


@given(_files, st.booleans())
def test_anything_is_read_or_refused(text: str, begun: bool) -> None:
    """There is no third way out, and every place exists."""
    text = f"FROM a\n{text}" if begun else text
    try:
        file = parse(text)
        _check_places(file, text)
        for stage in file.stages:
            for instruction in stage.instructions:
                substitute(instruction, {"a": "b"}, escape=file.escape)
    except DockerfileError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        assert error.column >= 1
        assert error.reason


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    """In a file, and in what an image holds as a trigger."""
    at = Place("Dockerfile", 1, 1, 1)
    for read in (parse, lambda data: parse_trigger(data.decode(errors="replace"), at)):
        with suppress(DockerfileError):
            read(content)


# --- what is written by a rule is read as it was meant -----------------------------------------------------

_words = st.text(alphabet="abz09/._é,:@+-", min_size=1, max_size=8).filter(
    lambda word: not word.startswith("-")
)
_names = st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True)
_texts = st.text(alphabet="ab \t$'\"\\{}=<#é[]", max_size=10)
_arguments = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
_breaks = st.sampled_from([" ", "  ", "\t", " \\\n ", " \\\n# comment\n", "\\  \n\t", " \\\n\n "])

Written = tuple[str, str, dict[str, Any]]
"""Keyword, text with NEXT where a line may be continued, and the fields it means."""


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _shell(keyword: str) -> st.SearchStrategy[Written]:
    return st.lists(_words, min_size=1, max_size=3).map(
        lambda words: (keyword, "NEXT".join(words), {"command": {"line": words}})
    )


def _exec(keyword: str) -> st.SearchStrategy[Written]:
    return (
        st.lists(_arguments, min_size=1, max_size=3)
        .filter(lambda argv: bool(argv[0]))
        .map(lambda argv: (keyword, json.dumps(argv), {"command": {"argv": tuple(argv)}}))
    )


def _pairs(keyword: str) -> st.SearchStrategy[Written]:
    pairs = st.lists(st.tuples(_names, _texts), min_size=1, max_size=3)
    return pairs.map(
        lambda pairs: (
            keyword,
            "NEXT".join(f"{name}={_quote(value)}" for name, value in pairs),
            {"pairs": tuple(pairs)},
        )
    )


def _copy(parts: tuple[list[str], str, str, bool, list[str]]) -> Written:
    sources, destination, owner, link, exclude = parts
    flags = [f"--chown={owner}", *["--link"][: int(link)], *(f"--exclude={pattern}" for pattern in exclude)]
    fields = {
        "sources": tuple(sources),
        "destination": destination,
        "chown": owner,
        "link": link,
        "exclude": tuple(exclude),
    }
    return "COPY", "NEXT".join([*flags, *sources, destination]), fields


_copies = st.tuples(
    st.lists(_words, min_size=1, max_size=3), _words, _names, st.booleans(), st.lists(_words, max_size=2)
).map(_copy)


def _single(keyword: str, field: str) -> st.SearchStrategy[Written]:
    return _words.map(lambda word: (keyword, word, {field: word}))


_instructions = st.one_of(
    *(make(keyword) for make in (_shell, _exec) for keyword in ("RUN", "CMD", "ENTRYPOINT")),
    *(_pairs(keyword) for keyword in ("ENV", "LABEL", "ARG")),
    _single("WORKDIR", "path"),
    _single("USER", "user"),
    _copies,
)


def _fields(instruction: Instruction, wanted: dict[str, Any]) -> dict[str, Any]:
    found = asdict(instruction)
    return {name: found[name] for name in wanted}


@given(st.lists(_instructions, min_size=1, max_size=5), st.data())
def test_what_is_written_is_read(written: list[Written], data: st.DataObject) -> None:
    """Flags, words, quotes and arrays, over as many lines as wanted, in any case."""
    draw: Callable[[st.SearchStrategy[str]], str] = data.draw
    lines = ["FROM a"]
    for keyword, text, _ in written:
        for gap in [draw(_breaks) for _ in range(text.count("NEXT"))]:
            text = text.replace("NEXT", gap if gap.strip("\\ \t\n") or " " in gap or "\t" in gap else " ", 1)
        lines.append(f"{draw(st.sampled_from([keyword, keyword.lower()]))} {text}")
    instructions = parse("\n".join(lines)).stages[0].instructions
    assert [instruction.name for instruction in instructions] == [keyword for keyword, _, _ in written]
    for instruction, (_, _, wanted) in zip(instructions, written, strict=True):
        found = _fields(substitute(instruction, {}), wanted)
        if "line" in wanted.get("command", {}):
            assert found["command"]["line"].split() == wanted["command"]["line"]
        elif "command" in wanted:
            assert found["command"] == wanted["command"]
        elif instruction.name != "ARG":
            assert found == wanted


@given(
    st.lists(
        st.tuples(_names, st.lists(_texts, max_size=3), st.booleans(), st.booleans()),
        min_size=1,
        max_size=3,
    )
)
def test_documents_are_read(documents: list[tuple[str, list[str], bool, bool]]) -> None:
    """Any lines but the one that ends them, in any number."""
    head, body, wanted = "COPY", "", []
    for name, lines, quoted, chomp in documents:
        kept = [line for line in lines if line.lstrip("\t") != name]
        raw = "".join(f"{line}\n" for line in kept)
        head += f" <<{'-' if chomp else ''}{_quote(name) if quoted else name}"
        body += f"{raw}{name}\n"
        wanted.append(Heredoc(name=name, raw=raw, expand=not quoted, chomp=chomp))
    try:
        (copy,) = parse(f"FROM a\n{head} /d\n{body}").stages[0].instructions
    except DockerfileError as error:
        assert "document" in error.reason and "$" in body  # a malformed variable in one that is expanded
        return
    assert getattr(copy, "heredocs", ()) == tuple(wanted)
