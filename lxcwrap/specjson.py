"""A `ContainerSpec` as text, for the state store."""

from __future__ import annotations

import json
from typing import Any

from attrs import asdict

from .netspecs import Endpoint, Port
from .policies import HealthCheck, RestartPolicy
from .specs import ContainerSpec, Device, Limits, Mount, Security, Ulimit


def spec_to_json(spec: ContainerSpec) -> str:
    """For the state store; `spec_from_json` reads it."""
    return json.dumps(asdict(spec), separators=(",", ":"))


def spec_from_json(text: str) -> ContainerSpec:
    """What `spec_to_json` wrote, checked again."""
    values = json.loads(text)
    security = values.pop("security")
    devices = tuple(Device(**device) for device in security.pop("devices"))
    networks = values.pop("networks", {})
    nested: dict[str, Any] = {
        "networks": {name: Endpoint(**endpoint) for name, endpoint in networks.items()},
        "publish": tuple(Port(**port) for port in values.pop("publish", ())),
        "mounts": tuple(Mount(**mount) for mount in values.pop("mounts")),
        "ulimits": tuple(Ulimit(**limit) for limit in values.pop("ulimits")),
        "limits": Limits(**values.pop("limits")),
        "restart": RestartPolicy(**values.pop("restart", {})),
        "health": HealthCheck(**health) if (health := values.pop("health", None)) else None,
        "security": Security(devices=devices, **{key: _tuple(value) for key, value in security.items()}),
    }
    return ContainerSpec(**{**{key: _tuple(value) for key, value in values.items()}, **nested})


def _tuple(value: object) -> Any:
    return tuple(value) if isinstance(value, list) else value
