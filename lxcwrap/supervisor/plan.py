"""From what was asked to what will be done: a pure function, that can be printed and tested without root.

A plan is plain JSON. It lies in the container's directory, so that a start needs nothing but the directory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from attrs import asdict, evolve

from ..ids import IdMap
from ..specs import ContainerSpec, Limits, Mount, Security, parse_signal
from .argv import init_argv

# What Docker grants by default: enough for package managers and servers, nothing that reaches the host.
DEFAULT_CAPABILITIES = frozenset(
    """
    AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP SETGID SETPCAP
    SETUID SYS_CHROOT
    """.split()
)
# In the order of their numbers (linux/capability.h).
_NUMBERED = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
""".split()
ALL_CAPABILITIES = frozenset(_NUMBERED)
# What our init needs to become the user, and to signal it. The command gets those of the container only.
_INIT_CAPABILITIES = frozenset("CHOWN DAC_OVERRIDE FOWNER KILL SETGID SETPCAP SETUID".split())
# Images may let systemd-networkd ask for addresses, which nobody gives here: a boot waits for two minutes.
_NETWORKD = {
    "/etc/systemd/network/00-lxcwrap.network": """\
[Match]
Name=eth*
[Network]
DHCP=no
IPv6AcceptRA=no
KeepConfiguration=yes
"""
}
_SYSTEMD_STOPS = parse_signal("RTMIN+3")
# State of the kernel that is the host's: files are hidden under /dev/null, directories under an empty tmpfs.
_MASKED_FILES = "kcore keys latency_stats timer_list timer_stats sched_debug".split()
_MASKED_DIRECTORIES = "proc/acpi proc/asound proc/scsi sys/firmware sys/devices/virtual/powercap".split()
_READ_ONLY = "proc/bus proc/fs proc/irq".split()  # /proc/sys and sysrq-trigger are liblxc's, by proc:mixed

Plan = dict[str, Any]
Config = list[tuple[str, str]]


def capabilities(security: Security) -> frozenset[str]:
    """Capabilities the container's root keeps."""
    if security.privileged:
        return ALL_CAPABILITIES
    added, dropped = set(security.cap_add), set(security.cap_drop)
    if "ALL" in added:
        return frozenset() if "ALL" in dropped else ALL_CAPABILITIES - dropped
    # As Docker: all dropped and some added means these alone.
    return frozenset(added if "ALL" in dropped else DEFAULT_CAPABILITIES | added) - dropped


def capability_mask(security: Security) -> int | None:
    """What our init must reduce the capabilities to; None when there is nothing to let go of."""
    kept = capabilities(security)
    if security.privileged or kept >= _INIT_CAPABILITIES:
        return None
    return sum(1 << number for number, name in enumerate(_NUMBERED) if name in kept)


def uses_own_filter(security: Security) -> bool:
    """Whether our init loads the seccomp filter: it needs no_new_privs. Else liblxc does, in 12 ms more."""
    return security.seccomp and security.no_new_privs and not security.privileged


def make_plan(
    spec: ContainerSpec,
    *,
    container_id: str,
    root: Path,
    idmap: IdMap,
    lowers: Sequence[Path],
    init_dir: Path,
    profile: Path | None,
    host: Path = Path("/"),
) -> Plan:
    """How to run `spec` as container `container_id`: read by the monitor, complete.

    profile: of seccomp for liblxc, where our init cannot load a filter. host: whose /proc and /sys to look
    at.
    """
    bundle = root / "containers" / container_id
    disk = bundle / "disk" if spec.limits.disk else bundle
    return {
        "id": container_id,
        "name": spec.name,
        "root": str(root),
        "bundle": str(bundle),
        "disk": str(disk),
        "lxc_path": str(root / "containers"),
        "idmap": list(idmap),
        "lowers": [str(path) for path in lowers],
        "volatile": spec.auto_remove,
        "read_only": spec.read_only,
        "system": spec.is_system,
        "mounts": plan_mounts(spec, disk, root / "volumes"),
        "files": _files(spec),
        "network": spec.network_mode,
        "sysfs": _lacks_sysfs(spec),
        "sysctls": dict(spec.sysctls),
        "config": list(_config(spec, bundle, idmap, init_dir, profile, host)),
        "init": _init(spec),
        "argv": list(spec.argv),
        "env": [f"{key}={value}" for key, value in spec.env.items()],
        "limits": plan_limits(spec.limits),
        "devices": _devices(spec.security),
        "log": {"max_bytes": spec.log_max_bytes, "max_files": spec.log_max_files},
        "attached": spec.stdin_open,
        "auto_remove": spec.auto_remove,
    }


