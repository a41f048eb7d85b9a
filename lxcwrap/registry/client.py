"""One repository at one registry, by the OCI distribution protocol (distribution-spec 1.1)."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, Literal, Self, TypeVar
from urllib.parse import urlencode

from attrs import frozen

from ..checkedjson import JsonObject
from ..errors import DigestMismatchError, FormatError, ImageNotFoundError, LxcwrapError, RegistryError
from ..oci import INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT, Digest, Reference, digest_of
from .config import RegistryConfig
from .credentials import Credentials
from .session import Session, sessions
from .transfer import Download, Open, Upload
from .transport import Response

_log = logging.getLogger(__name__)

Actions = Literal["pull", "pull,push"]
T = TypeVar("T")

_ACCEPT: Final = ", ".join(sorted(MANIFEST_TYPES | INDEX_TYPES))
_NEXT_PAGE: Final = re.compile(r"<([^<>]*)>\s*;\s*rel=\"?next\"?")
_MOST_PAGES: Final = 1000
_MOST_TAGS: Final = 100_000


@frozen(kw_only=True)
class FetchedManifest:
    """A manifest or index as a registry gave it: its bytes, the Content-Type they came with, their digest."""

    data: bytes
    media_type: str
    digest: Digest


class Repository:
    """
    One repository; a context manager. Threads may share it: each request has a connection to itself.

    What only reads is asked of the mirrors first; what changes, only of the registry.
    All may raise RegistryError (not reached, refused), RegistryAuthError (other credentials are needed) and
    FormatError (the answer is malformed).
    """

    def __init__(self, reference: Reference, sessions: tuple[Session, ...]) -> None:
        self.registry = reference.registry
        self.name = reference.repository
        self._sessions = sessions
        self._own = sessions[-1]

    def manifest(self, reference: str) -> FetchedManifest:
        """
        The manifest or index of a tag or digest; at most `oci.MAX_DOCUMENT` bytes.

        Raises ImageNotFoundError; DigestMismatchError: it is not what was asked for or announced.
        """
        return self._ask(lambda session: self._manifest(session, reference))

    def blob(self, digest: Digest, *, size: int | None) -> Iterator[bytes]:
        """
        The bytes of a blob as they arrive: `size` of them (None: as many as there are), never more.

        A broken transfer is resumed where it ended. The digest is NOT verified: whoever reads also hashes.
        Closing the iterator ends the transfer.
        Raises ImageNotFoundError: there is no such blob. FormatError: it is longer or shorter than `size`.
        """
        position = 0
        for session in self._sessions:
            download = Download(session, digest, size, position)
            try:
                yield from download.chunks()
                return
            except LxcwrapError as error:
                self._go_on(session, error)
                position = download.position

    def has_blob(self, digest: Digest) -> bool:
        operation = f"look for {digest} in {self.name}"
        url = self._own.url(f"blobs/{digest}")
        response = self._own.persist(lambda: self._own.send(operation, "HEAD", url, expected=(200, 404)))
        response.finish()
        return response.status == 200

    def mount(self, digest: Digest, from_repository: str) -> bool:
        """Take a blob over from another repository of the registry; False: it has to be uploaded."""
        operation = f"mount {digest} of {from_repository} into {self.name}"
        url = self._own.url("blobs/uploads/?" + urlencode({"mount": digest, "from": from_repository}))
        # Registries differ in how they say that we may not see the other repository.
        expected = (201, 202, *range(400, 429))
        try:
            response = self._own.persist(
                lambda: self._own.send(operation, "POST", url, expected=expected, also=from_repository)
            )
        except RegistryError as error:
            if error.status is None or error.status >= 429:
                raise
            return False
        response.finish()
        if response.status == 202:
            self._cancel(operation, response)
        return response.status == 201

    def upload(self, digest: Digest, size: int, open: Open) -> None:
        """
        Store a blob. ``open(offset)`` gives its content from there on; it is called again to resume.

        What `open` raises comes through. RegistryError: refused, as content that has another digest is.
        """
        Upload(self._own, digest, size, open).run()

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest or index under a tag or its digest; what it names must be there. Its digest."""
        operation = f"push manifest {reference} to {self.name}"
        headers = {"Content-Type": media_type}
        url = self._own.url(f"manifests/{reference}")
        response = self._own.persist(
            lambda: self._own.send(operation, "PUT", url, headers=headers, body=data, expected=(200, 201))
        )
        response.finish()
        return _announced(response, digest_of(data), f"{self.registry}/{self.name}: {reference}")

    def tags(self) -> tuple[str, ...]:
        """Raises ImageNotFoundError: there is no such repository."""
        operation = f"list the tags of {self.name}"
        tags: list[str] = []
        url = self._own.url("tags/list?n=1000")
        for _ in range(_MOST_PAGES):
            page, following = self._own.persist(partial(self._tags, operation, url))
            tags += page
            if not following:
                return tuple(tags)
            if len(tags) > _MOST_TAGS:
                break
            url = following
        raise FormatError(f"{self.registry}: tags of {self.name}", "there is no end to them")

    def abort(self) -> None:
        """Make what other threads wait for here raise RegistryError, soon. Of no use afterwards."""
        for session in self._sessions:
            session.abort()

    def close(self) -> None:
        for session in self._sessions:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Callable[[Session], T]) -> T:
        """The answer of the first mirror that has one, or else of the registry."""
        for session in self._sessions:
            try:
                return session.persist(partial(question, session))
            except LxcwrapError as error:
                self._go_on(session, error)
        raise AssertionError("the registry itself answers or raises")

    def _go_on(self, session: Session, error: LxcwrapError) -> None:
        """After a mirror there is another place to ask; after the registry there is none."""
        if session is self._own:
            raise error
        _log.info("mirror %s of %s: %s", session.registry, self.registry, error)

    def _manifest(self, session: Session, reference: str) -> FetchedManifest:
        operation = f"pull manifest {reference} of {session.repository}"
        url = session.url(f"manifests/{reference}")
        with session.send(
            operation, "GET", url, headers={"Accept": _ACCEPT}, expected=(200, 404)
        ) as response:
            if response.status == 404:
                raise _missing(session, f"{'@' if ':' in reference else ':'}{reference}")
            data = response.body(MAX_DOCUMENT)
            what = f"{session.registry}/{session.repository}: {reference}"
            digest = _announced(response, digest_of(data), what)
            if ":" in reference and digest != reference:
                raise DigestMismatchError(what, reference, digest)
            media_type = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            return FetchedManifest(data=data, media_type=media_type, digest=digest)

    def _tags(self, operation: str, url: str) -> tuple[tuple[str, ...], str]:
        """Those of one page, and where the next one is; "": there is none."""
        with self._own.send(operation, "GET", url, expected=(200, 404)) as response:
            if response.status == 404:
                raise _missing(self._own, "")
            answer = JsonObject.parse(response.body(MAX_DOCUMENT), f"{self.registry}: tags of {self.name}")
            link = _NEXT_PAGE.search(response.headers.get("Link", ""))
            further = self._own.resolve(operation, response.url, link[1]) if link else ""
            return answer.texts("tags"), further

    def _cancel(self, operation: str, response: Response) -> None:
        """Give up an upload that the registry began. It would do so itself, later."""
        with suppress(LxcwrapError):
            url = self._own.resolve(operation, response.url, response.headers.get("Location", ""))
            self._own.send(operation, "DELETE", url, expected=(204,)).finish()


def _announced(response: Response, digest: Digest, what: str) -> Digest:
    """`digest`, if the registry does not say otherwise. (Of digests of other kinds it may speak.)"""
    announced = response.headers.get("Docker-Content-Digest", "")
    if announced.startswith("sha256:") and announced != digest:
        raise DigestMismatchError(what, announced[:100], digest)
    return digest


def _missing(session: Session, suffix: str) -> ImageNotFoundError:
    return ImageNotFoundError(f"{session.registry}/{session.repository}{suffix}", registry=session.registry)


def connect(
    reference: Reference,
    *,
    config: RegistryConfig,
    actions: Actions,
    credentials: Credentials | None = None,
) -> Repository:
    """
    The repository that `reference` names. No request is made yet.

    credentials: for its registry; None: those that Docker's and Podman's files and helpers have for it.
    """
    return Repository(reference, sessions(reference, config, actions, credentials))
