"""The only module that imports the liblxc bindings. It runs in the supervisor's processes, not the caller's.

What it guards against (each was met for real; docs/explanation/lxc-facts):
- `lxc.Container.set_config_item` compares what it reads back and empties `lxc.rootfs.path`, and a container
  without a rootfs runs on the host's root: the raw setter is used, and start is refused unless the rootfs is
  the expected one;
- `start(cmd=[...])`: a list crashes the interpreter, so commands are tuples;
- start() says True or False, no more: the exit code is read from `error_num` in the C structure;
- inherited descriptors leak into the container: all above 2 are closed on exec, but for those that are named;
- `newuidmap`, where installed, refuses root without /etc/subuid lines: it is kept out of PATH.
"""

from __future__ import annotations

import ctypes
import os

from . import AttachRefused, StartRefused, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Any

try:
    import _lxc
except ImportError as _error:  # the fork-server reports this text to the caller
    raise ImportError(
        f"the LXC bindings cannot be imported ({_error}): pip install lxc (needs lxc-dev and gcc), "
        "or apt install python3-lxc"
    ) from _error


class _LxcContainer(ctypes.Structure):
    # The head of struct lxc_container (lxc/lxccontainer.h, which forbids reordering).
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("configfile", ctypes.c_char_p),
        ("pidfile", ctypes.c_char_p),
        ("slock", ctypes.c_void_p),
        ("privlock", ctypes.c_void_p),
        ("numthreads", ctypes.c_int),
        ("lxc_conf", ctypes.c_void_p),
        ("error_string", ctypes.c_char_p),
        ("error_num", ctypes.c_int),
    )


_PYOBJECT_HEAD = object.__basicsize__  # the bindings keep their struct lxc_container * right behind it


def version() -> str:
    """Version of liblxc, such as ``5.0.2``."""
    return str(_lxc.get_version())


def warm_up() -> None:
    """Let liblxc do once, in the process that all others are forked from, what each would do for itself."""
    container = _lxc.Container("warm-up", "/nonexistent")
    container.clear_config()
    for key, value in (
        ("lxc.uts.name", "x"),
        ("lxc.mount.entry", "a b none bind 0 0"),
        ("lxc.cap.keep", "chown"),
    ):
        _append(container, key, value)


class LxcDriver:
    """liblxc, for one directory of containers. Names are container ids."""

    def __init__(self, lxc_path: str) -> None:
        self._lxc_path = lxc_path
        self._prepared: dict[str, Any] = {}

    def prepare(self, name: str, config: Sequence[tuple[str, str]]) -> None:
        """Take settings for a `start` that comes later, with more of them."""
        container = self._prepared[name] = self._container(name)
        container.clear_config()
        for key, value in config:
            _append(container, key, value)

    def _container(self, name: str) -> Any:
        return _lxc.Container(name, self._lxc_path)

    def start(
        self, name: str, config: Sequence[tuple[str, str]], argv: Sequence[str], *, keep_fds: Collection[int]
    ) -> int:
        """Start in the foreground and return, when init has ended, its exit code (128+signal if killed).

        The process' own 0, 1, 2 and `keep_fds` become init's. Raises StartRefused.
        """
        if name not in self._prepared:
            self.prepare(name, ())
        container = self._prepared.pop(name)
        for key, value in config:
            _append(container, key, value)
        _check_rootfs(container, dict(config).get("lxc.rootfs.path", ""))
        os.environ["PATH"] = "/nonexistent"  # no newuidmap
        _close_on_exec_from_3(but=keep_fds)
        if not container.start(useinit=False, daemonize=False, close_fds=False, cmd=tuple(argv)):
            raise StartRefused(name)
        return _exit_code(_error_num(container, name))

    def attach(
        self,
        name: str,
        run: Callable[[Any], int] | Sequence[str],
        *,
        env: Sequence[str],
        stdio: tuple[int, int, int],
        keep_fds: Collection[int] = (),
        cwd: str = "/",
        config: Sequence[tuple[str, str]] = (),
        limits_itself: bool = False,
    ) -> int:
        """Run an argv, or a function of this process, inside. The pid, a child of the caller's to wait for.

        config: settings for the process, which liblxc does not take over from those of the container.
        limits_itself: it lets go of capabilities, for which it needs some; else it has those of process 1,
        which may be none.
        """
        container = self._container(name)
        for key, value in config:
            _append(container, key, value)
        _close_on_exec_from_3(but=keep_fds)
        stdin, stdout, stderr = stdio
        options = {
            "stdin": stdin,
            "stdout": stdout,
            "stderr": stderr,
            "env_policy": _lxc.LXC_ATTACH_CLEAR_ENV,
            "extra_env_vars": list(env),
            "initial_cwd": cwd,
        }
        if limits_itself:
            options["attach_flags"] = _lxc.LXC_ATTACH_DEFAULT & ~_lxc.LXC_ATTACH_DROP_CAPABILITIES
        function, argument = (run, None) if callable(run) else (_lxc.attach_run_command, (run[0], list(run)))
        # The bindings tell the interpreter of their fork in the child only, which Python 3.13 dies of.
        ctypes.pythonapi.PyOS_BeforeFork()
        try:
            pid = container.attach(function, argument, **options)
        finally:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
        if pid < 0:
            raise AttachRefused(name)
        return int(pid)


def _append(container: Any, key: str, value: str) -> None:
    if not _lxc.Container.set_config_item(container, key, value):
        raise StartRefused(f"liblxc refuses the setting {key} = {value}")


def _check_rootfs(container: Any, expected: str) -> None:
    actual = container.get_config_item("lxc.rootfs.path")
    if not expected or actual not in (expected, expected.removeprefix("dir:")):
        raise StartRefused(
            f"lxc.rootfs.path is {actual!r}, expected {expected!r}: the host's root would be used"
        )


def _error_num(container: Any, name: str) -> int:
    address = ctypes.c_void_p.from_address(id(container) + _PYOBJECT_HEAD).value
    head = _LxcContainer.from_address(address or 0)
    if head.name != name.encode():  # the layout is not what we think: better no code than a wrong one
        raise StartRefused(f"unknown layout of struct lxc_container (liblxc {version()})")
    return int(head.error_num)


def _exit_code(number: int) -> int:
    # liblxc's own encoding, not a wait status: exited is code << 8, killed is signal << 8 | 0x7f.
    return 128 + (number >> 8) if number & 0x7F == 0x7F else number >> 8


def _close_on_exec_from_3(*, but: Collection[int]) -> None:
    syscalls.close_on_exec_from(3)
    for fd in but:
        os.set_inheritable(fd, True)
