"""Digests: the names of content, and of stacks of layers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from .errors import FormatError, InvalidSpecError


class Digest(str):
    """``sha256:`` and 64 lowercase hex digits; FormatError for anything else. A str, and equal to one."""

    __slots__ = ()
    _PATTERN: Final = re.compile(r"sha256:[0-9a-f]{64}")

    def __new__(cls, text: str) -> Digest:
        if not isinstance(text, str) or not cls._PATTERN.fullmatch(text):
            raise FormatError("digest", f"{str(text)[:100]!r} is not sha256: and 64 lowercase hex digits")
        return super().__new__(cls, text)

    @property
    def hex(self) -> str:
        return self[len("sha256:") :]


def digest_of(data: bytes) -> Digest:
    return Digest(f"sha256:{hashlib.sha256(data).hexdigest()}")


def chain_id(diff_ids: Sequence[str]) -> Digest:
    """
    Identity of a stack of layers, lowest first.

    Raises InvalidSpecError when the stack is empty. Source: OCI image-spec, config.md, "Layer ChainID".
    """
    return chain_ids(diff_ids)[-1]


def chain_ids(diff_ids: Sequence[str]) -> tuple[Digest, ...]:
    """The chain id of each layer of a stack, lowest first. Raises InvalidSpecError for an empty stack."""
    if not diff_ids:
        raise InvalidSpecError("a stack of no layers has no chain id")
    chain = [Digest(diff_ids[0])]
    for diff_id in diff_ids[1:]:
        chain.append(digest_of(f"{chain[-1]} {Digest(diff_id)}".encode()))
    return tuple(chain)
