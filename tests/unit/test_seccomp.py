"""The seccomp filter, run here by an interpreter: what it decides about any call, on each architecture."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lxcwrap.drivers import seccomp, seccomp_names
from lxcwrap.errors import UnsupportedError

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
NONE: frozenset[str] = frozenset()
SYS_ADMIN = frozenset({"SYS_ADMIN"})
LIBRARY = seccomp._libseccomp()
NATIVE: int = LIBRARY.seccomp_arch_native()
ARCHITECTURES = (NATIVE, *seccomp._COMPATIBLE.get(NATIVE, ()))
X32_BIT = 0x40000000


@pytest.fixture(scope="module")
def program() -> bytes:
    return seccomp.compile_filter(NONE)


def decide(program: bytes, name: str | int, *arguments: int, architecture: int = NATIVE) -> int:
    """What the program returns for a call, as the kernel would run it (linux/filter.h, linux/seccomp.h)."""
    number = name if isinstance(name, int) else number_of(name, architecture)
    audit = 0xC000003E if architecture == seccomp._X32 else architecture
    words = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=iIQ6Q", number, audit, 0, *(word & (1 << 64) - 1 for word in words))
    instructions = list(struct.iter_unpack("=HBBI", program))
    position, value = 0, 0
    while True:
        code, if_true, if_false, k = instructions[position]
        position += 1
        if code == 0x20:  # LD|W|ABS
            (value,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:  # ALU|AND|K
            value &= k
        elif code == 0x05:  # JMP|JA
            position += k
        elif code == 0x06:  # RET|K
            return int(k)
        else:
            taken = {0x15: value == k, 0x25: value > k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            position += if_true if taken else if_false


def number_of(name: str, architecture: int = NATIVE) -> int:
    number: int = LIBRARY.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(architecture), name.encode())
    return number


def exists(name: str, architecture: int = NATIVE) -> bool:
    return number_of(name, architecture) >= 0


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=hex)
def test_every_name_of_the_list_is_allowed(program: bytes, architecture: int) -> None:
    """On the native architecture and those it also runs, whatever the arguments."""
    names = [name for name in seccomp_names.ALLOWED if exists(name, architecture)]
    assert len(names) > 250
    for name in names:
        for argument in (0, 1, -1):
            assert decide(program, name, *[argument] * 6, architecture=architecture) == ALLOW, name


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=hex)
def test_what_the_list_does_not_name_is_refused(program: bytes, architecture: int) -> None:
    """Every other call the library knows gets EPERM, without a gap."""
    conditional = {"socket", "clone", "clone3", "personality"}
    resolve = LIBRARY.seccomp_syscall_resolve_num_arch
    refused = 0
    for offset in range(600):
        number = offset + (X32_BIT if architecture == seccomp._X32 else 0)
        pointer = resolve(ctypes.c_uint32(architecture), ctypes.c_int(number))
        name = ctypes.cast(pointer, ctypes.c_char_p).value if pointer else None
        if name and name.decode() not in seccomp_names.ALLOWED | conditional:
            assert decide(program, number, architecture=architecture) == EPERM, name
            refused += 1
    assert refused > 30


DANGEROUS = """
    acct add_key bpf chroot clock_settime fsopen init_module io_uring_setup kexec_load keyctl mount
    open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise quotactl
    reboot setns sethostname swapon syslog umount2 unshare userfaultfd
