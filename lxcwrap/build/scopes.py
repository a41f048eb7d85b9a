"""What ARGs become: of a build, of a file, of a stage.

Source: Dockerfile reference, "ARG", "Automatic platform ARGs in the global scope".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from ..errors import InvalidSpecError
from ..platforms import Platform
from . import instructions as given
from .substitution import declare

_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PREDEFINED: Final = frozenset((*_PROXIES, *map(str.lower, _PROXIES)))
"""RUN sees them without ARG if the build is given them; they count for neither cache nor history."""

_FOR_BUILDERS: Final = frozenset({"SOURCE_DATE_EPOCH"})


class Scopes:
    """The ARGs of one build of `dockerfile`. Raises DockerfileError."""

    def __init__(
        self, dockerfile: given.Dockerfile, build_args: Mapping[str, str], platform: Platform
    ) -> None:
        self._dockerfile = dockerfile
        self._build_args = build_args
        self._automatic = {
            name: build_args.get(name, value)
            for prefix, each in (("TARGET", platform), ("BUILD", Platform.host()))
            for name, value in _facts(prefix, each)
        }
        self.file = dict(self._automatic)
        """What FROM sees."""
        for arg in dockerfile.global_args:
            self.file |= self._declare(arg, self.file, self._automatic)
        self.predefined = {name: value for name, value in build_args.items() if name in PREDEFINED}

    def declare(self, arg: given.Arg, variables: Mapping[str, str], stage: str) -> dict[str, str]:
        """What the names of an ARG in a stage become, whose other variables are given."""
        return self._declare(arg, variables, {"TARGETSTAGE": stage or "default", **self.file})

    def _declare(
        self, arg: given.Arg, variables: Mapping[str, str], inherited: Mapping[str, str]
    ) -> dict[str, str]:
        escape = self._dockerfile.escape
        return declare(arg, variables, build_args=self._build_args, global_args=inherited, escape=escape)

    def check_used(self, triggers: list[given.Instruction]) -> None:
        """Raises InvalidSpecError: something was given to the build that no ARG asks for, be it in a stage
        that is not built or in a trigger of a base image. So misspelt names do not go unnoticed."""
        asked = {name for each in (*self._instructions(), *triggers) for name in _names(each)}
        known = asked | PREDEFINED | self._automatic.keys() | _FOR_BUILDERS
        if unused := sorted(self._build_args.keys() - known):
            raise InvalidSpecError(
                f"build_args: no ARG of {self._dockerfile.file} asks for {', '.join(unused)}:"
                " declare it by ARG where it is used, or leave it out"
            )

    def _instructions(self) -> Iterator[given.Instruction]:
        yield from self._dockerfile.global_args
        for stage in self._dockerfile.stages:
            yield from stage.instructions


def _facts(prefix: str, platform: Platform) -> Iterator[tuple[str, str]]:
    yield f"{prefix}PLATFORM", str(platform)
    yield f"{prefix}OS", platform.os
    yield f"{prefix}ARCH", platform.architecture
    yield f"{prefix}VARIANT", platform.variant


def _names(instruction: given.Instruction) -> Iterator[str]:
    if isinstance(instruction, given.Onbuild):
        instruction = instruction.trigger
    if isinstance(instruction, given.Arg):
        yield from (name for name, _ in instruction.pairs)
