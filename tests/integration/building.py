"""What tests of real builds share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lxcwrap import Host, Image
from lxcwrap.progress import ProgressEvent, StepFinished, StepOutput
from lxcwrap.storage.layerwriter import read_tree
from lxcwrap.storage.tarstream import Entry


class Building:
    """Builds Dockerfiles that are given as text, with the files of the directory `context`."""

    def __init__(self, host: Host, context: Path) -> None:
        context.mkdir()
        self.host = host
        self.context = context
        self.events: list[ProgressEvent] = []

    def __call__(self, text: str, **options: Any) -> Image:
        (self.context / "Dockerfile").write_text(text)
        self.events = []
        return self.host.images.build(self.context, **{"progress": self.events.append, **options})

    @property
    def cached(self) -> int:
        """How many steps of the last build came from the cache."""
        return sum(event.cached for event in self.events if isinstance(event, StepFinished))

    @property
    def output(self) -> str:
        """What its commands wrote."""
        return "".join(event.text for event in self.events if isinstance(event, StepOutput))


def files(image: Image) -> dict[str, Entry]:
    """All that the topmost layer of an image holds."""
    return {os.fsdecode(entry.name): entry for entry, _ in read_tree(image.lower_dirs[0])}


def read(image: Image, path: str) -> str:
    """A file of an image; links are not followed."""
    for layer in image.lower_dirs:
        if (layer / path).is_file():
            return (layer / path).read_text()
    raise FileNotFoundError(path)
