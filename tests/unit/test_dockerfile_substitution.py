"""Variables in instructions: where they are put in place, and where they are the shell's."""

from __future__ import annotations

from typing import Any

import pytest

from lxcwrap.build.instructions import Arg, Instruction
from lxcwrap.build.parser import parse
from lxcwrap.build.substitution import declare, substitute
from lxcwrap.errors import DockerfileError

VARIABLES = {"a": "1", "b": "x y", "empty": "", "port": "80 81/udp", "dir": "/srv"}


def one(text: str) -> Instruction:
    """The only instruction of a stage, or its FROM."""
    stage = parse(text if "FROM" in text else f"FROM base\n{text}").stages[0]
    return stage.instructions[0] if stage.instructions else stage.base


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("FROM --platform=linux/${arch:-arm64} img:$a", {"image": "img:1", "platform": "linux/arm64"}),
        ("COPY $dir/*.c '$a' $b ${dir}/", {"sources": ("/srv/*.c", "$a", "x y"), "destination": "/srv/"}),
        ("COPY --chown=$a:$a --chmod=0$a a b", {"chown": "1:1", "chmod": "01"}),
        ('COPY --exclude=$a ["$dir", "b"]', {"sources": ("/srv",), "exclude": ("$a",)}),
        ("ADD --checksum=sha256:$a http://x/$a b", {"checksum": "sha256:1", "sources": ("http://x/1",)}),
        (
            "ENV a=2 c=$a d='$a' e=\"$b\" $dir=f",
            {"pairs": (("a", "2"), ("c", "1"), ("d", "$a"), ("e", "x y"), ("/srv", "f"))},
        ),
        ("ENV c  $b  'q'", {"pairs": (("c", "x y  q"),)}),
        ('LABEL "l $a"=$b', {"pairs": (("l 1", "x y"),)}),
        ("WORKDIR $dir/$a", {"path": "/srv/1"}),
        ("WORKDIR C:\\\\dir", {"path": "C:\\dir"}),
        ("USER ${user-$a}:$a", {"user": "1:1"}),
        (
            "EXPOSE $port 8000-8002/TCP 80",
            {"ports": ("80/tcp", "81/udp", "8000/tcp", "8001/tcp", "8002/tcp")},
        ),
        ("EXPOSE $unset 1.2.3.4:9:90/sctp 9:91", {"ports": ("90/sctp", "91/tcp")}),
        ("VOLUME $dir /a\\$b", {"paths": ("/srv", "/a$b")}),
        ('VOLUME ["$dir", "/a b"]', {"paths": ("/srv", "/a b")}),
        ("STOPSIGNAL SIG${sig:-TERM}", {"signal": "SIGTERM"}),
    ],
)
def test_variables_are_put_in_place(text: str, fields: dict[str, Any]) -> None:
    """Those of one ENV are what was set before it; ports are split, words are not."""
    result = substitute(one(text), VARIABLES)
    assert {name: getattr(result, name) for name in fields} == fields


@pytest.mark.parametrize(
    "text",
    [
        "RUN echo $a '$b' \\$c",
        'RUN ["echo", "$a"]',
        "RUN <<E\n$a\nE\n",
        "CMD echo $a",
        'ENTRYPOINT ["$a"]',
        'SHELL ["$a"]',
        "HEALTHCHECK CMD $a",
        "MAINTAINER $a",
        "ONBUILD USER $a",
        "ARG x=$a",
    ],
)
def test_what_is_for_the_shell_stays(text: str) -> None:
    """Commands are given to the shell as written; a trigger is for another build, an ARG for `declare`."""
    instruction = one(text)
    assert substitute(instruction, VARIABLES) == instruction


def test_documents_are_expanded() -> None:
    """Unless their name is quoted; the escape is a backslash always, and quotes are text."""
    text = "# escape=`\nFROM x\nCOPY <<-A <<'B' /\n\t$a \"$b\" \\$a\n\tA\n$a\nB\n"
    copy = substitute(one(text), VARIABLES, escape="`")
    assert [file.content for file in getattr(copy, "heredocs", ())] == ['1 "x y" $a\n', "$a\n"]


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("FROM $empty", 1, 1),
        ("FROM --platform=a/b/c/$a x", 1, 1),
        ("USER a${who?set it}", 2, 7),
        ("ENV a=1 \\\n  b=${c:?}", 3, 5),
        ("COPY a $dir/${b#\\z} c", 2, 13),
        ("EXPOSE ${none:-x}", 2, 1),
        ("STOPSIGNAL $dir", 2, 1),
        ("ENV $empty=1", 2, 1),
        ("RUN --mount=type=$dir,target=/a b", 2, 13),
        ("RUN --mount=target=$empty b", 2, 13),
    ],
)
def test_failures_have_a_place(text: str, line: int, column: int) -> None:
    """What only values make wrong is reported where it stands, as far as that is known."""
    instruction = one(text)
    with pytest.raises(DockerfileError) as failure:
        substitute(instruction, VARIABLES)
    assert (failure.value.line, failure.value.column) == (line, column)


def test_values_have_a_bound() -> None:
    """Doubling in every line comes to an end."""
    env, value = one("ENV a=$a$a"), "x"
    with pytest.raises(DockerfileError):
        for _ in range(64):
            value = getattr(substitute(env, {"a": value}), "pairs", [("", "")])[0][1]


def arg(text: str) -> Arg:
    instruction = one(text)
    assert isinstance(instruction, Arg)
    return instruction


def test_arguments() -> None:
    """A build argument wins, then the default, then what is global; a default sees the names before it."""
    names = arg("ARG a=0 b=${a}2 c=$env d e f=3")
    values = declare(names, {"env": "v"}, build_args={"a": "1", "f": ""}, global_args={"d": "g", "b": "no"})
    assert values == {"a": "1", "b": "12", "c": "v", "d": "g", "f": ""}


def test_a_default_that_is_not_used_may_fail() -> None:
    """It is an error only if it is needed."""
    needed = arg('ARG a="${b:?give me a}"')
    assert declare(needed, {}, build_args={"a": "1"}) == {"a": "1"}
    with pytest.raises(DockerfileError) as failure:
        declare(needed, {}, build_args={})
    assert (failure.value.line, failure.value.column) == (2, 8)
