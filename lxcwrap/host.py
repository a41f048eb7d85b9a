"""`Host`: where everything begins. The only global of the package is the default host."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Unpack

from .container import Container
from .containers import Containers
from .errors import UnsupportedError
from .execution import OnOutput
from .image import Image
from .images import Images
from .machinery import Machinery
from .options import ContainerOptions
from .results import Completed, DiskUsage, Pruned
from .shown import Shown
from .specs import StrPath, parse_size
from .storage.root import DEFAULT_ROOT
from .waiting import Flow, flows

if TYPE_CHECKING:
    from datetime import datetime

    from .check import Report
    from .display.blocks import Page
    from .display.graph import Graph
    from .events import Event
    from .networks import Networks
    from .snapshots import Snapshots
    from .volumes import Volumes

_current: ContextVar[Host | None] = ContextVar("lxcwrap_host", default=None)
_default: dict[str, Host] = {}
_default_lock = threading.Lock()


class Host(Shown):
    """The containers and images under one root directory of this machine.

    root: where everything is kept; default ``LXCWRAP_ROOT`` or /var/lib/lxcwrap. Any number of hosts, threads
    and processes may use one root directory at once. Making one clears what killed processes have left there.

    Raises UnsupportedError when not run by root.
    """

    def __init__(self, root: StrPath | None = None) -> None:
        self._machinery = self._make(root or os.environ.get("LXCWRAP_ROOT") or DEFAULT_ROOT)
        self._machinery.clean()

    def _make(self, root: StrPath) -> Machinery:
        if os.geteuid() != 0:
            raise UnsupportedError(
                "lxcwrap needs root, to set up namespaces, mounts and cgroups", "run this with sudo"
            )
        return Machinery(root)

    @property
    def root(self) -> Path:
        """The root directory."""
        return self._machinery.root.path

    @cached_property
    def containers(self) -> Containers:
        """All containers, and `run`, `launch`, `create` to make them."""
        return Containers(self._machinery)

    @cached_property
    def images(self) -> Images:
        """All images, and `load`, `import_rootfs`, `bootstrap` to make them."""
        return Images(self._machinery)

    @cached_property
    def networks(self) -> Networks:
        """All networks of containers, and `create` to make them."""
        from .networks import Networks

        return Networks(self._machinery)

    @cached_property
    def snapshots(self) -> Snapshots:
        """All snapshots of containers; `Container.snapshot` takes them."""
        from .snapshots import Snapshots

        return Snapshots(self._machinery)

    @cached_property
    def volumes(self) -> Volumes:
        """All named volumes, and `create` to make them."""
        from .volumes import Volumes

        return Volumes(self._machinery)

    @flows
    def events(
        self,
        *,
        kinds: type[Event] | tuple[type[Event], ...] | None = None,
        container: str | Container | None = None,
        since: datetime | None = None,
        follow: bool = True,
        timeout_s: float | None = None,
    ) -> Flow[Event]:
        """What happens to containers, images, networks and volumes, as values of `lxcwrap.events`, whichever
        process does it.

        kinds: only events that `isinstance` finds to be such, as ``(events.ImageEvent, events.Exited)``.
        container: of this one only. since: begin with what has happened from this time on; the last megabyte
        is kept, some thousand events. follow: wait for more, for `timeout_s` seconds, or without end; else
        end with the last.
        """
        from .events import Event, events

        return events(
            self._machinery,
            kinds=kinds or Event,
            container_id=None if container is None else self.containers[container].id,
            since=since,
            follow=follow,
            timeout_s=timeout_s,
        )

    def check(self) -> Report:
        """What this machine has and lacks for lxcwrap, each with the command that mends it."""
        from .check import check

        return check(self.root)

    def disk_usage(self) -> DiskUsage:
        """What everything under the root directory takes up, by kind, and each image. Takes tens of
        milliseconds for every ten thousand files."""
        from .storage.usage import disk_usage

        return disk_usage(self._machinery.image_store)

    def graph(self) -> Graph:
        """Its networks and who is on them, drawn: as they are now."""
        from .display.graph import Graph

        return Graph(self._machinery)

    def resume(self) -> list[Container]:
        """Start what should run and does not: after a boot of the machine, or a crash of everything. Those
        with policy `always`; with `unless_stopped` unless they were stopped; with `on_failure` if they ran
        when all was cut off, or waited for a restart. Returns those that were started.

        Raises ExceptionGroup, when all have been tried, with the errors of those that could not be started.
        """
        from .resuming import resume

        return [self.containers[container_id] for container_id in resume(self._machinery)]

    def prune(
        self,
        *,
        all_images: bool = False,
        build_cache_keep: int | str | None = None,
        build_cache_older_than_s: float | None = None,
    ) -> Pruned:
        """Free disk: images without tags and containers, content that nothing needs, remains of killed
        processes and of former versions.

        all_images: also images with tags that have no containers. build_cache_keep: forget what builds made
        beyond so many bytes (``"2GiB"``; 0: all), the longest unused first; build_cache_older_than_s: forget
        what was of no use for so long. Containers and volumes are not touched: see `Containers.prune`.
        """
        from .storage.pruning import prune

        keep = None if build_cache_keep is None else parse_size(build_cache_keep)
        return prune(
            self._machinery.image_store,
            all_images=all_images,
            keep_bytes=keep,
            older_than_s=build_cache_older_than_s,
        )

    def close(self, *, stop_server: bool = False) -> None:
        """Let go of this process' connections. Ends nothing that runs; `stop_server` ends the idle
        fork-server too, which would end by itself after a minute."""
        if stop_server:
            self._machinery.supervisor.stop()
        self._machinery.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _page(self) -> Page:
        from .display.stores import host

        return host(self._machinery)

    def __repr__(self) -> str:
        return f"<Host {self.root}>"


def default_host() -> Host:
    """The host used where none is named: that of `use_host`, or one for the default root directory."""
    chosen = _current.get()
    if chosen is not None:
        return chosen
    root = os.environ.get("LXCWRAP_ROOT") or DEFAULT_ROOT
    with _default_lock:
        if root not in _default:
            _default[root] = Host(root)
        return _default[root]


@contextmanager
def use_host(host: Host) -> Iterator[Host]:
    """Make `host` the default one within the block, in this thread or task."""
    token = _current.set(host)
    try:
        yield host
    finally:
        _current.reset(token)


def run(
    image: str | Image,
    argv: Sequence[str] | None = None,
    *,
    sh: str | None = None,
    input: bytes | str | None = None,
    timeout_s: float | None = None,
    check: bool = True,
    on_output: OnOutput | None = None,
    host: Host | None = None,
    **options: Unpack[ContainerOptions],
) -> Completed:
    """Run a command in a new container and collect its output, as `subprocess.run`.

    The parameters, and what it raises, are those of `Containers.run`::

        lxcwrap.run("busybox", ["echo", "hello"]).stdout == "hello\\n"
    """
    containers = (host or default_host()).containers
    return containers.run(
        image, argv, sh=sh, input=input, timeout_s=timeout_s, check=check, on_output=on_output, **options
    )