"""


@pytest.mark.parametrize("name", DANGEROUS.split())
def test_dangerous_calls_are_refused(program: bytes, name: str) -> None:
    """The ones a container has no business with."""
    assert exists(name)
    assert decide(program, name) == EPERM


@pytest.mark.parametrize("flag", [1 << bit for bit in (17, 25, 26, 27, 28, 29, 30)])
def test_clone_makes_no_namespaces(program: bytes, flag: int) -> None:
    """Processes and threads yes, namespaces no; clone3 does not exist: libraries fall back to clone."""
    thread = 0x3D0F00
    for architecture in ARCHITECTURES:
        assert decide(program, "clone", 17, architecture=architecture) == ALLOW
        assert decide(program, "clone", thread, architecture=architecture) == ALLOW
        assert decide(program, "clone", 17 | flag, architecture=architecture) == EPERM
        assert decide(program, "clone3", architecture=architecture) == ENOSYS
    assert decide(program, "clone", 1 << 32 | 17) == ALLOW  # the kernel reads the lower half alone


def test_sockets_of_some_families_are_refused(program: bytes) -> None:
    """vsock is not namespaced and reaches the hypervisor; af_alg is kernel code nobody needs."""
    for family in range(46):
        assert decide(program, "socket", family) == (EPERM if family in (38, 40) else ALLOW), family
        assert (
            decide(program, "socket", 1 << 32 | family) == EPERM
        )  # the kernel takes it for the family itself


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(0, True), (8, True), (0x20000, True), (0xFFFFFFFF, True), (-1, True), (0x40000, False)],
)
def test_personalities_keep_address_randomisation(program: bytes, value: int, allowed: bool) -> None:
    """The usual ones; not ADDR_NO_RANDOMIZE."""
    assert decide(program, "personality", value) == (ALLOW if allowed else EPERM)


def test_calls_of_the_future_do_not_exist(program: bytes) -> None:
    """ENOSYS above what the library knows: programs then use the older call; at EPERM they would not."""
    newest = seccomp._newest_call(LIBRARY)
    for architecture in ARCHITECTURES:
        if architecture != seccomp._X32:
            for number in (newest + 1, 700, 5000):
                assert decide(program, number, architecture=architecture) == ENOSYS
    assert decide(program, 0x7FFFFFFF) == EPERM
    assert decide(program, -1) == EPERM


def test_the_x32_bit_is_no_way_around(program: bytes) -> None:
    """The same calls with the bit set, which x86_64 alone has, are decided on as without, or do not exist."""
    assert decide(program, number_of("mount") | X32_BIT) == EPERM
    assert decide(program, number_of("getpid") | X32_BIT) == (
        ALLOW if seccomp._X32 in ARCHITECTURES else EPERM
    )


@pytest.mark.parametrize("capability", sorted(seccomp_names.BY_CAPABILITY))
def test_capabilities_bring_their_calls(capability: str) -> None:
    """Exactly those; all else stays as it is."""
    program = seccomp.compile_filter(frozenset({capability}))
    brought = seccomp_names.BY_CAPABILITY[capability].split()
    for name in {name for names in seccomp_names.BY_CAPABILITY.values() for name in names.split()}:
        if exists(name):
            assert decide(program, name) == (ALLOW if name in brought else EPERM), name


def test_sys_admin_may_make_namespaces() -> None:
    """It may by unshare, so limits on clone would only be in the way."""
    program = seccomp.compile_filter(SYS_ADMIN)
    assert decide(program, "clone", 0x10000000 | 17) == ALLOW
    assert decide(program, "clone3") == ALLOW
    assert decide(program, "socket", 40) == EPERM


def test_liblxc_is_given_the_same_policy(tmp_path: Path) -> None:
    """A line for each rule, in the words of lxc.container.conf(5)."""
    lines = seccomp.ensure_profile(tmp_path, NONE).read_text().splitlines()
    assert lines[:3] == ["2", "allowlist errno 1", "[all]"]
    assert len(lines) == 3 + len(seccomp.rules(NONE))
    assert {
        "read",
        "clone3 errno 38",
        "socket allow [0,0x26,SCMP_CMP_LT]",
        "socket allow [0,0x27,SCMP_CMP_EQ]",
    } < set(lines)
    assert "clone allow [0,0x0,SCMP_CMP_MASKED_EQ,0x7e020000]" in lines
    assert "personality allow [0,0x8,SCMP_CMP_MASKED_EQ,0xffffffff]" in lines


def test_the_kernel_takes_it(program: bytes) -> None:
    """At most BPF_MAXINSNS instructions of eight bytes."""
    assert len(program) % 8 == 0
    assert len(program) // 8 < 4096


def test_without_libseccomp_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not an AttributeError from ctypes."""

    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    seccomp._libseccomp.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", missing)
    with pytest.raises(UnsupportedError, match="apt install libseccomp2"):
        seccomp.compile_filter(NONE)


