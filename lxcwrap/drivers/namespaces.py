"""The user and network namespace of a container, made as a pair before liblxc starts it.

liblxc refuses a shared network namespace that its new user namespace does not own ("Failed to mount sysfs"),
so
both are made here: unshare the user namespace, map it, and unshare the network namespace inside it.
Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from contextlib import suppress

from ..ids import IdMap
from . import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x08000000, 0x10000000, 0x40000000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1

# As Docker sets them for every container: its root may bind low ports and send pings without a capability.
_NETWORK_SYSCTLS = {"ipv4/ip_unprivileged_port_start": "0", "ipv4/ping_group_range": "0 65535"}


def make_pair(idmap: IdMap) -> list[int]:
    """Descriptors: network namespace, with loopback up, and user namespace; the identity map has only the
    first.

    Forks: only for single-threaded processes. The namespaces live as long as the descriptors or members.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        _member(theirs, idmap)
    theirs.close()
    try:
        if not idmap.is_identity:
            _expect(ours, b"user")
            mapping = f"0 {idmap.base} {idmap.size}\n"
            _write(f"/proc/{child}/uid_map", mapping)
            _write(f"/proc/{child}/gid_map", mapping)
            ours.send(b"mapped")
        _expect(ours, b"net")
        kinds = ("net",) if idmap.is_identity else ("net", "user")
        return [os.open(f"/proc/{child}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    finally:
        os.kill(child, signal.SIGKILL)
        ours.close()
        with suppress(ChildProcessError):  # the fork-server leaves reaping to the kernel
            os.waitpid(child, 0)


def make_user_namespace(idmap: IdMap) -> int:
    """A user namespace alone, to map ids of mounts by."""
    netns, userns = make_pair(idmap)
    os.close(netns)
    return userns


def _member(parent: socket.socket, idmap: IdMap) -> None:
    try:
        if not idmap.is_identity:
            syscalls.unshare(CLONE_NEWUSER)
            parent.send(b"user")
            parent.recv(16)
        syscalls.unshare(CLONE_NEWNET)
        loopback_up()
        for name, value in _NETWORK_SYSCTLS.items():
            _write(f"/proc/sys/net/{name}", value)
        parent.send(b"net")
        parent.recv(16)  # until the parent has opened the namespaces
    except OSError as error:
        parent.send(f"{error.errno} {error}".encode())
    finally:
        os._exit(0)


def make_ipc(settings: Mapping[str, str], netns: int, userns: int | None = None) -> int:
    """An IPC namespace that belongs to `userns`, with the sysctls `settings` written to it and to `netns`:
    before the start, as inside /proc/sys can be read only. Forks, as `make_pair`. OSError that names the
    setting."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        _configure(theirs, settings, netns, userns)
    theirs.close()
    try:
        _expect(ours, b"done")
        return os.open(f"/proc/{child}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        ours.close()
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def copy_mounts(userns: int) -> int:
    """A copy of this process' mount namespace that belongs to `userns`: who has all capabilities there can
    neither change how things are mounted, nor take them away. Forks, as `make_pair`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        ours.close()
        _unshare_mounts(theirs, userns)
    theirs.close()
    try:
        _expect(ours, b"done")
        return os.open(f"/proc/{child}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.kill(child, signal.SIGKILL)
        ours.close()
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


def _unshare_mounts(parent: socket.socket, userns: int) -> None:
    try:
        syscalls.setns(userns, CLONE_NEWUSER)
        syscalls.unshare(CLONE_NEWNS)
        parent.send(b"done")
        parent.recv(16)  # until the parent has opened the namespace
    except OSError as error:
        parent.send(f"{error.errno} mounts: {error.strerror}".encode())
    finally:
        os._exit(0)


def _configure(parent: socket.socket, settings: Mapping[str, str], netns: int, userns: int | None) -> None:
    what = "its namespaces"
    try:
        if userns is not None:
            syscalls.setns(userns, CLONE_NEWUSER)
            os.setresgid(0, 0, 0)  # settings of IPC ask for root of the namespace
            os.setresuid(0, 0, 0)
        syscalls.setns(netns, CLONE_NEWNET)
        syscalls.unshare(CLONE_NEWIPC)
        for name, value in settings.items():
            what = f"sysctl {name}={value}"
            _write(f"/proc/sys/{name.replace('.', '/')}", value)
        parent.send(b"done")
        parent.recv(16)  # until the parent has opened the namespace
    except OSError as error:
        parent.send(f"{error.errno} {what}: {error.strerror}".encode())
    finally:
        os._exit(0)


def _expect(member: socket.socket, word: bytes) -> None:
    answer = member.recv(4096)
    if answer != word:
        number, _, text = answer.decode(errors="replace").partition(" ")
        raise OSError(
            int(number or 0), f"cannot prepare the container's namespaces: {text or 'their process ended'}"
        )


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def loopback_up() -> None:
    """Bring `lo` of the current network namespace up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def link_is_up(name: str) -> bool:
    """Whether there is a link `name` in the current network namespace, and it is up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
        except OSError:
            return False
    return bool(struct.unpack("16sH14x", answer)[1] & _IFF_UP)
