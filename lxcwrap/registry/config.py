"""How registries are reached: mirrors, plain http, certificates, time-outs. From registries.yaml:

registries:
  docker.io:
    mirrors: [mirror.example, "http://cache.example:5000/hub"]  # asked first, in this order
  registry.example:5000:
    plain_http: true
  private.example:
    ca_file: ca.pem                # trusted beside the system's; paths are relative to this file
    client_cert: client.pem
    client_key: client.key
connect_timeout_s: 10
read_timeout_s: 60
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Self

from attrs import evolve, field, fields_dict, frozen

from ..errors import InvalidSpecError
from ..reference import DEFAULT_REGISTRY, Reference

SYSTEM_FILE: Final = Path("/etc/lxcwrap/registries.yaml")
_DEFAULT_HOST: Final = "registry-1.docker.io"
_LARGEST_FILE: Final = 1 << 20
_MIRROR: Final = re.compile(r"(?:(https?)://)?([^/]+)(?:/(.+?))?/?")


@frozen(kw_only=True)
class RegistrySettings:
    """
    How one registry is reached.

    mirrors: ``[http://|https://]host[:port][/prefix]``, asked in this order before the registry itself.
    plain_http: without TLS; None: only if it is on loopback. ca_file: certificates to trust beside the
    system's. client_cert, client_key: files of what we identify ourselves by.
    """

    mirrors: tuple[str, ...] = ()
    plain_http: bool | None = None
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""

    def __attrs_post_init__(self) -> None:
        for mirror in self.mirrors:
            _split_mirror(mirror)
        if self.client_key and not self.client_cert:
            raise InvalidSpecError("client_key needs a client_cert")


@frozen(kw_only=True)
class Endpoint:
    """One place where a repository is: a registry itself, or one of its mirrors.

    name: as credentials are kept for it. origin: ``https://host:port``. repository: its name there.
    """

    name: str
    origin: str
    repository: str
    settings: RegistrySettings


def _frozen(members: Mapping[str, RegistrySettings]) -> Mapping[str, RegistrySettings]:
    return MappingProxyType(dict(members))


def _positive(_: object, attribute: object, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 86_400:
        raise InvalidSpecError(f"{getattr(attribute, 'name', '')}: expected seconds above 0, found {value!r}")


def _whole(_: object, attribute: object, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidSpecError(f"{getattr(attribute, 'name', '')}: expected 1 or more, found {value!r}")


@frozen(kw_only=True)
class RegistryConfig:
    """
    How registries are reached. `registries` is by name, as in references: ``docker.io``, ``host:port``.

    Requests that fail for the moment are tried `tries` times in all, with pauses that begin at `backoff_s`
    and double.
    """

    registries: Mapping[str, RegistrySettings] = field(factory=dict, converter=_frozen, hash=False)
    connect_timeout_s: float = field(default=10.0, validator=_positive)
    read_timeout_s: float = field(default=60.0, validator=_positive)
    tries: int = field(default=6, validator=_whole)
    backoff_s: float = field(default=0.25, validator=_positive)

    def __attrs_post_init__(self) -> None:
        for name in self.registries:
            _check_registry(name)

    @classmethod
    def read(cls, root: Path | None = None) -> Self:
        """
        That of this machine (``/etc/lxcwrap/registries.yaml``), and over it that of a root directory.

        Raises InvalidSpecError: a file is malformed, or cannot be read.
        """
        config = cls()
        for path in (SYSTEM_FILE, *([root / "registries.yaml"] if root else [])):
            members: dict[str, Any] = _read_file(path)
            registries = {
                name: _settings(f"{path}: {name}", value, path.parent)
                for name, value in _mapping(f"{path}: registries", members.pop("registries", None)).items()
            }
            try:
                config = evolve(config, registries={**config.registries, **registries}, **members)
            except (InvalidSpecError, TypeError) as error:
                raise InvalidSpecError(f"{path}: {error}") from None
        return config

    def settings(self, registry: str) -> RegistrySettings:
        return self.registries.get(registry, RegistrySettings())

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Where to look for a repository, in this order; the last is the registry itself."""
        mirrors = (_split_mirror(mirror) for mirror in self.settings(reference.registry).mirrors)
        return (
            *(
                self._endpoint(
                    host, f"{prefix}/{reference.repository}" if prefix else reference.repository, scheme
                )
                for scheme, host, prefix in mirrors
            ),
            self._endpoint(reference.registry, reference.repository),
        )

    def _endpoint(self, registry: str, repository: str, scheme: str = "") -> Endpoint:
        settings = self.settings(registry)
        plain = is_loopback(split_port(registry)) if settings.plain_http is None else settings.plain_http
        host = _DEFAULT_HOST if registry == DEFAULT_REGISTRY else registry
        origin = f"{scheme or ('http' if plain else 'https')}://{host}"
        return Endpoint(name=registry, origin=origin, repository=repository, settings=settings)


def split_port(registry: str) -> str:
    """The host of ``host:port``, without the brackets of an IPv6 address."""
    return re.sub(r":[0-9]+$", "", registry).strip("[]")


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _check_registry(name: object) -> None:
    if isinstance(name, str) and "/" not in name:
        try:
            if Reference.parse(f"{name}/x").registry == name:
                return
        except InvalidSpecError:
            pass
    raise InvalidSpecError(f"registry {name!r}: write its name as in references, 'docker.io' or 'host:port'")


def _split_mirror(mirror: str) -> tuple[str, str, str]:
    """Scheme or "", host with port, and what comes before the name of a repository."""
    if match := _MIRROR.fullmatch(mirror):
        scheme, host, prefix = match[1] or "", match[2], match[3] or ""
        try:
            Reference.parse(f"{host}/{prefix or 'x'}")
            _check_registry(host)
            return scheme, host, prefix
        except InvalidSpecError:
            pass
    raise InvalidSpecError(f"mirror {mirror!r}: write it as '[https://]host[:port][/prefix]'")


# --- the file -------------------------------------------------------------------------------------------


def _read_file(path: Path) -> dict[str, object]:
    import yaml

    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_FILE + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidSpecError(f"{path}: cannot be read: {error.strerror}") from None
    if len(text) > _LARGEST_FILE:
        raise InvalidSpecError(f"{path}: larger than {_LARGEST_FILE} bytes")
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidSpecError(f"{path}: not YAML: {error}") from None
    members = _mapping(str(path), document)
    _check_keys(str(path), members, fields_dict(RegistryConfig))
    return members


def _mapping(what: str, value: object) -> dict[str, object]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidSpecError(f"{what}: expected a mapping by name, found {type(value).__name__}")
    return dict(value)


def _check_keys(what: str, members: Mapping[str, object], known: Mapping[str, object]) -> None:
    if unknown := sorted(set(members) - set(known)):
        raise InvalidSpecError(
            f"{what}: {unknown[0]!r} is not known here; there are {', '.join(sorted(known))}"
        )


def _settings(what: str, value: object, directory: Path) -> RegistrySettings:
    members = _mapping(what, value)
    _check_keys(what, members, fields_dict(RegistrySettings))
    mirrors = members.get("mirrors") or []
    plain = members.get("plain_http")
    if not isinstance(mirrors, list) or not all(isinstance(mirror, str) for mirror in mirrors):
        raise InvalidSpecError(f"{what}: mirrors: expected a list of text")
    if not isinstance(plain, bool | None):
        raise InvalidSpecError(f"{what}: plain_http: expected true or false, found {plain!r}")
    files: dict[str, str] = {}
    for name in ("ca_file", "client_cert", "client_key"):
        if not isinstance(file := members.get(name) or "", str):
            raise InvalidSpecError(f"{what}: {name}: expected a path, found {file!r}")
        files[name] = str(directory / file) if file else ""
    try:
        return RegistrySettings(mirrors=tuple(mirrors), plain_http=plain, **files)
    except InvalidSpecError as error:
        raise InvalidSpecError(f"{what}: {error}") from None
