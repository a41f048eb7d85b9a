"""First steps with containers. Needs root: sudo .venv/bin/python examples/quickstart.py"""

import os
from itertools import islice

import lxcwrap
from lxcwrap import CommandFailedError, Host, Limits


def step(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m")


def one_off() -> None:
    step("Run one command, as with subprocess.run")
    done = lxcwrap.run("busybox", ["echo", "Hello from a container"])
    print(done.stdout, end="")

    step("It has processes and a network of its own, and no power over the machine")
    print(lxcwrap.run("busybox", sh="ps; ip addr; mount -t tmpfs none /mnt 2>&1 || true").stdout, end="")

    step("Failures are exceptions")
    try:
        lxcwrap.run("busybox", sh="echo 'no such luck' >&2; exit 3")
    except CommandFailedError as error:
        print(f"exit code {error.exit_code}, stderr {error.stderr!r}")


def long_lived(host: Host) -> None:
    step("Keep a container running, within limits")
    ticking = "while echo tick; do sleep 0.1; done"
    limits = Limits(memory="64MiB", cpus=0.5, pids=20)
    with host.containers.launch("busybox", sh=ticking, name="clock", limits=limits) as clock:
        print(f"{clock.name} is {clock.state}, its first process is {clock.init_pid} on the host")

        step("Look inside: run a command, call a Python function, read a file")
        print(clock.exec(["nproc"]).stdout, end="")
        print(clock.call(os.listdir, "/"))
        print(clock.path("/etc/hostname").read_text(), end="")

        step("Change its limits while it runs")
        clock.update(Limits(memory="32MiB"))
        print(f"{clock.stats().memory_usage} of {clock.stats().memory_limit} bytes used")

        step("Read what it wrote")
        for line in islice(clock.log_lines(follow=True), 3):
            print(line.time.time(), line.stream, line.text)

    print(f"stopped and removed: {'clock' not in host.containers}")


if __name__ == "__main__":
    one_off()
    with Host() as host:
        long_lived(host)
