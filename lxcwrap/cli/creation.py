"""The options of ``run`` as Docker's users write them, and what they mean: keywords of `ContainerOptions`."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .mounting import mount, tmpfs, volume

if TYPE_CHECKING:
    from .. import Device, Endpoint, HealthCheck, Limits, Port, RestartPolicy, Ulimit
    from ..options import ContainerOptions, NetworkOption


def add_process_options(parser: ArgumentParser) -> None:
    """Those that ``exec`` has, too."""
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="return at once, and leave it running")
    add("-i", "--interactive", action="store_true", help="give it what comes on stdin")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add(
        "-e",
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="without value: that which we have",
    )
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, one a line")
    add("-u", "--user", metavar="USER[:GROUP]", help="names or numbers, looked up inside")
    add("-w", "--workdir", metavar="DIR", help="working directory")


def add_container_options(parser: ArgumentParser) -> None:
    """Those of a new container."""

    def add(*names: str, **keywords: Any) -> Action:
        return parser.add_argument(*names, **keywords)

    def many(*names: str, **keywords: Any) -> Action:
        return parser.add_argument(*names, action="append", default=[], **keywords)

    add("--name", help="its name; default: the beginning of its id")
    add("-h", "--hostname", metavar="NAME")
    many("-l", "--label", metavar="NAME=VALUE")
    add("--entrypoint", metavar="PROGRAM", help="in place of the image's; empty: none")
    add("--stop-signal", metavar="SIGNAL")
    add("--init", action="store_true", help="there always is one: changes nothing")
    add("--no-init", action="store_true", help="the command itself is process 1")
    add("--system", action="store_true", help="boot the image's own init, such as systemd")
    many("-v", "--volume", metavar="SOURCE:TARGET[:ro]", help="a volume, or a path of this host")
    many("--mount", metavar="type=...,source=...,target=...")
    many("--tmpfs", metavar="TARGET[:size=...]")
    add("--read-only", action="store_true", help="its root file system cannot be written")
    many("--network", "--net", metavar="NAME", help="network, none, host or container:NAME; default: none")
    many("--network-alias", metavar="NAME", help="a further name on its first network")
    add("--ip", metavar="ADDRESS", help="on its first network")
    add("--ip6", metavar="ADDRESS", help="on its first network")
    many("-p", "--publish", metavar="[[IP:]PORT:]PORT[/udp]", help="a port of this host that leads to it")
    many("--add-host", metavar="NAME:ADDRESS")
    add_limits(parser)
    add("--shm-size", metavar="SIZE")
    many("--ulimit", metavar="NAME=SOFT[:HARD]")
    many("--sysctl", metavar="NAME=VALUE")
    add("--oom-score-adj", type=int, metavar="-1000..1000")
    many("--group-add", metavar="GROUP")
    many("--cap-add", metavar="CAPABILITY")
    many("--cap-drop", metavar="CAPABILITY")
    many("--device", metavar="PATH[:TARGET[:rwm]]")
    add("--privileged", action="store_true", help="no isolation of rights: root inside is root outside")
    many("--security-opt", metavar="OPTION", choices=[*_LOOSENED], help=", ".join(_LOOSENED))
    add("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped")
    add("--health-cmd", metavar="LINE", help="for /bin/sh; healthy if it ends with 0")
    for name in ("interval", "timeout", "start-period", "start-interval"):
        add(f"--health-{name}", metavar="TIME", help="such as 30s")
    add("--health-retries", type=int, metavar="NUMBER")
    add("--no-healthcheck", action="store_true", help="not even the image's")
    many("--log-opt", metavar="max-size=SIZE|max-file=N")


def add_limits(parser: ArgumentParser) -> None:
    """Those that ``update`` has, too."""
    add = parser.add_argument
    add("-m", "--memory", metavar="SIZE", help="such as 256MiB")
    add("--memory-swap", metavar="SIZE", help="memory and swap together; -1: swap without limit")
    add("--cpus", type=float, metavar="NUMBER", help="processors' worth of time, such as 0.5")
    add("--cpuset-cpus", metavar="LIST", help="processors it may run on, such as 0-1,4")
    add("--cpu-weight", type=int, metavar="1..10000", help="share of busy processors; normally 100")
    add("--pids-limit", type=int, metavar="NUMBER", help="processes and threads")
    add("--disk", metavar="SIZE", help="the most it may write; set when it is made, and then it can grow")


def container_options(given: Namespace) -> ContainerOptions:
    """What they ask for. Raises ValueError, InvalidSpecError among them, for what cannot be meant."""
    options: dict[str, Any] = {
        "name": given.name,
        "env": variables(given),
        "user": given.user,
        "cwd": given.workdir,
        "hostname": given.hostname,
        "labels": pairs(given.label, "--label"),
        "entrypoint": None if given.entrypoint is None else [given.entrypoint] if given.entrypoint else [],
        "stop_signal": given.stop_signal,
        "init": "system" if given.system else not given.no_init,
        "mounts": [*map(volume, given.volume), *map(mount, given.mount), *map(tmpfs, given.tmpfs)],
        "read_only": given.read_only,
        "limits": limits(given),
        "network": _network(given),
        "publish": [port(text) for text in given.publish],
        "extra_hosts": dict(_split(text, ":", "--add-host") for text in given.add_host),
        "shm_size": given.shm_size,
        "ulimits": [_ulimit(text) for text in given.ulimit],
        "sysctls": pairs(given.sysctl, "--sysctl"),
        "oom_score_adj": given.oom_score_adj,
        "groups": given.group_add,
        "cap_add": given.cap_add,
        "cap_drop": given.cap_drop,
        "devices": [_device(text) for text in given.device],
        "privileged": given.privileged,
        "restart": _restart(given.restart) if given.restart else None,
        "health": _health(given),
        "tty": given.tty,
        **dict.fromkeys(map(_LOOSENED.__getitem__, given.security_opt), False),
        **_log(given.log_opt),
    }
    return {name: value for name, value in options.items() if value is not None}  # type: ignore[return-value]  # its keys


_LOOSENED = {
    "seccomp=unconfined": "seccomp",
    "no-new-privileges=false": "no_new_privs",
    "systempaths=unconfined": "masked_paths",
}


def variables(given: Namespace) -> dict[str, str]:
    """Files first, so that what is given one by one decides."""
    lines = [line for path in given.env_file for line in _file_lines(path)]
    found = {}
    for line in [*lines, *given.env]:
        name, equals, value = line.partition("=")
        if equals or name in os.environ:
            found[name] = value if equals else os.environ[name]
    return found


def _file_lines(path: str) -> Iterator[str]:
    for line in Path(path).read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def pairs(texts: Iterable[str], what: str) -> dict[str, str]:
    """``NAME=VALUE``, or a name alone with an empty value."""
    return dict(_split(text if "=" in text else f"{text}=", "=", what) for text in texts)


def _split(text: str, sign: str, what: str) -> tuple[str, str]:
    name, found, value = text.partition(sign)
    if not (name and found):
        raise ValueError(f"{what} {text!r}: write NAME{sign}VALUE")
    return name, value


def limits(given: Namespace) -> Limits:
    """Those that are given. docker's --memory-swap is memory and swap together."""
    from .. import Limits
    from ..specs import parse_size

    swap = None
    if given.memory_swap not in (None, "-1"):
        if given.memory is None:
            raise ValueError("--memory-swap: needs --memory, with which it is counted")
        swap = parse_size(given.memory_swap) - parse_size(given.memory)
        if swap < 0:
            raise ValueError("--memory-swap: is memory and swap together, so not less than --memory")
    return Limits(
        memory=given.memory,
        swap=swap,
        cpus=given.cpus,
        cpuset=given.cpuset_cpus,
        cpu_weight=given.cpu_weight,
        pids=given.pids_limit,
        disk=given.disk,
    )


