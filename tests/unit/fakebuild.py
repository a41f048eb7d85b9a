"""Builds without root: layers are plain directories, and commands are functions of the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from threading import Event
from typing import Any

import pytest

from lxcwrap.build import changes
from lxcwrap.build.engine import build
from lxcwrap.build.filedigests import FileDigests
from lxcwrap.build.instructions import Dockerfile
from lxcwrap.build.options import BuildOptions, Workshop
from lxcwrap.build.parser import parse
from lxcwrap.build.step import BuildCancelled, OnOutput, RunStep
from lxcwrap.drivers.filesystem import rename_new
from lxcwrap.imageconfig import ImageConfig
from lxcwrap.oci import Digest, Platform, Reference
from lxcwrap.progress import ProgressEvent
from lxcwrap.storage.images import ImageStore
from lxcwrap.storage.layers import LayerDraft, ingest_layer
from tests import archives
from tests.unit import fakelayers

HERE = Platform("linux", "amd64")


class DraftedLayers(fakelayers.FakeLayers):
    """Those that can be drafted, too."""

    _count = 0

    @contextmanager
    def draft(self, below: Path | None) -> Iterator[LayerDraft]:
        DraftedLayers._count += 1
        draft = LayerDraft(self._dir.parent / f"draft-{DraftedLayers._count}")
        for directory in (draft.path, draft.layer, draft.work):
            directory.mkdir()
        yield draft

    def keep(self, draft: LayerDraft, chain_id: str) -> None:
        with suppress(FileExistsError):  # another was faster, and has the same
            rename_new(str(draft.layer), str(self.path(chain_id)))


class FakeRunner:
    """Notes the steps; what a command does is said by `act`, and by its words:

    ``write NAME``, ``fail``, ``block`` (until it is cancelled), ``meet`` (until two are at it)."""

    def __init__(self) -> None:
        self.steps: list[RunStep] = []
        self.barrier = threading.Barrier(2)
        self.act: Callable[[RunStep], object] = lambda step: None

    @property
    def commands(self) -> list[str]:
        return [step.argv[-1] for step in self.steps]

    def run(self, step: RunStep, on_output: OnOutput, cancelled: Event) -> int:
        self.steps.append(step)
        self.act(step)
        word, *rest = step.argv[-1].split() or [""]
        match word:
            case "write":
                (step.draft.layer / rest[0]).write_text(step.env.get(rest[0], ""))
            case "say":
                on_output("stdout", " ".join(rest).encode())
            case "fail":
                on_output("stderr", b"it went wrong\n")
                return 3
            case "block":
                if not cancelled.wait(10):
                    raise AssertionError("nobody cancelled it")
                raise BuildCancelled
            case "meet":
                self.barrier.wait(10)
                (step.draft.layer / "met").touch()
        return 0

    def call(
        self,
        step: RunStep,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        cancelled: Event,
    ) -> None:
        self.steps.append(step)
        function(step, *args, **kwargs)


class Builder:
    """Builds over one store, in which ``FROM base`` finds an image; `base` makes others."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.store: ImageStore = fakelayers.image_store(path)
        self.store.layers = DraftedLayers(self.store.root.layers)  # type: ignore[assignment]  # enough of one
        self.runner = FakeRunner()
        self.events: list[ProgressEvent] = []
        self.asked: list[tuple[str, str]] = []
        self.base("base")
        patch.setattr(changes, "merged", _merged)

    def base(self, name: str, **config: Any) -> str:
        """An image of one layer with this config, which FROM finds by `name`; its id."""
        with self.store.adding() as addition:
            layer = ingest_layer(self.store.blobs, [archives.tar({name: b""})])
            made = ImageConfig(diff_ids=(Digest(layer.diff_id),), **config)
            return addition.add_built(made.to_json(), [layer], [Reference.parse(name)])

    def find(self, key: str, platform: Platform) -> str:
        self.asked.append((key, str(platform)))
        return self.store.find(key)

    def build(
        self,
        text: str | Dockerfile,
        *,
        tags: Sequence[str] = (),
        target: str | None = None,
        **options: Any,
    ) -> str:
        """The id of the image."""
        references = [Reference.parse(tag) for tag in tags]
        literal = isinstance(text, Dockerfile)
        file = text if isinstance(text, Dockerfile) else parse(dedent(text))
        with FileDigests(self.store.root.cache / "digests.db") as digests:
            shop = Workshop(
                store=self.store,
                runner=self.runner,
                find_image=self.find,
                report=self.events.append,
                options=BuildOptions(**{"platform": HERE, **options}),
                digests=digests,
            )
            return build(shop, file, references=references, target=target, literal=literal)

    def config(self, text: str, **options: Any) -> ImageConfig:
        return self.store.config(self.build(text, **options))

    def ran(self, text: str, **options: Any) -> list[str]:
        """The commands that a build ran, and that were not in the cache."""
        self.runner.steps.clear()
        self.build(text, **options)
        return self.runner.commands


@contextmanager
def _merged(lowers: Sequence[Path], draft: LayerDraft | None = None) -> Iterator[int]:
    fd = os.open(draft.layer if draft else lowers[0], os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
