"""Functions that test_call.py sends away."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import PurePosixPath

LIBC = ctypes.CDLL(None)
PR_GET_DUMPABLE = 3


class CustomError(Exception):
    """Not a builtin."""


class Custom:
    """Not plain data."""


def echo(*args: object, **kwargs: object) -> object:
    return args if not kwargs else (args, kwargs)


def fail(error: BaseException) -> None:
    raise error


def fail_custom() -> None:
    raise CustomError("ours")


def fail_with_custom_argument() -> None:
    raise ValueError(Custom())


def custom() -> object:
    return Custom()


def unpicklable() -> object:
    return lambda: None


def a_class() -> object:
    return [PurePosixPath]


def import_late(name: str) -> str:
    return str(__import__(name))


def open_fds() -> list[str]:
    return os.listdir("/proc/self/fd")


def environment() -> dict[str, str]:
    return dict(os.environ)


def is_dumpable() -> int:
    return int(LIBC.prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))


def say(text: str) -> None:
    sys.stdout.write(text)


def fork_and_return() -> int:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return pid


def leave() -> None:
    os._exit(3)
