"""Trials of what this machine can do, each in a Python process of its own.

They unshare, fork and load liblxc, and nothing of this may happen in the caller's process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..ids import FIRST_BASE, IdMap
from . import mounts, namespaces

_TIMEOUT_S = 30
_PACKAGE_PARENT = os.fspath(Path(__file__).resolve().parents[2])


class ProbeFailed(Exception):
    """What was tried does not work; the text is the reason."""


def probe(name: str, *arguments: str) -> str:
    """Run the trial `name` (see `TRIALS`) in a new process; what it found, in words. Raises ProbeFailed."""
    source = f"import sys; sys.path.append({_PACKAGE_PARENT!r}); from {__name__} import main; main()"
    command = [sys.executable, "-I", "-c", source, name, *arguments]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ProbeFailed(f"no answer within {_TIMEOUT_S} s") from None
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        raise ProbeFailed(done.stderr.strip()[-500:] or f"its process ended with {done.returncode}") from None
    if answer["error"]:
        raise ProbeFailed(answer["error"])
    return str(answer["found"])


def main() -> None:
    """In the new process: run one trial and print its answer."""
    name, *arguments = sys.argv[1:]
    answer = {"found": "", "error": ""}
    try:
        answer["found"] = TRIALS[name](*arguments)
    except Exception as error:
        answer["error"] = str(error) or type(error).__name__
    json.dump(answer, sys.stdout)


def _bindings() -> str:
    from . import liblxc

    return liblxc.version()


def _seccomp() -> str:
    import ctypes

    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    return ".".join(map(str, library.seccomp_version().contents))


def _user_namespace() -> str:
    namespaces.make_pair(IdMap(FIRST_BASE))
    return "user and network namespace, loopback up"


def _overlay(scratch: str) -> str:
    """As for a privileged container."""
    return _mount_overlay(scratch, None)


def _idmapped_overlay(scratch: str) -> str:
    """As for any other: layers on the file system of `scratch` appear with the container's ids."""
    return _mount_overlay(scratch, namespaces.make_user_namespace(IdMap(FIRST_BASE)))


def _mount_overlay(scratch: str, userns_fd: int | None) -> str:
    owner = 0 if userns_fd is None else FIRST_BASE
    lower, upper, work, merged = (f"{scratch}/{name}" for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        os.mkdir(path)
        os.chmod(path, 0o755)
    for path in (upper, work):
        os.chown(path, owner, owner)
    Path(lower, "file").write_text("probe")
    mounts.private_mount_namespace()
    clone = mounts.idmapped_clone(lower, userns_fd)
    if mounts.supports_descriptor_lowers():
        how, mount = "by descriptors", mounts.overlay_by_descriptors([clone], (upper, work))
    else:
        os.mkdir(f"{scratch}/mounts")
        how, mount = "by paths", mounts.overlay_by_paths([clone], (upper, work), scratch=f"{scratch}/mounts")
    mounts.attach(mount, merged)
    seen = os.stat(f"{merged}/file").st_uid
    if seen != owner:
        raise ProbeFailed(f"a file of root's appears as that of {seen}, not of {owner}")
    os.chown(f"{merged}/file", owner, owner)  # copies it up
    return f"layers given {how}"


TRIALS: dict[str, Callable[..., str]] = {
    "bindings": _bindings,
    "seccomp": _seccomp,
    "user namespace": _user_namespace,
    "overlay": _overlay,
    "idmapped overlay": _idmapped_overlay,
}
