"""How fast the core is, each figure beside its floor in the same run: medians, the two sides in turn.

    python benchmarks/core.py [--runs 20] [--only NAME ...]

Needs root, and `lxc` (lxc-execute, lxc-attach) and busybox-static for the floors. Everything lies in
/dev/shm, so that the disk is not measured.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import lxcwrap
from lxcwrap import PIPE, Host

Act = Callable[[], object]
LINES = 100_000
WRITE_LINES = f"i=0; yes {'x' * 80} | head -n {LINES}"


def milliseconds(act: Act) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


class Bench:
    def __init__(self, host: Host, scratch: Path, runs: int) -> None:
        self.host, self.scratch, self.runs = host, scratch, runs
        self.config = make_floor(scratch)
        self.rows: list[tuple[str, str]] = []

    def say(self, what: str, figure: str) -> None:
        self.rows.append((what, figure))
        print(f"{what:66} {figure}", flush=True)

    def pair(
        self, what: str, ours: Act, floor: Act, *, limit: float, runs: int | None = None, pause_s: float = 0.0
    ) -> None:
        """Both in turn, so that the machine's moods meet both. Without a pause each also meets what the other
        leaves to the kernel and to its own processes; with one, both begin from rest."""
        ours(), floor()
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(runs or self.runs):
            for act, found in zip((ours, floor), times, strict=True):
                time.sleep(pause_s)
                found.append(milliseconds(act))
        mine, theirs = map(statistics.median, times)
        ratio = f"ratio {mine / theirs:5.2f} (at most {limit})"
        self.say(what, f"{mine:8.2f} ms   floor {theirs:8.2f} ms   {ratio}")

    def alone(self, what: str, act: Act, *, limit: str, runs: int | None = None, scale: float = 1.0) -> None:
        act()
        median = statistics.median(milliseconds(act) for _ in range(runs or self.runs)) * scale
        self.say(what, f"{median:8.2f} ms   (at most {limit})")

    def tool(self, program: str, name: str, *argv: str) -> list[str]:
        """The command line of one of the LXC tools, for the container `name`."""
        options = ["-n", name, "-P", str(self.scratch / "lxc"), "-f", str(self.config)]
        return [program, *options, "--", *argv]

    # --- the measures ---

    def run(self) -> None:
        execute = self.tool("lxc-execute", "floor", "/bin/true")
        for pause_s, when in ((0.0, "in turn"), (0.5, "0.5 s apart")):
            self.pair(
                f"run true, all isolation on / lxc-execute without, {when}",
                lambda: self.host.containers.run("busybox", ["true"]),
                lambda: quietly(execute),
                limit=1.0,
                pause_s=pause_s,
            )

    def exec(self) -> None:
        launched = self.host.containers.launch("busybox", ["sleep", "1000"])
        with launched as container, floor_container(self) as name:
            attach = self.tool("lxc-attach", name, "/bin/true")
            self.pair(
                "exec true / lxc-attach",
                lambda: container.exec(["true"]),
                lambda: quietly(attach),
                limit=1.0,
            )

    def call(self) -> None:
        with self.host.containers.launch("busybox", ["sleep", "1000"]) as container:
            self.alone("call os.getpid", lambda: container.call(os.getpid), limit="5 ms")

    def popen(self) -> None:
        """1 GiB from a process to this one, in the container and without. By dd with fair blocks, and by
        head, which busybox makes write 4 KiB at a time, so that it measures busybox."""
        with self.host.containers.launch("busybox", ["sleep", "1000"]) as container:
            commands = {
                "dd bs=64k": ["dd", "if=/dev/zero", "bs=64k", "count=16384"],
                "busybox head": ["head", "-c", str(1 << 30), "/dev/zero"],
            }
            for name, command in commands.items():
                rates: tuple[list[float], list[float]] = ([], [])
                for _ in range(5):
                    with container.popen(command, stdout=PIPE) as ours:
                        rates[0].append(read_rate(ours.stdout))
                    floor = subprocess.Popen(
                        ["busybox", *command],
                        stdout=PIPE,
                        stderr=subprocess.DEVNULL,
                        bufsize=0,
                        pipesize=1 << 20,
                    )
                    with floor:
                        rates[1].append(read_rate(floor.stdout))
                mine, theirs = map(statistics.median, rates)
                figure = (
                    f"{mine:8.2f} GB/s floor {theirs:8.2f} GB/s ratio {mine / theirs:5.2f} (at least 1 GB/s)"
                )
                self.say(f"popen stdout, 1 GiB by {name} / subprocess", figure)

    def logs(self) -> None:
        target = self.scratch / "floor.out"
        execute = self.tool("lxc-execute", "floor")

        def floor() -> None:
            with target.open("wb") as file:
                subprocess.run([*execute, "/bin/sh", "-c", WRITE_LINES], stdout=file, check=True)

        def ours() -> None:
            container = self.host.containers.launch("busybox", sh=WRITE_LINES)
            container.wait()
            made.append(container)

        made: list[lxcwrap.Container] = []
        self.pair(f"log {LINES} lines of 81 bytes / to a file", ours, floor, limit=1.3, runs=10)
        self.alone("read them back as LogLines", lambda: list(made[-1].log_lines()), limit="100 ms", runs=10)
        assert sum(1 for _ in made[-1].log_lines()) == LINES
        for container in made:
            container.remove()

    def stop(self) -> None:
        def stop() -> float:
            container = self.host.containers.launch("busybox", ["sleep", "1000"])
            took = milliseconds(container.stop)
            container.remove()
            return took

        median = statistics.median(stop() for _ in range(self.runs))
        self.say("stop of sleep 1000", f"{median:8.2f} ms   (at most 30 ms)")

    def many(self) -> None:
        count, threads = 200, 4
        made: list[lxcwrap.Container] = []

        def launch() -> None:
            for _ in range(count // threads):
                made.append(self.host.containers.launch("busybox", ["sleep", "1000"]))  # noqa: PERF401  # threads share it

        workers = [threading.Thread(target=launch) for _ in range(threads)]

        def launch_all() -> None:
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

        took = milliseconds(launch_all)
        self.say(f"launch {count} from {threads} threads, each", f"{took / count:8.2f} ms   (at most 12 ms)")
        self.alone("list() of 200", lambda: self.host.containers.list(), limit="5 ms")
        time.sleep(1)
        each = private_memory(made) / count / 1024
        self.say("private memory of an idle container", f"{each:8.0f} KiB  (at most 1024)")
        for container in made:
            container.remove(force=True)

    def imports(self) -> None:
        def python(code: str) -> Act:
            return lambda: quietly([sys.executable, "-c", code])

        floor = "import subprocess, json"
        self.pair(f"import lxcwrap / {floor}", python("import lxcwrap"), python(floor), limit=1.5)


def quietly(command: list[str]) -> None:
    null = subprocess.DEVNULL
    subprocess.run(command, check=True, stdin=null, stdout=null, stderr=null)


def read_rate(stream: IO[bytes] | None) -> float:
    """GB/s of a pipe read to its end."""
    assert isinstance(stream, io.FileIO)
    buffer, total, began = bytearray(1 << 20), 0, time.perf_counter()
    while size := stream.readinto(buffer):
        total += size
    assert total == 1 << 30
    return total / 1e9 / (time.perf_counter() - began)


class floor_container:
    """A plain LXC container that sleeps."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def __enter__(self) -> str:
        where = ["-n", "idle", "-P", str(self.bench.scratch / "lxc")]
        quietly(["lxc-execute", *where, "-f", str(self.bench.config), "-d", "--", "/bin/sleep", "1000"])
        self.where = where
        return "idle"

    def __exit__(self, *_: object) -> None:
        quietly(["lxc-stop", "-k", *self.where])


