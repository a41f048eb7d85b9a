"""`Host` for event loops."""

# Its methods are those of the class it derives from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from types import TracebackType
from typing import Self, Unpack

from .. import container, image
from .. import host as plain
from ..execution import OnOutput
from ..options import ContainerOptions
from ..results import Completed
from . import threads
from .container import Container
from .containers import Containers
from .driving import Twin, at_once, flowing, in_thread, making, method
from .image import Images
from .network import Networks
from .snapshot import Snapshots
from .volume import Volumes


def _all(found: list[container.Container]) -> list[Container]:
    return [Container.of(each) for each in found]


class Host(Twin, plain.Host):
    """A `lxcwrap.Host` whose methods are awaited, and those of all that is had from it.

    ``async with Host(root) as host``; as it clears what killed processes have left, making one takes some
    milliseconds: `Host.of` takes one that is there.
    """

    @classmethod
    def of(cls, other: plain.Host) -> Self:
        """The same host."""
        made = cls.__new__(cls)
        made._machinery = other._machinery
        return made

    @property
    def _sync(self) -> plain.Host:
        host = plain.Host.__new__(plain.Host)
        host._machinery = self._machinery
        return host

    @cached_property
    def containers(self) -> Containers:
        """All containers, and `run`, `launch`, `create` to make them."""
        return Containers(self._machinery)

    @cached_property
    def images(self) -> Images:
        """All images, and `pull`, `build` and others to make them."""
        return Images(self._machinery)

    @cached_property
    def networks(self) -> Networks:
        """All networks of containers, and `create` to make them."""
        return Networks(self._machinery)

    @cached_property
    def volumes(self) -> Volumes:
        """All named volumes, and `create` to make them."""
        return Volumes(self._machinery)

    @cached_property
    def snapshots(self) -> Snapshots:
        """All snapshots of containers; `Container.snapshot` takes them."""
        return Snapshots(self._machinery)

    events = flowing(plain.Host.events)
    check = method(plain.Host.check, long=True)
    disk_usage = method(plain.Host.disk_usage, long=True)
    graph = at_once(plain.Host.graph)
    resume = making(_all, plain.Host.resume, long=True)
    prune = method(plain.Host.prune, long=True)
    close = method(plain.Host.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def default_host() -> Host:
    """The host used where none is named: that of `use_host`, or one for the default root directory."""
    return Host.of(plain.default_host())


def use_host(other: plain.Host) -> AbstractContextManager[plain.Host]:
    """Make `other` the default one within the block, in this task and those it makes."""
    return plain.use_host(other)


async def run(
    image: str | image.Image,
    argv: Sequence[str] | None = None,
    *,
    sh: str | None = None,
    input: bytes | str | None = None,
    timeout_s: float | None = None,
    check: bool = True,
    on_output: OnOutput | None = None,
    host: plain.Host | None = None,
    **options: Unpack[ContainerOptions],
) -> Completed:
    """Run a command in a new container and collect its output, as `lxcwrap.run`.

    Cancelled, it kills the command and removes the container, which nobody has a name for.
    """
    if host is None:
        host = await in_thread(threads.brief(), plain.default_host)
    return await Host.of(host).containers.run(
        image, argv, sh=sh, input=input, timeout_s=timeout_s, check=check, on_output=on_output, **options
    )
