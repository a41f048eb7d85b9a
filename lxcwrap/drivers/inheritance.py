"""What a process hands on to its children without being asked: shed, so that no container has the caller's.

The fork-server is started by whoever happens to need it first, and every container descends from it. Its
processes get the same surroundings whoever that was: those of a service, not of a shell under `nice`.
Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from contextlib import suppress

from . import syscalls

_PR_SET_TIMERSLACK, _PR_SET_THP_DISABLE = 29, 41
_DEFAULT_TIMERSLACK_NS = 50_000
_JOIN_SESSION_KEYRING = 1
# It has another number on each architecture; liblxc has loaded this library already.
_KEYCTL = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name(b"keyctl")
_MOST_CPUS = 8192  # NR_CPUS of the largest kernels; those that a machine lacks are ignored
_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
_FILES = 1 << 20  # as Docker and Podman; the kernel's own maximum unless it was changed
# What is not unlimited: the kernel's own defaults, but for `nofile`; and no core files unless asked for.
_RLIMITS = {
    resource.RLIMIT_CORE: (0, resource.RLIM_INFINITY),
    resource.RLIMIT_MEMLOCK: (8 << 20, 8 << 20),
    resource.RLIMIT_MSGQUEUE: (819200, 819200),
    resource.RLIMIT_NICE: (0, 0),
    resource.RLIMIT_RTPRIO: (0, 0),
    resource.RLIMIT_STACK: (8 << 20, resource.RLIM_INFINITY),
}
_ALL_RLIMITS = tuple(getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_"))


def shed() -> None:
    """Give this process, of one thread, the limits, priorities, signals and flags of a fresh service."""
    os.setgroups([])
    _set_rlimits()
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    os.sched_setaffinity(0, range(_MOST_CPUS))
    with suppress(PermissionError):  # as above
        _write("/proc/self/oom_score_adj", "0")
    # Address randomisation may be off in a debugger's child.
    syscalls.personality(0)
    syscalls.prctl(_PR_SET_TIMERSLACK, _DEFAULT_TIMERSLACK_NS)
    syscalls.prctl(_PR_SET_THP_DISABLE, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in signal.valid_signals():
        # Python itself ignores SIGPIPE.
        if signal.getsignal(number) is signal.SIG_IGN and number != signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)


def _set_rlimits() -> None:
    files = min(_FILES, int(_read("/proc/sys/fs/nr_open")))
    limits = {**_RLIMITS, resource.RLIMIT_NOFILE: (files, files)}
    for which in _ALL_RLIMITS:
        soft, hard = limits.get(which, _UNLIMITED)
        try:
            resource.setrlimit(which, (soft, hard))
        except ValueError:  # root without CAP_SYS_RESOURCE, as in many containers, can raise to this at most
            most = resource.getrlimit(which)[1]
            resource.setrlimit(which, (soft if 0 <= soft < most else most, most))


def new_session_keyring() -> None:
    """From here on this process and its children have none of the keys of the session it was started in.

    A key is for all who have the keyring, whatever their ids: container processes must not have the host's.
    """
    try:
        syscalls.syscall("new session keyring", _KEYCTL, _JOIN_SESSION_KEYRING, None)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a kernel without keys
            raise


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()
