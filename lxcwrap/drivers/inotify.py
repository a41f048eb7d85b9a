"""Waiting until something in a directory changes, without looking again and again: inotify(7)."""

from __future__ import annotations

import os
from contextlib import suppress
from types import TracebackType

from . import syscalls

_MODIFY, _MOVED_FROM, _CREATE = 0x2, 0x40, 0x100


class Watch:
    """Changes in `directory` from now on: files written to, renamed, made."""

    def __init__(self, directory: str) -> None:
        self._fd = syscalls.inotify_init(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            syscalls.inotify_add_watch(self._fd, directory, _MODIFY | _MOVED_FROM | _CREATE)
        except BaseException:
            os.close(self._fd)
            raise

    def fileno(self) -> int:
        """Readable when there was a change since the last call of `clear`."""
        return self._fd

    def clear(self) -> None:
        """Forget the changes until now."""
        with suppress(BlockingIOError):
            while os.read(self._fd, 65536):
                continue

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
