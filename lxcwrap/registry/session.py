"""Requests to a repository at one endpoint: authorised, tried again where that helps, refused as errors."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, TypeVar

from ..errors import RegistryError
from ..oci import Reference
from .abort import Abort
from .auth import Authenticator, Scopes
from .config import Endpoint, RegistryConfig
from .credentials import Credentials, find_credentials
from .transport import Body, InterruptedRequestError, Response, Transport

_log = logging.getLogger(__name__)

_LONGEST_PAUSE_S: Final = 10.0
_LONGEST_ASKED_PAUSE_S: Final = 60.0
_PROGRESS: Final = 64 << 10
"""Bytes that count as having come further; less, and a trickle could keep us for ever."""

T = TypeVar("T")
MakeBody = Callable[[], Iterable[bytes]] | bytes | None


class Patience:
    """How often one piece of work is still to be tried again, and how soon."""

    def __init__(self, tries: int, backoff_s: float, abort: Abort) -> None:
        self._tries = self._left = tries
        self._backoff_s = backoff_s
        self._abort = abort
        self._position = 0

    def pause(self, error: InterruptedRequestError, position: int = 0) -> None:
        """
        Wait before another try; reaching a farther `position` (in bytes) than before renews the patience.

        Raises RegistryError: it is at its end, or was asked to wait for too long.
        """
        if position >= self._position + _PROGRESS:
            self._position, self._left = position, self._tries
        self._left -= 1
        asked_s = error.retry_after_s
        if self._left <= 0 or asked_s > _LONGEST_ASKED_PAUSE_S:
            later = f"; it asks to come again in {asked_s:.0f} s" if asked_s else ""
            raise RegistryError(
                error.registry, error.operation, error.reason + later, error.status
            ) from error
        doubled = self._backoff_s * 2 ** (self._tries - self._left - 1)
        # Between half and all of it: many who were interrupted together do not come back together.
        pause_s = max(asked_s, min(doubled, _LONGEST_PAUSE_S) * random.uniform(0.5, 1))
        _log.info("%s; trying again in %.1f s", error, pause_s)
        if self._abort.wait(pause_s):
            raise RegistryError(error.registry, error.operation, "given up") from error


class Session:
    """One repository at one endpoint. For use by several threads at once."""

    def __init__(
        self,
        endpoint: Endpoint,
        config: RegistryConfig,
        actions: str,
        credentials: Credentials | None,
        tries: int,
    ) -> None:
        self.registry = endpoint.name
        self.repository = endpoint.repository
        self._base = f"{endpoint.origin}/v2/{endpoint.repository}/"
        self._scopes: Scopes = (f"repository:{endpoint.repository}:{actions}",)
        self._tries = tries
        self._backoff_s = config.backoff_s
        self._transport = Transport(endpoint, config)
        self._authenticator = Authenticator(
            endpoint,
            self._transport,
            lambda: credentials or find_credentials(endpoint.name, endpoint.repository),
        )

    def patience(self) -> Patience:
        return Patience(self._tries, self._backoff_s, self._transport.abort)

    def url(self, path: str) -> str:
        """``manifests/latest`` of this repository."""
        return self._base + path

    def resolve(self, operation: str, base: str, location: str) -> str:
        return self._transport.resolve(operation, base, location)

    def send(
        self,
        operation: str,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: MakeBody = None,
        expected: Collection[int] = (200,),
        also: str = "",
    ) -> Response:
        """
        One request, whose answer has one of the `expected` statuses. also: another repository it is about.

        Raises InterruptedRequestError: it may work another time. RegistryAuthError; RegistryError: refused.
        """
        scopes = (*self._scopes, f"repository:{also}:pull") if also else self._scopes
        own = self._transport.is_own(url)
        ours = self._authenticator.header(operation, scopes) if own else None
        response = self._open(operation, method, url, headers, ours, body)
        if response.status == 401 and own:
            response.finish()
            ours = self._authenticator.answer(operation, response, scopes, ours)
            response = self._open(operation, method, url, headers, ours, body)
        if response.status in expected:
            return response
        with response:
            said = response.complaint()
        if response.status in (401, 403):
            raise self._authenticator.denied(operation, said, response.status)
        raise RegistryError(self.registry, operation, said, response.status)

    def persist(self, work: Callable[[], T]) -> T:
        """Do `work`, and again while that may help."""
        patience = self.patience()
        while True:
            try:
                return work()
            except InterruptedRequestError as error:
                patience.pause(error)

    def abort(self) -> None:
        self._transport.abort.set()

    def close(self) -> None:
        self._transport.close()

    def _open(
        self,
        operation: str,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        authorization: str | None,
        body: MakeBody,
    ) -> Response:
        sent = {**(headers or {}), **({"Authorization": authorization} if authorization else {})}
        content: Body = body() if callable(body) else body
        return self._transport.open(operation, method, url, sent, content)


def sessions(
    reference: Reference, config: RegistryConfig, actions: str, credentials: Credentials | None
) -> tuple[Session, ...]:
    """Where to find a repository, in this order. A mirror is given one try: behind it are others."""
    *mirrors, registry = config.endpoints(reference)
    return (
        *(Session(mirror, config, "pull", None, 1) for mirror in mirrors if actions == "pull"),
        Session(registry, config, actions, credentials, config.tries),
    )
