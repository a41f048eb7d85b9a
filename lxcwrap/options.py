"""From an image's configuration and a caller's keywords to a complete `ContainerSpec`."""

from __future__ import annotations

import ipaddress
import os
import posixpath
import re
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, TypedDict

from attrs import evolve

from .errors import InvalidSpecError
from .ids import RANGE_SIZE
from .netspecs import Endpoint, Port
from .oci import ImageConfig
from .policies import TIMING, HealthCheck, RestartPolicy
from .specs import (
    ContainerSpec,
    Device,
    Limits,
    Mount,
    Named,
    Security,
    Ulimit,
    check_argv,
    check_env,
    check_name,
    check_text,
    parse_signal,
)
from .supervisor.plan import ALL_CAPABILITIES, environment

DEFAULT_NETWORK = "default"  # made when it is first used
NetworkOption = str | Named | Sequence[str | Named] | Mapping[str, Endpoint] | Mapping[Any, Endpoint]


class ContainerOptions(TypedDict, total=False):
    """Keywords of `run`, `launch` and `create`. Without one, or by None, the image or a safe default decides.

    name: unique under its host; by default one is made up.  env: added to the image's.  user: ``"name"``,
    ``"uid"`` or ``"user:group"``, looked up in the container.  groups: further groups.  cwd: absolute.
    hostname: default the first 12 digits of the id.
    entrypoint: in place of the image's; an empty list for none.  stop_signal: name or number.
    mounts: `Mount.bind`, `Mount.tmpfs`, `Mount.volume`; they take the place of volumes the image declares
    there or below.
    tmpfs: targets of plain tmpfs mounts.  limits: `Limits`.  disk: short for ``Limits(disk=...)``.
    network: names of networks, or `Network`, one or a list, or a dict of them to `Endpoint`; ``"default"`` is
    made when it is first used. ``"none"``, which is the default if nothing is published: loopback alone.
    ``"host"``: that of the host itself. ``"container:NAME"``: that of a container that runs.
    publish: `Port`, of the host, that lead to it; without `network` it is on ``"default"`` then.
    read_only: the root file system cannot be written.  shm_size: of /dev/shm, bytes or text.
    ulimits: `Ulimit`.  sysctls: of the container's own network and IPC.  extra_hosts: name to address.
    labels: added to the image's.  oom_score_adj: -1000..1000.
    tty: a terminal for the main process.  init: False makes the command itself PID 1; ``"system"`` boots the
    image's own init, such as systemd, with what it needs to mount, divide its cgroup and shut down.
    devices: host nodes to give, ``"/dev/fuse"`` or `Device`.  cap_add, cap_drop: ``"NET_ADMIN"``, ``"ALL"``.
    privileged, seccomp, no_new_privs, masked_paths: see `Security`.
    log_max_bytes (a file), log_max_files: rotation of the log.
    restart: `RestartPolicy`.  health: `HealthCheck`, in place of the image's.
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
    disk: int | str
    network: NetworkOption
    publish: Sequence[Port]
    read_only: bool
    shm_size: int | str
    ulimits: Sequence[Ulimit]
    sysctls: Mapping[str, str | int]
    extra_hosts: Mapping[str, str]
    oom_score_adj: int
    tty: bool
    init: bool | Literal["system"]
    devices: Sequence[str | Device]
    cap_add: Sequence[str]
    cap_drop: Sequence[str]
    privileged: bool
    seccomp: bool
    no_new_privs: bool
    masked_paths: bool
    log_max_bytes: int | str
    log_max_files: int
    restart: RestartPolicy
    health: HealthCheck


_KNOWN = frozenset(ContainerOptions.__annotations__)
# Taken over as they are; the others are translated below.
_PLAIN = (
    *("read_only", "shm_size", "oom_score_adj", "tty", "init"),
    *("log_max_bytes", "log_max_files", "restart"),
)
_SECURITY = ("privileged", "seccomp", "no_new_privs", "masked_paths")
_FLAGS = frozenset((*_SECURITY, "read_only", "tty"))


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
    for name in options.keys() - _KNOWN:
        raise TypeError(f"unknown option {name!r}: {_advice(name)}")
    options = {key: value for key, value in options.items() if value is not None}  # type: ignore[assignment]  # same keys
    for name in _FLAGS & options.keys():
        if not isinstance(options[name], bool):  # type: ignore[literal-required]  # a key of the TypedDict
            raise TypeError(f"{name}= takes True or False")  # "no" and "false" would mean yes
    init = options.get("init", True)
    if not isinstance(init, bool) and init != "system":
        raise TypeError(f"init= takes True, False or 'system', not {init!r}")
    name = options.get("name") or container_id[:12]
    security = Security(
        cap_add=capability_names("cap_add", options),
        cap_drop=capability_names("cap_drop", options),
        devices=tuple(_device(each) for each in _each("devices", options, str | Device)),
        **{key: options[key] for key in _SECURITY if key in options},  # type: ignore[literal-required]  # keys of the TypedDict
    )
    return ContainerSpec(
        image_id=image_id,
        name=name,
        argv=_command(config, argv, sh, options.get("entrypoint")),
        env=check_env(environment(_image_env(config), check_env(options.get("env")))),
        cwd=check_text(os.fspath(options.get("cwd") or config.working_dir or "/"), "cwd"),
        user=check_user(options.get("user", config.user or ""), security),
        groups=tuple(_group(each, security) for each in _each("groups", options, str | int)),
        hostname=options.get("hostname") or container_id[:12],
        labels={**config.labels, **_texts("labels", options)},
        stop_signal=parse_signal(options.get("stop_signal") or config.stop_signal or "TERM"),
        mounts=_mounts(config, options),
        limits=_limits(options),
        ulimits=_each("ulimits", options, Ulimit),
        sysctls=_sysctls(options),
        extra_hosts=_extra_hosts(options),
        security=security,
        auto_remove=auto_remove,
        **_network(options),
        health=_health(config, options),
        **{key: options[key] for key in _PLAIN if key in options},  # type: ignore[literal-required]  # keys of the TypedDict
    )


def _mounts(config: ImageConfig, options: ContainerOptions) -> tuple[Mount, ...]:
    """The caller's, and a nameless volume for each path that the image declares and no mount covers."""
    targets = _each("tmpfs", options, str | os.PathLike)
    given = (*_each("mounts", options, Mount), *(Mount.tmpfs(target) for target in targets))
    covered = {mount.target for mount in given}
    declared = sorted({posixpath.normpath("/" + path.lstrip("/")) for path in config.volumes})
    return (*given, *(Mount(kind="volume", target=path) for path in declared if not _is_below(path, covered)))


