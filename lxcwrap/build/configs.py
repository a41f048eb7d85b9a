"""What instructions make of the config of an image, and what they are called in its history.

Pure. The history says what an instruction means and not how it was written, so that the same steps from a
Dockerfile and from a program make the same image. Source: Dockerfile reference; BuildKit, where that is
silent.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Final

from attrs import evolve, frozen

from ..imageconfig import ImageConfig
from ..supervisor.plan import environment
from . import instructions as given

SHELL: Final = ("/bin/sh", "-c")


@frozen(kw_only=True)
class Settings:
    """What steps of a stage begin from. config: its `diff_ids` and `history` are those of the base.

    args: the values of the ARGs declared so far. has_cmd: whether CMD was given in this stage.
    """

    config: ImageConfig
    args: Mapping[str, str]
    has_cmd: bool = False

    @property
    def shell(self) -> tuple[str, ...]:
        return self.config.shell or SHELL

    @property
    def working_dir(self) -> str:
        return posixpath.normpath("/" + self.config.working_dir.lstrip("/"))

    @property
    def variables(self) -> dict[str, str]:
        """What instructions see. ENV wins over ARG."""
        return {**self.args, **self.config.env}

    @property
    def env(self) -> dict[str, str]:
        """What commands see."""
        return environment(self.variables)

    def argv(self, command: given.Command) -> tuple[str, ...]:
        if isinstance(command, given.ExecForm):
            return command.argv
        return (*self.shell, command.script)

    def path(self, path: str) -> str:
        """`path`, which may be relative to the working directory; it cannot lead out of the root."""
        return posixpath.normpath(posixpath.join(self.working_dir, path)).replace("//", "/")


def configured(settings: Settings, instruction: given.Instruction) -> Settings:
    """`settings` after an instruction; as they were, if it is none that sets anything."""
    config = settings.config
    match instruction:
        case given.Entrypoint(command=command):
            # Arguments for the base's entrypoint make no sense to another one.
            cmd = config.cmd if settings.has_cmd else ()
            changed = evolve(config, entrypoint=settings.argv(command), cmd=cmd)
        case given.Cmd(command=command):
            return evolve(settings, config=evolve(config, cmd=settings.argv(command)), has_cmd=True)
        case given.Env(pairs=pairs):
            changed = evolve(config, env={**config.env, **dict(pairs)})
        case given.Label(pairs=pairs):
            changed = evolve(config, labels={**config.labels, **dict(pairs)})
        case given.Workdir(path=path):
            changed = evolve(config, working_dir=settings.path(path))
        case given.User(user=user):
            changed = evolve(config, user=user)
        case given.Expose(ports=ports):
            changed = evolve(config, exposed_ports=_added(config.exposed_ports, ports))
        case given.Volume(paths=paths):
            changed = evolve(config, volumes=_added(config.volumes, paths))
        case given.Healthcheck(check=check):
            changed = evolve(config, healthcheck=check)
        case given.StopSignal(signal=signal):
            changed = evolve(config, stop_signal=signal)
        case given.Shell(argv=argv):
            changed = evolve(config, shell=argv)
        case given.Onbuild(expression=expression):
            changed = evolve(config, on_build=(*config.on_build, expression))
        case given.Maintainer(maintainer=maintainer):
            changed = evolve(config, author=maintainer)
        case _:
            return settings
    return evolve(settings, config=changed)


def _added(names: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({*names, *more}))  # in a config they are the members of an object


def described(settings: Settings, instruction: given.Instruction) -> str:
    """What the history calls it. settings: before it; the instruction with its variables replaced."""
    match instruction:
        case given.Run(command=command):
            return _run(settings, settings.argv(command))
        case given.Transfer():
            return " ".join((instruction.name, *_flags(instruction), *_places(instruction)))
        case given.Entrypoint(command=command) | given.Cmd(command=command):
            text = json.dumps(settings.argv(command), ensure_ascii=False)
        case given.Env(pairs=pairs) | given.Label(pairs=pairs):
            text = " ".join(f"{name}={value}" for name, value in pairs)
        case given.Arg(pairs=pairs):
            text = " ".join(name if value is None else f"{name}={value}" for name, value in pairs)
        case given.Workdir(path=path):
            text = settings.path(path)
        case given.User(user=text) | given.StopSignal(signal=text) | given.Maintainer(maintainer=text):
            pass
        case given.Onbuild(expression=text):
            pass
        case given.Expose(ports=words):
            text = " ".join(words)
        case given.Volume(paths=words) | given.Shell(argv=words):
            text = json.dumps(words, ensure_ascii=False)
        case given.Healthcheck(check=check):
            text = json.dumps(check.document(), ensure_ascii=False)
        case _:
            return instruction.text
    return f"{instruction.name} {text}"


def _run(settings: Settings, argv: tuple[str, ...]) -> str:
    """As Docker does, with the ARGs that the command could see."""
    args = [f"{name}={value}" for name, value in settings.args.items()]
    count = (f"|{len(args)}",) if args else ()
    return " ".join(("RUN", *count, *args, *argv))


def _flags(transfer: given.Transfer) -> list[str]:
    """Those that decide what is made. Not ``--from``: what a stage is called does not matter."""
    valued = {"chown": (transfer.chown,), "chmod": (transfer.chmod,), "exclude": transfer.exclude}
    flags = [f"--{name}={value}" for name, values in valued.items() for value in values if value]
    set_flags = {"link": transfer.link, "parents": getattr(transfer, "parents", False)}
    return flags + [f"--{name}" for name, is_set in set_flags.items() if is_set]


def _places(transfer: given.Transfer) -> tuple[str, ...]:
    documents = (f"<<{document.name}" for document in transfer.heredocs)
    return (*transfer.sources, *documents, transfer.destination)
