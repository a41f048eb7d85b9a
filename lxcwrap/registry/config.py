"""How registries are reached: mirrors, plain http, certificates, time-outs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Self

from attrs import field, frozen


@frozen(kw_only=True)
class RegistrySettings:
    """How one registry is reached."""

    mirrors: tuple[str, ...] = ()
    plain_http: bool | None = None
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""


@frozen(kw_only=True)
class RegistryConfig:
    """How registries are reached. `registries` is by name, as in references: ``docker.io``, ``host:port``."""

    registries: Mapping[str, RegistrySettings] = field(factory=lambda: MappingProxyType({}), hash=False)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0

    @classmethod
    def read(cls, root: Path | None = None) -> Self:
        """Of this machine (``/etc/lxcwrap/registries.yaml``), and over it that of a root directory."""
        raise NotImplementedError
