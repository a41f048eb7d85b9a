"""What is asked of an executor: how to enter a container, isolated as its main process is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..drivers.seccomp import ensure_filter, init_dir
from ..specs import ContainerSpec
from .argv import init_argv
from .plan import capabilities, capability_mask, process_config, uses_own_filter


def exec_order(
    root: Path,
    container_id: str,
    spec: ContainerSpec,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    user: str | None = None,
    cwd: str | None = None,
    tty: bool = False,
) -> dict[str, Any]:
    """To run `argv`; `user` and `cwd` default to those of the main process. ``stdio`` and
    ``netns_of`` are to be added."""
    trusted = trusted_init(root / "cache", spec)
    options = init_argv(
        user=spec.user if user is None else user,
        groups=spec.groups if user is None else (),
        cwd=cwd or spec.cwd,
        tty=tty,
        seccomp=uses_own_filter(spec.security) and trusted is None,
        exec_only=True,
        capabilities=capability_mask(spec.security),
    )
    return {
        "op": "exec",
        "id": container_id,
        "lxc_path": str(root / "containers"),
        "argv": [*options, *argv],
        "init": trusted,
        "seccomp": trusted and filter_file(root / "cache", spec),
        "config": list(process_config(spec)),
        "capabilities": capability_mask(spec.security),
        "env": [f"{key}={value}" for key, value in env.items()],
    }


def trusted_init(cache: Path, spec: ContainerSpec) -> str | None:
    """Path of our init here, for a container that may mount another over its own; else None."""
    kept = capabilities(spec.security)
    if "SYS_ADMIN" not in kept:
        return None
    return str(init_dir(cache, kept, uses_own_filter(spec.security)) / "init")


def filter_file(cache: Path, spec: ContainerSpec) -> str | None:
    """Path of the seccomp filter that our init would load."""
    if not uses_own_filter(spec.security):
        return None
    return str(ensure_filter(cache, capabilities(spec.security)))
