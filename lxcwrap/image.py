"""The noun `Image`: what containers are made from, known by its id."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, Protocol

from .errors import InvalidSpecError
from .oci import Digest, History, ImageConfig, Reference
from .results import Change
from .shown import Shown

if TYPE_CHECKING:
    from .display.blocks import Page
    from .files import ImagePath
    from .formats.save import Format
    from .inroot import Root
    from .progress import Progress
    from .registry.credentials import Credentials
    from .specs import StrPath
    from .storage.images import ImageStore


class HasImages(Protocol):
    """What images need of a `Host`."""

    @property
    def image_store(self) -> ImageStore: ...


class Image(Shown):
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

    @property
    def files(self) -> ImagePath:
        """Its root directory, to read files of it without a container:
        ``(image.files / "etc/os-release").read_text()``. Needs root."""
        from .files import ImagePath

        return ImagePath(self._open_root, "/", image=self._id)

    def _open_root(self) -> AbstractContextManager[Root]:
        from .inroot import layers_root

        return layers_root(self.lower_dirs, f"image {self._id.hex[:12]}")

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

    def push(
        self,
        reference: str | None = None,
        *,
        credentials: Credentials | None = None,
        progress: Progress = None,
    ) -> Digest:
        """
        Store it at the registry and under the tag that `reference` names, by default its only tag.

        Its manifest goes as it is: the digest given back is `digest`. Blobs that the registry has are not
        sent. credentials: by default those that ``docker login`` or ``podman login`` have stored.

        Raises InvalidSpecError: `reference` has a digest, or is needed as it has not exactly one tag.
        RegistryError, RegistryAuthError: the registry could not be reached, or refused.
        """
        from .progress import reporting
        from .registry.push import push

        target = tag_reference(reference) if reference else self._only_tag()
        with reporting(progress) as report:
            return push(self._store, self._id, target, credentials=credentials, report=report)

    def _only_tag(self) -> Reference:
        tags = self._store.tags(self._id)
        if len(tags) != 1:
            raise InvalidSpecError(f"push of {self!r}: say to where, as it has {len(tags)} tags")
        return tags[0]

    def save(
        self,
        path: StrPath | BinaryIO,
        *,
        format: Format | None = None,
        compression: Literal["gzip", "zstd", "none"] = "none",
        progress: Progress = None,
    ) -> None:
        """Write it, with all its names, into an archive or directory: see ``images.save()``."""
        from .formats.save import Named, save
        from .progress import reporting

        named = [Named(self._id, self._store.tags(self._id))]
        with reporting(progress) as report:
            save(self._store, named, path, format=format, compression=compression, report=report)

    def diff(self, other: Image | None = None) -> tuple[Change, ...]:
        """What is in it and not, or not the same, in `other`, and what only that has; by path.

        Without `other`: what its uppermost layer changes in those below. A file counts as modified if type,
        mode, owner, time, attributes or content differ, a directory also if something in it does.
        """
        from .storage.treediff import differences, tree
        from .storage.upperdiff import changes

        lowers = self.lower_dirs
        if other is None:
            return changes(lowers[0], lowers[1:])
        with tree(lowers) as new, tree(other.lower_dirs) as old:
            kinds = differences(new, old)
        return tuple(Change(path=path, kind=kinds[path]) for path in sorted(kinds))

    def squash(
        self,
        tag: str | None = None,
        *,
        base: Image | None = None,
        compression: Literal["gzip", "zstd", "none"] = "gzip",
    ) -> Image:
        """An image with the same files, all its layers in one; those it shares with `base` stay as they are.

        What a layer has and a later one deletes is no longer in it. Its history stays, and says so. The same
        image always becomes the same one; one with a single layer, besides those of `base`, stays itself.

        Raises InvalidSpecError: it is not built upon `base`.
        """
        from .storage.commit import squash
        from .storage.packing import parse_compression

        image_id = squash(
            self._store,
            self._id,
            base._id if base else None,
            compression=parse_compression(compression),
            references=[tag_reference(tag)] if tag else [],
        )
        return Image(self._host, image_id)

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

    def _page(self) -> Page:
        from .display.stores import image

        return image(self._store, self._id)

    def __repr__(self) -> str:
        return f"<Image {', '.join(self.tags) or 'untagged'} {self._id[:19]}>"


def tag_reference(text: str) -> Reference:
    """A reference that can name an image here. Raises InvalidSpecError: it is none, or has a digest."""
    reference = Reference.parse(text)
    if reference.digest:
        raise InvalidSpecError(f"tag {text!r}: a digest cannot be given to an image, only 'name:tag'")
    return reference
