"""Starting the fork-server of a root directory, and connecting to it: by callers, and by what goes on without
them. Imported by the fork-server: no third-party packages here."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from . import wire

BOOT = "from lxcwrap.supervisor.boot import main; main({root!r}, {fd})"


class BindingsMissing(Exception):
    """The LXC bindings are not installed."""


class SpawnFailed(Exception):
    """The fork-server did not start; the text is what it said."""


def connect(root: str) -> socket.socket:
    """To the server that runs. FileNotFoundError, ConnectionRefusedError: none does."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # A path beyond the 107 bytes of sun_path is reached through a descriptor of its directory.
        directory = os.open(f"{root}/run", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{wire.SERVER}.sock")
        finally:
            os.close(directory)
    except BaseException:
        sock.close()
        raise
    return sock


def spawn_if(root: str, is_wanted: Callable[[], bool]) -> None:
    """Spawn a server; of all who want one, one does. Raises BindingsMissing, SpawnFailed."""
    fd = os.open(f"{root}/run/spawn.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if is_wanted():
            _spawn(root)
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # not by closing alone: a child forked meanwhile has it, too
        os.close(fd)


def _spawn(root: str) -> None:
    import subprocess

    ready, writer = os.pipe()
    try:
        server = subprocess.Popen(
            python(BOOT.format(root=root, fd=writer)),
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
        )
    finally:
        os.close(writer)
    with os.fdopen(ready, "rb") as pipe, server:
        said = pipe.read()  # ends when it serves, or has failed
        text = server.stderr.read().decode(errors="replace").strip() if server.stderr else ""
    if said != b"ok":
        if "LXC bindings" in text:
            raise BindingsMissing(text.splitlines()[-1].removeprefix("ImportError: "))
        raise SpawnFailed(text[-2000:])


def python(source: str) -> list[str]:
    """A command that runs `source`, which finds this package and the bindings. -I -S: it has none of the
    caller's environment, site or current directory."""
    paths = f"import sys; sys.path[:0] = {_module_paths()!r}; "
    return [sys.executable, "-I", "-S", "-c", paths + source]


def _module_paths() -> list[str]:
    package = str(Path(__file__).parents[2])
    bindings = importlib.util.find_spec("_lxc")
    if bindings is None or bindings.origin is None:
        remedy = "pip install lxc (needs lxc-dev and gcc), or apt install python3-lxc"
        raise BindingsMissing(f"the LXC bindings are missing: {remedy}")
    return [*dict.fromkeys([package, str(Path(bindings.origin).parent)])]
