"""Real Jupyter kernels for tests. The client is in a process of its own: neither its threads nor its sockets
are in the tests' process.

Run as a program, this is that process: commands come by stdin, messages of the kernel go to stdout, as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Message = Mapping[str, Any]
_PATIENCE_S = 120.0


class Kernel:
    """A kernel and the cells it runs, one after the other. Made by `running_kernel`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, code: str) -> None:
        """Begin to run a cell."""
        self._say(op="run", code=code)

    def messages(self) -> Iterator[Message]:
        """Those of the cell that runs, to its end."""
        assert self._process.stdout
        for line in self._process.stdout:
            message: Message = json.loads(line)
            yield message
            if message["type"] == "execute_reply":
                return
        raise AssertionError("the kernel ended")

    def run(self, code: str) -> list[Message]:
        """A cell to its end, which is none with an error."""
        self.start(code)
        found = list(self.messages())
        assert found[-1]["content"]["status"] == "ok", found[-1]["content"].get("traceback")
        return found

    def interrupt(self) -> None:
        """What the stop button does."""
        self._say(op="interrupt")

    def value(self, code: str) -> Any:
        """Of an expression, as JSON."""
        text = printed(self.run(f"import json; print(json.dumps({code}))"))
        return json.loads(text)

    def _say(self, **command: object) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()


def printed(messages: list[Message], name: str = "stdout") -> str:
    """What a cell has written to this stream."""
    return "".join(
        message["content"]["text"]
        for message in messages
        if message["type"] == "stream" and message["content"]["name"] == name
    )


def shown(messages: list[Message], kind: str = "text/html") -> list[str]:
    """What a cell has displayed, updates too."""
    types = ("display_data", "update_display_data", "execute_result")
    return [
        message["content"]["data"][kind]
        for message in messages
        if message["type"] in types and kind in message["content"]["data"]
    ]


@contextmanager
def running_kernel(root: Path, scratch: Path) -> Iterator[Kernel]:
    """A kernel whose default host is at `root`; its own files are in `scratch`."""
    environment = {
        **os.environ,
        "LXCWRAP_ROOT": str(root),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        **{
            name: str(scratch) for name in ("HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
        },
    }
    with subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=scratch,
    ) as process:
        kernel = Kernel(process)
        try:
            kernel.run("import lxcwrap; host = lxcwrap.default_host()")
            yield kernel
        finally:
            assert process.stdin
            process.stdin.close()  # then it ends the kernel, and itself


def _serve() -> None:
    from threading import Thread

    from jupyter_client.manager import KernelManager  # type: ignore[import-not-found, unused-ignore]

    manager = KernelManager(kernel_name="python3", transport="ipc")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=_PATIENCE_S)
        runs: Thread | None = None
        for line in sys.stdin:
            command = json.loads(line)
            if command["op"] == "interrupt":
                manager.interrupt_kernel()
                continue
            if runs:
                runs.join()
            runs = Thread(target=_run, args=(client, command["code"]), daemon=True)
            runs.start()
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _run(client: Any, code: str) -> None:
    """Messages that come before the reply but are not of this cell (of threads) are told, too."""
    cell = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=_PATIENCE_S)
        kind, content = message["header"]["msg_type"], message["content"]
        idle = kind == "status" and content["execution_state"] == "idle"
        if idle and message["parent_header"].get("msg_id") == cell:
            break
        _tell(kind, content)
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        reply = client.get_shell_msg(timeout=_PATIENCE_S)
        if reply["parent_header"].get("msg_id") == cell:
            _tell("execute_reply", reply["content"])
            return


def _tell(kind: str, content: object) -> None:
    sys.stdout.write(json.dumps({"type": kind, "content": content}, default=str) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _serve()
