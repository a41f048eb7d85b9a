"""The seccomp filter of containers, compiled once and kept; the init loads it (see ``init/init.c``).

Compiling takes libseccomp some 10 ms, loading the result takes the kernel 0.3 ms. What lies in the cache:

    <cache>/seccomp-<digest>.bpf      the program, an array of struct sock_filter
    <cache>/seccomp-<digest>.lxc      the same policy as liblxc reads it, which compiles it at every start
    <cache>/init-<key>/               bind-mounted read-only at /dev/.lxcwrap in every container
        init                          our init
        filter.bpf                    a hard link to the program; absent without seccomp
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .seccomp_names import allowed_names

if TYPE_CHECKING:
    import ctypes

INIT = Path(__file__).parents[1] / "init" / "lxcwrap-init"

# seccomp.h and linux/audit.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LT, _EQ, _MASKED_EQ = 2, 4, 7
_OPTIMIZE, _BINARY_TREE = 8, 2
_I386, _X86_64, _X32, _ARM, _AARCH64 = 0x40000003, 0xC000003E, 0x4000003E, 0x40000028, 0xC00000B7
_COMPATIBLE = {_X86_64: (_I386, _X32), _AARCH64: (_ARM,)}

_INT = 0xFFFFFFFF  # what the kernel reads of an argument declared as int
# NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET
_CLONE_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# Linux, BSD-like 16-bit, UNAME26, both, and "tell me": none that switches address randomisation off.
_PERSONALITIES = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)


class Condition(NamedTuple):
    """On one argument: ``argument <compare> a``, or ``(argument & a) == b`` for a mask."""

    argument: int
    compare: int
    a: int
    b: int = 0


class Rule(NamedTuple):
    action: int
    name: str
    condition: Condition | None = None


def rules(capabilities: frozenset[str]) -> list[Rule]:
    """The policy for these capabilities (as ``"SYS_ADMIN"``). What no rule allows gets EPERM."""
    result = [Rule(_ALLOW, name) for name in sorted(allowed_names(capabilities))]
    result += [Rule(_ALLOW, "personality", Condition(0, _MASKED_EQ, _INT, value)) for value in _PERSONALITIES]
    # Not AF_ALG (38: attack surface nobody needs), not AF_VSOCK (40: not namespaced, reaches the hypervisor).
    # Never "greater than": the kernel drops the register's upper half, so 1 << 32 | 40 would pass and be 40.
    result += [Rule(_ALLOW, "socket", Condition(0, _LT, 38))]
    result += [Rule(_ALLOW, "socket", Condition(0, _EQ, family)) for family in (39, 41, 42, 43, 44, 45)]
    if "SYS_ADMIN" in capabilities:
        return [*result, Rule(_ALLOW, "clone"), Rule(_ALLOW, "clone3")]
    # clone3 has its flags behind a pointer, where no filter looks; on ENOSYS C libraries fall back to clone.
    no_namespaces = Condition(0, _MASKED_EQ, _CLONE_NAMESPACES, 0)
    return [*result, Rule(_ALLOW, "clone", no_namespaces), Rule(_ERRNO | errno.ENOSYS, "clone3")]


@lru_cache(maxsize=1)
def _libseccomp() -> ctypes.CDLL:
    import ctypes

    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        from ..errors import UnsupportedError

        raise UnsupportedError(f"no seccomp filter ({error})", "apt install libseccomp2") from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_version.restype = ctypes.POINTER(ctypes.c_uint * 3)
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


def _checked(result: int, operation: str) -> None:
    if result < 0:
        from ..errors import KernelError

        raise KernelError(-result, operation)


def _add(library: ctypes.CDLL, context: ctypes.c_void_p, rule: Rule) -> None:
    import ctypes

    number = library.seccomp_syscall_resolve_name(rule.name.encode())
    if number == -1:  # newer than this libseccomp: stays refused
        return
    action = ctypes.c_uint32(rule.action)
    if rule.condition is None:
        _checked(library.seccomp_rule_add_array(context, action, number, 0, None), rule.name)
    else:
        compare = struct.pack("=IIQQ", *rule.condition)  # struct scmp_arg_cmp
        _checked(library.seccomp_rule_add_array(context, action, number, 1, compare), rule.name)


def _newest_call(library: ctypes.CDLL) -> int:
    """Highest call number that this libseccomp knows. Since Linux 5.0 (424) all architectures count alike."""
    import ctypes

    newest = 424
    free = ctypes.CDLL(None).free
    for number in range(424, 1024):
        name = library.seccomp_syscall_resolve_num_arch(library.seccomp_arch_native(), ctypes.c_int(number))
        if name:
            newest = number
            free(ctypes.c_void_p(name))
    return newest


def _unknown_calls(newest: int) -> bytes:
    """Instructions that give ENOSYS to calls newer than the installed libseccomp.

    At EPERM programs do not fall back to the older call (glibc 2.39's fchmodat is one). x32's and arm's own
    calls, which count from far above, go on to the filter.
    """
    load, jump_ge, jump_gt, give = 0x20, 0x35, 0x25, 0x06  # BPF_LD|W|ABS, JMP|JGE|K, JMP|JGT|K, RET|K
    program = (
        (load, 0, 0, 0),  # seccomp_data.nr
        (jump_ge, 2, 0, 0x0F0000),
        (jump_gt, 0, 1, newest),
        (give, 0, 0, _ERRNO | errno.ENOSYS),
    )
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def compile_filter(capabilities: frozenset[str] = frozenset()) -> bytes:
    """The program for a container with these capabilities: an array of ``struct sock_filter``.

    Raises UnsupportedError without libseccomp, KernelError when it refuses a rule.
    """
    import ctypes

    library = _libseccomp()
    context = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))
    try:
        for architecture in _COMPATIBLE.get(library.seccomp_arch_native(), ()):
            _checked(library.seccomp_arch_add(context, ctypes.c_uint32(architecture)), "seccomp_arch_add")
        # A tree, not a chain: the kernel tries every call when it loads a filter (0.25 ms, not 0.57).
        _checked(library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE), "seccomp_attr_set")
        for rule in rules(capabilities):
            _add(library, context, rule)
        fd = os.memfd_create("lxcwrap-seccomp", os.MFD_CLOEXEC)
        try:
            _checked(library.seccomp_export_bpf(context, fd), "seccomp_export_bpf")
            return _unknown_calls(_newest_call(library)) + os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
    finally:
        library.seccomp_release(context)


def liblxc_profile(capabilities: frozenset[str] = frozenset()) -> str:
    """The same policy as text for ``lxc.seccomp.profile``; there, calls newer than libseccomp get EPERM.

    For containers without no_new_privs: there only CAP_SYS_ADMIN may load a filter. The init lacks it,
    and liblxc loads the filter before it drops capabilities. Source: lxc.container.conf(5).
    """
    head = ["2", f"allowlist errno {errno.EPERM}", "[all]"]
    return "\n".join([*head, *map(_profile_line, rules(capabilities)), ""])


def _profile_line(rule: Rule) -> str:
    if rule.action != _ALLOW:
        return f"{rule.name} errno {rule.action & 0xFFFF}"
    if rule.condition is None:
        return rule.name
    argument, compare, a, b = rule.condition
    if compare == _MASKED_EQ:
        return f"{rule.name} allow [{argument},{b:#x},SCMP_CMP_MASKED_EQ,{a:#x}]"
    return f"{rule.name} allow [{argument},{a:#x},SCMP_CMP_{'LT' if compare == _LT else 'EQ'}]"


# --- the cache ------------------------------------------------------------------------------------------


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    fd = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _once(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, which appears whole or not at all. One process makes it; a killed one's remains are cleared."""
    if path.exists():
        return path
    draft = path.with_name(f".{path.name}.new")
    with _lock(path.parent):
        if not path.exists():
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
            make(draft)
            _sync(draft)
            draft.rename(path)
            _sync(path.parent)
    return path


@lru_cache(maxsize=64)
def _filter_name(capabilities: frozenset[str]) -> str:
    import hashlib

    library = _libseccomp()
    facts = (rules(capabilities), list(library.seccomp_version().contents), library.seccomp_arch_native(), 1)
    return "seccomp-" + hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def ensure_filter(cache: Path, capabilities: frozenset[str] = frozenset()) -> Path:
    """File in `cache` with the compiled filter, made unless it is there. Named by what it was compiled from.

    Raises as `compile_filter`, and OSError.
    """

    def make(draft: Path) -> None:
        draft.write_bytes(compile_filter(capabilities))
        draft.chmod(0o644)

    return _once(cache / f"{_filter_name(capabilities)}.bpf", make)


def ensure_profile(cache: Path, capabilities: frozenset[str] = frozenset()) -> Path:
    """File in `cache` with `liblxc_profile`, made unless it is there."""

    def make(draft: Path) -> None:
        draft.write_text(liblxc_profile(capabilities))
        draft.chmod(0o644)

    return _once(cache / f"{_filter_name(capabilities)}.lxc", make)


def init_dir(cache: Path, capabilities: frozenset[str] = frozenset(), seccomp: bool = True) -> Path:
    """Directory in `cache` with ``init`` and, with `seccomp`, ``filter.bpf``; made when it is not there.

    Two stats when it is. Raises as `ensure_filter`; UnsupportedError too when the package was not compiled.
    """
    try:
        found = INIT.stat()
    except FileNotFoundError:
        from ..errors import UnsupportedError

        raise UnsupportedError(f"{INIT} is missing", "install lxcwrap with pip, which compiles it") from None
    path = cache / f"{_prefix(found)}{_filter_name(capabilities) if seccomp else 'open'}"
    if path.exists():
        return path
    program = ensure_filter(cache, capabilities) if seccomp else None

    def make(draft: Path) -> None:
        draft.mkdir()
        draft.chmod(0o755)
        shutil.copyfile(INIT, draft / "init")
        # Nobody inside may read it, so the kernel lets nobody inside trace it (would_dump() in fs/exec.c):
        # else an exec could be caught by the container before it has joined the cgroups and loaded the
        # filter.
        (draft / "init").chmod(0o711)
        _sync(draft / "init")
        if program:
            (draft / "filter.bpf").hardlink_to(program)

    return _once(path, make)


def _prefix(init: os.stat_result) -> str:
    # ctime, unlike mtime, is set by the kernel alone: a replaced init is always seen.
    return f"init-{init.st_ino:x}-{init.st_ctime_ns:x}-"


def prune(cache: Path, plans: Iterable[str], discard: Callable[[Path], object]) -> None:
    """`discard` what neither this version's containers need nor those of `plans`, which are JSON. Nobody may
    begin a container meanwhile.
    """
    text = "\n".join(plans)
    own = _prefix(INIT.stat())
    with _lock(cache):
        inits = {path.name: path for path in cache.glob("init-*")}
        needed = {name for name in inits if name.startswith(own) or name in text}
        for name in inits.keys() - needed:
            discard(inits[name])
        for path in cache.glob("seccomp-*"):
            if path.name not in text and not any(name.endswith(path.stem) for name in needed):
                discard(path)
