"""What displays cost: tables of many containers, and statistics that are drawn live.

    python benchmarks/display.py [--containers 200] [--seconds 20]

Needs root. Live statistics are measured in a real Jupyter kernel, as the processor time of that process; the
floor beside them is to read the same without drawing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from lxcwrap import Host

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.kernels import running_kernel

LIVE = 20


def milliseconds(act: Callable[[], object], runs: int = 15) -> float:
    act()
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        act()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def tables(host: Host, count: int) -> None:
    """Of so many that run."""
    with ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        started = pool.map(lambda _: host.containers.launch("busybox", ["sleep", "100000"]), range(count))
        for container in started:
            stack.callback(container.remove, force=True)
        say(f"table of {count} containers", milliseconds(host.containers._repr_html_), 20)
        say(
            "  with plain text, as IPython asks for it", milliseconds(host.containers._repr_mimebundle_), None
        )
        one = next(iter(host.containers))
        say("one of them", milliseconds(one._repr_mimebundle_), None)


def first_display() -> None:
    """In a new process, after `import lxcwrap` and a host."""
    code = """
import time, lxcwrap
done = lxcwrap.Completed(argv=("x",), exit_code=0, stdout_bytes=b"", stderr_bytes=b"")
began = time.perf_counter()
done._repr_html_()
print(time.perf_counter() - began)
"""
    times = [float(subprocess.check_output([sys.executable, "-c", code])) * 1000 for _ in range(5)]
    say("the first display in a process", statistics.median(times), None)


def live(host: Host, seconds: float) -> None:
    """Processor time of a kernel in which nothing else goes on."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as scratch:
        for _ in range(LIVE):
            stack.enter_context(host.containers.launch("busybox", ["sleep", "100000"]))
        kernel = stack.enter_context(running_kernel(host.root, Path(scratch)))
        kernel.run("import time")
        spent = f"(lambda a: (time.sleep({seconds}), time.process_time() - a)[1])(time.process_time())"
        idle = kernel.value(spent) / seconds
        kernel.run("live = host.containers.live_stats(interval_s=1.0)\ntime.sleep(62)")
        busy = kernel.value(spent) / seconds
        kernel.run("live.stop()")
        looks = "[each.stats() for each in host.containers]"
        kernel.run(looks)
        floor = kernel.value(f"(lambda a: ({looks}, time.process_time() - a)[1])(time.process_time())")
    what = f"live statistics of {LIVE} containers, a sample a second"
    say(f"{what}: of a core", 100 * (busy - idle), 1, "%")
    say("  of that, to read them", 100 * floor, None, "%")


def say(what: str, figure: float, most: float | None, unit: str = "ms") -> None:
    limit = f"   (at most {most} {unit})" if most else ""
    print(f"{what:66} {figure:8.2f} {unit}{limit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="lxcwrap-bench-") as directory:
        Path(directory).chmod(0o711)
        with Host(directory) as host:
            first_display()
            live(host, given.seconds)
            tables(host, given.containers)
            host.close(stop_server=True)


if __name__ == "__main__":
    main()
