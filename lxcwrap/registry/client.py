"""One repository at one registry, by the OCI distribution protocol (distribution-spec 1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Literal, Self

from attrs import frozen

from ..oci import Digest, Reference
from .config import RegistryConfig
from .credentials import Credentials

Actions = Literal["pull", "pull,push"]


@frozen(kw_only=True)
class FetchedManifest:
    """A manifest or index as a registry gave it: its bytes, the Content-Type they came with, their digest."""

    data: bytes
    media_type: str
    digest: Digest


class Repository:
    """
    One repository; a context manager. Threads may share it: each request has
    a connection to itself.

    What can go wrong everywhere: RegistryError (not reached, refused), RegistryAuthError (other credentials
    are needed), FormatError (the answer is malformed).
    """

    registry: str
    name: str

    def manifest(self, reference: str) -> FetchedManifest:
        """
        The manifest or index of a tag or digest; at most `oci.MAX_DOCUMENT` bytes.

        Raises ImageNotFoundError; DigestMismatchError: it is not what was asked for or announced.
        """
        raise NotImplementedError

    def blob(self, digest: Digest, *, size: int | None) -> Iterator[bytes]:
        """
        The bytes of a blob as they arrive: `size` of them (None: as many as there are), never more.

        A broken transfer is resumed where it ended. The digest is NOT verified: whoever reads also hashes.
        Closing the iterator gives the connection back.
        Raises ImageNotFoundError: there is no such blob. FormatError: longer than `size`.
        """
        raise NotImplementedError

    def has_blob(self, digest: Digest) -> bool:
        raise NotImplementedError

    def mount(self, digest: Digest, from_repository: str) -> bool:
        """Take a blob over from another repository of the registry; False: it has to be uploaded."""
        raise NotImplementedError

    def upload(self, digest: Digest, size: int, open: Callable[[int], Iterator[bytes]]) -> None:
        """
        Store a blob. ``open(offset)`` gives its content from there on; it is called again to resume.

        Raises DigestMismatchError: the registry found that the content has another digest.
        """
        raise NotImplementedError

    def put_manifest(self, reference: str, data: bytes, media_type: str) -> Digest:
        """Store a manifest or index under a tag or its digest; what it names must be there. Its digest."""
        raise NotImplementedError

    def tags(self) -> tuple[str, ...]:
        """Raises ImageNotFoundError: there is no such repository."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


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
    raise NotImplementedError
