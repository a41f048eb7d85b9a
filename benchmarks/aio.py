"""Runs in one event loop, beside as many by threads: how long each takes, and how long the loop was held up.

    python benchmarks/aio.py [--runs 500]

Needs root. Everything lies in /dev/shm, so that the disk is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lxcwrap import Host, aio

TRUE = ("busybox", ["true"])


class Pulse:
    """Ticks every millisecond; `late_ms` are by how much each tick was."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []

    async def __aenter__(self) -> Pulse:
        self._task = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _beat(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.late_ms.append((time.perf_counter() - began - 0.001) * 1000)

    def __str__(self) -> str:
        late = sorted(self.late_ms)
        return f"loop late by {late[len(late) * 99 // 100]:.1f} ms (99 %), {late[-1]:.1f} ms at the most"


def by_threads(host: Host, runs: int, threads: int) -> float:
    """Milliseconds each."""
    with ThreadPoolExecutor(threads) as pool:
        began = time.perf_counter()
        list(pool.map(lambda _: host.containers.run(*TRUE), range(runs)))
        return (time.perf_counter() - began) / runs * 1000


async def by_loop(host: Host, runs: int) -> tuple[float, Pulse]:
    """Milliseconds each."""
    containers = aio.Host.of(host).containers
    async with Pulse() as pulse:
        began = time.perf_counter()
        await asyncio.gather(*(containers.run(*TRUE) for _ in range(runs)))
        return (time.perf_counter() - began) / runs * 1000, pulse


async def waiting(host: Host, count: int) -> tuple[float, Pulse]:
    """Seconds for `count` commands that take as long as starting them all."""
    containers = aio.Host.of(host).containers
    async with Pulse() as pulse:
        began = time.perf_counter()
        await asyncio.gather(*(containers.run("busybox", ["sleep", "5"]) for _ in range(count)))
        return time.perf_counter() - began, pulse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=500)
    runs = parser.parse_args().runs
    scratch = Path(tempfile.mkdtemp(prefix="lxcwrap-bench-", dir="/dev/shm"))
    scratch.chmod(0o711)
    try:
        with Host(scratch / "host") as host:
            for _ in range(5):
                host.containers.run(*TRUE)
            for threads in (1, 3):
                each = by_threads(host, runs // 2, threads)
                print(f"run true, {runs // 2} by {threads} threads: {each:6.2f} ms each", flush=True)
            each, pulse = asyncio.run(by_loop(host, runs))
            print(
                f"run true, {runs} in one event loop: {each:6.2f} ms each (at most 15); {pulse} (at most 20)"
            )
            took, pulse = asyncio.run(waiting(host, 100))
            print(f"run sleep 5, 100 in one event loop: {took:.1f} s for all; {pulse}")
            host.close(stop_server=True)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