def mount_points(plan: Mapping[str, Any]) -> frozenset[str]:
    """Where something is mounted in the container, and the way there: no change of the container's own."""
    targets = [*plan["files"], *(mount["target"] for mount in plan["mounts"]), "/dev", "/proc", "/sys"]
    return frozenset(
        str(path) for target in targets for path in (PurePosixPath(target), *PurePosixPath(target).parents)
    )


def _init(spec: ContainerSpec) -> list[str]:
    return init_argv(
        user=spec.user,
        groups=spec.groups,
        cwd=spec.cwd,
        tty=spec.tty,
        seccomp=uses_own_filter(spec.security),
        exec_only=spec.init is not True,
        boots=spec.is_system,
        capabilities=capability_mask(spec.security),
    )


def plan_limits(limits: Limits) -> dict[str, Any]:
    """Those that are given, and that cgroups know."""
    given = {key: value for key, value in asdict(limits).items() if value is not None}
    return {key: given[key] for key in given if key not in ("disk", "network_rate")}


def plan_order(mounts: Iterable[Mount]) -> list[Mount]:
    """Parents before children, so that none hides another."""
    return sorted(mounts, key=lambda mount: mount.target.count("/"))


def plan_mounts(spec: ContainerSpec, disk: Path, volumes: Path) -> list[dict[str, Any]]:
    """In their order. Nameless volumes are directories of the container's, on its disk; their numbers stay,
    whatever else is mounted and unmounted."""
    numbers = count()
    planned = []
    for mount in plan_order(spec.mounts):
        if mount.kind == "volume":
            source = volumes / mount.source / "data" if mount.source else disk / f"volumes/{next(numbers)}"
            mount = evolve(mount, source=str(source))
        planned.append(asdict(mount))
    return planned


def _files(spec: ContainerSpec) -> dict[str, str]:
    hostname = spec.hostname
    hosts = "".join(f"{address}\t{name}\n" for name, address in spec.extra_hosts.items())
    loopback = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    return {
        "/etc/hosts": f"{loopback}127.0.1.1\t{hostname}\n{hosts}",
        "/etc/hostname": f"{hostname}\n",
        "/etc/resolv.conf": "",
        **(_NETWORKD if spec.is_system and spec.stop_signal == _SYSTEMD_STOPS else {}),
    }


def _lacks_sysfs(spec: ContainerSpec) -> bool:
    """Whether its user namespace does not own its network: then the kernel gives it no /sys."""
    return spec.network_mode != "own" and not spec.security.privileged


def _devices(security: Security) -> list[str] | None:
    """Device cgroup entries beyond the default policy; None: no policy at all."""
    if security.privileged:
        return None
    entries = []
    for device in security.devices:
        status = os.stat(device.path)
        kind = "b" if (status.st_mode & 0o170000) == 0o060000 else "c"
        entries.append(f"{kind} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} {device.access}")
    return entries