# --- the cache ------------------------------------------------------------------------------------------


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_init_dir_holds_the_init_and_the_filter(tmp_path: Path, program: bytes) -> None:
    """The init is the packaged one. Who cannot read it can execute it, and so not trace it."""
    directory = seccomp.init_dir(tmp_path, NONE)
    assert tree(directory) == ["filter.bpf", "init"]
    assert (directory / "init").read_bytes() == seccomp.INIT.read_bytes()
    assert (directory / "filter.bpf").read_bytes() == program
    modes = [
        path.stat().st_mode & 0o7777 for path in (directory, directory / "init", directory / "filter.bpf")
    ]
    assert modes == [0o755, 0o711, 0o644]


def test_init_dir_depends_on_what_is_in_it(tmp_path: Path) -> None:
    """One per filter, one without; the same when asked again, and for capabilities that change nothing."""
    tight, loose = seccomp.init_dir(tmp_path, NONE), seccomp.init_dir(tmp_path, SYS_ADMIN)
    bare = seccomp.init_dir(tmp_path, NONE, False)
    assert len({tight, loose, bare}) == 3
    assert tree(bare) == ["init"]
    assert seccomp.init_dir(tmp_path, frozenset({"CHOWN"})) == tight
    assert seccomp.init_dir(tmp_path, SYS_ADMIN, False) == bare


def test_a_replaced_init_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one of the same size and time, as reproducible builds make them."""
    packaged = tmp_path / "packaged"
    packaged.write_bytes(b"old")
    os.utime(packaged, (1, 1))
    monkeypatch.setattr(seccomp, "INIT", packaged)
    old = seccomp.init_dir(tmp_path, NONE, False)
    packaged.unlink()
    packaged.write_bytes(b"new")
    os.utime(packaged, (1, 1))
    assert (seccomp.init_dir(tmp_path, NONE, False) / "init").read_bytes() == b"new"
    assert (old / "init").read_bytes() == b"old"  # running containers have it mounted


def test_a_package_without_its_init_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree on PYTHONPATH was never compiled."""
    monkeypatch.setattr(seccomp, "INIT", tmp_path / "missing")
    with pytest.raises(UnsupportedError, match="install lxcwrap with pip"):
        seccomp.init_dir(tmp_path, NONE)


def test_remains_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    """Half a directory and half a file, whatever their names: made anew, nothing left over."""
    directory = seccomp.init_dir(tmp_path, NONE)
    whole = tree(tmp_path)
    filter_file = seccomp.ensure_filter(tmp_path, NONE)
    shutil.move(directory, directory.with_name(f".{directory.name}.new"))
    filter_file.rename(filter_file.with_name(f".{filter_file.name}.new"))
    assert seccomp.init_dir(tmp_path, NONE) == directory
    assert tree(tmp_path) == whole


def test_eight_processes_at_once_make_one(tmp_path: Path) -> None:
    """All get the same, whole directory."""
    program = (
        "import sys; from pathlib import Path; from lxcwrap.drivers.seccomp import init_dir;"
        "d = init_dir(Path(sys.argv[1]), frozenset()); print(d, *sorted(p.name for p in d.iterdir()))"
    )
    command: Sequence[str] = [sys.executable, "-c", program, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    outputs = {process.communicate(timeout=30)[0] for process in processes}
    directory = seccomp.init_dir(tmp_path, NONE)
    assert outputs == {f"{directory} filter.bpf init\n"}
    assert len(list(tmp_path.iterdir())) == 3  # the lock, the filter, the directory
