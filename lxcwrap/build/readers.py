"""What each instruction makes of its flags and arguments.

Source: Dockerfile reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal

from ..imageconfig import Healthcheck as HealthcheckConfig
from . import mounts, words
from .durations import parse_duration
from .heredocs import announced
from .instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    Instruction,
    Label,
    Maintainer,
    Run,
    Shell,
    ShellForm,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from .mounts import MountFlag
from .statement import Options, Statement, Word
from .words import WordError

_ALIAS: Final = re.compile(r"[a-z][a-z0-9_.-]*")
_BLANK: Final = re.compile(r"[\t\v\f\r ]+")
_UNSUPPORTED: Final = ("security", "device")


def _from(statement: Statement) -> From:
    options = statement.options(texts=("platform",))
    statement.require("an image: FROM image, or FROM image AS name")
    fields = statement.fields()
    alias = ""
    if len(fields) == 3 and fields[1].text.lower() == "as":
        alias = fields[2].text.lower()
        if not _ALIAS.fullmatch(alias):
            raise statement.error(
                f"stage name {alias!r}: a letter first, then letters, digits, '_', '.' or '-'",
                fields[2].offset,
            )
    elif len(fields) > 1:
        raise statement.error("FROM takes an image, or image AS name, and no comment", fields[1].offset)
    return From(
        image=statement.template(fields[0]),
        platform=options.template("platform"),
        alias=alias,
        **statement.common(),
    )


def _run(statement: Statement) -> Run:
    options = statement.options(texts=("network", *_UNSUPPORTED), lists=("mount",))
    for name in _UNSUPPORTED:
        if word := options.word(name):
            raise statement.error(f"--{name} is not supported: all steps are isolated alike", word.offset)
    command = statement.command()
    match command:
        case ExecForm(argv=()) | ExecForm(argv=("", *_)):
            raise statement.error("RUN needs a program", statement.rest.offset)
        case ShellForm(line=line) if statement.heredocs:
            command = ShellForm(line, statement.heredocs, announced(line) is not None)
    return Run(
        command=command,
        mount_flags=tuple(_mount(statement, word) for word in options.all("mount")),
        network=_network(statement, options),
        **statement.common(),
    )


def _mount(statement: Statement, word: Word) -> MountFlag:
    try:
        flag = mounts.parse_flag(word.text)
        for _, value in flag.options:
            words.check(value or "", escape=statement.escape)
        if "$" not in word.text:
            mounts.resolve(flag, lambda value: words.expand(value, {}, escape=statement.escape))
    except (ValueError, WordError) as error:
        raise statement.error(str(error), word.offset) from None
    return flag


def _network(statement: Statement, options: Options) -> Literal["default", "none", "host"]:
    match options.text("network"):
        case "" | "default":
            return "default"
        case "none":
            return "none"
        case "host":
            return "host"
        case other:
            word = options.word("network")
            raise statement.error(
                f"--network={other[:40]}: use default, none or host", word.offset if word else None
            )


def _copy(statement: Statement) -> Copy:
    options = statement.options(
        texts=("from", "chown", "chmod"), switches=("link", "parents"), lists=("exclude",)
    )
    source = options.word("from")
    if source and set("$'\"" + statement.escape) & set(source.text):
        raise statement.error(
            "--from takes no variables: name a stage by FROM, and that stage here", source.offset
        )
    sources, heredocs, destination = _places(statement)
    return Copy(
        sources=sources,
        heredocs=heredocs,
        destination=destination,
        from_=source.text if source else "",
        chown=options.template("chown"),
        chmod=options.template("chmod"),
        link=bool(options.switch("link")),
        parents=bool(options.switch("parents")),
        exclude=tuple(word.text for word in options.all("exclude")),
        **statement.common(),
    )


def _add(statement: Statement) -> Add:
    options = statement.options(
        texts=("chown", "chmod", "checksum"), switches=("link", "unpack", "keep-git-dir"), lists=("exclude",)
    )
    sources, heredocs, destination = _places(statement)
    return Add(
        sources=sources,
        heredocs=heredocs,
        destination=destination,
        chown=options.template("chown"),
        chmod=options.template("chmod"),
        link=bool(options.switch("link")),
        exclude=tuple(word.text for word in options.all("exclude")),
        checksum=options.template("checksum"),
        unpack=options.switch("unpack"),
        keep_git_dir=options.switch("keep-git-dir"),
        **statement.common(),
    )


def _places(statement: Statement) -> tuple[tuple[str, ...], tuple[Heredoc, ...], str]:
    """Sources, documents and destination of COPY and ADD."""
    statement.require("a source and a destination")
    array = statement.array()
    if array is not None:
        fields = [Word(text, statement.rest.offset) for text in array]
    else:
        fields = statement.fields()
    if len(fields) < 2:
        raise statement.error(f"{statement.keyword} needs a source and a destination", statement.rest.offset)
    *sources, destination = fields
    found = [word for word in sources if array is None and announced(word.text)]
    if len(found) != len(statement.heredocs):
        reason = "write <<NAME without spaces, and before the destination"
        raise statement.error(reason, statement.rest.offset)
    for word, heredoc in zip(found, statement.heredocs, strict=True):
        if heredoc.name in (".", "..") or "/" in heredoc.name:
            raise statement.error(f"document {heredoc.name!r}: its name becomes that of a file", word.offset)
        if heredoc.expand:
            _check_document(statement, heredoc)
    paths = tuple(statement.template(word) for word in sources if word not in found)
    return paths, statement.heredocs, statement.template(destination)


def _check_document(statement: Statement, heredoc: Heredoc) -> None:
    try:
        words.check(heredoc.content, quotes=False)
    except WordError as error:
        raise statement.error(f"document {heredoc.name}: {error.reason}") from None


def _pairs(statement: Statement) -> tuple[tuple[str, str], ...]:
    """``name=value ...``, or the old form ``name value``, whose value is all the rest."""
    statement.options()
    found = statement.words()
    if "=" not in found[0].text:
        name, blank, value = _cut_blank(statement.rest)
        if not blank:
            raise statement.error(f"{statement.keyword} needs a value: name=value", name.offset)
        return ((statement.template(name), statement.template(value)),)
    return tuple(_pair(statement, word) for word in found)


def _pair(statement: Statement, word: Word) -> tuple[str, str]:
    name, equals, value = word.text.partition("=")
    if not equals:
        raise statement.error(f"{word.text[:80]!r} is not of the form name=value: quote spaces", word.offset)
    if not name:
        raise statement.error("a name is missing before '='", word.offset)
    after = Word(value, word.offset + len(name) + 1)
    return statement.template(Word(name, word.offset)), statement.template(after)


def _cut_blank(word: Word) -> tuple[Word, bool, Word]:
    """What stands before the first white space, whether there is any, and what stands behind it."""
    blank = _BLANK.search(word.text)
    if not blank:
        return word, False, Word("", word.offset + len(word.text))
    rest = Word(word.text[blank.end() :], word.offset + blank.end())
    return Word(word.text[: blank.start()], word.offset), True, rest


def _env(statement: Statement) -> Env:
    return Env(pairs=_pairs(statement), **statement.common())


def _label(statement: Statement) -> Label:
    return Label(pairs=_pairs(statement), **statement.common())


def _arg(statement: Statement) -> Arg:
    statement.options()
    pairs = (_pair(statement, word) if "=" in word.text else (word.text, None) for word in statement.words())
    return Arg(pairs=tuple(pairs), **statement.common())


def _whole(statement: Statement, what: str) -> str:
    statement.options()
    return statement.template(statement.require(what))


def _workdir(statement: Statement) -> Workdir:
    return Workdir(path=_whole(statement, "a path"), **statement.common())


def _user(statement: Statement) -> User:
    return User(user=_whole(statement, "a user, or user:group"), **statement.common())


def _stop_signal(statement: Statement) -> StopSignal:
    return StopSignal(signal=_whole(statement, "a signal, such as SIGTERM"), **statement.common())


def _maintainer(statement: Statement) -> Maintainer:
    statement.options()
    return Maintainer(maintainer=statement.require("a name").text, **statement.common())


def _expose(statement: Statement) -> Expose:
    statement.options()
    statement.require("a port, such as 80 or 53/udp")
    return Expose(ports=tuple(map(statement.template, statement.fields())), **statement.common())


def _volume(statement: Statement) -> Volume:
    statement.options()
    rest = statement.require("a path")
    array = statement.array()
    fields = statement.fields() if array is None else [Word(path.strip(), rest.offset) for path in array]
    if not fields or not all(word.text for word in fields):
        raise statement.error("a volume's path is empty", rest.offset)
    return Volume(paths=tuple(map(statement.template, fields)), **statement.common())


def _cmd(statement: Statement) -> Cmd:
    statement.options()
    return Cmd(command=statement.command(), **statement.common())


def _entrypoint(statement: Statement) -> Entrypoint:
    statement.options()
    return Entrypoint(command=statement.command(), **statement.common())


def _shell(statement: Statement) -> Shell:
    statement.options()
    rest = statement.require('a JSON array, such as ["/bin/sh", "-c"]')
    argv = statement.array()
    if not argv or not argv[0]:
        raise statement.error('SHELL takes a JSON array, such as ["/bin/sh", "-c"]', rest.offset)
    return Shell(argv=argv, **statement.common())


_TIMES: Final = ("interval", "timeout", "start-period", "start-interval")


def _healthcheck(statement: Statement) -> Healthcheck:
    options = statement.options(texts=(*_TIMES, "retries"))
    kind, _, rest = _cut_blank(statement.require("CMD and a command, or NONE"))
    match kind.text.upper():
        case "NONE":
            if rest.text or statement.flags:
                raise statement.error("HEALTHCHECK NONE takes neither flags nor arguments", rest.offset)
            return Healthcheck(check=HealthcheckConfig(test=("NONE",)), **statement.common())
        case "CMD" if rest.text:
            return Healthcheck(check=_probe(statement, options, rest), **statement.common())
    raise statement.error("write HEALTHCHECK CMD and a command, or HEALTHCHECK NONE", kind.offset)


def _probe(statement: Statement, options: Options, rest: Word) -> HealthcheckConfig:
    test: tuple[str, ...]
    match statement.command(rest):
        case ShellForm(line=line):
            test = ("CMD-SHELL", line)
        case ExecForm(argv=argv):
            test = ("CMD", *argv)
    if len(test) < 2:
        raise statement.error("HEALTHCHECK CMD needs a command", rest.offset)
    interval, timeout, start_period, start_interval = (_time(statement, options, name) for name in _TIMES)
    return HealthcheckConfig(
        test=test,
        interval_s=interval,
        timeout_s=timeout,
        start_period_s=start_period,
        start_interval_s=start_interval,
        retries=_retries(statement, options),
    )


def _time(statement: Statement, options: Options, name: str) -> float | None:
    word = options.word(name)
    if word is None or not word.text:
        return None
    try:
        seconds = parse_duration(word.text)
    except ValueError as error:
        raise statement.error(f"--{name}: {error}", word.offset) from None
    if 0 < seconds < 0.001:
        raise statement.error(f"--{name}: at least 1ms, or 0 for the default", word.offset)
    return seconds or None


def _retries(statement: Statement, options: Options) -> int | None:
    word = options.word("retries")
    if word is None or not word.text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", word.text):
        raise statement.error(f"--retries={word.text[:40]}: must be a number, 0 for the default", word.offset)
    return int(word.text) or None


READERS: Final[Mapping[str, Callable[[Statement], Instruction]]] = MappingProxyType(
    {
        "ADD": _add,
        "ARG": _arg,
        "CMD": _cmd,
        "COPY": _copy,
        "ENTRYPOINT": _entrypoint,
        "ENV": _env,
        "EXPOSE": _expose,
        "FROM": _from,
        "HEALTHCHECK": _healthcheck,
        "LABEL": _label,
        "MAINTAINER": _maintainer,
        "RUN": _run,
        "SHELL": _shell,
        "STOPSIGNAL": _stop_signal,
        "USER": _user,
        "VOLUME": _volume,
        "WORKDIR": _workdir,
    }
)
"""All but ONBUILD, which holds another one."""
