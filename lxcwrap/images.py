"""The collection `host.images`: bringing images in, finding them, taking them away."""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, TypeVar, Unpack, cast

from .errors import ImageNotFoundError, InvalidSpecError
from .image import HasImages, Image, tag_reference
from .oci import Digest, ImageConfig, Platform, Reference
from .progress import Progress, Report, reporting
from .reference import DEFAULT_TAG
from .shown import Shown
from .specs import Limits, StrPath, check_argv, check_env, parse_signal

if TYPE_CHECKING:
    from .build.frontend import BuildKeywords, Pull, Secret
    from .build.instructions import Dockerfile
    from .build.step import Network
    from .buildsteps import BuildSteps
    from .display.blocks import Page
    from .formats.save import Format, Named
    from .machinery import Machinery
    from .registry.credentials import Credentials
    from .storage.images import ImageStore

T = TypeVar("T")


class Images(Shown):
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

    def __repr__(self) -> str:
        return f"<Images: {len(self)}>"

    def _page(self) -> Page:
        from .display.stores import images

        return images(self._store)

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

    def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        credentials: Credentials | None = None,
        progress: Progress = None,
    ) -> Image:
        """
        Bring in an image from a registry: Docker's, if `reference` names none. Its tag, if it has one, names
        the image then.

        Layers that are here already are not fetched, and nothing at all if the tag did not change. Of an
        image for several platforms that for `platform` is taken, by default this machine's. credentials: by
        default those that ``docker login`` or ``podman login`` have stored. How registries are reached is
        said in ``registries.yaml``.

        Raises ImageNotFoundError: the registry has no such image. RegistryError, RegistryAuthError: it could
        not be reached, or refused. UnsupportedError: nothing is for the platform. FormatError,
        DigestMismatchError: what came is malformed or hostile. Nothing is kept then.
        """
        from .registry.pull import pull

        name = Reference.parse(reference)
        wanted = Platform.parse(platform) if platform else None
        with reporting(progress) as report:
            image_id = pull(self._store, name, platform=wanted, credentials=credentials, report=report)
        return Image(self._host, image_id)

    def load(
        self, path: StrPath, *, platform: str | None = None, progress: Progress = None
    ) -> builtins.list[Image]:
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
        with reporting(progress) as report:
            ids = load(self._store, Path(path), platform=wanted, report=report)
        return [Image(self._host, image_id) for image_id in ids]

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

    def download(
        self,
        distribution: str,
        *,
        release: str,
        architecture: str | None = None,
        variant: str = "default",
        server: str | None = None,
        tag: str | None = None,
        progress: Progress = None,
    ) -> Image:
        """
        Make an image of the newest root file system that an image server of LXC has of a distribution:
        ``download("alpine", release="3.20")`` is tagged ``alpine:3.20``, or as `tag` says.

        server: its address; default: LXCWRAP_IMAGE_SERVER, else https://images.linuxcontainers.org. What it
        tells of the image becomes labels: ``image.serial``. Use `init="system"` to boot one that has an init.

        Raises InvalidSpecError: it has none such; the message names what it has. RegistryError: not reached.
        FormatError, DigestMismatchError: malformed, hostile, damaged. Nothing is kept then.
        """
        from .formats.simplestreams import Wanted
        from .registry.imageserver import download

        platform = Platform.parse(architecture) if architecture else Platform.host()
        reference = tag_reference(tag or f"{distribution}:{release}")
        wanted = Wanted(distribution, release, platform, variant)
        with reporting(progress) as report:
            image_id = download(self._store, wanted, server=server, references=[reference], report=report)
        return Image(self._host, image_id)

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

    def build(
        self,
        context: StrPath | BinaryIO = ".",
        *,
        dockerfile: StrPath | None = None,
        tags: Sequence[str] = (),
        build_args: Mapping[str, str] | None = None,
        target: str | None = None,
        secrets: Mapping[str, Secret] | None = None,
        labels: Mapping[str, str] | None = None,
        platform: str | None = None,
        no_cache: bool = False,
        network: Network = "none",
        limits: Limits | None = None,
        pull: Pull = "missing",
        progress: Progress = None,
    ) -> Image:
        """
        Build the image that a Dockerfile describes.

        context: a directory, or a tar archive as a path or binary file. dockerfile: its path in the context,
        or an absolute one; by default ``Dockerfile``. target: the stage to build, by default the last.
        secrets: for ``RUN --mount=type=secret``, by id: text or bytes, or the path object of a file.
        labels: added to those of the Dockerfile. platform: what the image is for, by default this machine.
        no_cache: run every step anew. network: that of RUN where it does not say: ``"none"``, or the
        ``"host"``'s, which no RUN has if it is not allowed here. limits: of each RUN. pull: when to pull the
        images that FROM names: if they are ``"missing"``, ``"always"`` or ``"never"``.

        With SOURCE_DATE_EPOCH in the environment or in build_args the same content gives the same image.

        Raises DockerfileError: it is malformed, where. InvalidSpecError: another argument cannot be right; an
        unused build argument, too. BuildError: a step failed: no image is made, but what the steps before it
        made stays in the build cache. ImageNotFoundError, RegistryError: the image of a FROM.
        """
        return self._build(
            context,
            dockerfile,
            tags,
            build_args=build_args,
            target=target,
            secrets=secrets,
            labels=labels,
            platform=platform,
            no_cache=no_cache,
            network=network,
            limits=limits,
            pull=pull,
            progress=progress,
        )

    def build_steps(self, base: str | Image) -> BuildSteps:
        """Steps upon an image, or upon ``"scratch"``, to be built by a program: see `BuildSteps`."""
        from .buildsteps import BuildSteps

        return BuildSteps(self._build, base.id if isinstance(base, Image) else base)

    def _build(
        self,
        context: StrPath | BinaryIO,
        source: StrPath | Dockerfile | None,
        tags: Sequence[str],
        **keywords: Unpack[BuildKeywords],
    ) -> Image:
        from .build.frontend import build_image
        from .build.runner import ContainerRunner

        if isinstance(tags, str):
            raise TypeError(f"tags= takes a list of names: [{tags!r}]")
        references = [tag_reference(tag) for tag in tags]
        runner = ContainerRunner(cast("Machinery", self._host))
        image_id = build_image(self._store, runner, self._base, context, source, references, **keywords)
        return Image(self._host, image_id)

    def _base(self, key: str, platform: Platform, pull: Pull, report: Report) -> str:
        """The id of the image that a build asks for."""
        if pull != "always":
            try:
                image = self.resolve(key)
                if pull == "never":
                    platform.require([image.config.platform], key)
                if platform.rank(image.config.platform):
                    return image.id
            except ImageNotFoundError:
                if pull == "never":
                    raise
        return self.pull(key, platform=str(platform), progress=report).id

    # --- giving images out --------------------------------------------------------------------------------

    def push(
        self,
        image: str | Image,
        reference: str | None = None,
        *,
        credentials: Credentials | None = None,
        progress: Progress = None,
    ) -> Digest:
        """
        Store an image at the registry and under the tag that `reference` names, by default the name given as
        `image`, or its only one. As `Image.push`.
        """
        found = self[image]
        name = _as_reference(image)
        if reference is None and name in self._store.tags(found.id):
            reference = str(name)
        return found.push(reference, credentials=credentials, progress=progress)

    # --- giving images away -------------------------------------------------------------------------------

    def save(
        self,
        images: str | Image | Iterable[str | Image],
        path: StrPath | BinaryIO,
        *,
        format: Format | None = None,
        compression: Literal["gzip", "zstd", "none"] = "none",
        progress: Progress = None,
    ) -> None:
        """
        Write images into one archive or directory that Docker, Podman, containerd and `load` read.

        One given as ``name:tag`` is saved with that name, any other with all its names. path: where to, or a
        file that is open for writing. A path has all of it at the end, readable by its owner alone, or after
        an error is as it was.
        format: ``docker``, a `docker save` archive that is an OCI archive, too; ``oci``, an OCI archive;
        ``oci-dir``, an OCI layout directory. By default the last if `path` is a directory, which must be
        empty, else the first. compression: of the archive as a whole; layers stay as they are stored.

        The same images always give the same bytes.
        Raises ImageNotFoundError; InvalidSpecError: nothing can be written there; DigestMismatchError: the
        stored content is damaged.
        """
        from .formats.save import save

        named = [self._named(key) for key in ([images] if isinstance(images, str | Image) else images)]
        with reporting(progress) as report:
            save(self._store, named, path, format=format, compression=compression, report=report)

    def _named(self, key: str | Image) -> Named:
        """An image to save, with the names that it is to have."""
        from .formats.save import Named

        image, reference = self[key], _as_reference(key)
        names = self._store.tags(image.id)
        return Named(image.id, (reference,) if reference in names else names)

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

    def prune(self, *, all: bool = False) -> builtins.list[str]:
        """Remove the images without tags and containers, and stored content that no image needs.

        all: also those with tags. Returns the ids of the removed images. `Host.prune` does more.
        """
        return self._store.prune(all=all)


def _as_reference(key: str | Image) -> Reference | None:
    try:
        return Reference.parse(key) if isinstance(key, str) else None
    except InvalidSpecError:
        return None
