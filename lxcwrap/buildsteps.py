"""Images built by a program: what a Dockerfile says, as calls of methods."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from attrs import evolve, field, frozen

from .build import instructions as given
from .build.calls import Call
from .build.mounts import RunMount, parse_flag, resolve
from .build.substitution import substitute
from .errors import DockerfileError, InvalidSpecError
from .image import Image
from .imageconfig import Healthcheck
from .progress import Progress
from .specs import Limits, StrPath, check_argv, check_env

if TYPE_CHECKING:
    from .build.frontend import Pull, Secret
    from .build.step import Network

_AT: Final = given.Place("steps", 0, 0, 0)
Some = TypeVar("Some", bound=given.Instruction)


@frozen(eq=False)
class BuildSteps:
    """
    A base image and steps upon it; ``host.images.build_steps(base)``. Each method gives a new value.

    Steps are those of a Dockerfile, and share its cache: equal ones make the same image. Nothing is
    substituted: ``$`` is for the shell of `run`. Nothing happens before `build`::

        steps = host.images.build_steps("debian:bookworm").env(LANG="C.UTF-8").run("apt-get update")
        image = steps.copy("app/", "/srv/app/").workdir("/srv/app").cmd(["./serve"]).build(tags=["app:1"])

    Methods raise InvalidSpecError or TypeError for what cannot be meant.
    """

    _build: Callable[..., Image] = field(repr=False)
    base: str
    _steps: tuple[tuple[given.Instruction, BuildSteps | None], ...] = ()

    # --- steps that change files ----------------------------------------------------------------------------

    def run(
        self,
        command: str | Sequence[str],
        *,
        mounts: Sequence[str] = (),
        network: Literal["default", "none", "host"] = "default",
    ) -> Self:
        """Run a shell line, or a list of words without a shell. mounts: as of ``RUN --mount``, such as
        ``"type=cache,target=/root/.cache"``. network: by default as `build` says."""
        if isinstance(mounts, str):
            raise TypeError(f"mounts= takes a list: [{mounts!r}]")
        asked = tuple(_mount(text) for text in mounts)
        run = given.Run(command=_command(command), mounts=asked, network=network, **_common(f"RUN {command}"))
        return self._with(run)

    def copy(
        self,
        sources: StrPath | Sequence[StrPath],
        destination: str,
        *,
        from_: BuildSteps | Image | str | None = None,
        chown: str = "",
        chmod: str = "",
        link: bool = False,
        parents: bool = False,
        exclude: Sequence[str] = (),
    ) -> Self:
        """Copy files of the context that `build` is given, or of an image or of other steps (`from_`).

        The arguments are those of COPY: a destination that ends with ``/`` is a directory.
        """
        several = [sources] if isinstance(sources, str | os.PathLike) else sources
        other = from_ if isinstance(from_, BuildSteps) else None
        image = from_.id if isinstance(from_, Image) else from_
        words = [os.fspath(source) for source in several]
        copy = given.Copy(
            sources=tuple(words),
            destination=destination,
            from_="" if isinstance(image, BuildSteps | None) else image,
            chown=chown,
            chmod=chmod,
            link=link,
            parents=parents,
            exclude=tuple(exclude),
            **_common(" ".join(["COPY", *words, destination])),
        )
        return self._with(copy, other)

    def write(self, path: str, text: str, *, chown: str = "", chmod: str = "") -> Self:
        """Make a file of `text`."""
        document = given.Heredoc(name=posixpath.basename(path) or "text", raw=text, expand=False)
        copy = given.Copy(
            sources=(),
            heredocs=(document,),
            destination=path,
            chown=chown,
            chmod=chmod,
            **_common(f"COPY <<{document.name} {path}"),
        )
        return self._with(copy)

    def call(self, function: Callable[..., object], /, *args: object, **kwargs: object) -> Self:
        """Call a function of this program in a container of the image so far, as root, as `Container.call`.

        It is called again when its code, what it refers to or its arguments are others than before; what
        modules contain does not count. What it returns is dropped.
        """
        if not callable(function):
            raise TypeError(f"call() takes a function, not {function!r}")
        name = getattr(function, "__qualname__", type(function).__qualname__)
        text = f"CALL {getattr(function, '__module__', '')}.{name}"
        return self._with(Call(function=function, args=args, kwargs=kwargs, **_common(text)))

    def workdir(self, path: str) -> Self:
        """Make `path`, where missing, and go on from there, as containers will. It may be relative."""
        return self._with(given.Workdir(path=path, **_common(f"WORKDIR {path}")))

    # --- steps that say how containers start ----------------------------------------------------------------

    def env(self, variables: Mapping[str, str] | None = None, /, **more: str) -> Self:
        """Set variables, also for the steps that follow."""
        return self._with(_pairs(given.Env, check_env({**(variables or {}), **more})))

    def label(self, labels: Mapping[str, str] | None = None, /, **more: str) -> Self:
        """Labels of the image, added to the base's: ``label({"com.example/tier": "web"}, version="2")``."""
        return self._with(_pairs(given.Label, check_env({**(labels or {}), **more})))

    def user(self, user: str | int) -> Self:
        """``name``, ``uid`` or ``user:group``, also for the steps that follow."""
        return self._with(given.User(user=str(user), **_common(f"USER {user}")))

    def expose(self, *ports: int | str) -> Self:
        """Ports such as ``80``, ``"53/udp"`` or ``"8000-8010"``."""
        words = tuple(map(str, ports))
        return self._with(_checked(given.Expose(ports=words, **_common(f"EXPOSE {' '.join(words)}"))))

    def volume(self, *paths: str) -> Self:
        """Directories that get a nameless volume in each container, where nothing is mounted."""
        return self._with(given.Volume(paths=paths, **_common(f"VOLUME {' '.join(paths)}")))

    def entrypoint(self, command: str | Sequence[str]) -> Self:
        """A list of words, or a shell line. The base's command is none of the image's then."""
        made = given.Entrypoint(command=_command(command), **_common(f"ENTRYPOINT {command}"))
        return self._with(made)

    def cmd(self, command: str | Sequence[str]) -> Self:
        """A list of words, or a shell line."""
        return self._with(given.Cmd(command=_command(command), **_common(f"CMD {command}")))

    def shell(self, argv: Sequence[str]) -> Self:
        """What executes shell lines from here on."""
        words = check_argv(argv, "shell") or ()
        return self._with(given.Shell(argv=words, **_common(f"SHELL {list(words)}")))

    def stop_signal(self, signal: str | int) -> Self:
        """What `Container.stop` sends: ``"INT"`` or a number."""
        made = given.StopSignal(signal=str(signal), **_common(f"STOPSIGNAL {signal}"))
        return self._with(_checked(made))

    def healthcheck(self, check: Healthcheck) -> Self:
        """How containers are found healthy, unless they are made with another check."""
        return self._with(given.Healthcheck(check=check, **_common(f"HEALTHCHECK {check.test}")))

    # --- building -------------------------------------------------------------------------------------------

    def build(
        self,
        *,
        context: StrPath = ".",
        tags: Sequence[str] = (),
        secrets: Mapping[str, Secret] | None = None,
        labels: Mapping[str, str] | None = None,
        platform: str | None = None,
        no_cache: bool = False,
        network: Network = "none",
        limits: Limits | None = None,
        pull: Pull = "missing",
        progress: Progress = None,
    ) -> Image:
        """The image. context: the directory that `copy` copies from. The others, and what it raises, are as
        of `Images.build`; what a function raised is the `__cause__` of the BuildError."""
        return self._build(
            context,
            self.program(),
            tags,
            build_args=None,
            target=None,
            secrets=secrets,
            labels=labels,
            platform=platform,
            no_cache=no_cache,
            network=network,
            limits=limits,
            pull=pull,
            progress=progress,
        )

    def program(self) -> given.Dockerfile:
        """The steps, and those they copy from, as stages."""
        stages: list[given.Stage] = []
        indexes: dict[BuildSteps, int] = {}

        def add(steps: BuildSteps) -> int:
            if steps not in indexes:
                instructions = tuple(
                    evolve(each, from_=str(add(other))) if other and isinstance(each, given.Copy) else each
                    for each, other in steps._steps
                )
                base = given.From(image=steps.base, **_common(f"FROM {steps.base}"))
                indexes[steps] = len(stages)
                stages.append(given.Stage(index=len(stages), base=base, instructions=instructions))
            return indexes[steps]

        add(self)
        return given.Dockerfile(file="steps", escape="\\", syntax="", global_args=(), stages=tuple(stages))

    def _with(self, instruction: given.Instruction, other: BuildSteps | None = None) -> Self:
        return evolve(self, steps=(*self._steps, (instruction, other)))


def _common(text: str) -> Any:
    return {"at": _AT, "text": text, "original": text}


def _command(command: str | Sequence[str]) -> given.Command:
    if isinstance(command, str):
        if not command.strip() or "\0" in command:
            raise InvalidSpecError(f"command {command!r}: is empty, or holds a NUL byte")
        return given.ShellForm(command)
    return given.ExecForm(check_argv(command) or ())


def _pairs(kind: type[given.Env | given.Label], pairs: Mapping[str, str]) -> given.Instruction:
    if not pairs:
        raise InvalidSpecError(f"{kind.name.lower()}() needs a name and a value")
    names = " ".join(f"{name}={value}" for name, value in pairs.items())
    return kind(pairs=tuple(pairs.items()), **_common(f"{kind.name} {names}"))


def _mount(text: str) -> RunMount:
    try:
        return resolve(parse_flag(text), lambda value: value)
    except ValueError as error:
        raise InvalidSpecError(str(error)) from None


def _checked(instruction: Some) -> Some:
    """With what is written in several ways in its one form."""
    try:
        return substitute(instruction, {})
    except DockerfileError as error:
        raise InvalidSpecError(error.reason) from None
