"""Who one is at a registry: from Podman's and Docker's files and credential helpers.

$REGISTRY_AUTH_FILE if it is set, or else the first of these that knows the registry:
${XDG_RUNTIME_DIR}/containers/auth.json, ~/.config/containers/auth.json, ${DOCKER_CONFIG}/config.json
(where DOCKER_CONFIG is ~/.docker, if not set otherwise)

    {"auths": {"host:port/name/space": {"auth": base64 of "user:password", "identitytoken": "..."}},
     "credHelpers": {"host:port": "NAME"}, "credsStore": "NAME"}

A helper is the program ``docker-credential-NAME``: it reads the registry's name, and writes JSON.
Source: containers-auth.json(5); docker-credential-helpers, "Development".
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import field, frozen

from ..checkedjson import MAX_DOCUMENT, JsonObject
from ..errors import FormatError, InvalidSpecError, RegistryAuthError
from ..reference import DEFAULT_REGISTRY

_DOCKER_HUB: Final = "https://index.docker.io/v1/"
_DOCKER_HUB_HOSTS: Final = ("index.docker.io", "registry-1.docker.io")
_HELPER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_HELPER_TIMEOUT_S: Final = 60.0  # it may ask a person to unlock a keychain


@frozen(kw_only=True)
class Credentials:
    """A user with a password, or with a token that stands for a log-in (`identity_token`)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    def __attrs_post_init__(self) -> None:
        # RFC 7617: the first colon ends the name.
        if ":" in self.username or not (self.username or self.identity_token):
            raise InvalidSpecError("credentials: needed are a username without a colon, or an identity_token")


def find_credentials(registry: str, repository: str) -> Credentials | None:
    """
    What this user has for a repository; None: nothing.

    Raises InvalidSpecError: a file is malformed. RegistryAuthError: a helper is missing, or failed.
    """
    for path in _files():
        if (document := _read(path)) is not None:
            try:
                found = _find(document, registry, repository)
            except FormatError:
                # Not what is wrong with it: that would quote from a file of passwords.
                raise InvalidSpecError(f"{path}: malformed: log in again, or remove it") from None
            if found:
                return found
    return None


def _files() -> Iterator[Path]:
    if only := os.environ.get("REGISTRY_AUTH_FILE"):
        if not Path(only).exists():
            raise InvalidSpecError(f"REGISTRY_AUTH_FILE: there is no {only}")
        yield Path(only)
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    yield Path(runtime or f"/run/containers/{os.getuid()}") / (
        "containers/auth.json" if runtime else "auth.json"
    )
    home = Path.home()
    yield Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
    yield Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def _read(path: Path) -> JsonObject | None:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidSpecError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return JsonObject.parse(data, str(path)) if data.strip() else None
    except FormatError:
        raise InvalidSpecError(f"{path}: malformed: log in again, or remove it") from None


def _find(document: JsonObject, registry: str, repository: str) -> Credentials | None:
    for key, helper in document.text_map("credHelpers").items():
        if _normal(key) == registry:
            return _ask_helper(helper, registry)
    auths = document.member("auths")
    entries = {_normal(key): auths.member(key) for key in document.names("auths")}
    for key in _keys(registry, repository):
        if (entry := entries.get(key)) and (found := _entry(entry)):
            return found
    store = document.text("credsStore")
    return _ask_helper(store, registry) if store else None


def _keys(registry: str, repository: str) -> Iterator[str]:
    """The longest first: ``host/a/b``, ``host/a``, ``host``."""
    key = f"{registry}/{repository}"
    while "/" in key:
        yield key
        key = key.rpartition("/")[0]
    yield key


def _normal(key: str) -> str:
    """Docker may write URLs, as ``https://index.docker.io/v1/``; of these only the host counts."""
    _, is_url, rest = key.partition("://")
    key = rest.partition("/")[0] if is_url else key
    return DEFAULT_REGISTRY if key in _DOCKER_HUB_HOSTS else key


def _entry(entry: JsonObject) -> Credentials | None:
    username, password = entry.text("username") or "", entry.text("password") or ""
    if encoded := entry.text("auth"):
        try:
            decoded = base64.b64decode(encoded, validate=True).decode().rstrip("\0")
        except (binascii.Error, UnicodeDecodeError):
            raise FormatError(entry.what, "auth is not base64") from None
        username, _, password = decoded.partition(":")
    token = entry.text("identitytoken") or ""
    if not username and not token:
        return None
    return Credentials(username=username, password=password, identity_token=token)


def _ask_helper(name: str, registry: str) -> Credentials | None:
    """Ask ``docker-credential-NAME``. Its answer is never quoted: it may hold the secret."""
    import subprocess

    def failed(reason: str) -> RegistryAuthError:
        return RegistryAuthError(registry, "find credentials", f"docker-credential-{name[:64]}: {reason}")

    if not _HELPER.fullmatch(name):
        raise failed("not a name of a credential helper")
    server = _DOCKER_HUB if registry == DEFAULT_REGISTRY else registry
    try:
        done = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=server.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT_S,
        )
    except FileNotFoundError:
        raise failed("is not installed: install it, or take it out of the file that names it") from None
    except OSError as error:
        raise failed(f"cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise failed(f"no answer within {_HELPER_TIMEOUT_S:g} s") from None
    if done.returncode:
        # What all helpers print when they have nothing for the server.
        if b"credentials not found" in done.stdout:
            return None
        raise failed(f"ended with exit code {done.returncode}")
    try:
        answer = JsonObject.parse(done.stdout, f"docker-credential-{name}")
        username, secret = answer.text("Username") or "", answer.text("Secret") or ""
        if username == "<token>":
            return Credentials(identity_token=secret)
        return Credentials(username=username, password=secret) if username else None
    except (FormatError, InvalidSpecError):
        raise failed("its answer is malformed") from None
