"""From a container's spec back to the keywords that make another like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from attrs import evolve

from .options import ContainerOptions
from .policies import HealthCheck, RestartPolicy
from .specs import ContainerSpec

_ALIKE: Final = (
    *(
        "env",
        "labels",
        "stop_signal",
        "mounts",
        "limits",
        "read_only",
        "init",
        "ulimits",
        "sysctls",
        "shm_size",
    ),
    *("extra_hosts", "oom_score_adj", "log_max_bytes", "log_max_files"),
)
_SECURITY: Final = ("cap_add", "cap_drop", "devices", "privileged", "seccomp", "no_new_privs", "masked_paths")
_MERGED: Final = ("env", "labels")  # as the image's are with a caller's


def as_options(spec: ContainerSpec) -> ContainerOptions:
    """
    What `spec` says, for another container that runs beside it: without name, host name, addresses and ports
    of the host, which only one can have.
    """
    options: dict[str, Any] = {name: getattr(spec, name) for name in _ALIKE}
    options |= {name: getattr(spec.security, name) for name in _SECURITY}
    if not spec.is_system:
        options |= {
            "user": spec.user,
            "groups": spec.groups,
            "cwd": spec.cwd,
            "tty": spec.tty,
            "entrypoint": (),
        }
    options["network"] = _network(spec)
    options["publish"] = [evolve(port, host_port=None) for port in spec.publish]
    options["health"] = spec.health or HealthCheck.none()
    options["restart"] = spec.restart
    return cast(ContainerOptions, options)


def overridden(options: ContainerOptions, given: Mapping[str, Any], *, auto_remove: bool) -> ContainerOptions:
    """`options`, but for what is `given`."""
    changed = {key: value for key, value in given.items() if value is not None}
    own = cast(dict[str, Any], options)
    for name in _MERGED:
        if isinstance(changed.get(name), Mapping):
            changed[name] = {**own[name], **changed[name]}
    if "disk" in changed and "limits" not in changed:
        changed["limits"] = evolve(own["limits"], disk=None)
    if auto_remove:
        changed.setdefault("restart", RestartPolicy.no())
    if "network" in changed and changed["network"] in ("none", "host"):
        changed.setdefault("publish", ())
    return cast(ContainerOptions, {**own, **changed})


def _network(spec: ContainerSpec) -> Any:
    if spec.network_mode != "own":
        return spec.network_mode
    if not spec.networks:
        return "none"
    return {name: evolve(each, ip=None, ip6=None, mac=None) for name, each in spec.networks.items()}
