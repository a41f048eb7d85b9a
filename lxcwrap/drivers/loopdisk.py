"""File systems in sparse files, on loop devices: what lies in one cannot outgrow it.

Nothing outlives its users, also after kill -9: a device frees itself when it is neither open nor mounted, and
a mount made here is seen nowhere until it is attached. A file has one device at a time, and all its mounts
are of one and the same file system: two devices would be two writers who do not know of one another.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from . import mounts

XFS_LEAST = 300 << 20  # mkfs.xfs makes none smaller
_TOOLS = {"xfs": ("mkfs.xfs", "-q", "-K"), "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard")}
PACKAGES = {"mkfs.xfs": "xfsprogs", "mkfs.ext4": "e2fsprogs"}
CONTROL = "/dev/loop-control"
_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"  # users' own often has no sbin

# linux/loop.h; struct loop_info64, within struct loop_config
_CONFIGURE, _GET_STATUS, _SET_CAPACITY, _GET_FREE = 0x4C0A, 0x4C05, 0x4C07, 0x4C82
_INFO = struct.Struct("5Q4I64s64s32s2Q")
_AUTOCLEAR = 4
_LOOP_MAJOR = 7
_ATTEMPTS = 64

# linux/fs/xfs/libxfs/xfs_fs.h, linux/fs/ext4/ext4.h
_XFS_GEOMETRY, _XFS_GROW, _EXT4_RESIZE = 0x80705864, 0x4010586E, 0x40086610


def tool_for(size: int) -> str:
    """The program that makes a file system of `size` bytes."""
    return _TOOLS["xfs" if size >= XFS_LEAST else "ext4"][0]


def find_tool(name: str) -> str | None:
    """Where it is; None: it is not installed."""
    import shutil

    return shutil.which(name, path=_PATH)


def make(path: str, size: int) -> None:
    """A new file that holds an empty file system of `size` bytes. OSError: the tool failed, or is missing."""
    import subprocess  # here: the fork-server makes none

    tool, *options = _TOOLS["xfs" if size >= XFS_LEAST else "ext4"]
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    os.truncate(path, size)
    command = [find_tool(tool) or tool, *options, path]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, errors="replace")
    if done.returncode:
        raise OSError(errno.EIO, f"{tool}: {done.stderr.strip()[-500:]}", path)


def mount(path: str) -> int:
    """A detached mount of the file system in `path`; the device ends with its last mount."""
    with _device(path) as device:
        return _mount(path, device)


def grow(path: str, size: int) -> None:
    """Make the file system in `path` of `size` bytes, in use or not. It may have been done in part already.
    OSError: it cannot be; then nothing has changed. EOPNOTSUPP: it cannot shrink."""
    with _device(path) as device:
        before = os.stat(path).st_size  # within, as another may just have made it larger
        if size < before:
            raise OSError(errno.EOPNOTSUPP, "its file system cannot shrink")
        fd = _mount(path, device)
        try:
            os.truncate(path, size)
            fcntl.ioctl(device, _SET_CAPACITY)
            try:
                _grow(fd, kind_of(path), size)
            except OSError:
                os.truncate(path, before)
                fcntl.ioctl(device, _SET_CAPACITY)
                raise
        finally:
            os.close(fd)


def kind_of(path: str) -> str:
    """``xfs`` or ``ext4``, by the first bytes."""
    with open(path, "rb") as file:
        return "xfs" if file.read(4) == b"XFSB" else "ext4"


def _mount(path: str, device: int) -> int:
    # discard: what is deleted inside is given back to the file's own file system.
    source = f"source={os.readlink(f'/proc/self/fd/{device}')}"
    return mounts.new_filesystem(kind_of(path), [source, "discard"], mounts.NODEV)


def _grow(mount_fd: int, kind: str, size: int) -> None:
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount_fd)
    try:
        block = os.fstatvfs(root).f_bsize
        if kind == "xfs":
            geometry = bytearray(112)
            fcntl.ioctl(root, _XFS_GEOMETRY, geometry)
            most_inodes = struct.unpack_from("8I", geometry)[7]
            fcntl.ioctl(root, _XFS_GROW, struct.pack("QI4x", size // block, most_inodes))
        else:
            fcntl.ioctl(root, _EXT4_RESIZE, struct.pack("Q", size // block))
    finally:
        os.close(root)


# --- devices ------------------------------------------------------------------------------------------------


@contextmanager
def _device(path: str) -> Iterator[int]:
    """The file's loop device, open; it stays after the block if it is mounted."""
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # not the description that the device will hold on to
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        device = _existing(os.fstat(lock))
        if device is None:
            device = _new(path)
        try:
            yield device
        finally:
            os.close(device)
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)  # not by closing alone: a child forked meanwhile has it, too
        os.close(lock)


def _existing(file: os.stat_result) -> int | None:
    for name in os.listdir("/sys/block"):
        if name.startswith("loop") and os.path.exists(f"/sys/block/{name}/loop"):
            with suppress(OSError):  # it has just ended, or its medium has
                device = os.open(f"/dev/{name}", os.O_RDONLY | os.O_CLOEXEC)
                # Asked when it is open: from here on it does not free itself.
                if _holds(device, file):
                    return device
                os.close(device)
    return None


def _holds(device: int, file: os.stat_result) -> bool:
    try:
        holder, inode, *_ = _INFO.unpack(fcntl.ioctl(device, _GET_STATUS, bytes(_INFO.size)))
    except OSError:  # it was freed before it was opened
        return False
    major, minor = os.major(file.st_dev), os.minor(file.st_dev)
    # As the kernel writes a device number for users: new_encode_dev (linux/kdev_t.h).
    return (holder, inode) == (minor & 0xFF | major << 8 | (minor & ~0xFF) << 12, file.st_ino)


def _new(path: str) -> int:
    backing = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_ATTEMPTS):
            device = _free_device()
            try:
                name = os.fsencode(path)[-63:]
                info = _INFO.pack(*(0,) * 8, _AUTOCLEAR, name, b"", b"", 0, 0)
                fcntl.ioctl(device, _CONFIGURE, struct.pack("II", backing, 0) + info + bytes(64))
                return device
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:  # another process was faster
                    raise
        raise OSError(errno.EBUSY, "no free loop device", path)
    finally:
        os.close(backing)


def _free_device() -> int:
    control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _GET_FREE)
    finally:
        os.close(control)
    node = f"/dev/loop{number}"
    if not os.path.exists(node):  # /dev is no devtmpfs
        with suppress(FileExistsError):
            os.mknod(node, stat.S_IFBLK | 0o660, os.makedev(_LOOP_MAJOR, number))
    return os.open(node, os.O_RDWR | os.O_CLOEXEC)
