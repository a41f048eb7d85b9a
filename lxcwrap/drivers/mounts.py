"""Mounts by the kernel's descriptor calls: detached trees, id-mapped clones, overlays. Nothing is visible
before `attach`, and a mount that was never attached ends with its descriptor, also after kill -9.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Sequence
from contextlib import ExitStack

from . import syscalls
from .syscalls import FSCONFIG, FSMOUNT, FSOPEN, MOUNT_SETATTR, MOVE_MOUNT, OPEN_TREE, syscall

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE, MS_SLAVE = 0x4000, 1 << 18, 1 << 19
MNT_DETACH = 2

# MOUNT_ATTR_* of mount_setattr(2)
RDONLY, NOSUID, NODEV, NOEXEC, IDMAP = 0x1, 0x2, 0x4, 0x8, 0x00100000

_FSCONFIG_SET_STRING, _FSCONFIG_SET_FD, _FSCONFIG_CREATE = 1, 5, 6
# What a distribution may have switched on by default and what would change the meaning of an upper directory:
# redirects and metadata-only copies are kept in xattrs, so an upper could not become a layer (overlayfs.rst).
_OVERLAY_OPTIONS = ("metacopy=off", "redirect_dir=off", "index=off")


def private_mount_namespace() -> None:
    """From here on this process' mounts are seen by no other, while mounts of the host still arrive."""
    syscalls.unshare(CLONE_NEWNS)
    syscalls.mount("none", "/", "none", MS_REC | MS_SLAVE)


def current_namespace() -> int:
    """A descriptor of this process' mount namespace, for another to `enter`."""
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def enter(namespace_fd: int) -> None:
    syscalls.setns(namespace_fd, CLONE_NEWNS)


def clone_tree(path: str, *, recursive: bool = False) -> int:
    """A detached copy of the mount at `path` (a directory or file)."""
    flags = 1 | os.O_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    return syscall("open_tree", OPEN_TREE, AT_FDCWD, os.fsencode(path), flags, path=path)


def set_attributes(
    fd: int,
    attributes: int,
    *,
    userns_fd: int | None = None,
    propagation: int = 0,
    recursive: bool = False,
) -> None:
    """Add MOUNT_ATTR_* to the mount `fd`; with `userns_fd` also map ids by that user namespace.

    propagation: MS_PRIVATE or MS_SLAVE; 0: as it is."""
    if userns_fd is not None:
        attributes |= IDMAP
    data = struct.pack("QQQQ", attributes, 0, propagation, userns_fd or 0)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    syscall("mount_setattr", MOUNT_SETATTR, fd, b"", flags, data, len(data))


def idmapped_clone(path: str, userns_fd: int | None, attributes: int = 0, *, recursive: bool = False) -> int:
    """A detached copy of `path`'s mount whose files appear with the ids of `userns_fd` (None: unchanged)."""
    fd = clone_tree(path, recursive=recursive)
    try:
        if attributes or userns_fd is not None:
            set_attributes(fd, attributes, userns_fd=userns_fd, recursive=recursive)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EINVAL and userns_fd is not None:
            raise OSError(
                error.errno, "this file system cannot be mapped to a container's ids (mount_setattr)", path
            ) from None
        raise
    return fd


def attach(fd: int, target: str | int) -> None:
    """Make the detached mount `fd` appear at `target`: a path, or an O_PATH descriptor (no symlink race)."""
    if isinstance(target, int):
        flags = 0x4 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
        syscall("move_mount", MOVE_MOUNT, fd, b"", target, b"", flags)
    else:
        syscall("move_mount", MOVE_MOUNT, fd, b"", AT_FDCWD, os.fsencode(target), 0x4, path=target)


def detach(target: str) -> None:
    syscalls.umount(target, MNT_DETACH)


def new_filesystem(fstype: str, options: Sequence[str], attributes: int) -> int:
    """A detached mount of a new file system of kernel type `fstype`; options as ``key=value`` or ``key``."""
    context = syscall("fsopen", FSOPEN, fstype.encode(), 1)
    try:
        for option in options:
            _configure(context, option) if "=" in option else _flag(context, option)
        return _create(context, attributes)
    finally:
        os.close(context)


def _configure(context: int, option: str) -> None:
    key, _, value = option.partition("=")
    arguments = (context, _FSCONFIG_SET_STRING, key.encode(), os.fsencode(value), 0)
    syscall(f"fsconfig {option}", FSCONFIG, *arguments)


