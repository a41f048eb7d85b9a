"""``init="system"``: an image boots as a machine does, with its own init as PID 1.

Its root rules what is the container's own: it mounts, divides its cgroup and shuts down. All that stays in
its range of user ids and its namespaces; devices, kernel settings and limits are out of its reach as ever.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from attrs import evolve

from .errors import InvalidSpecError
from .imageconfig import ImageConfig
from .inroot import Root, pinned, reopened
from .options import ContainerOptions, capability_names
from .supervisor.plan import ALL_CAPABILITIES

# Where a kernel and boot loaders look.
_PLACES: Final = ("/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/bin/init", "/init")
# What makes an init, by the name of its program, switch the machine off: systemd(1), runit-init(8), and the
# source of busybox. Of others LXC expects that they know the signal of a failing power supply.
_STOP_SIGNALS: Final = {"systemd": "RTMIN+3", "busybox": "USR2", "runit-init": "CONT"}
_OTHER_STOP_SIGNAL: Final = "PWR"
# What acts on the host, whatever the user namespace, or is refused there anyway.
_HOSTS_OWN: Final = frozenset(
    """
    BLOCK_SUSPEND BPF CHECKPOINT_RESTORE MAC_ADMIN MAC_OVERRIDE PERFMON SYSLOG SYS_MODULE SYS_RAWIO SYS_TIME
    WAKE_ALARM
    """.split()
)
CAPABILITIES: Final = ALL_CAPABILITIES - _HOSTS_OWN
# Options that an init has no use for, with the values that change nothing.
_FIXED: Final[Mapping[str, tuple[object, ...]]] = {
    "user": ("root", "0", 0),
    "cwd": ("/",),
    "tty": (True,),
    "privileged": (False,),
    "groups": (),
    "entrypoint": (),
}


class Init(NamedTuple):
    """An image's init: its path, and the signal that makes it shut the system down."""

    path: str
    stop_signal: str


def as_system(
    config: ImageConfig,
    root: Root,
    argv: Sequence[str] | None,
    sh: str | None,
    options: ContainerOptions,
) -> tuple[ImageConfig, ContainerOptions]:
    """What an image and a caller say of a system, as for any container. `root`: the image's.

    Raises InvalidSpecError: the image has no init, or the options fit no system.
    """
    if sh is not None:
        raise InvalidSpecError(
            "sh= does not go with init='system': its shell would be PID 1; use exec() then"
        )
    given = cast(dict[str, Any], {key: value for key, value in options.items() if value is not None})
    for name, harmless in _FIXED.items():
        if name in given and given[name] not in harmless:
            raise InvalidSpecError(
                f"{name}={given[name]!r} does not go with init='system': PID 1 is root, on a console"
            )
    init = find_init(root, argv[0] if argv and not isinstance(argv, str) else None)
    added, dropped = capability_names("cap_add", options), capability_names("cap_drop", options)
    if "ALL" not in dropped:
        added = tuple(CAPABILITIES.union(added))
    if "SYS_ADMIN" in dropped or not {"ALL", "SYS_ADMIN"} & set(added):
        raise InvalidSpecError(
            "init='system' needs the capability SYS_ADMIN, which counts in the container only"
        )
    system = evolve(
        config, entrypoint=(), cmd=(init.path,), user="", working_dir="/", stop_signal=init.stop_signal
    )
    # Without this su, sudo and ping could not do their work, nor login.
    no_new_privs = given.get("no_new_privs", False)
    return system, cast(
        ContainerOptions, {**given, "tty": True, "cap_add": added, "no_new_privs": no_new_privs}
    )


def find_init(root: Root, path: str | None = None) -> Init:
    """An image's init, or what is at `path` in it. Raises InvalidSpecError: there is none."""
    places = _PLACES if path is None else (path,)
    for place in places:
        program = _program(root, place)
        if program is not None:
            return Init(place, _STOP_SIGNALS.get(program, _OTHER_STOP_SIGNAL))
    raise InvalidSpecError(
        f"{root.name} has no init ({', '.join(places)}): install one, such as the package systemd-sysv"
    )


def _program(root: Root, path: str) -> str | None:
    """The name of the program at `path`, after all links; None: there is none."""
    try:
        with pinned(root, path) as fd:
            if not os.fstat(fd).st_mode & 0o111:
                return None
            name = posixpath.basename(os.readlink(reopened(fd)))
            return "busybox" if _is_busybox(root, os.fstat(fd)) else name
    except OSError:
        return None


def _is_busybox(root: Root, found: os.stat_result) -> bool:
    """Its commands may be hard links."""
    try:
        with pinned(root, "/bin/busybox") as fd:
            return os.path.samestat(os.fstat(fd), found)
    except OSError:
        return False