def _health(config: ImageConfig, options: ContainerOptions) -> HealthCheck | None:
    """The caller's, or the image's; None: none."""
    check = options["health"] if "health" in options else _image_health(config)
    return None if isinstance(check, HealthCheck) and check.kind == "none" else check


def _image_health(config: ImageConfig) -> HealthCheck | None:
    said = config.healthcheck
    if said is None or len(said.test) < 2:  # ("NONE",), or nothing
        return None
    kind, *words = said.test
    if kind not in ("CMD", "CMD-SHELL"):
        raise InvalidSpecError(f"the image's health check {kind!r} is unknown: give health=")
    argv = words if kind == "CMD" else ("/bin/sh", "-c", words[0])
    timing = {name: value for name in TIMING if (value := getattr(said, name)) is not None}
    return HealthCheck.command(argv, **timing)


def _network(options: ContainerOptions) -> dict[str, Any]:
    publish = _each("publish", options, Port)
    given: Any = options.get("network", DEFAULT_NETWORK if publish else "none")
    mode = given if isinstance(given, str) else ""
    if mode == "host" or mode.startswith("container:"):
        return {"network_mode": mode, "publish": publish}
    networks = {} if mode == "none" else _endpoints(given)
    return {"networks": networks, "publish": publish}


def _endpoints(given: Any) -> dict[str, Endpoint]:
    """By name of the network."""
    if isinstance(given, str) or hasattr(given, "name"):
        given = (given,)
    if not isinstance(given, Iterable):
        raise TypeError(f"network= takes a name, a Network, a list or dict of them, not {given!r}")
    items = given.items() if isinstance(given, Mapping) else [(each, Endpoint()) for each in given]
    found: dict[str, Endpoint] = {}
    which: Any
    for which, endpoint in items:
        name = check_network_name(getattr(which, "name", which))
        if not isinstance(endpoint, Endpoint):
            raise TypeError(f"network= takes a dict to Endpoint(...), and {endpoint!r} is none")
        if name in found:
            raise InvalidSpecError(f"network {name!r} is named twice")
        found[name] = endpoint
    return found


