"""Functions that test_calling.py and test_aio.py call in containers."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import time
from collections.abc import Callable


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def say(out: str, err: str) -> None:
    sys.stdout.write(f"{out}\n")
    sys.stdout.flush()
    os.system("echo echoed")
    sys.stderr.write(f"{err}\n")


def say_and_fail(text: str) -> None:
    sys.stdout.write(text)
    raise ZeroDivisionError


def say_and_sleep(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    time.sleep(1000)


def close_streams() -> str:
    for fd in (0, 1, 2):
        os.close(fd)
    time.sleep(0.1)
    return "closed"


def leave_a_sleeper() -> int:
    return subprocess.Popen(["/bin/sleep", "900"]).pid


def die(code: int) -> None:
    if code < 0:
        os.kill(os.getpid(), -code)
        time.sleep(1000)
    os._exit(code)


def who() -> tuple[int, int, list[int], str]:
    """User, group, groups, effective capabilities."""
    with open("/proc/thread-self/status") as file:
        capabilities = next(line.split()[1] for line in file if line.startswith("CapEff"))
    return os.getuid(), os.getgid(), sorted(os.getgroups()), capabilities


def variables(*names: str) -> list[str | None]:
    return [os.environ.get(name) for name in names]


def import_lately() -> int:
    import lately  # type: ignore[import-not-found]

    value: int = lately.VALUE
    return value


def double(number: int) -> int:
    return 2 * number


def _decorator(function: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(function)
    def refused(_: int) -> int:
        raise AssertionError("the decorated one")

    return refused


@_decorator
def decorated(number: int) -> int:
    return 2 * number
