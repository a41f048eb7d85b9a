"""JSON: that of strangers read with every type checked, ours written in one way.

null counts as absent everywhere, as in the documents that Go programs write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TypeVar

from attrs import field

from .errors import FormatError

T = TypeVar("T")

_UNUSABLE: Final = re.compile("[\0\ud800-\udfff]")
MAX_DOCUMENT: Final = 4 << 20
"""Largest document we read, in bytes: what registries accept of a manifest, too."""


def canonical_json(document: object) -> bytes:
    """The one way we write a document: sorted keys, no spaces, ASCII."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parse(data: bytes, what: str, limit: int = MAX_DOCUMENT) -> object:
    if len(data) > limit:
        raise FormatError(what, f"larger than {limit} bytes")
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(what, f"not JSON: {error}") from None


class JsonObject:
    """A JSON object whose members are taken out with their type checked; null is as good as absent."""

    def __init__(self, members: object, what: str) -> None:
        if not isinstance(members, dict):
            raise FormatError(what, f"expected a JSON object, found {type(members).__name__}")
        self._members: dict[str, Any] = members
        self.what = what

    @classmethod
    def parse(cls, data: bytes, what: str, *, limit: int = MAX_DOCUMENT) -> JsonObject:
        """Raises FormatError: longer than `limit` bytes, not JSON, or not an object."""
        return cls(_parse(data, what, limit), what)

    @classmethod
    def parse_list(cls, data: bytes, what: str) -> tuple[JsonObject, ...]:
        """A document that is a list of objects."""
        return cls({"list": _parse(data, what)}, what).members("list")

    def __contains__(self, key: str) -> bool:
        return key in self._members

    def __bool__(self) -> bool:
        return bool(self._members)

    def is_text(self, key: str) -> bool:
        return isinstance(self._members.get(key), str)

    def error(self, key: str, expected: str) -> FormatError:
        found = str(self._members.get(key))[:80]
        return FormatError(self.what, f"{key}: expected {expected}, found {found!r}")

    def _get(self, key: str, kind: type[T], expected: str) -> T | None:
        value = self._members.get(key)
        # True is an int to Python, not to JSON.
        if value is None or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
            return value
        raise self.error(key, expected)

    def text(self, key: str) -> str | None:
        value = self._get(key, str, "text")
        return None if value is None else self._clean(key, value)

    def integer(self, key: str) -> int | None:
        value = self._get(key, int, "a whole number")
        if value is not None and not 0 <= value < 1 << 63:
            raise self.error(key, "a number within 0..2**63")
        return value

    def boolean(self, key: str) -> bool:
        return bool(self._get(key, bool, "true or false"))

    def member(self, key: str) -> JsonObject:
        return JsonObject(self._get(key, dict, "an object") or {}, f"{self.what}: {key}")

    def members(self, key: str) -> tuple[JsonObject, ...]:
        items = self._get(key, list, "a list") or ()
        return tuple(JsonObject(item, f"{self.what}: {key}[{number}]") for number, item in enumerate(items))

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self._clean(key, item) for item in self._get(key, list, "a list of text") or ())

    def text_map(self, key: str) -> dict[str, str]:
        members = self._get(key, dict, "an object of text") or {}
        return {self._clean(key, name): self._clean(key, value) for name, value in members.items()}

    def names(self, key: str) -> tuple[str, ...]:
        """The member names of an object, as `Volumes` and `ExposedPorts` hold theirs, sorted."""
        return tuple(sorted(self._clean(key, name) for name in self._get(key, dict, "an object") or {}))

    def required(self, key: str, value: T | None) -> T:
        if value is None:
            raise FormatError(self.what, f"{key} is missing")
        return value

    def time(self, key: str) -> datetime | None:
        value = self.text(key)
        if not value:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise self.error(key, "an RFC 3339 time") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def _clean(self, key: str, value: object) -> str:
        # NUL cannot be in any argument or path; a lone surrogate cannot be written as UTF-8.
        if not isinstance(value, str) or _UNUSABLE.search(value):
            raise self.error(key, "text")
        return value


def sparse(**members: object) -> dict[str, object]:
    """Without the members that say nothing."""
    return {key: value for key, value in members.items() if value not in (None, "", (), {}, [], False)}


def frozen_text_map() -> Mapping[str, str]:
    """A field whose value nobody can change: configs are cached and shared."""
    empty: Mapping[str, str] = {}
    return field(default=empty, converter=_frozen_map, hash=False)


def _frozen_map(members: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType(dict(members))
