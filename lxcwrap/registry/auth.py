"""Authentication to a registry: what it asks for, and the answer. Source: RFC 9110; distribution, "Token".

The first request is made without; the registry's answer says how it wants us to identify ourselves. For
Bearer that is a token, which a server that it names gives for credentials, or to anybody.
"""

from __future__ import annotations

import base64
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final
from urllib.parse import urlencode

from attrs import frozen

from ..checkedjson import JsonObject
from ..errors import RegistryAuthError
from .config import Endpoint
from .credentials import Credentials
from .transport import Response, Transport

Scopes = tuple[str, ...]
"""What a token is to be good for: ``repository:library/nginx:pull``."""

_LARGEST_TOKEN: Final = 256 << 10
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_SHORTEST_LIFE_S: Final = 60.0  # what a token lives that does not say
_PART: Final = re.compile(r"[\s,]*([^\s,=\"]+)(?:\s*=\s*(?:\"((?:[^\"\\]|\\.)*)\"|([^\s,\"]+)))?")


@frozen
class Challenge:
    """One way to identify oneself. `scheme` and the names of `parameters` are lowercase."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """Those of ``WWW-Authenticate`` headers; of a malformed one what stands before the mistake."""
    challenges: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        position = 0
        while part := _PART.match(header, position):
            position = part.end()
            name, quoted, plain = part[1].lower(), part[2], part[3]
            if quoted is None and plain is None:
                challenges.append((name, {}))
            elif challenges:
                value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                challenges[-1][1].setdefault(name, value)
    return tuple(Challenge(scheme, parameters) for scheme, parameters in challenges)


@frozen
class _Token:
    header: str
    expires: float  # on the monotonic clock


class Authenticator:
    """Identifies us to one endpoint. Keeps tokens until they expire. For use by several threads at once."""

    def __init__(
        self, endpoint: Endpoint, transport: Transport, find: Callable[[], Credentials | None]
    ) -> None:
        self._registry = endpoint.name
        self._base = f"{endpoint.origin}/v2/"
        self._transport = transport
        self._find = find
        self._credentials: Credentials | None = None
        self._challenge: Challenge | None = None
        self._tokens: dict[Scopes, _Token] = {}
        self._lock = threading.Lock()

    def header(self, operation: str, scopes: Scopes) -> str | None:
        """The value of ``Authorization`` for a request; None as long as the registry has asked for none."""
        with self._lock:
            return self._header(operation, scopes)

    def answer(self, operation: str, refusal: Response, scopes: Scopes, refused: str | None) -> str:
        """
        The value of ``Authorization`` to try again with, after `refused` did not do.

        Raises RegistryAuthError: there is nothing else to try, or the token server refuses.
        """
        challenges = {challenge.scheme: challenge for challenge in _challenges_of(refusal)}
        challenge = challenges.get("bearer") or challenges.get("basic")
        if challenge is None:
            raise self._error(operation, "it asks for authentication of a kind that is not known here")
        with self._lock:
            # Another thread may have done it meanwhile.
            if self._challenge is not None and (header := self._header(operation, scopes)) != refused:
                assert header is not None
                return header
            if self._challenge is None:
                self._credentials = self._learn()
            self._challenge = challenge
            self._tokens.pop(scopes, None)
            header = self._header(operation, scopes)
        if header is None or header == refused:
            raise self.denied(operation)
        return header

    def denied(self, operation: str, said: str = "", status: int | None = 401) -> RegistryAuthError:
        """The error for a request that was refused whatever we sent."""
        if self._credentials:
            hint = f"the credentials for {self._registry} do not do: log in again, or ask for access"
        else:
            hint = f"there is no such repository, or it needs credentials: 'docker login {self._registry}'"
        return self._error(operation, f"{said}; {hint}" if said else hint, status)

    def _header(self, operation: str, scopes: Scopes) -> str | None:
        if self._challenge is None:
            return None
        if self._challenge.scheme == "basic":
            known = self._credentials
            return _basic(known) if known and known.username else None
        token = self._tokens.get(scopes)
        if token is None or token.expires < time.monotonic():
            token = self._tokens[scopes] = self._fetch(operation, self._challenge.parameters, scopes)
        return token.header

    def _learn(self) -> Credentials | None:
        if known := self._find():
            self._transport.conceal(known.password, known.identity_token, _basic(known).partition(" ")[2])
        return known

    def _fetch(self, operation: str, parameters: Mapping[str, str], scopes: Scopes) -> _Token:
        realm = self._transport.resolve(operation, self._base, parameters.get("realm", ""))
        service = [("service", parameters["service"])] if "service" in parameters else []
        with self._request(operation, realm, service, scopes) as response:
            if response.status != 200:
                raise self.denied(operation, response.complaint(), response.status)
            what = f"{self._registry}: token"
            answer = JsonObject.parse(response.body(_LARGEST_TOKEN), what)
        text = answer.text("token") or answer.text("access_token") or ""
        if not _TOKEN.fullmatch(text):
            raise self._error(operation, "the token server gave no usable token")
        life = max(float(answer.integer("expires_in") or 0), _SHORTEST_LIFE_S)
        self._transport.conceal(text)
        # A tenth earlier than it ends: it also has to arrive.
        return _Token(f"Bearer {text}", time.monotonic() + 0.9 * life)

    def _request(
        self, operation: str, realm: str, service: list[tuple[str, str]], scopes: Scopes
    ) -> Response:
        known = self._credentials
        if known and known.identity_token:
            form = [
                ("grant_type", "refresh_token"),
                ("refresh_token", known.identity_token),
                ("client_id", "lxcwrap"),
                ("scope", " ".join(scopes)),
                *service,
            ]
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._transport.open(operation, "POST", realm, headers, urlencode(form).encode())
        query = service + [("scope", scope) for scope in scopes]
        if known:
            query.append(("account", known.username))
        separator = "&" if "?" in realm else "?"
        headers = {"Authorization": _basic(known)} if known else {}
        return self._transport.open(operation, "GET", f"{realm}{separator}{urlencode(query)}", headers)

    def _error(self, operation: str, reason: str, status: int | None = None) -> RegistryAuthError:
        return RegistryAuthError(self._registry, operation, reason, status)


def _challenges_of(response: Response) -> tuple[Challenge, ...]:
    return parse_challenges(response.headers.getlist("WWW-Authenticate"))


def _basic(known: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{known.username}:{known.password}".encode()).decode()
