"""What this machine has and lacks for lxcwrap, each with the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from .drivers.cgroups import CgroupHost
from .drivers.probes import ProbeFailed, probe
from .shown import Shown
from .specs import StrPath
from .storage.audit import audit
from .storage.root import DEFAULT_ROOT, RootDir

if TYPE_CHECKING:
    from .display.blocks import Page, Tone

_PACKAGE = Path(__file__).parent
_BUSYBOX = Path("/bin/busybox")
# Bits of linux/capability.h that setting up a container takes.
_CAPABILITIES = {
    **{"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "NET_ADMIN": 12},
    **{"SYS_CHROOT": 18, "SYS_PTRACE": 19, "SYS_ADMIN": 21, "MKNOD": 27, "SETFCAP": 31},
}
_CONTROLLERS = ("cpu", "cpuset", "memory", "pids")
_ENOUGH_BYTES = 2 << 30
_PT_INTERP = 3


class Status(StrEnum):
    """`MISSING` keeps containers from running; `DEGRADED` costs a feature, which the detail names."""

    OK, DEGRADED, MISSING = "ok", "degraded", "missing"


@frozen
class Item:
    """One thing that was looked at. `remedy`: the command, or what to do, that mends it."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


@frozen
class Report(Shown):
    """The result of `check`; printed, a table."""

    items: tuple[Item, ...]

    @property
    def ok(self) -> bool:
        """Whether containers can run; single features may be lacking."""
        return all(item.status is not Status.MISSING for item in self.items)

    def __str__(self) -> str:
        width = max(len(item.name) for item in self.items)
        lines = []
        for item in self.items:
            lines.append(f"{item.name:{width}}  {item.status:8}  {item.detail}".rstrip())
            if item.remedy:
                lines.append(f"{'':{width}}            -> {item.remedy}")
        return "\n".join(lines)

    def _page(self) -> Page:
        from .display.blocks import Cell, Table

        tones: dict[Status, Tone] = {Status.OK: "good", Status.DEGRADED: "busy", Status.MISSING: "bad"}
        rows = [
            (
                Cell(item.name, "name"),
                Cell(item.status, "state", tone=tones[item.status]),
                Cell(item.detail),
                Cell(item.remedy, "code", hint=item.remedy),
            )
            for item in self.items
        ]
        heads = ("What", "Status", "Found", "Remedy")
        return [Table(title="This machine", note="ready" if self.ok else "not ready", heads=heads, rows=rows)]


def check(root: StrPath | None = None) -> Report:
    """Look at this machine, trying for real what can be tried; `root`: the root directory a `Host` would use.

    Changes nothing. Takes about half a second.
    """
    path = Path(root or os.environ.get("LXCWRAP_ROOT") or DEFAULT_ROOT).absolute()
    checks: tuple[Callable[[], Item], ...] = (
        _python,
        _rights,
        _kernel,
        _bindings,
        _init,
        _cgroups,
        _user_namespaces,
        lambda: _overlay("overlay", path),
        lambda: _overlay("idmapped overlay", path),
        _seccomp,
        _terminals,
        lambda: _root_directory(path),
        lambda: _images(path),
        lambda: _disk(path),
        _newuidmap,
        _busybox,
        lambda: _tool("mmdebstrap", "images.bootstrap()", "mmdebstrap", "mmdebstrap"),
        lambda: _tool("nft", "networks", "nftables", "nftables"),
        lambda: _tool("dnsmasq", "names on networks", "dnsmasq-base", "dnsmasq"),
        lambda: _tool("mkfs.xfs", "limits of the disk", "xfsprogs", "xfsprogs"),
        _loop_devices,
        _rules_of_others,
    )
    return Report(tuple(one() for one in checks))