def make_floor(scratch: Path) -> Path:
    """A busybox root and a minimal configuration for the LXC tools: no network, nothing beyond the
    default."""
    rootfs = scratch / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "tmp", "usr/sbin", "sbin"):
        (rootfs / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", rootfs / "bin/busybox")
    for applet in ("sh", "true", "sleep", "yes", "head"):
        (rootfs / "bin" / applet).symlink_to("busybox")
    (scratch / "lxc").mkdir()
    config = scratch / "floor.conf"
    config.write_text(
        f"lxc.rootfs.path = dir:{rootfs}\nlxc.net.0.type = empty\nlxc.net.0.flags = up\n"
        "lxc.mount.auto = proc:mixed sys:ro\n"
    )
    return config


def private_memory(containers: list[lxcwrap.Container]) -> int:
    """Bytes that the helper processes of these containers have to themselves, the init included."""
    total = 0
    for container in containers:
        init = container.init_pid
        runner = int(status(init, "PPid"))
        monitor = int(status(runner, "PPid"))
        for pid in (init, runner, monitor):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            private = (line for line in text.splitlines() if line.startswith("Private_"))
            total += sum(int(line.split()[1]) for line in private) * 1024
    return total


def status(pid: int | None, key: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{key}:"))


MEASURES = ("run", "exec", "call", "popen", "logs", "stop", "many", "imports")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", nargs="*", choices=MEASURES, default=MEASURES)
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="lxcwrap-bench-", dir="/dev/shm"))
    scratch.chmod(0o711)
    try:
        with Host(scratch / "host") as host:
            host.containers.run("busybox", ["true"])
            bench = Bench(host, scratch, arguments.runs)
            for name in arguments.only:
                getattr(bench, name)()
            host.close(stop_server=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
