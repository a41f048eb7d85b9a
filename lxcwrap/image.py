"""Images: what containers are made from."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar

from .errors import ImageNotFoundError, InvalidSpecError
from .oci import Digest, History, ImageConfig, Platform, Reference
from .reference import DEFAULT_TAG
from .specs import StrPath, check_argv, check_env, parse_signal

if TYPE_CHECKING:
    from .storage.images import ImageStore

T = TypeVar("T")


class HasImages(Protocol):
    """What images need of a `Host`."""

    @property
    def image_store(self) -> ImageStore: ...


class Image:
    """One image of a host, known by its id. What it consists of never changes; its tags are read now."""

    def __init__(self, host: HasImages, id: str) -> None:
        self._host = host
        self._id = Digest(id)

    @property
    def _store(self) -> ImageStore:
        return self._host.image_store

    @property
    def id(self) -> Digest:
        """Digest of its config: the same on every machine, however the layers are compressed."""
        return self._id

    @property
    def digest(self) -> Digest:
        """Digest of its manifest: what ``name@sha256:...`` means. Raises ImageNotFoundError."""
        return Digest(self._store.record(self._id)["manifest"])

    @property
    def tags(self) -> tuple[str, ...]:
        """The references that name it, in their short form: ``nginx:latest``."""
        return tuple(reference.familiar for reference in self._store.tags(self._id))

    @property
    def config(self) -> ImageConfig:
        """What it says of itself, and how its containers start."""
        return self._store.config(self._id)

    def history(self) -> tuple[History, ...]:
        """How it was built, the first step first, as far as it says."""
        return self.config.history

    @property
    def created_at(self) -> datetime:
        """When it was built, as it says itself; if it does not say, when it came into this store."""
        stored_at: float = self._store.record(self._id)["created_at"]
        return self.config.created or datetime.fromtimestamp(stored_at, UTC)

    @property
    def size(self) -> int:
        """Bytes of its layers as they are stored, compressed or not; other images may share them."""
        return sum(layer.size for layer in self._store.manifest(self._id).layers)

    @property
    def layers(self) -> tuple[Digest, ...]:
        """The chain ids of its layers, topmost first."""
        return self._store.chain_ids(self._id)

    @property
    def lower_dirs(self) -> tuple[Path, ...]:
        """Where its layers are unpacked, topmost first. Only to be read: images and containers share them."""
        return self._store.lower_dirs(self._id)

    def tag(self, reference: str) -> None:
        """Name it `reference`, too. Another image that had this name loses it.

        Raises InvalidSpecError: not a reference, or one with a digest.
        """
        self._store.tag(self._id, tag_reference(reference))

    def untag(self, reference: str) -> None:
        """Take one of its names away. It stays, even without any, until `remove` or ``images.prune()``.

        Raises ImageNotFoundError: it does not have this name.
        """
        self._store.untag(self._id, tag_reference(reference))

    def remove(self) -> None:
        """Delete it with all its tags, and the content that no other image needs.

        Raises StillUsedError: there are containers of it.
        """
        self._store.remove(self._id)

    @property
    def _key(self) -> tuple[Path, str]:
        return self._store.root.path, self._id

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Image) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<Image {', '.join(self.tags) or 'untagged'} {self._id[:19]}>"


class Images:
    """
    The images of a host: ``host.images``. A read-only mapping by reference, id or unique id prefix.

    Iterating gives `Image` objects, the newest first.
    """

    def __init__(self, host: HasImages) -> None:
        self._host = host

    @property
    def _store(self) -> ImageStore:
        return self._host.image_store

    def __getitem__(self, key: str | Image) -> Image:
        """Raises ImageNotFoundError, a LookupError; InvalidSpecError if `key` cannot name any image."""
        return Image(self._host, self._store.find(key.id if isinstance(key, Image) else key))

    def get(self, key: str | Image, default: T | None = None) -> Image | T | None:
        """The image, or `default` if there is none."""
        try:
            return self[key]
        except (ImageNotFoundError, InvalidSpecError):
            return default

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str | Image) and self.get(key) is not None

    def __iter__(self) -> Iterator[Image]:
        return iter(self.list())

    def __len__(self) -> int:
        return self._store.count()

    def list(self) -> builtins.list[Image]:
        """All images, the newest first."""
        return [Image(self._host, image_id) for image_id in self._store.ids()]

    def resolve(self, key: str | Image) -> Image:
        """As ``[]``, but ``busybox`` is built from this machine's static busybox if it is not stored.

        Raises ImageNotFoundError; InvalidSpecError; UnsupportedError: there is no static busybox.
        """
        try:
            return self[key]
        except ImageNotFoundError:
            from .formats.busybox import REFERENCE, ensure_busybox

            if _as_reference(key) != REFERENCE:
                raise
            return Image(self._host, ensure_busybox(self._store))

    # --- bringing images in -------------------------------------------------------------------------------

    def load(self, path: StrPath, *, platform: str | None = None) -> builtins.list[Image]:
        """
        Bring in the images of an OCI archive, an OCI layout directory or a ``docker save`` archive, with
        their tags.

        Its content shows which of these it is; archives and layers may be plain or compressed by gzip, xz
        or zstd. Of an image for several platforms that for `platform` is taken, by default this machine's.

        Raises InvalidSpecError: no such file. FormatError, DigestMismatchError: malformed, hostile, damaged.
        UnsupportedError: nothing in it is for the platform. All images come in, or on any error none.
        """
        from .formats.layout import load

        wanted = Platform.parse(platform) if platform else None
        return [Image(self._host, image_id) for image_id in load(self._store, Path(path), platform=wanted)]

    def import_rootfs(
        self,
        source: StrPath | BinaryIO,
        *,
        tag: str | None = None,
        entrypoint: Sequence[str] = (),
        cmd: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        working_dir: str = "",
        user: str = "",
        labels: Mapping[str, str] | None = None,
        stop_signal: str = "",
        platform: str | None = None,
    ) -> Image:
        """
        Make an image of one layer from a root file system: path or file of a tar (plain, gzip, xz, zstd).

        The other arguments say how its containers start if they are not told otherwise.
        Raises InvalidSpecError: no such file, or a wrong argument. FormatError: malformed or hostile content.
        """
        from .formats.rootfs import import_rootfs

        if working_dir and not working_dir.startswith("/"):
            raise InvalidSpecError(f"working_dir {working_dir!r}: must be an absolute path")
        if stop_signal:
            parse_signal(stop_signal)
        wanted = Platform.parse(platform) if platform else Platform.host()
        config = ImageConfig(
            diff_ids=(),
            os=wanted.os,
            architecture=wanted.architecture,
            variant=wanted.variant,
            entrypoint=check_argv(entrypoint or None, "entrypoint") or (),
            cmd=check_argv(cmd or None, "cmd") or (),
            env=check_env(env),
            working_dir=working_dir,
            user=user,
            labels={str(name): str(value) for name, value in (labels or {}).items()},
            stop_signal=stop_signal,
        )
        references = [tag_reference(tag)] if tag else []
        file = Path(source) if isinstance(source, str | os.PathLike) else source
        return Image(self._host, import_rootfs(self._store, file, config, references))

    def bootstrap(
        self,
        name: str,
        *,
        suite: str | None = None,
        packages: Sequence[str] = (),
        tag: str | None = None,
        mirror: str | None = None,
    ) -> Image:
        """
        Build an image from Debian or Ubuntu packages: the essential ones, apt, and `packages`.

        Made by mmdebstrap, as root, in about ten seconds. The packages come from `mirror`, or else from those
        apt sources of this machine that offer the suite. SOURCE_DATE_EPOCH makes it reproducible.

        Raises UnsupportedError: mmdebstrap is not installed. DriverError: it failed, with what it said last.
        image, if not `name`.
        Raises UnsupportedError: mmdebstrap is not installed. DriverError: it failed, with its last words.
        """
        from .formats.bootstrap import bootstrap

        system = tag_reference(name)
        if suite is None and system.tag == DEFAULT_TAG:
            raise InvalidSpecError(f"bootstrap({name!r}): name the suite, as in 'debian:bookworm'")
        image_id = bootstrap(
            self._store,
            suite or str(system.tag),
            packages=packages,
            mirror=mirror,
            references=[tag_reference(tag) if tag else system],
        )
        return Image(self._host, image_id)

    # --- taking images away -------------------------------------------------------------------------------

    def remove(self, key: str | Image) -> None:
        """
        Remove an image; given one of several references to it, only that reference.

        Raises ImageNotFoundError; StillUsedError: there are containers of it.
        """
        image = self[key]
        names = self._store.tags(image.id)
        reference = _as_reference(key)
        if reference in names and len(names) > 1:
            self._store.untag(image.id, reference)
        else:
            image.remove()

    def prune(self) -> builtins.list[str]:
        """Remove the images without tags and containers, and stored content that no image needs.

        Returns the ids of the removed images.
        """
        return self._store.prune()


def tag_reference(text: str) -> Reference:
    """A reference that can name an image here. Raises InvalidSpecError: it is none, or has a digest."""
    reference = Reference.parse(text)
    if reference.digest:
        raise InvalidSpecError(f"tag {text!r}: a digest cannot be given to an image, only 'name:tag'")
    return reference


def _as_reference(key: str | Image) -> Reference | None:
    try:
        return Reference.parse(key) if isinstance(key, str) else None
    except InvalidSpecError:
        return None