def check_network_name(name: str) -> str:
    """`name`, or InvalidSpecError: no name for a network, also as it means something else."""
    if name in ("none", "host"):
        raise InvalidSpecError(f"network name {name!r} has a meaning of its own: choose another")
    return check_name(name, "network")


def _limits(options: ContainerOptions) -> Limits:
    limits = options.get("limits", Limits())
    if not isinstance(limits, Limits):
        raise TypeError(f"limits= takes Limits(...), not {limits!r}")
    if "disk" not in options:
        return limits
    if limits.disk is not None:
        raise TypeError("give disk= or limits=Limits(disk=...), not both")
    return evolve(limits, disk=options["disk"])


def _is_below(path: str, directories: Collection[str]) -> bool:
    """Whether `path` is in one of `directories`, or is one."""
    return any(str(each) in directories for each in (path, *PurePosixPath(path).parents))


def _command(
    config: ImageConfig, argv: Sequence[str] | None, sh: str | None, entrypoint: Sequence[str] | None
) -> tuple[str, ...]:
    """As Docker: entrypoint, then the command; an entrypoint of the caller's drops the image's command; a
    command of the caller's replaces the image's."""
    if sh is not None:
        if argv is not None:
            raise TypeError("give a command or sh=, not both")
        if not isinstance(sh, str):
            raise InvalidSpecError(f"sh= takes one line or script for the shell, not {sh!r}")
        return ("/bin/sh", "-c", check_text(sh, "sh"))
    words = check_argv(argv)
    if entrypoint is None:
        head, tail = tuple(config.entrypoint or ()), words or tuple(config.cmd or ())
    else:
        head, tail = (check_argv(entrypoint, "entrypoint") or ()) if entrypoint else (), words or ()
    if not head and not tail:
        raise InvalidSpecError("no command: the image has none of its own, so give one")
    return check_argv((*head, *tail)) or ()  # the image's words have not been looked at before


def _image_env(config: ImageConfig) -> dict[str, str]:
    return (
        dict(entry.partition("=")[::2] for entry in config.env)
        if not isinstance(config.env, Mapping)
        else dict(config.env)
    )


def _device(value: str | Device) -> Device:
    device = Device(path=value) if isinstance(value, str) else value
    try:
        mode = os.stat(device.path).st_mode
    except OSError as error:
        raise InvalidSpecError(f"device {device.path!r}: {error.strerror}") from None
    if not stat.S_ISCHR(mode) and not stat.S_ISBLK(mode):
        raise InvalidSpecError(f"device {device.path!r}: it is no device; give files by Mount.bind()")
    return device


def capability_names(key: str, options: ContainerOptions) -> tuple[str, ...]:
    """Those of ``cap_add`` or ``cap_drop``, as ``SYS_ADMIN``. InvalidSpecError: there is none such."""
    names = {name.upper().removeprefix("CAP_") for name in _each(key, options, str)}
    for name in names - ALL_CAPABILITIES - {"ALL"}:
        raise InvalidSpecError(f"{key}: unknown capability {name!r}: see capabilities(7), or 'ALL'")
    return tuple(sorted(names))


