"""What is wrong with a Dockerfile is told with its line and column."""

from __future__ import annotations

import pytest

from lxcwrap.build.parser import MAX_INSTRUCTIONS, parse
from lxcwrap.build.source import MAX_FILE, MAX_LINE
from lxcwrap.errors import DockerfileError, InvalidSpecError

FROM = "FROM a\n"


def refused(text: str | bytes) -> DockerfileError:
    with pytest.raises(DockerfileError) as failure:
        parse(text, "dir/Dockerfile")
    assert failure.value.file == "dir/Dockerfile"
    return failure.value


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("\n\n# nothing\n", 3, 1),
        ("ARG a\n", 1, 1),
        ("RUN a\n", 1, 1),
        ("ARG a\n USER b\nFROM c\n", 2, 2),
        ("# escape=x\nFROM a\n", 1, 10),
        ("# escape=\\\n# escape=`\nFROM a\n", 2, 1),
        ("#\nFROM\n", 2, 1),
        ("FROM a b\n", 1, 8),
        ("FROM a AS\n", 1, 8),
        ("FROM a AS b c\n", 1, 8),
        ("FROM a # base\n", 1, 8),
        ("FROM a AS 1b\n", 1, 11),
        ("FROM a AS b/c\n", 1, 11),
        ("FROM --platform=linux/a/b/c a\n", 1, 1),
        ("FROM --platfrom=x a\n", 1, 6),
        ("FROM ${a\n", 1, 6),
        ("FROM ''\n", 1, 1),
    ],
)
def test_beginnings(text: str, line: int, column: int) -> None:
    """Directives, and all up to the first stage."""
    error = refused(text)
    assert (error.line, error.column) == (line, column)
    assert isinstance(error, InvalidSpecError)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("RUNN a", 1),
        ("  FOO", 3),
        ("=", 1),
        ("RUN", 1),
        ("RUN []", 5),
        ('RUN [""]', 5),
        ('RUN ["a", 1]', 5),
        ("RUN [1]", 5),
        ('RUN ["a\\u0000"]', 5),
        ('RUN ["\\ud800"]', 5),
        ("RUN --mont=x a", 5),
        ("RUN --network=lan a", 5),
        ("RUN --network=none --network=none a", 20),
        ("RUN --network a", 5),
        ("RUN --security=insecure a", 5),
        ("RUN --device=gpu a", 5),
        ("RUN --mount='x a", 13),
        ("RUN --mount=type=bind a", 5),
        ("RUN --mount=target=/ a", 5),
        ("RUN --mount=type=bin,target=/a a", 5),
        ("RUN --mount=type=ssh a", 5),
        ("RUN --mount=type=bind,traget=/a a", 5),
        ("RUN --mount=type=bind,target a", 5),
        ("RUN --mount=type=bind,target=/a,id=x a", 5),
        ("RUN --mount=type=bind,target=/a,ro=maybe a", 5),
        ("RUN --mount=type=cache,target=/a,sharing=all a", 5),
        ("RUN --mount=type=cache,target=/a,mode=8 a", 5),
        ("RUN --mount=type=cache,target=/a,mode=10000 a", 5),
        ("RUN --mount=type=cache,target=/a,uid=root a", 5),
        ("RUN --mount=type=cache,target=/a,uid=4294967295 a", 5),
        ("RUN --mount=type=tmpfs,target=/a,size=big a", 5),
        ("RUN --mount=type=bind,target=/a,required a", 5),
        ("RUN --mount=type=secret a", 5),
        ("RUN --mount=type=secret,id=a,source=b a", 5),
        ("RUN --mount=target=/a,from=$b a", 5),
        ("RUN --mount=target=/a,source=${b a", 5),
        ('RUN --mount=\\"a a', 5),
        ("RUN x <<E", 7),
        ("RUN x <<E\nE2\n", 7),
        ("RUN x <<A <<B\nA\n", 11),
        ("COPY a", 6),
        ("COPY", 1),
        ('COPY ["a"]', 6),
        ('COPY ["a", 2]', 6),
        ("COPY --form=x a b", 6),
        ("COPY --from=$x a b", 6),
        ("COPY --link=maybe a b", 6),
        ("COPY --link= a b", 6),
        ("COPY --chown=${a b c", 6),
        ("COPY a/${b c", 8),
        ("COPY a <<E\nE\n", 6),
        ("COPY << E a\nE\n", 6),
        ("COPY <<a/b c\na/b\n", 6),
        ("COPY <<.. c\n..\n", 6),
        ("COPY <<E c\n${\nE\n", 1),
        ("ADD --from=x a b", 5),
        ("ADD --parents a b", 5),
        ("ENV", 1),
        ("ENV a", 5),
        ("ENV a=1 b", 9),
        ("ENV a=1 =b", 9),
        ("ENV =b", 5),
        ("ENV a='b", 7),
        ("ENV a=1 b=x${c", 12),
        ('ENV a="b" c="d', 13),
        ("ENV --x a=b", 5),
        ("LABEL a", 7),
        ('LABEL a=b=\\"c\\" d', 17),
        ("ARG", 1),
        ("ARG =a", 5),
        ("ARG a=${b", 7),
        ("ARG --x a", 5),
        ("WORKDIR", 1),
        ("WORKDIR /a/${b", 12),
        ("USER", 1),
        ("USER --x a", 6),
        ("EXPOSE", 1),
        ("EXPOSE 70000", 1),
        ("EXPOSE 80/icmp", 1),
        ("EXPOSE 90-80", 1),
        ("EXPOSE a", 1),
        ("EXPOSE " + "1-65535 " * 3, 1),
        ("VOLUME", 1),
        ("VOLUME []", 8),
        ('VOLUME [" "]', 8),
        ("CMD", 1),
        ("CMD --x a", 5),
        ('ENTRYPOINT ["a", {}]', 12),
        ("ENTRYPOINT", 1),
        ("SHELL", 1),
        ("SHELL sh -c", 7),
        ("SHELL []", 7),
        ('SHELL [""]', 7),
        ("STOPSIGNAL", 1),
        ("STOPSIGNAL SIGNOPE", 1),
        ("STOPSIGNAL 0", 1),
        ("MAINTAINER", 1),
        ("MAINTAINER --x a", 12),
        ("HEALTHCHECK", 1),
        ("HEALTHCHECK CMD", 13),
        ("HEALTHCHECK CMD []", 17),
        ("HEALTHCHECK curl a", 13),
        ("HEALTHCHECK NONE a", 18),
        ("HEALTHCHECK --interval=1s NONE", 31),
        ("HEALTHCHECK --interval=1 CMD a", 13),
        ("HEALTHCHECK --timeout=-1s CMD a", 13),
        ("HEALTHCHECK --timeout=1us CMD a", 13),
        ("HEALTHCHECK --retries=-1 CMD a", 13),
        ("HEALTHCHECK --retires=1 CMD a", 13),
        ("ONBUILD", 1),
        ("ONBUILD ONBUILD RUN a", 9),
        ("ONBUILD from a", 9),
        ("ONBUILD MAINTAINER a", 9),
        ("ONBUILD RUNN a", 9),
        ("ONBUILD COPY a", 14),
        ("ONBUILD --x RUN a", 9),
    ],
)
def test_instructions(text: str, column: int) -> None:
    """Each refuses what it cannot mean, where it stands; nothing is ignored."""
    error = refused(FROM + text)
    assert (error.line, error.column) == (2, column)
    assert error.reason


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("RUN a \\\n# c\n\n  --x <<E", 5, 7),
        ("ENV a=1 \\\n    b=2 \\\n    c", 4, 5),
        ("ENV a=1 \\\n  b='", 3, 5),
        ("RUN --network=none \\\n\t--network=none a", 3, 2),
        ("ONBUILD \\\n  ONBUILD RUN a", 3, 3),
        ("COPY a \\\n  b${ \\\n c", 3, 4),
        ("RUN <<E\na\nE\nFOO", 5, 1),
    ],
)
def test_places_in_continued_lines(text: str, line: int, column: int) -> None:
    """A place in a joined line is that of the line it was written in."""
    error = refused(FROM + text)
    assert (error.line, error.column) == (line, column)


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        (b"FROM a\nUSER caf\xe9\n", 2, 9),
        (b"FROM a\nRUN a \\\n b\xff", 3, 3),
        (b"FROM a\nUSER a\0b\n", 2, 7),
        (b"FROM a\nRUN <<E\nok\nx\xff\nE\n", 4, 2),
        ("FROM a\nUSER \ud800\n", 2, 6),
        (b"\x7fELF\0\0\n", 1, 5),
    ],
)
def test_what_is_not_text(text: bytes | str, line: int, column: int) -> None:
    """NUL bytes, and what is not UTF-8, are refused in instructions and documents."""
    error = refused(text)
    assert (error.line, error.column) == (line, column)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("RUNN a", "RUN"),
        ("copi a b", "COPY"),
        ("HEALTHCHEK NONE", "HEALTHCHECK"),
        ("COPY --chwon=1 a b", "--chown"),
        ("RUN --mounts=type=bind a", "--mount"),
        ("RUN --mount=type=bind,sorce=a,target=/b c", "source"),
        ("FOO", "WORKDIR"),
    ],
)
def test_near_names_are_suggested(text: str, hint: str) -> None:
    """Or all, if none is near."""
    assert hint in refused(FROM + text).reason


@pytest.mark.parametrize(
    "text",
    [
        "#" * (MAX_FILE + 1),
        FROM + "RUN " + "a" * MAX_LINE,
        FROM + "RUN " + "a\\\n" * MAX_LINE,
        FROM + "USER a\n" * (MAX_INSTRUCTIONS + 1),
        FROM + "ENV a=" + "${a:-" * 10000,
        FROM + "EXPOSE " + "0-65535 " * 10000,
    ],
)
def test_bounds(text: str) -> None:
    """A hostile file costs neither memory nor time."""
    refused(text)
