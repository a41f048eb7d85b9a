"""Blobs on their way: out of a registry and into it, going on where a connection broke."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Final
from urllib.parse import urlencode

from ..digests import Digest
from ..errors import FormatError, ImageNotFoundError, RegistryError
from .session import Session
from .transport import InterruptedRequestError, Response

Open = Callable[[int], Iterator[bytes]]
"""Gives content from an offset on."""

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:([0-9]{1,18})|\*)")
_RANGE: Final = re.compile(r"(?:bytes=)?0-([0-9]{1,18})")
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_SMALL: Final = 1 << 20
"""Up to this size a blob goes in one request; begun again if it breaks."""


class Download:
    """One blob from one endpoint, from `position` on: where to go on elsewhere, if this one fails."""

    def __init__(
        self, session: Session, digest: Digest, size: int | None, position: int = 0, path: str = ""
    ) -> None:
        self.position = position
        self._url = session.url(path or f"blobs/{digest}")
        self._session = session
        self._digest = digest
        self._size = size
        self._operation = f"pull {digest} of {session.repository}"

    def chunks(self) -> Iterator[bytes]:
        patience = self._session.patience()
        while self.position != self._size:
            try:
                yield from self._rest()
                return
            except InterruptedRequestError as error:
                patience.pause(error, self.position)

    def _rest(self) -> Iterator[bytes]:
        headers = {"Range": f"bytes={self.position}-"} if self.position else {}
        expected = (200, 206, 404, 416)
        with self._session.send(
            self._operation, "GET", self._url, headers=headers, expected=expected
        ) as response:
            skip = self._begins_before(response)
            for chunk in response.chunks():
                fresh = chunk[skip:]
                skip -= len(chunk) - len(fresh)
                room = len(fresh) if self._size is None else self._size - self.position
                if part := fresh[:room]:
                    self.position += len(part)
                    yield part
                if len(fresh) > room:
                    raise self._malformed(f"is longer than the {self._size} bytes it was announced with")
        if self._size is not None and self.position < self._size:
            reason = f"it ended after {self.position} of {self._size} bytes"
            raise InterruptedRequestError(self._session.registry, self._operation, reason)

    def _begins_before(self, response: Response) -> int:
        """How many bytes of the answer we have: all up to our position, if it does not know ranges."""
        if response.status == 404:
            repository = f"{self._session.registry}/{self._session.repository}"
            raise ImageNotFoundError(f"{repository}@{self._digest}", registry=self._session.registry)
        if response.status == 416:
            raise self._malformed(f"has no more than {self.position} bytes, announced were {self._size}")
        begin, total = 0, response.headers.get("Content-Length", "")
        if response.status == 206:
            content_range = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not content_range or int(content_range[1]) != self.position:
                raise self._malformed(f"what came is not what follows byte {self.position}")
            begin, total = self.position, content_range[2] or ""
        if self._size is not None and _LENGTH.fullmatch(total) and int(total) != self._size:
            raise self._malformed(f"has {total} bytes, announced were {self._size}")
        return self.position - begin

    def _malformed(self, reason: str) -> FormatError:
        return FormatError(f"{self._session.registry}: blob {self._digest}", reason)


class Upload:
    """
    One blob into a registry.

    A large one goes by PATCH, of which the registry can tell how far it came. (Docker's of version 2 cannot:
    it knows an upload by the offset it told last. There it begins again.) The first PATCH names no range, as
    Docker's client does it: not all registries take ranges.
    """

    def __init__(self, session: Session, digest: Digest, size: int, open: Open) -> None:
        self._session = session
        self._digest = digest
        self._size = size
        self._open = open
        self._operation = f"push {digest} to {session.repository}"
        self._location = ""
        self._position = 0

    def run(self) -> None:
        patience = self._session.patience()
        try:
            while True:
                try:
                    self._attempt()
                    return
                except InterruptedRequestError as error:
                    patience.pause(error, self._position)
                    self._find_out()
        except _OwnContentError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    def _attempt(self) -> None:
        if not self._location:
            self._position = 0
            self._follow(self._send("POST", self._session.url("blobs/uploads/"), (202,)))
        if self._size <= _SMALL:
            location, self._location = self._location, ""
            self._finish(location, self._content())
            return
        if self._position < self._size:
            headers = {}
            if self._position:
                headers["Content-Range"] = f"{self._position}-{self._size - 1}"
            self._follow(self._send("PATCH", self._location, (202,), self._content(), headers))
            self._position = self._size
        self._finish(self._location, b"")

    def _finish(self, location: str, content: _Content | bytes) -> None:
        separator = "&" if "?" in location else "?"
        url = f"{location}{separator}{urlencode({'digest': self._digest})}"
        self._send("PUT", url, (201,), content).finish()

    def _find_out(self) -> None:
        """How far the upload came; if nobody can tell, it begins again."""
        if not self._location:
            return
        try:
            response = self._send("GET", self._location, (204,))
        except InterruptedRequestError:
            return  # the next attempt will show
        except RegistryError:
            self._location = ""
            return
        reached = _RANGE.fullmatch(response.headers.get("Range", ""))
        self._follow(response)
        self._position = int(reached[1]) + 1 if reached else 0
        # "0-0" is said of nothing and of one byte alike.
        if not 1 < self._position <= self._size:
            self._location = ""

    def _content(self) -> _Content:
        return _Content(self._open, self._position, self._size)

    def _follow(self, response: Response) -> None:
        response.finish()
        location = response.headers.get("Location", "")
        if not location:
            raise FormatError(f"{self._session.registry}: answer to {self._operation}", "it has no Location")
        self._location = self._session.resolve(self._operation, response.url, location)

    def _send(
        self,
        method: str,
        url: str,
        expected: tuple[int, ...],
        content: _Content | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Response:
        sent = dict(headers or {})
        if content is not None:
            sent["Content-Type"] = "application/octet-stream"
            sent["Content-Length"] = str(len(content))
        body = content.chunks if isinstance(content, _Content) else content
        return self._session.send(self._operation, method, url, headers=sent, body=body, expected=expected)


class _OwnContentError(Exception):
    """Its cause comes from reading what is to be sent, and has nothing to do with the connection."""


class _Content:
    """What is to be sent from an offset on. It has to be as long as it was announced to be."""

    def __init__(self, open: Open, begin: int, end: int) -> None:
        self._open = open
        self._begin = begin
        self._end = end

    def __len__(self) -> int:
        return self._end - self._begin

    def chunks(self) -> Iterator[bytes]:
        position = self._begin
        try:
            for chunk in self._open(self._begin):
                position += len(chunk)
                if position > self._end:
                    break
                yield chunk
            if position != self._end:
                raise FormatError("blob to push", f"does not have the {self._end} bytes it should have")
        except Exception as error:
            raise _OwnContentError from error
