"""What the tests of isolation have `call` run inside a container, and the probe it runs there."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).with_name("probe.c")


class Report(dict[tuple[str, str], str]):
    """What the probe says: values by kind and name."""

    def of(self, kind: str) -> dict[str, str]:
        return {name: value for (each, name), value in self.items() if each == kind}


def report(text: str) -> Report:
    result = Report()
    for line in text.splitlines():
        kind, name, value = line.split(" ", 2)
        if kind == "env":
            name, _, value = value.partition("=")
        result[kind, name] = value
    return result


def compile_probe(directory: Path) -> Path:
    program = directory / "probe"
    command = [
        "cc",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Os",
        "-static",
        "-o",
        str(program),
        str(SOURCE),
    ]
    subprocess.run(command, check=True)
    return program


def probe(*arguments: str) -> str:
    """Output of the probe as a child of the called function."""
    return subprocess.run(["/probe", *arguments], stdout=subprocess.PIPE, check=True).stdout.decode()


def look_around() -> str:
    """The same of the called function's own process, as far as it differs."""
    lines = [f"env - {name}={value}" for name, value in os.environ.items()]
    lines += [
        f"fd {name} -" for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")
    ]
    return "\n".join(lines)


def wait_for(go: str, ready: str) -> None:
    """Tell this process' id in the file `ready`, and stay until `go` exists."""
    Path(f"{ready}.new").write_text(str(os.getpid()))
    os.rename(f"{ready}.new", ready)
    while not os.path.exists(go):
        time.sleep(0.01)


def nest(directory: str, depth: int) -> None:
    """Directories within each other, the innermost with a link out of them all."""
    os.chdir(directory)
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    os.symlink("/", "root")
