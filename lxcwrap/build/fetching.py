"""Downloading the one file that ADD is given a URL and a checksum of."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple
from urllib.parse import urlsplit

from ..errors import DigestMismatchError, FormatError, RegistryError

if TYPE_CHECKING:
    import urllib.request

MAX_BYTES: Final = 16 << 30
TIMEOUT_S: Final = 60.0  # of a server that says nothing
_CHUNK: Final = 1 << 20


class Download(NamedTuple):
    """A nameless file at its beginning. mtime_ns: what the server says of it, if anything."""

    file: BinaryIO
    mtime_ns: int | None


def download(url: str, checksum: str, scratch: Path | None) -> Download:
    """
    The content of `url`, http or https (proxies as the environment says), once it is known to be right.

    Raises DigestMismatchError: it is not; FormatError: it has more than MAX_BYTES; RegistryError: the server
    cannot be reached, or has it not. Nothing is kept then.
    """
    import http.client
    import urllib.error

    with contextlib.ExitStack() as undo:
        file = undo.enter_context(tempfile.TemporaryFile(dir=scratch))
        try:
            with _opener().open(url, timeout=TIMEOUT_S) as answer:
                actual = _copy(url, answer, file)
                modified = answer.headers.get("Last-Modified", "")
        except (http.client.HTTPException, TimeoutError, ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            host = urlsplit(url).hostname or ""
            reason = str(getattr(error, "reason", "") or error)
            raise RegistryError(host, f"download {url}", reason, getattr(error, "code", None)) from error
        if actual != checksum:
            raise DigestMismatchError(url, checksum, actual)
        file.seek(0)
        undo.pop_all()
    return Download(file, _time_ns(modified))


def _opener() -> urllib.request.OpenerDirector:
    """For http and https alone, also after a redirection (ten at most, none in a circle)."""
    import urllib.request as request

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler,
        request.HTTPHandler,
        request.HTTPSHandler,
        request.HTTPDefaultErrorHandler,
        request.HTTPRedirectHandler,
        request.HTTPErrorProcessor,
        request.UnknownHandler,
    ):
        opener.add_handler(handler())
    opener.addheaders = [("User-Agent", "lxcwrap"), ("Accept-Encoding", "identity")]
    return opener


def _copy(url: str, answer: BinaryIO, file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := answer.read(_CHUNK):
        digest.update(chunk)
        file.write(chunk)
        if file.tell() > MAX_BYTES:
            raise FormatError(url, f"has more than {MAX_BYTES} bytes")
    return f"sha256:{digest.hexdigest()}"


def _time_ns(modified: str) -> int | None:
    try:
        return int(parsedate_to_datetime(modified).timestamp()) * 10**9
    except (TypeError, ValueError, OverflowError):
        return None
