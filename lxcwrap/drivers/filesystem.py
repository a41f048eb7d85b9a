"""What Python's `os` has no name for when files of a container are touched from outside."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_libc = ctypes.CDLL(None, use_errno=True)
_libc.setfsuid.argtypes = _libc.setfsgid.argtypes = (ctypes.c_uint,)
_libc.setfsuid.restype = _libc.setfsgid.restype = ctypes.c_uint

_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 1, 2, 3, 4

# linux/magic.h: proc, sysfs, cgroup 1 and 2, debugfs, tracefs, securityfs, selinuxfs, smackfs, apparmorfs,
# bpf, efivarfs, configfs, pstore, nsfs, fusectl, binfmt_misc, mqueue, resctrl.
_KERNEL_INTERFACES = frozenset((
    0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0xF97CFF8C, 0x43415D53,
    0x5A3C69F0, 0xCAFE4A11, 0xDE5E81E4, 0x62656570, 0x6165676C, 0x6E736673, 0x65735543, 0x42494E4D,
    0x19800202, 0x7655821,
))  # fmt: skip

_dumpable = threading.Lock()


def is_kernel_interface(fd: int) -> bool:
    """Is this a file of /proc, /sys and the like? They answer for whom opens them, and act on the host."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.fstatfs(fd, buffer):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF in _KERNEL_INTERFACES


def mount_id(fd: int) -> int:
    """Which mount a descriptor, also an O_PATH one, is on."""
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return int(dict(line.split(":\t") for line in info if ":\t" in line)["mnt_id"])


@contextmanager
def creating_as(uid: int, gid: int) -> Iterator[None]:
    """What this thread creates inside the block belongs to these host ids from its first moment.

    A later chown would come too late: mounts that map ids refuse to create for ids they do not hold
    (EOVERFLOW), and a container could put another file at the name in between. Keep the block to the one call
    that creates.
    """
    header = ctypes.create_string_buffer(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), 8)
    capabilities = ctypes.create_string_buffer(24)
    signal = ctypes.c_int()
    before = _ids()
    # A change of the ids makes the process undumpable and forgets the thread's parent-death signal
    # (kernel/cred.c).
    with _dumpable:
        dumpable = _libc.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
        _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(signal), 0, 0, 0)
        _libc.capget(header, capabilities)
        try:
            _set_ids(uid, gid)
            # An id other than 0 takes the file capabilities away, and directories of the container's users
            # with them.
            _libc.capset(header, capabilities)
            if _ids() != (uid, gid):
                raise PermissionError(errno.EPERM, f"cannot create files for user {uid}: run as root")
            yield
        finally:
            _set_ids(*before)
            _libc.capset(header, capabilities)
            _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0)
            if dumpable == 1:
                _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)


def _set_ids(uid: int, gid: int) -> None:
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)


def _ids() -> tuple[int, int]:
    """This thread's file system ids; an impossible id changes nothing and tells them (setfsuid(2))."""
    return _libc.setfsuid(0xFFFFFFFF), _libc.setfsgid(0xFFFFFFFF)


def user_attributes(fd: int) -> dict[str, bytes]:
    """The user.* attributes; other kinds mean something to the kernel, or nothing elsewhere."""
    try:
        return {name: os.getxattr(fd, name) for name in os.listxattr(fd) if name.startswith("user.")}
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return {}
        raise


def copy_data(reader: int, writer: int) -> int:
    """Copy the contents as long as they are now, holes as holes: a file of 8 EiB may hold nothing. Their
    length."""
    size = os.fstat(reader).st_size
    position = 0
    while position < size:
        try:
            position = os.lseek(reader, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data from here on
                break
            raise
        end = min(os.lseek(reader, position, os.SEEK_HOLE), size)
        os.lseek(writer, position, os.SEEK_SET)
        while position < end and (count := _send(reader, writer, position, end - position)):
            position += count
        if position < end:
            if os.fstat(reader).st_size > position:
                raise OSError(errno.EIO, "the contents cannot be read to their end")
            size = position  # it became shorter meanwhile
    os.ftruncate(writer, size)
    return size


def _send(reader: int, writer: int, position: int, count: int) -> int:
    try:
        return os.copy_file_range(reader, writer, count, position)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.sendfile(writer, reader, position, count)


def rename_new(source: str, target: str) -> None:
    """Rename; FileExistsError if `target` is there. On Linux rename(2) would replace it."""
    _renameat2(source, target, 1)


def exchange(one: str, other: str) -> None:
    """Each gets the other's name, at once."""
    _renameat2(one, other, 2)


def _renameat2(source: str, target: str, flags: int) -> None:
    here = -100  # AT_FDCWD
    if _libc.renameat2(here, os.fsencode(source), here, os.fsencode(target), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), source, None, target)
