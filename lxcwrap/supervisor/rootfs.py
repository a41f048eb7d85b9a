"""A container's root file system: its image's layers, id-mapped, under its own upper directory; its mounts.

Runs in the supervisor's processes. Targets inside the root are resolved by the kernel within that root.
"""

from __future__ import annotations

import errno
import os
import posixpath
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from ..drivers import mounts, syscalls
from ..drivers.paths import open_in_root
from ..ids import IdMap
from ..storage import disks
from . import detachable, stepmounts, volumes
from .layered import Plan, clones, overlay_over

_MAX_LINKS = 40  # as the kernel (path_resolution(7))
_DATA = mounts.NOSUID | mounts.NODEV | mounts.NOEXEC


def overlay(plan: Plan, userns_fd: int | None, *, by_descriptors: bool | None = None) -> int:
    """A detached mount of the container's root, without its mounts. `by_descriptors` None: what the kernel
    offers; if False, the caller must be in a mount namespace of its own."""
    disk = plan["disk"]
    upper: mounts.Upper = (f"{disk}/upper", f"{disk}/work")
    options = ["volatile"] if plan["volatile"] else []
    if plan["volatile"]:  # the kernel refuses a second mount over a volatile upper until this is gone
        with suppress(FileNotFoundError):
            shutil.rmtree(os.path.join(plan.get("draft", disk), "work", "work", "incompat"))
    with ExitStack() as stack:
        lowers = list(clones(stack, plan["lowers"], userns_fd))
        if plan.get("draft"):
            # It becomes a layer, so it is written with plain ids, through a mapped mount: by one who is
            # mapped there.
            (upper,) = clones(stack, [plan["draft"]], userns_fd)
            stack.enter_context(syscalls.ActingAs(IdMap(*plan["idmap"]).base))
        return overlay_over(lowers, upper, f"{plan['bundle']}/lowers", options, by_descriptors)


def mount_all(
    plan: Plan, userns_fd: int | None, given: Sequence[int] = (), sysfs_fd: int | None = None
) -> str:
    """Mount root and mounts in this process' own mount namespace; the path to give to liblxc.

    given: mounts that the caller has made. sysfs_fd: a /sys, where liblxc cannot make one."""
    idmap = IdMap(*plan["idmap"])
    rootfs = f"{plan['bundle']}/rootfs"
    if plan["disk"] != plan["bundle"]:
        disks.show(plan["disk"])
    shown = {f"{plan['disk']}/volumes"}
    root_fd = overlay(plan, userns_fd)
    with ExitStack() as stack:
        stack.callback(os.close, root_fd)
        mounts.attach(root_fd, rootfs)
        os.makedirs(f"{plan['bundle']}/files", exist_ok=True)
        for name, text in plan["files"].items():
            source = f"{plan['bundle']}/files/{posixpath.basename(name)}"
            _write(source, text, idmap.base)
            attach_at(root_fd, mounts.idmapped_clone(source, None, _DATA), name, idmap)
        if sysfs_fd is not None:
            attach_at(root_fd, sysfs_fd, "/sys", idmap)
        for number, mount in enumerate(plan["mounts"]):
            if mount["kind"] in ("tree", "given"):
                fd = stepmounts.new_mount(mount, f"{plan['bundle']}/mounts/{number}", idmap, userns_fd, given)
            else:
                fd = new_mount(mount, idmap, userns_fd, shown)
            attach_at(root_fd, fd, mount["target"], idmap)
        if plan["read_only"]:
            for name in ("/dev", "/proc", "/sys"):  # then liblxc could not make them
                with _mount_point(root_fd, name, idmap, is_dir=True):
                    pass
            mounts.set_attributes(root_fd, mounts.RDONLY)
        named = [mount["target"] for mount in plan["mounts"] if volumes.is_named(mount, plan)]
        if named and userns_fd is not None:
            detachable.remount(named, root_fd, rootfs, userns_fd, f"{plan['bundle']}/stage")
    return rootfs


def new_mount(mount: Mapping[str, Any], idmap: IdMap, userns_fd: int | None, shown: set[str]) -> int:
    """A detached mount for a container; for `shown` see `volumes.new_mount`."""
    attributes = mounts.NOSUID | mounts.NODEV
    attributes |= (mounts.RDONLY if mount["read_only"] else 0) | (0 if mount["exec"] else mounts.NOEXEC)
    if mount["kind"] == "tmpfs":
        options = [f"mode={mount['mode']:o}", f"uid={idmap.base}", f"gid={idmap.base}"]
        options += [f"size={mount['size']}"] if mount["size"] else []
        return mounts.new_filesystem("tmpfs", options, attributes)
    if mount["kind"] == "volume":
        return volumes.new_mount(mount, shown, userns_fd, attributes)
    fd = mounts.idmapped_clone(mount["source"], userns_fd, attributes, recursive=True)
    if mount.get("propagation") != "slave":  # as all mounts are here, by `private_mount_namespace`
        mounts.set_attributes(fd, 0, propagation=mounts.MS_PRIVATE, recursive=True)
    return fd


def attach_at(root_fd: int, mount_fd: int, target: str, idmap: IdMap) -> None:
    """Let the detached mount be seen at `target`, made if it is missing. Closes `mount_fd`."""
    try:
        is_dir = stat.S_ISDIR(os.fstat(mount_fd).st_mode)
        with _mount_point(root_fd, target, idmap, is_dir=is_dir) as fd:
            if stat.S_ISDIR(os.fstat(fd).st_mode) != is_dir:
                there, given = ("a file", "a directory") if is_dir else ("a directory", "a file")
                raise OSError(errno.ENOTDIR, f"{there} is there, and {given} cannot be mounted over it")
            mounts.attach(mount_fd, fd)
    except OSError as error:
        raise OSError(error.errno, f"cannot mount at {target}: {error.strerror}") from None
    finally:
        os.close(mount_fd)


@contextmanager
def _mount_point(
    root_fd: int, target: str, idmap: IdMap, *, is_dir: bool, links: int = _MAX_LINKS
) -> Iterator[int]:
    """An O_PATH descriptor of `target` within the root; what is missing is made, owned by the container's
    root, also where a link leads to nothing, as /etc/resolv.conf does in many images."""
    try:
        fd = open_in_root(root_fd, target, os.O_PATH)
    except FileNotFoundError:
        parent, name = posixpath.split(target.rstrip("/"))
        with _mount_point(root_fd, parent or "/", idmap, is_dir=True, links=links) as parent_fd:
            link = _make(parent_fd, name, idmap, is_dir=is_dir)
        if link:
            if not links:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            with _mount_point(root_fd, posixpath.join(parent, link), idmap, is_dir=is_dir, links=links - 1):
                pass
        fd = open_in_root(root_fd, target, os.O_PATH)
    try:
        yield fd
    finally:
        os.close(fd)


def _make(parent_fd: int, name: str, idmap: IdMap, *, is_dir: bool) -> str | None:
    """Make `name`; if it is a link, where it leads instead."""
    try:
        with syscalls.ActingAs(idmap.base):  # in a mapped mount nobody else can make anything
            if is_dir:
                os.mkdir(name, 0o755, dir_fd=parent_fd)
            else:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                os.close(os.open(name, flags, 0o644, dir_fd=parent_fd))
    except FileExistsError:
        return os.readlink(name, dir_fd=parent_fd)
    return None


def _write(path: str, text: str, owner: int) -> None:
    """A file of the container's root, on disk too: it may become a set-user-ID program, but not ours."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchown(fd, owner, owner)
        os.write(fd, text.encode())
        os.fchmod(fd, 0o644)
    finally:
        os.close(fd)