def _config(
    spec: ContainerSpec, bundle: Path, idmap: IdMap, init_dir: Path, profile: Path | None, host: Path
) -> Iterator[tuple[str, str]]:
    security = spec.security
    yield "lxc.uts.name", spec.hostname
    yield "lxc.log.file", f"{bundle}/lxc.log"
    yield "lxc.log.level", "ERROR"
    yield "lxc.console.path", "none"
    yield "lxc.tty.max", "0"
    yield "lxc.pty.max", "1024"
    yield "lxc.autodev", "1"
    if "SYS_BOOT" in capabilities(security):
        # At a reboot liblxc would start again by itself, unseen by all others; not so if this hook fails.
        yield "lxc.hook.post-stop", "/bin/false"
    if security.privileged:
        yield "lxc.mount.auto", "proc:rw sys:rw"
    else:
        yield "lxc.mount.auto", "proc:mixed" if _lacks_sysfs(spec) else "proc:mixed sys:ro"
    if spec.network_mode != "own":
        yield "lxc.net.0.type", "none"  # that of liblxc's own process
    yield "lxc.mount.entry", f"{_escape(init_dir)} dev/.lxcwrap none bind,ro,create=dir 0 0"
    yield "lxc.mount.entry", f"tmpfs dev/shm tmpfs nosuid,nodev,mode=1777,size={spec.shm_size},create=dir 0 0"
    yield "lxc.mount.entry", "mqueue dev/mqueue mqueue nosuid,nodev,noexec,optional,create=dir 0 0"
    if security.masked_paths and not security.privileged:
        yield from _masks(host)
    yield from _device_nodes(security)
    if not idmap.is_identity:
        yield "lxc.idmap", f"u 0 {idmap.base} {idmap.size}"
        yield "lxc.idmap", f"g 0 {idmap.base} {idmap.size}"
    if not security.privileged:
        kept = capabilities(security) | _INIT_CAPABILITIES
        yield "lxc.cap.keep", " ".join(sorted(name.lower() for name in kept))
        if security.no_new_privs:
            yield "lxc.no_new_privs", "1"
        elif profile:
            yield "lxc.seccomp.profile", str(profile)
    yield from process_config(spec)
    for key, value in spec.env.items():
        yield "lxc.environment", f"{key}={value}"


def process_config(spec: ContainerSpec) -> Iterator[tuple[str, str]]:
    """What liblxc sets for each process that it starts in the container, or that enters it."""
    for limit in spec.ulimits:
        yield f"lxc.prlimit.{limit.name}", f"{_limit(limit.soft)}:{_limit(limit.hard)}"
    if spec.oom_score_adj:
        yield "lxc.proc.oom_score_adj", str(spec.oom_score_adj)


@cache  # what a host has of these does not change
def _masks(host: Path) -> tuple[tuple[str, str], ...]:
    return tuple(_find_masks(host))


def _find_masks(host: Path) -> Iterator[tuple[str, str]]:
    for name in _MASKED_FILES:
        if (host / "proc" / name).exists():
            yield "lxc.mount.entry", f"/dev/null proc/{name} none bind,optional 0 0"
    for path in _MASKED_DIRECTORIES:
        if (host / path).is_dir():
            yield "lxc.mount.entry", f"tmpfs {path} tmpfs ro,nosuid,nodev,noexec,size=0,optional 0 0"
    for path in _READ_ONLY:
        if (host / path).exists():
            yield "lxc.mount.entry", f"/{path} {path} none bind,ro,nosuid,nodev,noexec,optional 0 0"


def _device_nodes(security: Security) -> Iterator[tuple[str, str]]:
    for device in security.devices:
        target = (device.target or device.path).lstrip("/")
        yield "lxc.mount.entry", f"{_escape(device.path)} {_escape(target)} none bind,create=file 0 0"


def _limit(value: int | None) -> str:
    return "unlimited" if value is None else str(value)


def _escape(path: Path | str) -> str:
    """As fstab(5): what separates fields is written in octal."""
    return "".join(f"\\{ord(char):03o}" if char in " \t\n\\" else char for char in str(path))


def environment(image_env: Mapping[str, str], *overrides: Mapping[str, str]) -> dict[str, str]:
    """What the image says, then what the caller says; PATH always there, as in Docker."""
    result = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **image_env}
    for override in overrides:
        result |= override
    return result