def _create(context: int, attributes: int) -> int:
    try:
        syscall("mount", FSCONFIG, context, _FSCONFIG_CREATE, None, None, 0)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} {_kernel_messages(context)}".rstrip()) from None
    return syscall("fsmount", FSMOUNT, context, 1, attributes)


def _kernel_messages(context: int) -> str:
    """What the kernel wrote about a refused mount: one line a read, each with a level such as ``e ``."""
    lines = []
    try:
        while line := os.read(context, 4096):
            lines.append(line.decode(errors="replace")[2:].strip())
    except OSError:
        pass  # ENODATA: read to the end
    return f"({'; '.join(lines)})" if lines else ""


# Where an overlay is written to: the paths of upper and work; or a detached mount that holds both, by the
# names that `storage.layers.LayerDraft` gives them; or nowhere.
Upper = tuple[str, str] | int | None
_IN_DRAFT = ("layer", "work")


def overlay_by_descriptors(
    lowers: Sequence[int], upper: Upper, *, options: Sequence[str] = (), attributes: int = 0
) -> int:
    """A detached overlay over the detached mounts `lowers`, topmost first. Linux 6.13 and newer; no limit.

    Without an upper there must be two lowers.
    """
    with ExitStack() as stack:
        context = syscall("fsopen", FSOPEN, b"overlay", 1)
        stack.callback(os.close, context)
        for fd in lowers:
            _configure_fd(context, b"lowerdir+", fd)
        if isinstance(upper, int):
            for key, name in zip((b"upperdir", b"workdir"), _IN_DRAFT, strict=True):
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=upper)
                stack.callback(os.close, fd)
                _configure_fd(context, key, fd)
        elif upper:
            _configure(context, f"upperdir={upper[0]}")
            _configure(context, f"workdir={upper[1]}")
        for option in (*_OVERLAY_OPTIONS, *options):
            _configure(context, option) if "=" in option else _flag(context, option)
        return _create(context, attributes)


def _configure_fd(context: int, key: bytes, fd: int) -> None:
    syscall(f"fsconfig {key.decode()}", FSCONFIG, context, _FSCONFIG_SET_FD, key, None, fd)


def _flag(context: int, option: str) -> None:
    syscall(f"fsconfig {option}", FSCONFIG, context, 0, option.encode(), None, 0)


def overlay_by_paths(
    lowers: Sequence[int],
    upper: Upper,
    *,
    scratch: str,
    options: Sequence[str] = (),
    attributes: int = 0,
) -> int:
    """The same for older kernels (5.19 and newer): the lowers are attached below `scratch`, so the caller
    must be in a mount namespace of its own. Short relative names keep the option within mount(2)'s one page
    (450 layers)."""
    here = os.open(".", os.O_PATH | os.O_CLOEXEC)
    try:
        os.chdir(scratch)
        with ExitStack() as undo:
            for index, fd in enumerate(lowers):
                os.makedirs(str(index), exist_ok=True)
                attach(fd, str(index))
                undo.callback(detach, str(index))
            if isinstance(upper, int):
                os.makedirs("draft", exist_ok=True)
                attach(upper, "draft")
                undo.callback(detach, "draft")
                upper = (f"draft/{_IN_DRAFT[0]}", f"draft/{_IN_DRAFT[1]}")
            os.makedirs("merged", exist_ok=True)
            directories = ["lowerdir=" + ":".join(str(index) for index in range(len(lowers)))]
            if upper:
                directories += [f"upperdir={_escape(upper[0])}", f"workdir={_escape(upper[1])}"]
            data = ",".join((*directories, *_OVERLAY_OPTIONS, *options))
            syscalls.mount("overlay", "merged", "overlay", 0, data)
            undo.callback(detach, "merged")
            merged = clone_tree("merged")
        if attributes:
            set_attributes(merged, attributes)
        return merged
    finally:
        os.fchdir(here)
        os.close(here)


def _escape(path: str) -> str:
    return path.replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")


def supports_descriptor_lowers() -> bool:
    """Whether this kernel takes ``lowerdir+`` as a descriptor. Tried, not guessed from a version."""
    try:
        context = syscall("fsopen", FSOPEN, b"overlay", 1)
    except OSError:
        return False
    probe = clone_tree("/")
    try:
        syscall("fsconfig lowerdir+", FSCONFIG, context, _FSCONFIG_SET_FD, b"lowerdir+", None, probe)
    except OSError:
        return False
    finally:
        os.close(probe)
        os.close(context)
    return True
