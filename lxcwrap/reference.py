"""Names of images: the grammar of distribution/reference, and Docker's short forms.

    reference  = [registry "/"] repository [":" tag] ["@" digest]
    registry   = host [":" port]
    repository = component *("/" component), lowercase, 255 characters at most

The first component is a registry if it has a "." or ":" or an uppercase letter, or is "localhost".
"""

from __future__ import annotations

import re
from typing import Final

from attrs import frozen

from .digests import Digest
from .errors import FormatError, InvalidSpecError

__all__ = ["Digest", "Reference"]

DEFAULT_REGISTRY: Final = "docker.io"
DEFAULT_TAG: Final = "latest"

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_REGISTRY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?")
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_ID: Final = re.compile(r"[0-9a-f]{64}")


@frozen(kw_only=True)
class Reference:
    """A complete name of an image, with a tag, a digest or both."""

    registry: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """
        Complete what a person writes.

        Raises InvalidSpecError: not a reference, or one with uppercase letters in the repository.
        Source: distribution/reference, `ParseNormalizedNamed`.

        >>> str(Reference.parse("nginx"))
        'docker.io/library/nginx:latest'
        """
        if not isinstance(text, str):
            raise TypeError(f"an image reference is a str, not {type(text).__name__}")
        rest, at, digest = text.partition("@")
        # A colon after the last slash begins the tag; any other belongs to the registry's port.
        head, slash, last = rest.rpartition("/")
        last, colon, tag = last.partition(":")
        registry, repository = _split_registry(head + slash + last)
        if not _REGISTRY.fullmatch(registry) or (colon and not _TAG.fullmatch(tag)):
            raise _invalid(text, "write it as 'name:tag', 'registry.example/name:tag' or 'name@sha256:...'")
        if repository != repository.lower():
            raise _invalid(text, "the repository must be lowercase")
        if not _REPOSITORY.fullmatch(repository) or len(repository) > 255 or _ID.fullmatch(rest):
            raise _invalid(text, "a repository is words of a-z and 0-9 joined by '.', '_', '__', '-' or '/'")
        return cls(
            registry=registry,
            repository=repository,
            tag=tag if colon else None if at else DEFAULT_TAG,
            digest=_parse_digest(text, digest) if at else None,
        )

    @property
    def familiar(self) -> str:
        """The short form that people write: ``nginx:latest``. `parse` gives the same reference back."""
        if self.registry == DEFAULT_REGISTRY:
            for short in (self.repository.removeprefix("library/"), self.repository):
                text = short + self._suffix
                # "localhost/x" or 64 hex digits would be read as something else.
                if _split_registry(short) == (self.registry, self.repository) and not _ID.fullmatch(short):
                    return text
        return str(self)

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{self._suffix}"


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not (set(first) & {".", ":"} or first == "localhost" or first != first.lower()):
        first, rest = DEFAULT_REGISTRY, name
    if first in (DEFAULT_REGISTRY, "index.docker.io"):
        first = DEFAULT_REGISTRY
        rest = rest if "/" in rest else f"library/{rest}"
    return first, rest


def _parse_digest(text: str, digest: str) -> Digest:
    try:
        return Digest(digest)
    except FormatError as error:
        raise _invalid(text, error.reason) from None


def _invalid(text: str, reason: str) -> InvalidSpecError:
    return InvalidSpecError(f"image reference {text[:300]!r}: {reason}")
