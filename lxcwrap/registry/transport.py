"""HTTP to one endpoint, and to where it sends us: connections, TLS, proxies, redirects; everything bounded.

The headers of an answer are bounded by http.client: 100 of 64 KiB each.
"""

from __future__ import annotations

import ipaddress
import logging
import ssl
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from http import HTTPStatus
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urljoin

import urllib3
from attrs import define, frozen
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, ReadTimeoutError
from urllib3.exceptions import SSLError as PoolSslError
from urllib3.util import Url, make_headers, parse_url

from ..checkedjson import JsonObject
from ..errors import FormatError, InvalidSpecError, RegistryError
from .abort import Abort
from .config import Endpoint, RegistryConfig, is_loopback
from .proxies import Proxy, proxy_for

_log = logging.getLogger(__name__)

_CHUNK: Final = 256 << 10
_LARGEST_COMPLAINT: Final = 64 << 10
_MOST_REDIRECTS: Final = 5
_IDLE_CONNECTIONS: Final = 8
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_TRANSIENT: Final = frozenset({408, 429, 500, 502, 503, 504})

Body = bytes | Iterable[bytes] | None


@define
class InterruptedRequestError(RegistryError):
    """A request failed for the moment: to try again may help, not before `retry_after_s`."""

    retry_after_s: float = 0.0


@frozen
class Origin:
    """What credentials belong to: nobody else gets them."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: Url) -> Origin:
        scheme = (url.scheme or "").lower()
        default = {"http": 80, "https": 443}.get(scheme, 0)
        return cls(scheme, (url.host or "").strip("[]").lower(), url.port or default)


class Response:
    """An answer. Its body can be read once; leaving its `with` gives the connection back."""

    def __init__(
        self, registry: str, operation: str, url: str, raw: urllib3.BaseHTTPResponse, secrets: Iterable[str]
    ) -> None:
        self.registry = registry
        self.operation = operation
        self.url = url
        self._secrets = secrets
        self.status = raw.status
        self.headers = raw.headers
        self._raw = raw

    def chunks(self) -> Iterator[bytes]:
        """The body as it arrives. InterruptedRequestError: it broke off before its announced end."""
        try:
            while chunk := self._raw.read(_CHUNK, decode_content=False):
                yield chunk
        except (HTTPError, OSError) as error:
            raise _interrupted(self.registry, self.operation, error) from error

    def body(self, limit: int) -> bytes:
        """All of the body. FormatError: more than `limit` bytes."""
        data = bytearray()
        for chunk in self.chunks():
            data += chunk
            if len(data) > limit:
                raise FormatError(
                    f"{self.registry}: answer to {self.operation}", f"larger than {limit} bytes"
                )
        return bytes(data)

    def complaint(self) -> str:
        """What a refusal says of its reasons, in one line, without any secret it repeats."""
        try:
            errors = JsonObject.parse(self.body(_LARGEST_COMPLAINT), "errors").members("errors")
            said = [f"{error.text('code') or ''}: {error.text('message') or ''}" for error in errors[:3]]
        except (FormatError, RegistryError):
            said = []
        text = "; ".join(said) or _phrase(self.status)
        for secret in list(self._secrets):
            text = text.replace(secret, "***")
        return "".join(character if character.isprintable() else "?" for character in text[:500])

    def finish(self) -> None:
        """Read a short rest, so that the connection can serve again."""
        with self, suppress(FormatError, RegistryError):
            self.body(_LARGEST_COMPLAINT)

    def close(self) -> None:
        # An unread body makes the connection useless; one that was read has been given back by then.
        self._raw.close()
        self._raw.release_conn()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """Sends requests to one endpoint and to where that sends us. For use by several threads at once."""

    def __init__(self, endpoint: Endpoint, config: RegistryConfig) -> None:
        self.abort = Abort()
        self._endpoint = endpoint
        self._origin = Origin.of(parse_url(endpoint.origin))
        self._timeout = urllib3.Timeout(connect=config.connect_timeout_s, read=config.read_timeout_s)
        self._here = is_loopback(self._origin.host)
        self._secrets: set[str] = set()
        self._managers: dict[tuple[Proxy | None, bool, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def open(
        self, operation: str, method: str, url: str, headers: Mapping[str, str], body: Body = None
    ) -> Response:
        """
        Send a request, follow redirects of what only reads, and give the answer, whatever its status.

        Raises InterruptedRequestError: no answer, or one that asks to come again (429, 5xx). RegistryError:
        there cannot be one (wrong certificate), or it sends us where we do not go.
        """
        first = Origin.of(parse_url(url))
        sent = {"User-Agent": "lxcwrap", "Accept-Encoding": "identity", **headers}
        for _ in range(_MOST_REDIRECTS + 1):
            response = self._send(operation, method, url, sent, body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or method not in ("GET", "HEAD") or not location:
                return response
            response.finish()
            url = self.resolve(operation, url, location)
            if Origin.of(parse_url(url)) != first:
                sent.pop("Authorization", None)
        raise RegistryError(self._endpoint.name, operation, f"more than {_MOST_REDIRECTS} redirects")

    def resolve(self, operation: str, base: str, location: str) -> str:
        """The address that an answer sends us to. RegistryError: we do not go there."""

        def refused(reason: str) -> RegistryError:
            return RegistryError(self._endpoint.name, operation, f"is sent to {location[:100]!r}: {reason}")

        try:
            # Reading and sending go by the same parser, so that they cannot differ on where an address leads.
            target = parse_url(urljoin(base, location))
        except (HTTPError, ValueError):
            raise refused("not an address") from None
        origin = Origin.of(target)
        if origin.scheme not in ("http", "https") or not origin.host:
            raise refused("only http and https are followed")
        if origin.scheme == "http" and parse_url(base).scheme == "https":
            raise refused("https must not lead to http")
        if _is_forbidden(origin.host, self._here) or (is_loopback(origin.host) and not self._here):
            raise refused("others must not send us to this machine or what is linked to it alone")
        return target._replace(auth=None, fragment=None).url

    def is_own(self, url: str) -> bool:
        """Is it at the endpoint itself, so that it may have our credentials?"""
        return Origin.of(parse_url(url)) == self._origin

    def conceal(self, *secrets: str) -> None:
        """Never quote these, also if a server repeats them."""
        self._secrets.update(filter(None, secrets))

    def close(self) -> None:
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def _send(
        self, operation: str, method: str, url: str, headers: Mapping[str, str], body: Body
    ) -> Response:
        _log.debug("%s %s", method, url.partition("?")[0])  # what follows may be a signature
        try:
            raw = self._manager(parse_url(url)).urlopen(
                method,
                url,
                redirect=False,
                retries=False,
                headers=headers,
                body=body,
                timeout=self._timeout,
                preload_content=False,
                decode_content=False,
            )
        except (HTTPError, OSError) as error:
            raise _interrupted(self._endpoint.name, operation, error) from error
        response = Response(self._endpoint.name, operation, url, raw, self._secrets)
        if raw.status in _TRANSIENT:
            with response:
                raise InterruptedRequestError(
                    self._endpoint.name, operation, response.complaint(), raw.status, _retry_after(raw)
                )
        return response

    def _manager(self, url: Url) -> urllib3.PoolManager:
        origin = Origin.of(url)
        # Our client certificate is for the endpoint alone.
        own = origin == self._origin
        proxy = proxy_for(origin.scheme, origin.host, origin.port)
        key = proxy, own, origin.scheme
        with self._lock:
            if not (manager := self._managers.get(key)):
                manager = self._managers[key] = self._make_manager(*key)
            return manager

    def _make_manager(self, proxy: Proxy | None, own: bool, scheme: str) -> urllib3.PoolManager:
        options: dict[str, Any] = {"num_pools": 16, "maxsize": _IDLE_CONNECTIONS}
        if scheme == "https":
            options["ssl_context"] = self._ssl_context(own)
        if proxy:
            authorization = (
                make_headers(proxy_basic_auth=proxy.authorization) if proxy.authorization else None
            )
            through = urllib3.ProxyManager(proxy.url, proxy_headers=authorization, **options)
            return self.abort.watch(through)
        manager = urllib3.PoolManager(**options)
        if not own:
            manager.pool_classes_by_scheme = _guarded_pools(self._here)
        return self.abort.watch(manager)

    def _ssl_context(self, own: bool) -> ssl.SSLContext:
        settings = self._endpoint.settings
        context = ssl.create_default_context()
        try:
            if settings.ca_file:
                context.load_verify_locations(settings.ca_file)
            if own and settings.client_cert:
                context.load_cert_chain(settings.client_cert, settings.client_key or None)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(filter(None, (settings.ca_file, settings.client_cert, settings.client_key)))
            raise InvalidSpecError(
                f"{self._endpoint.name}: cannot use {files}: {error.strerror or error}"
            ) from None
        return context


# --- where others may not send us -----------------------------------------------------------------------

# To services of this machine, and to what clouds keep for it at link-local addresses. A name may resolve to
# these, and a number be written in many ways, so the peer is looked at, before anything is sent to it. (A
# proxy looks for itself.)


def _is_forbidden(host: str, here: bool) -> bool:
    """here: the registry itself is on this machine."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_link_local or (not here and (address.is_loopback or address.is_unspecified))


