"""Images of distributions from the servers of LXC: found by their index, verified while they arrive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Final
from urllib.parse import quote, urlsplit

from ..digests import Digest
from ..errors import DigestMismatchError, InvalidSpecError
from ..formats.rootfs import add_rootfs
from ..formats.simplestreams import (
    INDEX,
    MAX_INDEX,
    RemoteFile,
    RemoteImage,
    Wanted,
    document_paths,
    find_image,
    read_properties,
)
from ..imageconfig import ImageConfig
from ..progress import Report, TransferProgress
from ..reference import Reference
from ..storage.images import ImageStore
from .config import Endpoint, RegistryConfig
from .session import Session
from .transfer import Download

DEFAULT_SERVER: Final = "https://images.linuxcontainers.org"
_MOST_DOCUMENTS: Final = 8
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def download(
    store: ImageStore,
    wanted: Wanted,
    *,
    server: str | None = None,
    references: Sequence[Reference] = (),
    report: Report,
) -> str:
    """
    Bring in the newest version of what is wanted; its id. server: default: that of LXCWRAP_IMAGE_SERVER, or
    `DEFAULT_SERVER`.

    Raises InvalidSpecError: the server has no such image, or is malformed. UnsupportedError: it has it in
    forms only that are not read. RegistryError: not reached, refused. FormatError, DigestMismatchError:
    malformed or hostile. Nothing is kept then.
    """
    url = server or os.environ.get("LXCWRAP_IMAGE_SERVER") or DEFAULT_SERVER
    with closing(_Server(url, wanted, RegistryConfig.read(store.root.path))) as session:
        image = find_image(session.documents(), wanted, session.registry)
        properties = dict(image.properties)
        if image.metadata:
            data = b"".join(session.file(image.metadata))
            properties |= read_properties(data, f"{session.registry}/{image.metadata.path}")
        return _add(store, session, image, wanted, properties, references, report)


def _add(
    store: ImageStore,
    session: _Server,
    image: RemoteImage,
    wanted: Wanted,
    properties: dict[str, str],
    references: Sequence[Reference],
    report: Report,
) -> str:
    config = ImageConfig(
        diff_ids=(),
        os="linux",
        architecture=wanted.platform.architecture,
        variant=wanted.platform.variant,
        cmd=("/bin/sh",),
        env={"PATH": _PATH},
        # As Incus and LXD show them.
        labels={f"image.{name}": value for name, value in properties.items()},
    )
    what = f"{session.registry}/{image.rootfs.path}"
    with (
        store.adding("pulled") as addition,
        closing(_told(session.file(image.rootfs), image.rootfs, report)) as chunks,
    ):
        return add_rootfs(addition, chunks, config, references, what=what, created_by=f"download of {what}")


def _told(chunks: Iterator[bytes], file: RemoteFile, report: Report) -> Generator[bytes, None, None]:
    done = 0
    for chunk in chunks:
        done += len(chunk)
        report(
            TransferProgress(
                operation="pull",
                item=file.digest,
                phase="transferring" if done < file.size else "done",
                done_bytes=done,
                total_bytes=file.size,
            )
        )
        yield chunk


class _Server(Session):
    """What servers of images and registries need is the same: retries, redirects, proxies, bounds."""

    def __init__(self, url: str, wanted: Wanted, config: RegistryConfig) -> None:
        try:
            parts = urlsplit(url)
            plain = not (parts.query or parts.fragment or parts.username) and parts.port != 0
        except ValueError:
            plain = False
        if not plain or parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidSpecError(f"image server {url!r}: write it as {DEFAULT_SERVER!r}")
        self._address = url.rstrip("/")
        endpoint = Endpoint(
            name=parts.netloc,
            origin=f"{parts.scheme}://{parts.netloc}",
            repository=f"{wanted.distribution}/{wanted.release}",
            settings=config.settings(parts.netloc),
        )
        super().__init__(endpoint, config, "pull", None, config.tries)

    def url(self, path: str) -> str:
        return f"{self._address}/{quote(path)}"

    def documents(self) -> Iterator[bytes]:
        """The lists of images, one after the other."""
        paths = document_paths(self._document(INDEX), self.registry)
        return (self._document(path) for path in paths[:_MOST_DOCUMENTS])

    def _document(self, path: str) -> bytes:
        def read() -> bytes:
            with self.send(f"read {path}", "GET", self.url(path)) as response:
                return response.body(MAX_INDEX)

        return self.persist(read)

    def file(self, file: RemoteFile) -> Iterator[bytes]:
        """Its bytes as they arrive; at the end DigestMismatchError, if they were not what was announced."""
        found = hashlib.sha256()
        for chunk in Download(self, file.digest, file.size, path=file.path).chunks():
            found.update(chunk)
            yield chunk
        actual = Digest(f"sha256:{found.hexdigest()}")
        if actual != file.digest:
            raise DigestMismatchError(f"{self.registry}/{file.path}", file.digest, actual)
