"""From an image's configuration and a caller's keywords to a complete `ContainerSpec`."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TypedDict

from .errors import InvalidSpecError, UnsupportedError
from .oci import ImageConfig
from .specs import (
    ContainerSpec,
    Device,
    Limits,
    Mount,
    Security,
    Ulimit,
    check_argv,
    check_env,
    parse_signal,
)
from .supervisor.plan import environment


class ContainerOptions(TypedDict, total=False):
    """Keywords of `run`, `launch` and `create`. What is not given comes from the image, or from a safe default.

    env: added to the image's.  user: ``"name"``, ``"uid"`` or ``"user:group"``, looked up in the container.
    groups: further groups.  cwd: absolute.  hostname: default the first 12 digits of the id.
    entrypoint: in place of the image's; an empty list for none.  stop_signal: name or number.
    mounts: `Mount.bind`, `Mount.tmpfs`; they take the place of volumes the image declares there or below.
    tmpfs: targets of plain tmpfs mounts.  limits: `Limits`.
    read_only: the root file system cannot be written.  shm_size: of /dev/shm, bytes or text.
    ulimits, sysctls, extra_hosts (name to address), labels, oom_score_adj (-1000..1000).
    tty: a terminal for the main process.  init: False makes the command itself PID 1.
    devices: host nodes to give, ``"/dev/fuse"`` or `Device`.  cap_add, cap_drop: ``"NET_ADMIN"``, ``"ALL"``.
    privileged, seccomp, no_new_privs, masked_paths: see `Security`.
    log_max_bytes (a file), log_max_files: rotation of the log.
    """

    name: str | None
    env: Mapping[str, str] | None
    user: str | int
    groups: Sequence[str | int]
    cwd: str
    hostname: str
    labels: Mapping[str, str]
    entrypoint: Sequence[str] | None
    stop_signal: str | int
    mounts: Sequence[Mount]
    tmpfs: Sequence[str]
    limits: Limits
    read_only: bool
    shm_size: int | str
    ulimits: Sequence[Ulimit]
    sysctls: Mapping[str, str]
    extra_hosts: Mapping[str, str]
    oom_score_adj: int
    tty: bool
    init: bool
    devices: Sequence[str | Device]
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    privileged: bool
    seccomp: bool
    no_new_privs: bool
    masked_paths: bool
    log_max_bytes: int | str
    log_max_files: int


_KNOWN = frozenset(ContainerOptions.__annotations__)
# Taken over as they are; the others are translated below.
_PLAIN = "read_only shm_size oom_score_adj tty init limits log_max_bytes log_max_files".split()
_SECURITY = "privileged seccomp no_new_privs masked_paths".split()


def make_spec(
    image_id: str,
    config: ImageConfig,
    argv: Sequence[str] | None,
    sh: str | None,
    options: ContainerOptions,
    *,
    container_id: str,
    auto_remove: bool,
) -> ContainerSpec:
    """Everything about one container. Raises InvalidSpecError or TypeError for what cannot be meant."""
    unknown = sorted(options.keys() - _KNOWN)
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; known are {', '.join(sorted(_KNOWN))}")
    name = options.get("name") or container_id[:12]
    security = Security(
        cap_add=_capabilities(options.get("cap_add", ())),
        cap_drop=_capabilities(options.get("cap_drop", ())),
        devices=tuple(
            Device(path=device) if isinstance(device, str) else device
            for device in options.get("devices", ())
        ),
        **{key: options[key] for key in _SECURITY if key in options},  # type: ignore[literal-required]  # keys of the TypedDict
    )
    return ContainerSpec(
        image_id=image_id,
        name=name,
        argv=_command(config, argv, sh, options.get("entrypoint")),
        env=environment(_image_env(config), check_env(options.get("env"))),
        cwd=options.get("cwd") or config.working_dir or "/",
        user=_user(options.get("user", config.user or "")),
        groups=tuple(str(group) for group in options.get("groups", ())),
        hostname=options.get("hostname") or container_id[:12],
        labels={**config.labels, **options.get("labels", {})},
        stop_signal=parse_signal(options.get("stop_signal") or config.stop_signal or "TERM"),
        mounts=_mounts(config, options),
        ulimits=tuple(options.get("ulimits", ())),
        sysctls={str(key): str(value) for key, value in options.get("sysctls", {}).items()},
        extra_hosts=dict(options.get("extra_hosts", {})),
        security=security,
        auto_remove=auto_remove,
        **{key: options[key] for key in _PLAIN if key in options},  # type: ignore[literal-required]  # keys of the TypedDict
    )


def _mounts(config: ImageConfig, options: ContainerOptions) -> tuple[Mount, ...]:
    """The caller's, and a nameless volume for each path that the image declares and the caller has not covered."""
    targets = options.get("tmpfs", ())
    if isinstance(targets, str):
        raise TypeError(f"tmpfs must be a list of targets, not {targets!r}")
    given = (*options.get("mounts", ()), *(Mount.tmpfs(target) for target in targets))
    for mount in given:
        if not isinstance(mount, Mount):
            raise TypeError(f"mounts: {mount!r}: make it by Mount.bind() or Mount.tmpfs()")
        if mount.kind == "volume":
            raise UnsupportedError(f"the volume {mount.source!r}", "named volumes come later; use Mount.bind()")
    covered = {mount.target for mount in given}
    declared = sorted({posixpath.normpath("/" + path.lstrip("/")) for path in config.volumes})
    return (*given, *(Mount(kind="volume", target=path) for path in declared if not _is_below(path, covered)))


def _is_below(path: str, directories: Collection[str]) -> bool:
    """Whether `path` is in one of `directories`, or is one."""
    return any(str(each) in directories for each in (path, *PurePosixPath(path).parents))


def _command(
    config: ImageConfig, argv: Sequence[str] | None, sh: str | None, entrypoint: Sequence[str] | None
) -> tuple[str, ...]:
    """As Docker: entrypoint, then the command; an entrypoint of the caller's drops the image's command; a command of
    the caller's replaces the image's."""
    if sh is not None:
        if argv is not None:
            raise TypeError("give a command or sh=, not both")
        if not isinstance(sh, str) or "\0" in sh:
            raise InvalidSpecError("sh= takes one line or script for the shell, without NUL bytes")
        return ("/bin/sh", "-c", sh)
    words = check_argv(argv)
    if entrypoint is None:
        head, tail = tuple(config.entrypoint or ()), words or tuple(config.cmd or ())
    else:
        head, tail = (check_argv(entrypoint, "entrypoint") or ()) if entrypoint else (), words or ()
    if not head and not tail:
        raise InvalidSpecError("no command: the image has none of its own, so give one")
    return (*head, *tail)


def _image_env(config: ImageConfig) -> dict[str, str]:
    return (
        dict(entry.partition("=")[::2] for entry in config.env)
        if not isinstance(config.env, Mapping)
        else dict(config.env)
    )


def _capabilities(names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise TypeError(f"capabilities must be a list of names, not {names!r}")
    return tuple(sorted({name.upper().removeprefix("CAP_") for name in names}))


def _user(value: str | int) -> str:
    text = str(value)
    if "\0" in text or "\n" in text or text.count(":") > 1:
        raise InvalidSpecError(f"user {value!r}: write 'user' or 'user:group', names or numbers")
    return text
