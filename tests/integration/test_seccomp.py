"""The seccomp filter in the kernel, loaded by the init."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from lxcwrap.drivers.seccomp import INIT, ensure_filter

NONE: frozenset[str] = frozenset()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seccomp")


def run(cache: Path, *argv: str, capabilities: frozenset[str] = NONE, mode: str = "") -> tuple[int, str]:
    """Exit code and output of a command under the filter, as root with all capabilities."""
    options = ["-s", str(ensure_filter(cache, capabilities)), *([mode] if mode else [])]
    done = subprocess.run(
        [INIT, *options, "--", *argv], stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    return done.returncode, done.stdout


def errno_of(cache: Path, call: str, capabilities: frozenset[str] = NONE) -> int:
    """errno that a C library call leaves, 0 for none; written as Python."""
    program = f"import ctypes; libc = ctypes.CDLL(None, use_errno=True); r = libc.{call};"
    code, output = run(
        cache,
        sys.executable,
        "-c",
        f"{program} print(ctypes.get_errno() if r < 0 else 0)",
        capabilities=capabilities,
    )
    assert code == 0, output
    return int(output)


@pytest.mark.parametrize("mode", ["", "-x"])
def test_the_command_and_its_init_are_filtered(cache: Path, mode: str) -> None:
    """One filter for both, and no way to more privileges."""
    show = "grep -h -E '^(NoNewPrivs|Seccomp|Seccomp_filters):' /proc/self/status"
    if not mode:
        show += " /proc/$PPID/status"
    code, output = run(cache, "sh", "-c", show, mode=mode)
    assert code == 0
    assert output.split() == ["NoNewPrivs:", "1", "Seccomp:", "2", "Seccomp_filters:", "1"] * (
        1 if mode else 2
    )


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("mount(b'x', b'/mnt', b'tmpfs', 0, None)", errno.EPERM),
        ("unshare(0x10000000)", errno.EPERM),
        ("setns(0, 0)", errno.EPERM),
        ("personality(0x40000)", errno.EPERM),
        ("socket(40, 1, 0)", errno.EPERM),
        ("socket(ctypes.c_ulong(1 << 32 | 40), 1, 0)", errno.EPERM),
        ("socket(38, 5, 0)", errno.EPERM),
        ("syscall(435, None, 0)", errno.ENOSYS),  # clone3
        ("syscall(1000)", errno.ENOSYS),
        ("socket(2, 1, 0)", 0),
        ("personality(0xffffffff)", 0),
    ],
)
def test_calls_fail_as_the_list_says(cache: Path, call: str, expected: int) -> None:
    """Root with all capabilities is refused too."""
    assert errno_of(cache, call) == expected


def test_capabilities_bring_their_calls(cache: Path) -> None:
    """What is refused above is not to a container that was given the capability."""
    assert errno_of(cache, "unshare(0x20000)", frozenset({"SYS_ADMIN"})) == 0


def test_ordinary_programs_work(cache: Path) -> None:
    """Threads, processes, sockets, files, timers, big pipes; a shell with a pipeline; a compiler."""
    program = """
import asyncio, concurrent.futures, multiprocessing, os, socket, sqlite3, subprocess, tempfile, threading

async def serve():
    async def echo(reader, writer):
        writer.write(await reader.readline()); writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello\\n"); line = await reader.readline(); writer.close(); server.close()
    return line

with tempfile.TemporaryDirectory() as directory:
    sqlite3.connect(os.path.join(directory, "db")).execute("create table t (x)").connection.close()
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(abs, range(100))) == 4950
with multiprocessing.get_context("spawn").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
assert asyncio.run(serve()) == b"hello\\n"
assert subprocess.run(["true"]).returncode == 0
print("worked")
"""
    assert run(cache, sys.executable, "-c", program) == (0, "worked\n")
    assert run(cache, "busybox", "sh", "-c", "seq 1000 | sort -rn | busybox head -n1; id -u") == (
        0,
        "1000\n0\n",
    )
    assert run(cache, "sh", "-c", "echo 'int main(void) { return 7; }' | gcc -x c - -o /dev/null")[0] == 0
