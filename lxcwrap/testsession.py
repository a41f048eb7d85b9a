"""What the pytest plugin knows in one process: its run, what its fixtures have made, and what is to stay."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from attrs import frozen

from .container import Container
from .errors import ImageNotFoundError, LxcwrapError
from .host import Host
from .image import Image
from .images import Images
from .progress import board
from .ready import Check
from .snapshot import Snapshot
from .storage.root import DEFAULT_ROOT
from .testruns import MADE_OF_LABEL, RUN_LABEL, Run, remove, sweep

_TAIL = 50  # lines of a log in a report
_FAILED = pytest.StashKey[bool]()
_BEGAN = pytest.StashKey[datetime]()


@frozen(kw_only=True)
class Made:
    """The container of a fixture, and what it waits for. snapshot: of it, when it had become ready."""

    container: Container
    ready: Check | None
    ready_timeout_s: float
    snapshot: Snapshot | None


class Session:
    """One pytest process, a worker of xdist or the only one. token: of the run."""

    def __init__(self, config: pytest.Config, token: str) -> None:
        project = str(config.rootpath)
        self.token = token
        self.keeps: bool = config.getoption("lxc_keep")
        self.reuses: bool = config.getoption("lxc_reuse")
        self.worker: str = getattr(config, "workerinput", {}).get("workerid", "")
        self.made: dict[str, Made] = {}  # by fixture
        self._kept_for = _reuse_mark(project) if self.reuses else project
        self._of_test: list[tuple[str, Container]] = []
        self._texts: list[tuple[str, str]] = []
        given = config.getoption("lxc_root")
        self._is_own = not given
        self._is_lasting = bool(given) or self.reuses
        sweep([project], but=token)
        self.run = Run(token, root=Path(given) if given else None, begin=self._begin)
        if self.reuses:
            self.run.keep(self._kept_for)

    def _begin(self, host: Host) -> None:
        """Clear what a run that was killed has left beside what this one uses again."""
        if self.reuses:
            own = {} if self._is_own else {RUN_LABEL: self.token}
            remove(host, lambda labels: own.items() <= labels.items() and MADE_OF_LABEL not in labels)

    @property
    def host(self) -> Host:
        return self.run.host

    # --- images ---

    def image(self, key: str | Image, host: Host) -> Image:
        """An image by its reference: of the run; else of this machine's own store, where it is pulled to if
        it is not there either."""
        try:
            return host.images.resolve(key)
        except ImageNotFoundError:
            if isinstance(key, Image):
                raise
        with self.run.locked(f"image {key}"):
            return host.images.get(key) or self._from_store(
                lambda images: images.get(key) or images.pull(key, progress=False), host
            )

    def build(self, context: Path, options: Mapping[str, Any], host: Host) -> Image:
        """Built in this machine's own store, where the next run finds what has not changed."""
        with self.run.locked(f"build {context}"):
            return self._from_store(
                lambda images: images.build(context, **{"progress": False, **options}), host
            )

    def _from_store(self, get: Callable[[Images], Image], host: Host) -> Image:
        """What `get` gives of this machine's own store; or of the run's, if that is to stay."""
        store = Path(os.environ.get("LXCWRAP_ROOT") or DEFAULT_ROOT)
        if self._is_lasting or store.absolute() == host.root:
            return get(host.images)
        with (
            Host(store) as owner,
            TemporaryDirectory(prefix="lxcwrap-image-", dir=host.root.parent) as scratch,
        ):
            image = get(owner.images)
            if image.id not in host.images:
                image.save(Path(scratch) / "image", format="oci-dir", progress=False)
                host.images.load(Path(scratch) / "image", progress=False)
            return host.images[image.id]

    # --- what stays, and what a report is told ---

    def is_kept(self, request: pytest.FixtureRequest) -> bool:
        """Whether what a fixture has made is to be left to look at: its test has failed, or it is for all."""
        failed = request.node.stash.get(_FAILED, False) if request.scope == "function" else True
        if self.keeps and failed:
            self.run.keep(self._kept_for)
        return self.keeps and failed

    def began(self, item: pytest.Item) -> None:
        item.stash[_BEGAN] = datetime.now(UTC)
        self._of_test.clear()

    @contextmanager
    def noted(self, fixture: str, made: Made, scope: str) -> Iterator[None]:
        """Reports of tests know it meanwhile."""
        if scope == "function":  # there may be several
            self._of_test.append((fixture, made.container))
            yield
            return
        self.made[fixture] = made
        try:
            yield
        finally:
            del self.made[fixture]

    def note_end(self, name: str, container: Container) -> None:
        """One that could not become ready is about to go: what it has written is for the next report."""
        self._texts.append((name, _last_lines(container)))

    def failed(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Add what its containers have said to the report of a test."""
        item.stash[_FAILED] = True
        texts, self._texts = self._texts, []
        texts += [(name, _last_lines(container)) for name, container in self._containers_of(item)]
        report.sections += [(f"Log of container {name}", text) for name, text in texts if text]

    def _containers_of(self, item: pytest.Item) -> Iterator[tuple[str, Container]]:
        """Those of fixtures it uses, and those it has launched itself; but where there are workers, these
        cannot be told from those of others."""
        names = [name for name in getattr(item, "fixturenames", ()) if name in self.made]
        found = [*((name, self.made[name].container) for name in names), *self._of_test]
        yield from found
        known = {container for _, container in found}
        began = item.stash.get(_BEGAN, datetime.min.replace(tzinfo=UTC))
        for container in reversed([] if self.worker else self.host.containers.list()):
            with suppress(LxcwrapError):
                if container not in known and container.created_at >= began:
                    yield container.name, container

    def leave(self) -> None:
        self.run.leave()


def _last_lines(container: Container) -> str:
    """Of its log; they steer nobody's terminal. Empty if it is gone."""
    with suppress(LxcwrapError):
        return "\n".join(map(board.clean, container.logs(tail=_TAIL).splitlines()))
    return ""


def clean(config: pytest.Config) -> None:
    """Remove all that earlier runs of the project have left."""
    project = str(config.rootpath)
    sweep([project, _reuse_mark(project)])


def _reuse_mark(project: str) -> str:
    """For whom a run is kept that is to be used again."""
    return f"reuse {project}"


def lack() -> str:
    """What this process would need to run containers."""
    from importlib.util import find_spec

    if os.geteuid() != 0:
        return "lxcwrap needs root"
    return "" if find_spec("_lxc") else "lxcwrap needs the Python bindings of liblxc: pip install lxc"
