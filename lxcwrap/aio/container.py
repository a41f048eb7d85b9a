"""`Container` for event loops."""

# Its methods are those of the class it derives from, awaited.
# mypy: disable-error-code="assignment"

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Self

from .. import container as plain
from .. import lifecycle
from . import threads
from .driving import flowing, held, in_thread, making, method
from .image import Image
from .paths import ContainerPath, as_path
from .popen import popening


class Container(plain.Container):
    """A `lxcwrap.Container` whose methods are awaited; properties are read as there.

    It is accepted wherever a container is. As an async context manager it is stopped and removed at the end
    of the block.
    """

    __slots__ = ()

    @classmethod
    def of(cls, container: plain.Container) -> Self:
        """The same container."""
        return cls(container._machinery, container._id)

    @property
    def _sync(self) -> plain.Container:
        return plain.Container(self._machinery, self._id)

    @property
    def image(self) -> Image:
        """The image it was made from."""
        return Image.of(super().image)

    publish = method(plain.Container.publish)
    unpublish = method(plain.Container.unpublish)
    socket = making(lambda made: made, plain.Container.socket, lost=lambda made: made.close())

    start = making(lambda found: Container.of(found), plain.Container.start)
    stop = method(plain.Container.stop)
    kill = method(plain.Container.kill)
    restart = making(lambda found: Container.of(found), plain.Container.restart)
    pause = method(plain.Container.pause)
    unpause = method(plain.Container.unpause)
    frozen = held(plain.Container.frozen)
    kill9 = held(plain.Container.kill9)
    wait = method(plain.Container.wait)
    wait_ready = making(lambda found: Container.of(found), plain.Container.wait_ready)
    remove = method(plain.Container.remove)
    rename = method(plain.Container.rename)
    update = method(plain.Container.update)

    exec = method(plain.Container.exec)
    popen = popening(plain.Container.popen)
    attach = method(plain.Container.attach, long=True)

    copy_in = method(plain.Container.copy_in, long=True)
    copy_out = method(plain.Container.copy_out, long=True)
    diff = method(plain.Container.diff, long=True)
    commit = making(Image.of, plain.Container.commit, long=True)

    logs = method(plain.Container.logs)
    log_lines = flowing(plain.Container.log_lines)
    stats = method(plain.Container.stats)
    stats_stream = flowing(plain.Container.stats_stream)
    top = method(plain.Container.top)

    def path(self, path: str) -> ContainerPath:
        """A path inside, whose methods are awaited."""
        return as_path(ContainerPath, super().path(path))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await in_thread(threads.brief(), partial(lifecycle.discard, self._machinery, self._id))
