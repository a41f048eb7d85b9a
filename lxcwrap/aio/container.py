"""`Container` for event loops."""

# Its methods are those of the class it derives from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from .. import container as plain
from .. import lifecycle
from . import threads
from .calls import Calls
from .driving import Twin, at_once, flowing, held, in_thread, making, method
from .image import Image
from .paths import ContainerPath, as_path
from .popen import popening

if TYPE_CHECKING:
    from .snapshot import Snapshot

P = ParamSpec("P")
T = TypeVar("T")


class Container(Twin, plain.Container):
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

    async def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of this program inside, as `lxcwrap.Container.call`. Who cancels it kills it."""
        return await self.calling().call(function, *args, **kwargs)

    def calling(
        self,
        *,
        timeout_s: float | None = None,
        user: str | int | None = None,
        env: Mapping[str, str] | None = None,
        imports: Sequence[str] = (),
    ) -> Calls:
        """`call`, with options."""
        return Calls(self._machinery, self._id, timeout_s=timeout_s, user=user, env=env, imports=imports)

    def function(self, function: Callable[P, T], /) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorator: each call of the function is a `call` in this container, to be awaited."""
        return self.calling().function(function)

    copy_in = method(plain.Container.copy_in, long=True)
    copy_out = method(plain.Container.copy_out, long=True)
    diff = method(plain.Container.diff, long=True)
    commit = making(Image.of, plain.Container.commit, long=True)

    async def snapshot(self, name: str | None = None, *, pause: bool = True) -> Snapshot:
        """As `lxcwrap.Container.snapshot`."""
        from .snapshot import Snapshot

        take = partial(self._sync.snapshot, name, pause=pause)
        return Snapshot.of(await in_thread(threads.long(), take, lambda taken: taken.remove()))

    logs = method(plain.Container.logs)
    log_lines = flowing(plain.Container.log_lines)
    stats = method(plain.Container.stats)
    stats_stream = flowing(plain.Container.stats_stream)
    live_stats = at_once(plain.Container.live_stats)
    live_logs = at_once(plain.Container.live_logs)
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
