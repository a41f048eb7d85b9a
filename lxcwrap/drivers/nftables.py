"""Netfilter's rules, by libnftables in this process: 0.1 ms a change, where the command takes 2 to 15 ms.

Imported by the fork-server: no heavy imports here.
"""

from __future__ import annotations

import ctypes
import errno
import os
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HANDLES, _JSON = 1 << 3, 1 << 4  # NFT_CTX_OUTPUT_*
_ERROR, _CAUSE = "Error: ", "Could not process rule: "


class Nftables:
    """The rules of the network namespace that the thread is in now. For any thread, also after a fork.

    Keep it: when it is closed, the kernel first waits until what it deleted is freed, 10 to 20 ms.
    UnsupportedError: there is no libnftables.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._lock = allocate_lock()  # two threads must not use one context
        self._context = self._library.nft_ctx_new(0)
        if not self._context:
            raise OSError(errno.ENOMEM, "nft: no context")
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def __enter__(self) -> Nftables:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._context:
            self._library.nft_ctx_free(self._context)
        self._context = None

    def run(self, commands: str) -> None:
        """Carry out commands in nft's language: all of them, or none.

        OSError says what was refused, with the kernel's errno: FileExistsError for an element that is there
        with another value, FileNotFoundError for what is not there. EINVAL: nft did not understand.
        """
        self._run(commands, 0)

    def query(self, command: str) -> list[dict[str, Any]]:
        """What a ``list`` command lists, in nft's own JSON (libnftables-json(5)), with handles."""
        import json

        answer: list[dict[str, Any]] = json.loads(self._run(command, _JSON | _HANDLES))["nftables"]
        return answer

    def _run(self, commands: str, output: int) -> str:
        if self._pid != os.getpid():
            self._open()  # the parent's socket is still the parent's
        library, context = self._library, self._context
        with self._lock:
            library.nft_ctx_output_set_flags(context, output)
            failed = library.nft_run_cmd_from_buffer(context, commands.encode())
            message = library.nft_ctx_get_error_buffer(context).decode(errors="replace")
            answer: str = library.nft_ctx_get_output_buffer(context).decode(errors="replace")
        if failed:
            raise _refused(message)
        return answer


def _refused(message: str) -> OSError:
    """nft tells the kernel's errno in words only, perhaps with a guess of what was meant behind them."""
    cause = message.partition("\n")[0].partition(_ERROR)[2].removeprefix(_CAUSE).partition(";")[0]
    numbers = {os.strerror(number): number for number in errno.errorcode}
    return OSError(numbers.get(cause, errno.EINVAL), f"nft: {message.strip()}")


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libnftables.so.1")
    except OSError as error:
        from ..errors import UnsupportedError

        raise UnsupportedError(f"no rules for networks ({error})", "apt install libnftables1") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