@cache
def _guarded_pools(here: bool) -> dict[str, type[HTTPConnectionPool]]:
    def check(connection: HTTPConnection) -> None:
        if connection.sock and _is_forbidden(connection.sock.getpeername()[0], here):
            connection.close()
            raise OSError("its address is one of this machine alone")

    class Connection(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            check(self)

    class TlsConnection(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            check(self)

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    class TlsPool(HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    return {"http": Pool, "https": TlsPool}


# --- failures in words ----------------------------------------------------------------------------------


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "an unknown status"


def _interrupted(registry: str, operation: str, error: HTTPError | OSError) -> RegistryError:
    if isinstance(error, PoolSslError) and isinstance(cause := _root(error), ssl.SSLCertVerificationError):
        reason = (
            f"its certificate is not trusted: {cause.verify_message}; give its ca_file in registries.yaml"
        )
        return RegistryError(registry, operation, reason)
    if isinstance(error, ConnectTimeoutError):
        reason = "no connection in time"
    elif isinstance(error, ReadTimeoutError | TimeoutError):
        reason = "no answer in time"
    else:
        cause = _root(error)
        reason = str(getattr(cause, "strerror", None) or cause)[:200]
    return InterruptedRequestError(registry, operation, reason)


def _root(error: BaseException) -> BaseException:
    """What urllib3 wrapped, perhaps several times."""
    while isinstance(error, HTTPError):
        inner = (
            error.__cause__
            or error.__context__
            or next((argument for argument in error.args if isinstance(argument, BaseException)), None)
        )
        if inner is None:
            break
        error = inner
    return error


def _retry_after(raw: urllib3.BaseHTTPResponse) -> float:
    try:
        return float(urllib3.Retry().get_retry_after(raw) or 0)
    except (HTTPError, ValueError, OverflowError):
        return 0.0
