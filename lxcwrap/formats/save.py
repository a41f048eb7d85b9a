"""Images to files: OCI layout directories, OCI archives and ``docker save`` archives.

oci-layout                {"imageLayoutVersion": "1.0.0"}
index.json                each image, by each of its names
manifest.json             only in `docker save` archives, which otherwise are OCI archives too
blobs/sha256/<hex>        manifests, configs and layers, with the bytes they are stored with

The same images always give the same bytes. Content is verified on the way.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, get_args

from attrs import evolve

from ..checkedjson import canonical_json
from ..digests import Digest
from ..errors import DigestMismatchError, InvalidSpecError
from ..oci import MAX_DOCUMENT, REF_NAME, Descriptor, Index, Manifest, Reference
from ..progress import Report, tell_transfers
from ..specs import StrPath
from ..storage.blobs import LAYOUT
from ..storage.images import ImageStore
from ..storage.inflate import Compression, ahead
from ..storage.layerwriter import Member, tar_chunks
from ..storage.packing import compressed, parse_compression
from ..storage.tarstream import Entry, Kind
from .dockersave import MANIFEST
from .layout import CONTAINERD_NAME, INDEX, blob_name
from .targets import new_directory, new_file

Format = Literal["docker", "oci", "oci-dir"]
_Members = dict[str, tuple[int, Iterable[bytes]]]
"""What to write by its name: size and content."""

_CHUNK: Final = 1 << 18


class Named(NamedTuple):
    """An image to save, and the names it shall have."""

    id: str
    references: tuple[Reference, ...]


class _Blobs(NamedTuple):
    """What one image consists of."""

    manifest: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]


def save(
    store: ImageStore,
    images: Sequence[Named],
    target: StrPath | BinaryIO,
    *,
    report: Report,
    format: Format | None = None,
    compression: str = "none",
) -> None:
    """
    Write images to `target`: a path, which has all of it or is as it was; or a file opened for writing.

    format: default: an OCI layout if `target` is a directory, else a ``docker save`` archive. compression: of
    an archive: ``none``, ``gzip`` or ``zstd``.

    Raises ImageNotFoundError; InvalidSpecError: nothing can be written to `target`, or not so;
    DigestMismatchError, NotFoundError: stored content is damaged; KernelError: no space and the like.
    """
    if isinstance(target, str | os.PathLike):
        target = Path(target)
    how = parse_compression(compression)
    form = _check(images, target, format, how)
    with store.adding():  # nothing is collected meanwhile
        contents = {image: _blobs(store, image.id) for image in _merged(images)}
        documents = _documents(contents, docker=form == "docker")
        blobs = {item.digest: item for parts in contents.values() for item in _flat(parts)}
        reader = _Reader(store, report)
        members: _Members = {name: (len(data), [data]) for name, data in documents.items()}
        members |= {blob_name(item): (item.size, reader.chunks(item)) for _, item in sorted(blobs.items())}
        if isinstance(target, Path) and form == "oci-dir":
            with new_directory(target) as add:
                for name, (_, content) in members.items():
                    add(name, content)
            return
        with new_file(target) as write, closing(ahead(tar_chunks(_entries(members)))) as chunks:
            for chunk in compressed(chunks, how):
                write(chunk)


def _check(
    images: Sequence[Named], target: Path | BinaryIO, format: Format | None, compression: Compression
) -> Format:
    if not images:
        raise InvalidSpecError("save: name at least one image")
    form = format or ("oci-dir" if isinstance(target, Path) and target.is_dir() else "docker")
    if form not in get_args(Format):
        raise InvalidSpecError(f"format {form!r}: choose one of {', '.join(get_args(Format))}")
    if form == "oci-dir" and not isinstance(target, Path):
        raise InvalidSpecError("format 'oci-dir' is a directory: give its path, not a file")
    if form == "oci-dir" and compression:
        raise InvalidSpecError(f"compression {compression!r}: a layout directory has none; choose an archive")
    return form


def _merged(images: Sequence[Named]) -> list[Named]:
    """Each image once, with all its names, in an order that does not depend on how they were named."""
    names: dict[str, set[Reference]] = {}
    for image in images:
        names.setdefault(image.id, set()).update(image.references)
    return [Named(image_id, tuple(sorted(names[image_id], key=str))) for image_id in sorted(names)]


def _blobs(store: ImageStore, image_id: str) -> _Blobs:
    digest = Digest(store.record(image_id)["manifest"])
    data = store.blobs.read(digest, limit=MAX_DOCUMENT)
    manifest = Manifest.parse(data, f"manifest {digest}")
    descriptor = Descriptor(media_type=manifest.media_type, digest=digest, size=len(data))
    return _Blobs(descriptor, manifest.config, manifest.layers)


def _flat(parts: _Blobs) -> Iterator[Descriptor]:
    yield from (parts.manifest, parts.config, *parts.layers)


# --- documents ----------------------------------------------------------------------------------------------


def _documents(contents: Mapping[Named, _Blobs], *, docker: bool) -> dict[str, bytes]:
    index = Index(
        manifests=tuple(
            evolve(parts.manifest, annotations=_annotations(reference))
            for image, parts in contents.items()
            for reference in image.references or (None,)
        )
    )
    documents = {"oci-layout": LAYOUT, INDEX: index.to_json()}
    if docker:
        documents[MANIFEST] = canonical_json([_docker_item(*item) for item in contents.items()])
    return documents


def _annotations(reference: Reference | None) -> dict[str, str]:
    """Complete names in both: podman takes the first for one, docker and containerd the second."""
    return {REF_NAME: str(reference), CONTAINERD_NAME: str(reference)} if reference else {}


def _docker_item(image: Named, parts: _Blobs) -> dict[str, object]:
    return {
        "Config": blob_name(parts.config),
        "RepoTags": [str(reference) for reference in image.references] or None,
        "Layers": [blob_name(layer) for layer in parts.layers],
    }


# --- content ------------------------------------------------------------------------------------------------


class _Reader:
    """Reads stored blobs, and vouches for them."""

    def __init__(self, store: ImageStore, report: Report) -> None:
        self._blobs = store.blobs
        self._tell = tell_transfers(report, "save")

    def chunks(self, item: Descriptor) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        with self._blobs.open(item.digest) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                if size > item.size:
                    break
                self._tell(item, "transferring", size)
                yield chunk
        actual = f"sha256:{digest.hexdigest()}"
        if actual != item.digest or size != item.size:
            raise DigestMismatchError("stored blob", item.digest, actual)
        self._tell(item, "done", size)


def _entries(members: _Members) -> Iterator[Member]:
    yield from ((Entry(name, Kind.DIRECTORY, 0o755), ()) for name in (b"blobs", b"blobs/sha256"))
    for name, (size, content) in members.items():
        yield Entry(os.fsencode(name), Kind.FILE, 0o644, size=size), content
