"""Platforms: what an image can run on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Final

from attrs import frozen

from .errors import InvalidSpecError, UnsupportedError

_ARCHITECTURES: Final = {
    "x86_64": ("amd64", ""), "i386": ("386", ""), "i686": ("386", ""), "aarch64": ("arm64", ""),
    "armv6l": ("arm", "v6"), "armv7l": ("arm", "v7"), "armv8l": ("arm", "v8"), "armhf": ("arm", "v7"),
    "loongarch64": ("loong64", ""),
}  # fmt: skip


@frozen
class Platform:
    """What an image runs on, in Go's words: ``linux``, ``amd64``, and for ARM a variant such as ``v7``."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``linux/arm/v7``, ``linux/amd64`` or the kernel's ``x86_64``. Raises InvalidSpecError."""
        parts = text.split("/") if "/" in text else ["linux", text]
        if not 2 <= len(parts) <= 3 or not all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts):
            raise InvalidSpecError(f"platform {text!r}: write it as 'linux/amd64' or 'linux/arm/v7'")
        architecture, variant = _ARCHITECTURES.get(parts[1].lower(), (parts[1].lower(), ""))
        return cls(parts[0].lower(), architecture, parts[2].lower() if len(parts) == 3 else variant)

    @classmethod
    def host(cls) -> Platform:
        return cls.parse(f"linux/{os.uname().machine}")

    def rank(self, candidate: Platform) -> int:
        """How well `candidate` serves who wants this platform; 0: it does not run there."""
        if (candidate.os, candidate.architecture) != (self.os, self.architecture):
            return 0
        offered, wanted = candidate._level, self._level
        # A variant is a level of the instruction set: lower ones run too.
        return 1 + offered if offered <= wanted else 0

    @property
    def _level(self) -> int:
        default = {"arm64": "v8", "arm": "v7", "amd64": "v1"}.get(self.architecture, "v0")
        match = re.fullmatch(r"v(\d{1,2})", self.variant or default)
        return int(match[1]) if match else 99

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def require(self, offered: Iterable[Platform], what: str) -> None:
        """Raises UnsupportedError: nothing of `offered`, all that `what` holds, runs on this platform."""
        offered = tuple(offered)
        if not any(self.rank(platform) for platform in offered):
            choices = ", ".join(sorted({str(platform) for platform in offered}))
            raise UnsupportedError(
                f"{what} holds no image for {self}", f"it has one for {choices}: use platform="
            )
