"""The noun `Snapshot`: what a container had on its file system at one moment, to begin others with."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from . import relaunching
from .container import Container
from .containers import Containers
from .errors import SnapshotNotFoundError, StillUsedError
from .execution import OnOutput
from .image import Image
from .machinery import Machinery
from .options import ContainerOptions
from .results import Completed
from .shown import Shown
from .specjson import spec_from_json
from .specs import ContainerSpec
from .waiting import Steps, steps, waits

if TYPE_CHECKING:
    from .display.blocks import Page


class Snapshot(Shown):
    """
    The file system of a container as it was, from `Container.snapshot`. A ``with`` block removes it at its
    end.

    It is kept frozen: containers write to layers of their own above it. So one starts as fast as from an
    image, and finds all as it was, files of volumes too. They are made as the container was, but for name,
    host name, addresses and ports of the host, which only one can have. What is given to `launch`, `create`
    and `run` takes the place of that; `env` and `labels` are added.
    """

    __slots__ = ("_id", "_machinery")

    def __init__(self, machinery: Machinery, snapshot_id: str) -> None:
        self._machinery = machinery
        self._id = snapshot_id

    @property
    def id(self) -> str:
        """64 hex digits; never changes."""
        return self._id

    @property
    def name(self) -> str | None:
        """Unique under its host; None: it ends with the process that took it. Raises SnapshotNotFoundError
        when it was removed, as all that follow."""
        name: str | None = self._row["name"]
        return name

    @property
    def image(self) -> Image:
        """What its containers are made from, and it alone; given a tag, that outlives the snapshot."""
        return Image(self._machinery, self._row["image_id"])

    @property
    def spec(self) -> ContainerSpec:
        """What the container was made with."""
        return spec_from_json(self._row["spec"])

    @property
    def created_at(self) -> datetime:
        """When it was taken."""
        return datetime.fromtimestamp(self._row["created_at"], UTC)

    @property
    def _row(self) -> Any:
        return self._machinery.snapshot_store.row(self._id)

    # --- containers ---

    def launch(
        self,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        auto_remove: bool = False,
        **overrides: Unpack[ContainerOptions],
    ) -> Container:
        """Create and start a container with this file system: as `Containers.launch`."""
        argv, options = self._made_with(argv, sh, overrides, auto_remove=auto_remove)
        containers = Containers(self._machinery)
        return containers.launch(self.image, argv, sh=sh, auto_remove=auto_remove, **options)

    def create(
        self,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        auto_remove: bool = False,
        **overrides: Unpack[ContainerOptions],
    ) -> Container:
        """A container with this file system, ready to start: as `Containers.create`."""
        argv, options = self._made_with(argv, sh, overrides, auto_remove=auto_remove)
        containers = Containers(self._machinery)
        return containers.create(self.image, argv, sh=sh, auto_remove=auto_remove, **options)

    @waits
    def run(
        self,
        argv: Sequence[str] | None = None,
        *,
        sh: str | None = None,
        input: bytes | str | None = None,
        timeout_s: float | None = None,
        check: bool = True,
        on_output: OnOutput | None = None,
        **overrides: Unpack[ContainerOptions],
    ) -> Steps[Completed]:
        """Run a command in a new container with this file system, and remove that: as `Containers.run`."""
        argv, options = self._made_with(argv, sh, overrides, auto_remove=True)
        options["tty"] = False
        run = steps(Containers(self._machinery).run)
        return (
            yield from run(
                self.image,
                argv,
                sh=sh,
                input=input,
                timeout_s=timeout_s,
                check=check,
                on_output=on_output,
                **options,
            )
        )

    def _made_with(
        self, argv: Sequence[str] | None, sh: str | None, overrides: ContainerOptions, *, auto_remove: bool
    ) -> tuple[Sequence[str] | None, ContainerOptions]:
        spec = self.spec
        options = relaunching.overridden(relaunching.as_options(spec), overrides, auto_remove=auto_remove)
        return (spec.argv if argv is None and sh is None else argv), options

    # --- its life ---

    def remove(self) -> None:
        """Delete it with its files. Raises StillUsedError: there are containers of it."""
        self._machinery.snapshot_store.remove(self._id)

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(SnapshotNotFoundError, *([StillUsedError] if error else ())):  # the error matters more
            self.remove()

    def _page(self) -> Page:
        from .display.stores import snapshot

        return snapshot(self._machinery, self._id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, str]:
        return self._id, str(self._machinery.root.path)

    def __repr__(self) -> str:
        try:
            return f"<Snapshot {self.name or self._id[:12]} of {self.spec.name}>"
        except LookupError:
            return f"<Snapshot {self._id[:12]}: removed>"
