"""`Image`, `Images` and `BuildSteps` for event loops."""

# Their methods are those of the classes they derive from, awaited.
# mypy: disable-error-code="assignment, override"

from __future__ import annotations

from collections.abc import Iterator
from typing import Self, TypeVar

from attrs import frozen

from .. import buildsteps, image, images
from .driving import Twin, making, method
from .paths import ImagePath, as_path

T = TypeVar("T")


class Image(Twin, image.Image):
    """A `lxcwrap.Image` whose methods are awaited; properties are read as there."""

    __slots__ = ()

    @classmethod
    def of(cls, found: image.Image) -> Self:
        """The same image."""
        return cls(found._host, found._id)

    @property
    def _sync(self) -> image.Image:
        return image.Image(self._host, self._id)

    @property
    def files(self) -> ImagePath:
        """Its root directory, to be read; methods are awaited."""
        return as_path(ImagePath, super().files)

    history = method(image.Image.history)
    tag = method(image.Image.tag)
    untag = method(image.Image.untag)
    push = method(image.Image.push, long=True)
    save = method(image.Image.save, long=True)
    diff = method(image.Image.diff, long=True)
    squash = making(lambda found: Image.of(found), image.Image.squash, long=True)
    remove = method(image.Image.remove, long=True)


def _all(found: list[image.Image]) -> list[Image]:
    return [Image.of(each) for each in found]


class Images(Twin, images.Images):
    """`lxcwrap.Images` whose methods are awaited; looking up, ``in``, ``len``, ``for`` are as there."""

    @property
    def _sync(self) -> images.Images:
        return images.Images(self._host)

    def __getitem__(self, key: str | image.Image) -> Image:
        return Image.of(super().__getitem__(key))

    def get(self, key: str | image.Image, default: T | None = None) -> Image | T | None:
        found = super().get(key)
        return default if found is None else Image.of(found)

    def __iter__(self) -> Iterator[Image]:
        return iter(_all(self._sync.list()))

    list = making(_all, images.Images.list)
    resolve = making(Image.of, images.Images.resolve)
    pull = making(Image.of, images.Images.pull, long=True)
    load = making(_all, images.Images.load, long=True)
    import_rootfs = making(Image.of, images.Images.import_rootfs, long=True)
    download = making(Image.of, images.Images.download, long=True)
    bootstrap = making(Image.of, images.Images.bootstrap, long=True)
    build = making(Image.of, images.Images.build, long=True)
    push = method(images.Images.push, long=True)
    save = method(images.Images.save, long=True)
    remove = method(images.Images.remove, long=True)
    prune = method(images.Images.prune, long=True)

    def build_steps(self, base: str | image.Image) -> BuildSteps:
        """Steps upon an image, or upon ``"scratch"``; their `build` is awaited."""
        return BuildSteps.of(self._sync.build_steps(base))


@frozen(eq=False)
class BuildSteps(buildsteps.BuildSteps):
    """`lxcwrap.BuildSteps` whose `build` is awaited."""

    @classmethod
    def of(cls, steps: buildsteps.BuildSteps) -> Self:
        """The same steps."""
        return cls(steps._build, steps.base, steps._steps)

    @property
    def _sync(self) -> buildsteps.BuildSteps:
        return buildsteps.BuildSteps(self._build, self.base, self._steps)

    build = making(Image.of, buildsteps.BuildSteps.build, long=True)
