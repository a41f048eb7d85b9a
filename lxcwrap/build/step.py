"""What a build asks of the machine: to run one command over layers, writing to a draft of the next.

The engine knows this module alone, and never sees a container.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import Literal, Protocol

from attrs import field, frozen

from ..specs import Limits
from ..storage.layers import LayerDraft

Network = Literal["none", "host"]
OnOutput = Callable[[Literal["stdout", "stderr"], bytes], object]


@frozen(kw_only=True)
class TreeMount:
    """Directories seen merged, or what lies at `subpath` in them, at `target`; what is written is dropped.

    trees: topmost first, with plain ids. The kernel resolves `subpath` within them.
    """

    target: str
    trees: tuple[Path, ...]
    subpath: str = "/"
    read_only: bool = True


@frozen(kw_only=True)
class CacheMount:
    """A directory of the host that outlives the build, with plain ids: what is written stays."""

    target: str
    directory: Path
    read_only: bool = False


@frozen(kw_only=True)
class TmpfsMount:
    """An empty file system in memory. size: most bytes; None: half the memory."""

    target: str
    size: int | None = None


@frozen(kw_only=True)
class SecretMount:
    """A file with `content`, in memory only: never written to any disk. Ids are those inside."""

    target: str
    content: bytes = field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0o400


StepMount = TreeMount | CacheMount | TmpfsMount | SecretMount


@frozen(kw_only=True)
class RunStep:
    """One command. lowers: the layers below, topmost first. draft: what the command writes is in it after.

    user: as in a `ContainerSpec`. env: complete, but for secret_env, which is written to no disk.
    """

    argv: tuple[str, ...]
    lowers: tuple[Path, ...]
    draft: LayerDraft
    env: Mapping[str, str] = field(factory=dict)
    secret_env: Mapping[str, str] = field(factory=dict, repr=False)
    cwd: str = "/"
    user: str = ""
    mounts: tuple[StepMount, ...] = ()
    network: Network = "none"
    limits: Limits = field(factory=Limits)
    stdin: bytes = b""


class StepRunner(Protocol):
    """Runs steps, several at a time from different threads."""

    def run(self, step: RunStep, on_output: OnOutput, cancelled: Event) -> int:
        """Run it to its end; its exit code, 128+signal if killed.

        on_output: called from this thread with what the command writes, as it comes. cancelled: when set,
        the command is killed and BuildCancelled raised. Mount points that were missing leave no trace in
        the draft. Raises StartError: the command could not be started; DriverError, UnsupportedError.
        """
        ...

    def call(
        self,
        step: RunStep,
        function: Callable[..., object],
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        cancelled: Event,
    ) -> None:
        """As `run`, but instead of the step's argv call a function of this process there, as root, as
        `Container.call` does; what it returns is dropped.

        Raises CallError, or what the function raises.
        """
        ...


class BuildCancelled(Exception):
    """The step was killed because another failed, or the caller was interrupted. Never reaches callers."""