def check_user(value: str | int, security: Security) -> str:
    """``user`` or ``user:group``, names or numbers. InvalidSpecError for what it cannot have."""
    text = check_text(str(value), "user")
    if "\n" in text or text.count(":") > 1:
        raise InvalidSpecError(f"user {value!r}: write 'user' or 'user:group', names or numbers")
    for part in text.split(":"):
        if part.isdecimal() and int(part) >= RANGE_SIZE and not security.privileged:
            raise InvalidSpecError(f"user {value!r}: a container has the ids 0 to {RANGE_SIZE - 1}")
    return text


def _group(value: str | int, security: Security) -> str:
    text = check_user(value, security)
    if ":" in text or "," in text:
        raise InvalidSpecError(f"groups: {value!r} is no group: give names or numbers, one by one")
    return text


# Kernel settings that a container has of its own, in its network and IPC namespaces.
_SYSCTL = re.compile(
    r"net\.[\w.-]+|kernel\.(msgmax|msgmnb|msgmni|sem|shmall|shmmax|shmmni|shm_rmid_forced)|fs\.mqueue\.\w+"
)


def _sysctls(options: ContainerOptions) -> dict[str, str]:
    settings = _texts("sysctls", options)
    for name in settings:
        if not _SYSCTL.fullmatch(name) or ".." in name:
            raise InvalidSpecError(
                f"sysctl {name!r}: a container has net.*, fs.mqueue.* and the kernel.shm*, msg*, sem ones "
                "of its own; all others are the host's"
            )
    return settings


def _extra_hosts(options: ContainerOptions) -> dict[str, str]:
    hosts = _texts("extra_hosts", options)
    for name, address in hosts.items():
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise InvalidSpecError(f"extra_hosts: {name!r} is no host name")
        try:
            if "%" in address:  # a zone, which may be any text
                raise ValueError(address)
            ipaddress.ip_address(address)
        except ValueError:
            raise InvalidSpecError(f"extra_hosts: {address!r} is no address, for {name!r}") from None
    return hosts


# --- what callers may mix up ---


def _each(key: str, options: ContainerOptions, kind: Any) -> tuple[Any, ...]:
    """The items of a list; TypeError for a single one, and for items that are not of `kind`."""
    values: Any = options.get(key, ())
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{key}= takes a list, not {values!r}")
    items = tuple(values)
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"{key}= takes a list of {_name(kind)}, and {item!r} is none")
    return items


def _texts(key: str, options: ContainerOptions) -> dict[str, str]:
    values: Any = options.get(key, {})
    if not isinstance(values, Mapping):
        raise TypeError(f"{key}= takes a dict, not {values!r}")
    return {check_text(str(name), key): check_text(str(value), key) for name, value in values.items()}


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))


# How the same is called in docker-py and subprocess.
_ADVICE = {
    "auto_remove": "run() always removes",
    "command": "the second argument is the command",
    "cpus": "use limits=Limits(cpus=...)",
    "detach": "launch() returns at once, run() waits",
    "environment": "use env=",
    "mem_limit": "use limits=Limits(memory=...)",
    "pids_limit": "use limits=Limits(pids=...)",
    "ports": "use publish=[Port(80, host_port=8080)]",
    "network_mode": "use network=",
    "remove": "run() always removes; launch() takes auto_remove=True",
    "shell": "use sh=",
    "timeout": "use timeout_s=",
    "volumes": "use mounts=[Mount.volume(name, target)], or Mount.bind(source, target)",
    "working_dir": "use cwd=",
}


def _advice(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _KNOWN, n=1)
    return _ADVICE.get(name) or (
        f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(_KNOWN))}"
    )