def _network(given: Namespace) -> NetworkOption:
    """A port that is published needs a network: the default one, if none is named."""
    from .. import Endpoint

    names = given.network or (["default"] if given.publish else ["none"])
    if not (given.network_alias or given.ip or given.ip6):
        return names[0] if len(names) == 1 else names
    first = Endpoint(ip=given.ip, ip6=given.ip6, aliases=tuple(given.network_alias))
    endpoints: dict[str, Endpoint] = {name: Endpoint() for name in names}
    return {**endpoints, names[0]: first}


def port(text: str) -> Port:
    """``[[IP:]PORT:]PORT[/PROTOCOL]``."""
    from .. import Port

    rest, _, protocol = text.partition("/")
    rest, _, container_port = rest.rpartition(":")
    host_ip, _, host_port = rest.rpartition(":")
    return Port(
        container_port,
        host_port=host_port or None,
        host_ip=host_ip.removeprefix("[").removesuffix("]"),
        protocol=protocol or "tcp",  # type: ignore[arg-type]  # checked there
    )


def _ulimit(text: str) -> Ulimit:
    from .. import Ulimit

    name, values = _split(text, "=", "--ulimit")
    soft, _, hard = values.partition(":")
    try:
        numbers = [None if each in ("-1", "unlimited") else int(each) for each in (soft, hard or soft)]
    except ValueError:
        raise ValueError(f"--ulimit {text!r}: write NAME=SOFT[:HARD], in numbers") from None
    return Ulimit(name=name, soft=numbers[0], hard=numbers[1])


def _device(text: str) -> Device:
    from .. import Device

    path, *rest = text.split(":")
    target, access = [*rest, "", ""][:2]
    if len(rest) > 2:
        raise ValueError(f"--device {text!r}: write PATH[:TARGET[:rwm]]")
    return Device(path=path, target=target, access=access or "rwm")


def _restart(text: str) -> RestartPolicy:
    from .. import RestartPolicy

    when, _, count = text.partition(":")
    if count and not count.isdecimal():
        raise ValueError(f"--restart {text!r}: write on-failure:N")
    return RestartPolicy(when=when.replace("-", "_"), max_retries=int(count) if count else None)  # type: ignore[arg-type]  # checked there


def _health(given: Namespace) -> HealthCheck | None:
    from .. import HealthCheck

    timing: dict[str, float] = {}
    for name in ("interval", "timeout", "start_period", "start_interval"):
        if (text := getattr(given, f"health_{name}")) is not None:
            timing[f"{name}_s"] = seconds(text)
    if given.health_retries is not None:
        timing["retries"] = given.health_retries
    if given.no_healthcheck:
        return HealthCheck.none()
    if given.health_cmd:
        return HealthCheck.shell(given.health_cmd, **timing)
    if timing:
        raise ValueError("--health-...: needs --health-cmd")
    return None


def seconds(text: str) -> float:
    """Of ``30s``, ``1m30s``, or a plain number."""
    from ..build.durations import parse_duration

    return float(text) if text.replace(".", "", 1).isdecimal() else parse_duration(text)


_LOG: dict[str, tuple[str, Callable[[str], int | str]]] = {
    "max-size": ("log_max_bytes", str),
    "max-file": ("log_max_files", int),
}


def _log(texts: Iterable[str]) -> dict[str, int | str]:
    given = pairs(texts, "--log-opt")
    if unknown := given.keys() - _LOG.keys():
        raise ValueError(f"--log-opt {', '.join(unknown)}: known are {', '.join(_LOG)}")
    return {_LOG[name][0]: _LOG[name][1](value) for name, value in given.items()}
