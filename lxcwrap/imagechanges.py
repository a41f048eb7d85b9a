"""What can be said anew of an image that is made from another: how its containers start."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from attrs import evolve

from .errors import InvalidSpecError
from .imageconfig import ImageConfig
from .specs import check_argv, check_env, parse_signal

_PORT = re.compile(r"\d{1,5}/(tcp|udp|sctp)")


class ImageChanges(TypedDict, total=False):
    """
    Where an image is to differ from the one it is made from.

    cmd, entrypoint, user, working_dir and stop_signal replace what that says; an empty one takes it away. A
    new entrypoint takes `cmd` away, too. env and labels are merged with its own; the value None takes one
    away. exposed_ports (``80``, ``"53/udp"``) and volumes (absolute paths) are added to its own.
    """

    cmd: Sequence[str]
    entrypoint: Sequence[str]
    env: Mapping[str, str | int | float | None]
    labels: Mapping[str, str | None]
    user: str
    working_dir: str
    exposed_ports: Sequence[str | int]
    volumes: Sequence[str]
    stop_signal: str


def changed(config: ImageConfig, changes: ImageChanges) -> ImageConfig:
    """`config` with `changes`. Raises InvalidSpecError or TypeError: one of them cannot be right."""
    new: dict[str, Any] = {}
    for key, value in changes.items():
        match key:
            case "cmd" | "entrypoint":
                new[key] = check_argv(value, key) if value else ()  # type: ignore[arg-type]
            case "env" | "labels":
                new[key] = _merged(getattr(config, key), value)  # type: ignore[arg-type]
            case "user":
                new[key] = _text(key, value)
            case "working_dir":
                new[key] = _absolute(key, value) if value else ""
            case "exposed_ports":
                new[key] = _added(config.exposed_ports, map(_port, _items(key, value)))
            case "volumes":
                new[key] = _added(config.volumes, (_absolute(key, path) for path in _items(key, value)))
            case "stop_signal":
                new[key] = _text(key, value)
                if value:
                    parse_signal(new[key])
            case _:
                raise TypeError(f"an image has no {key!r} to be changed")
    if "entrypoint" in new:
        new.setdefault("cmd", ())  # arguments for one entrypoint make no sense to another
    return evolve(config, **new)


def _merged(own: Mapping[str, str], given: Mapping[str, str | float | None]) -> dict[str, str]:
    gone = {key for key, value in given.items() if value is None}
    kept = {key: value for key, value in own.items() if key not in gone}
    return kept | check_env({key: str(value) for key, value in given.items() if key not in gone})


def _added(own: Iterable[str], given: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({*own, *given}))  # an object in JSON, so in no order


def _items(key: str, value: object) -> Sequence[object]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise TypeError(f"{key} must be a list, not {value!r}")
    return value


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{key} must be a str, not {value!r}")
    return value


def _absolute(key: str, value: object) -> str:
    path = _text(key, value)
    if not path.startswith("/") or "\0" in path:
        raise InvalidSpecError(f"{key}: {path!r} must be an absolute path")
    return path


def _port(value: object) -> str:
    port = f"{value}" if "/" in f"{value}" else f"{value}/tcp"
    if not _PORT.fullmatch(port) or not 1 <= int(port.partition("/")[0]) <= 65535:
        raise InvalidSpecError(f"exposed_ports: {value!r} is no port, such as 80 or '53/udp'")
    return port