def _install(debian: str, elsewhere: str) -> str:
    """The command for Debian and its kin, the name of the package for others."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    if family & {"debian", "ubuntu"}:
        return f"apt install {debian}"
    return f"install the package {elsewhere} of this distribution"


# --- what must be ---


def _python() -> Item:
    return Item("python", Status.OK, f"{platform.python_version()} at {sys.executable}")


def _rights() -> Item:
    if os.geteuid() != 0:
        remedy = f"sudo {sys.executable} -m lxcwrap check"
        return Item("rights", Status.MISSING, f"run as user {os.geteuid()}, not as root", remedy)
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    lacking = [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]
    if lacking:
        remedy = "if this is a container itself, give it these capabilities, or run it privileged"
        return Item("rights", Status.MISSING, f"root without the capabilities {', '.join(lacking)}", remedy)
    return Item("rights", Status.OK, "root, with all capabilities needed")


def _kernel() -> Item:
    release = platform.release()
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    if (major, minor) < (5, 19):
        detail = f"Linux {release}: 5.19 or newer is needed, for overlays over id-mapped layers"
        return Item("kernel", Status.MISSING, detail, "upgrade the kernel")
    if (major, minor) < (6, 15):
        detail = f"Linux {release}: exit codes are lost if a monitor is killed (6.15 keeps them)"
        return Item("kernel", Status.OK, detail)
    return Item("kernel", Status.OK, f"Linux {release}")


def _bindings() -> Item:
    try:
        return Item("liblxc", Status.OK, f"{probe('bindings')}, and its Python bindings")
    except ProbeFailed as failure:
        remedy = (
            f"{_install('lxc lxc-dev gcc python3-dev pkgconf', 'lxc, its headers and gcc')}; pip install lxc"
        )
        return Item("liblxc", Status.MISSING, str(failure), remedy)


def _init() -> Item:
    path = _PACKAGE / "init" / "lxcwrap-init"
    remedy = f"{_install('gcc libc6-dev', 'gcc and a static libc')}; pip install --force-reinstall lxcwrap"
    if not os.access(path, os.X_OK):
        return Item("init", Status.MISSING, f"{path} was not built", remedy)
    if not is_static(path):
        return Item("init", Status.MISSING, f"{path} is not linked statically", remedy)
    return Item("init", Status.OK, f"static, {path.stat().st_size // 1024} KiB")


def is_static(path: Path) -> bool:
    """Whether `path` is an ELF program that needs no loader (no PT_INTERP segment: elf(5))."""
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] != b"\x7fELF":
            return False
        order = "<" if head[5] == 1 else ">"
        if head[4] == 2:
            offset, size, count = (
                *struct.unpack_from(f"{order}Q", head, 32),
                *struct.unpack_from(f"{order}HH", head, 54),
            )
        else:
            offset, size, count = (
                *struct.unpack_from(f"{order}I", head, 28),
                *struct.unpack_from(f"{order}HH", head, 42),
            )
        file.seek(offset)
        table = file.read(size * count)
    return all(struct.unpack_from(f"{order}I", table, size * i)[0] != _PT_INTERP for i in range(count))


def _cgroups() -> Item:
    host = CgroupHost()
    try:
        layout, found = host.layout, host.controllers
    finally:
        host.close()
    detail = f"{layout}: {' '.join(sorted(found))}"
    if layout == "none":
        return Item("cgroups", Status.MISSING, "not mounted", "mount -t cgroup2 none /sys/fs/cgroup")
    if os.statvfs(host.base).f_flag & os.ST_RDONLY and layout == "v2":
        return Item("cgroups", Status.MISSING, f"{detail}; read-only", f"mount -o remount,rw {host.base}")
    wanted = {*_CONTROLLERS, *(("io",) if layout == "v2" else ("blkio", "cpuacct", "devices", "freezer"))}
    if lacking := sorted(wanted - found):
        remedy = f"boot the kernel with cgroup_enable={lacking[0]}, or mount the controllers"
        return Item("cgroups", Status.DEGRADED, f"{detail}; without {', '.join(lacking)}", remedy)
    if layout != "v2" and not os.path.exists(f"{host.base}/memory/memory.memsw.limit_in_bytes"):
        return Item(
            "cgroups",
            Status.DEGRADED,
            f"{detail}; swap cannot be limited",
            "boot the kernel with swapaccount=1",
        )
    return Item("cgroups", Status.OK, detail)


def _user_namespaces() -> Item:
    try:
        return Item("namespaces", Status.OK, probe("user namespace"))
    except ProbeFailed as failure:
        remedy = "sysctl -w user.max_user_namespaces=10000 user.max_net_namespaces=10000"
        return Item("namespaces", Status.MISSING, str(failure), remedy)


@contextmanager
def _scratch(root: Path) -> Iterator[str]:
    """A directory on the file system of `root`, which may not exist yet."""
    with tempfile.TemporaryDirectory(prefix=".lxcwrap-check-", dir=_existing(root)) as scratch:
        yield scratch


def _existing(root: Path) -> Path:
    return next(path for path in (root, *root.parents) if path.is_dir())


def _overlay(name: str, root: Path) -> Item:
    try:
        with _scratch(root) as scratch:
            return Item(name, Status.OK, probe(name, scratch))
    except (ProbeFailed, OSError) as failure:
        remedy = "put the root directory on ext4, xfs, btrfs or tmpfs, not an overlay or network share"
        return Item(name, Status.MISSING, str(failure), remedy)


def _seccomp() -> Item:
    try:
        return Item("seccomp", Status.OK, f"libseccomp {probe('seccomp')}")
    except ProbeFailed as failure:
        return Item("seccomp", Status.MISSING, str(failure), _install("libseccomp2", "libseccomp"))


def _terminals() -> Item:
    try:
        for fd in os.openpty():
            os.close(fd)
    except OSError as error:
        remedy = "mount -t devpts -o ptmxmode=666 devpts /dev/pts; ln -sf pts/ptmx /dev/ptmx"
        return Item("terminals", Status.DEGRADED, f"no tty for containers: {error}", remedy)
    return Item("terminals", Status.OK, "/dev/ptmx")


def _root_directory(root: Path) -> Item:
    existing = _existing(root)
    detail = f"{root} on {_filesystem(existing)}" + ("" if existing == root else ", not made yet")
    if not os.access(existing, os.W_OK):
        return Item(
            "root directory", Status.MISSING, f"{detail}; {existing} is not writable", "set LXCWRAP_ROOT"
        )
    closed = [path for path in (existing, *existing.parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed:
        names = " ".join(map(str, closed))
        detail += f"; the containers' users cannot pass {names}"
        return Item("root directory", Status.MISSING, detail, f"chmod o+x {names}")
    return Item("root directory", Status.OK, detail)


def _filesystem(path: Path) -> str:
    """Type of the file system that holds `path`: of the deepest mount, the last of those in mountinfo."""
    best = ("", "unknown")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, source = line.partition(" - ")
        mount_point = fields.split()[4].replace("\\040", " ")
        if path.is_relative_to(mount_point) and len(mount_point) >= len(best[0]):
            best = (mount_point, source.split()[0])
    return best[1]


def _images(root: Path) -> Item:
    try:
        found = audit(RootDir(root))
    except (OSError, sqlite3.Error) as error:
        remedy = "run as root, with the lxcwrap that wrote it, or a newer one"
        return Item("images", Status.DEGRADED, f"the records cannot be read: {error}", remedy)
    if found is None:
        return Item("images", Status.OK, "none yet")
    detail = f"{found.images} stored"
    if found.damaged:
        name, reason = next(iter(found.damaged.items()))
        is_image = name.startswith("sha256:")
        return Item(
            "images",
            Status.MISSING if is_image else Status.DEGRADED,
            f"{detail}, {len(found.damaged)} damaged: {name[:19]}: {reason}",
            f"host.images.remove({name!r}), and bring it in again"
            if is_image
            else "host.prune(build_cache_keep=0)",
        )
    if found.garbage or found.index_differs:
        what = (
            f"{found.garbage} blobs or layers that nothing needs"
            if found.garbage
            else "index.json is not theirs"
        )
        return Item("images", Status.DEGRADED, f"{detail}; {what}", "host.images.prune()")
    return Item("images", Status.OK, f"{detail}, nothing missing")


# --- what some features need ---


def _disk(root: Path) -> Item:
    free = shutil.disk_usage(_existing(root)).free
    detail = f"{free / (1 << 30):.1f} GiB free"
    if free < _ENOUGH_BYTES:
        return Item(
            "disk", Status.DEGRADED, f"{detail}: little room for images", "set LXCWRAP_ROOT to a larger disk"
        )
    return Item("disk", Status.OK, detail)


def _newuidmap() -> Item:
    found = shutil.which("newuidmap")
    return Item("newuidmap", Status.OK, f"{found}, not used" if found else "absent, and not needed")


def _busybox() -> Item:
    remedy = _install("busybox-static", "busybox (static)")
    if not _BUSYBOX.exists():
        return Item("busybox", Status.DEGRADED, f"no {_BUSYBOX} to make the default image from", remedy)
    if not is_static(_BUSYBOX):
        return Item("busybox", Status.DEGRADED, f"{_BUSYBOX} is not static: no default image", remedy)
    return Item("busybox", Status.OK, f"{_BUSYBOX}, static")


def _tool(name: str, feature: str, debian: str, elsewhere: str) -> Item:
    found = shutil.which(name)
    if found:
        return Item(name, Status.OK, found)
    return Item(name, Status.DEGRADED, f"not found; needed for {feature} only", _install(debian, elsewhere))


def _loop_devices() -> Item:
    if os.path.exists("/dev/loop-control"):
        return Item("loop devices", Status.OK, "/dev/loop-control")
    return Item("loop devices", Status.DEGRADED, "none; needed for limits of the disk only", "modprobe loop")


def _rules_of_others() -> Item:
    """Such as firewalld's: what they drop is dropped, whatever rules of ours accept."""
    from .errors import UnsupportedError
    from .net.firewall import remedies

    name = "rules of others"
    try:
        needed = remedies()
    except UnsupportedError as error:
        return Item(name, Status.DEGRADED, f"{error.what}; needed for networks only", error.remedy)
    except OSError as error:
        return Item(name, Status.DEGRADED, f"cannot be read: {error.strerror}; matters to networks only")
    if needed:
        detail = "drop what containers send by networks, or ask of name servers"
        return Item(name, Status.DEGRADED, detail, "; ".join(needed))
    return Item(name, Status.OK, "none that keep containers from the network")
