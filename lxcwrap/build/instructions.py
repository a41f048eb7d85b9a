"""What a Dockerfile says: frozen values, made by `parse` and meant for ``match``.

Texts in which variables may stand hold them unresolved; `substitution.substitute` gives the instruction as it
is to be carried out. RUN, CMD, ENTRYPOINT, SHELL and HEALTHCHECK are not substituted: what they hold is for
the shell of the container.

Source: Dockerfile reference (docs.docker.com/reference/dockerfile), and BuildKit, where that is silent.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final, Literal

from attrs import frozen

from ..errors import DockerfileError
from ..imageconfig import Healthcheck as HealthcheckConfig
from .mounts import MountFlag, RunMount

_LEADING_TABS: Final = re.compile(r"^\t+", re.MULTILINE)


@frozen
class Place:
    """Where an instruction stands; `line`, `column` and `end_line` are counted from 1."""

    file: str
    line: int
    column: int
    end_line: int

    def error(self, reason: str) -> DockerfileError:
        return DockerfileError(self.file, self.line, self.column, reason)


@frozen(kw_only=True)
class Heredoc:
    """The document that ``<<NAME`` announces. raw: as written; chomp: ``<<-``; expand: NAME is not quoted."""

    name: str
    raw: str
    expand: bool = True
    chomp: bool = False

    @property
    def content(self) -> str:
        """Without the leading tabs that ``<<-`` takes away."""
        return _LEADING_TABS.sub("", self.raw) if self.chomp else self.raw


@frozen
class ShellForm:
    """A line for the shell. `heredocs`: those it announces, in order (RUN only)."""

    line: str
    heredocs: tuple[Heredoc, ...] = ()
    sole_heredoc: bool = False
    """The line is ``<<NAME`` and nothing else."""

    @property
    def script(self) -> str:
        """What the shell is given after its options: the line, and the documents behind it.

        A document that stands alone is itself the script. If it then begins with ``#!`` it is no text for
        the shell, but a file to be executed: see `program`.
        """
        if self.sole_heredoc:
            return self.heredocs[0].content
        return "\n".join([self.line, *(f"{document.raw}{document.name}" for document in self.heredocs)])

    @property
    def program(self) -> Heredoc | None:
        """The document that is to be executed as a file, for it begins with ``#!``."""
        return self.heredocs[0] if self.sole_heredoc and self.script.startswith("#!") else None


@frozen
class ExecForm:
    """Words for execve(2); no shell sees them. They may be none: ``CMD []`` takes the base's away."""

    argv: tuple[str, ...]


Command = ShellForm | ExecForm


@frozen(kw_only=True)
class Instruction:
    """What all have. text: one line, continuations joined; original: as written, with its heredocs."""

    name: ClassVar[str] = ""

    at: Place
    text: str
    original: str


@frozen(kw_only=True)
class From(Instruction):
    """Begins a stage. `image`: also a stage's name, or ``scratch``; `alias`: in lower case; ``""``: none."""

    name = "FROM"
    image: str
    platform: str = ""
    alias: str = ""


@frozen(kw_only=True)
class Run(Instruction):
    """`mounts` are there once substituted; until then only `mount_flags` are."""

    name = "RUN"
    command: Command
    mount_flags: tuple[MountFlag, ...] = ()
    mounts: tuple[RunMount, ...] = ()
    network: Literal["default", "none", "host"] = "default"


@frozen(kw_only=True)
class Transfer(Instruction):
    """What COPY and ADD share.

    sources: paths and globs; heredocs: files written in the Dockerfile, named by their `name`. exclude:
    patterns as in ``.dockerignore``. chown: ``user[:group]``; chmod: octal or symbolic as chmod(1); ``""``:
    not said.
    """

    sources: tuple[str, ...]
    heredocs: tuple[Heredoc, ...] = ()
    destination: str
    chown: str = ""
    chmod: str = ""
    link: bool = False
    exclude: tuple[str, ...] = ()


@frozen(kw_only=True)
class Copy(Transfer):
    """from_: a stage's name or number, or an image; ``""``: the context. It takes no variables."""

    name = "COPY"
    from_: str = ""
    parents: bool = False


@frozen(kw_only=True)
class Add(Transfer):
    """checksum: ``sha256:...`` of what a URL gives. unpack, keep_git_dir: None: not said.

    Without `unpack`, local archives are unpacked and downloaded ones are not.
    """

    name = "ADD"
    checksum: str = ""
    unpack: bool | None = None
    keep_git_dir: bool | None = None


@frozen(kw_only=True)
class Env(Instruction):
    """All values of one instruction are substituted with what was set before it."""

    name = "ENV"
    pairs: tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class Label(Instruction):
    name = "LABEL"
    pairs: tuple[tuple[str, str], ...]


@frozen(kw_only=True)
class Arg(Instruction):
    """Names and defaults (None: none); `substitution.declare` tells the values."""

    name = "ARG"
    pairs: tuple[tuple[str, str | None], ...]


@frozen(kw_only=True)
class Workdir(Instruction):
    """`path` is relative to the one before, if it is not absolute."""

    name = "WORKDIR"
    path: str


@frozen(kw_only=True)
class User(Instruction):
    name = "USER"
    user: str


@frozen(kw_only=True)
class Expose(Instruction):
    """Once substituted, `ports` are single ones with their protocol: ``80/tcp``."""

    name = "EXPOSE"
    ports: tuple[str, ...]


@frozen(kw_only=True)
class Volume(Instruction):
    name = "VOLUME"
    paths: tuple[str, ...]


@frozen(kw_only=True)
class Entrypoint(Instruction):
    name = "ENTRYPOINT"
    command: Command


@frozen(kw_only=True)
class Cmd(Instruction):
    name = "CMD"
    command: Command


@frozen(kw_only=True)
class Healthcheck(Instruction):
    name = "HEALTHCHECK"
    check: HealthcheckConfig


@frozen(kw_only=True)
class StopSignal(Instruction):
    name = "STOPSIGNAL"
    signal: str


@frozen(kw_only=True)
class Shell(Instruction):
    name = "SHELL"
    argv: tuple[str, ...]


@frozen(kw_only=True)
class Onbuild(Instruction):
    """expression: what the config of the image keeps, for `parser.parse_trigger`; trigger: the same, read."""

    name = "ONBUILD"
    expression: str
    trigger: Instruction


@frozen(kw_only=True)
class Maintainer(Instruction):
    name = "MAINTAINER"
    maintainer: str


@frozen(kw_only=True)
class Stage:
    """`index` counts from 0; `base` is its FROM, which `instructions` does not repeat."""

    index: int
    base: From
    instructions: tuple[Instruction, ...]

    @property
    def alias(self) -> str:
        return self.base.alias


@frozen(kw_only=True)
class Dockerfile:
    """A whole file. global_args: the ARGs before the first FROM. escape: ``\\`` or a backquote."""

    file: str
    escape: str
    syntax: str
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]

    def find(self, name: str, *, before: int | None = None, by_number: bool = True) -> Stage | None:
        """The last stage with this alias, in any case, or with this number; only of those `before` one.

        COPY --from and ``target=`` take numbers, FROM and mounts do not.
        """
        stages = self.stages[:before]
        for stage in reversed(stages):
            if stage.alias and stage.alias == name.lower():
                return stage
        if by_number and name.isascii() and name.isdigit() and len(name) < 6 and int(name) < len(stages):
            return stages[int(name)]
        return None
