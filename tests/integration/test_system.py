"""Systems in containers: systemd and busybox' init boot, run, shut down, and reach no further than others."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Limits, State
from lxcwrap.errors import InvalidSpecError, StartError
from lxcwrap.formats.busybox import build_rootfs
from tests.archives import extended
from tests.polling import eventually

_APPLETS = (
    "sbin/init bin/echo bin/httpd bin/sh bin/cat bin/sleep bin/mount sbin/reboot sbin/poweroff bin/mkdir"
)
_INITTAB = b"""
::sysinit:/bin/echo booted
::respawn:/bin/httpd -f -p 80
::shutdown:/bin/echo going down
"""


@pytest.fixture(scope="module")
def rootfs(shared_root: Path) -> bytes:
    """With busybox' init and a table of what it runs."""
    with Host(shared_root) as host:
        program = (host.images.resolve("busybox").files / "bin/busybox").read_bytes()
    return extended(build_rootfs(program, _APPLETS.split()), {"etc/inittab": _INITTAB})


@pytest.fixture(scope="module")
def busybox(shared_root: Path, rootfs: bytes) -> Iterator[str]:
    """An image of it."""
    with Host(shared_root) as host:
        name = host.images.import_rootfs(io.BytesIO(rootfs), tag="busybox-system:1").tags[0]
    yield name
    with Host(shared_root) as host:
        host.images.remove(name)


@contextmanager
def booted(host: Host, image: str, pids: int | None = None) -> Iterator[Container]:
    """A system that runs, and at the end is killed: its own way to shut down takes seconds."""
    with host.containers.launch(image, init="system", limits=Limits(pids=pids)) as system:
        logged(system, "booted")
        yield system
        system.kill()


def logged(container: Container, text: str) -> None:
    eventually(lambda: text in container.logs())


# --- busybox' init --------------------------------------------------------------------------------------


def test_busybox_init_boots_and_shuts_down(host: Host, busybox: str) -> None:
    """It is PID 1, its console is the log, it restarts what ends, and stop() is an orderly end."""
    with host.containers.launch(busybox, init="system") as system:
        logged(system, "booted")
        assert system.top()[0].argv == ("init",)
        httpd = eventually_running(system, "/bin/httpd")
        system.exec(["/bin/sh", "-c", f"kill {httpd}"])
        assert eventually_running(system, "/bin/httpd", but=httpd)
        assert system.stop(timeout_s=20) == 0
        assert "going down" in system.logs() and "halt" not in system.logs()


def eventually_running(system: Container, program: str, but: int = 0) -> int:
    """The pid, inside, of the process that runs `program`."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [each.pid for each in system.top() if each.argv[:1] == (program,) and each.pid != but]
        return bool(found)

    eventually(look)
    return found[0]


@pytest.mark.parametrize(("command", "exit_code"), [("poweroff", 0), ("reboot", 129)])
def test_a_system_ends_itself(host: Host, busybox: str, command: str, exit_code: int) -> None:
    """Off is 0, a reboot 129 (SIGHUP, as the kernel tells it): it does not start again by itself."""
    with host.containers.launch(busybox, init="system") as system:
        logged(system, "booted")
        system.exec([f"/sbin/{command}"])
        assert (system.wait(timeout_s=20), system.error) == (exit_code, None)
        assert system.state == State.STOPPED
        system.start()  # and it can be started again
        system.kill()


def test_a_system_may_do_what_is_its_own(host: Host, busybox: str) -> None:
    """Mount, divide its cgroup, use a console."""
    with booted(host, busybox) as system:
        system.exec(["/bin/mount", "-t", "tmpfs", "none", "/mnt"])
        system.exec(sh="mkdir /sys/fs/cgroup/part && echo $$ > /sys/fs/cgroup/part/cgroup.procs")
        assert system.exec(["/bin/cat", "/proc/1/cgroup"]).stdout.endswith("0::/\n")
        assert system.path("/dev/console").exists()


def test_a_system_reaches_no_further(host: Host, busybox: str) -> None:
    """Root there is nobody here: no device, setting or cgroup of the host's; its limits are not its own."""
    with booted(host, busybox, pids=20) as system:
        refused = {
            "mount -t cgroup -o pids pids /mnt && echo max > /mnt/pids.max": "pids.max",
            "echo 1000 > /sys/fs/cgroup/cgroup.max.depth": "cgroup.max.depth",
            "echo x > /proc/sys/kernel/core_pattern": "core_pattern",
            "echo b > /proc/sysrq-trigger": "sysrq",
            "mount -t ext4 /dev/vda /mnt": "a disk",
            "mount -o remount,rw /proc/sys; echo x > /proc/sys/kernel/core_pattern": "unmasked",
        }
        for command, what in refused.items():
            assert system.exec(sh=command, check=False).exit_code, what
        done = system.exec(sh="n=0; while n=$((n+1)); do sleep 9 & done", check=False)
        assert "fork" in done.stderr and system.stats().pids_limit == 20


@pytest.mark.parametrize("no_new_privs", [False, True])
def test_a_system_cannot_change_how_it_is_entered(host: Host, busybox: str, no_new_privs: bool) -> None:
    """Its root mounts others over our init and filter: exec() is in its cgroups, and filtered, still."""
    with host.containers.launch(busybox, init="system", no_new_privs=no_new_privs) as system:
        confinement = ["/bin/cat", "/proc/self/status"]
        before = system.exec(confinement).stdout
        for name in ("init", "filter.bpf") if no_new_privs else ("init",):
            system.exec(["/bin/mount", "--bind", "/bin/busybox", f"/dev/.lxcwrap/{name}"])
        with system.popen(["/bin/sleep", "9"]) as process:
            assert process.pid in system._machinery.cgroups.pids(system.id)
            process.kill()
        after = system.exec(confinement).stdout
        for line in ("Seccomp", "CapBnd", "NoNewPrivs"):
            assert [each for each in before.splitlines() if each.startswith(line)] == [
                each for each in after.splitlines() if each.startswith(line)
            ]
        system.kill()


def test_a_system_cannot_make_what_cannot_be_removed(host: Host, busybox: str) -> None:
    """Cgroups as deep as they may be, with names as long: all are gone with the container."""
    with booted(host, busybox) as system:
        script = "cd /sys/fs/cgroup; n=$(printf '%0255d' 0); while mkdir $n; do cd $n; done 2>/dev/null; pwd"
        assert 10 < system.exec(sh=script).stdout.count("/") < 18


def test_systems_are_apart(host: Host, busybox: str) -> None:
    """Each is root of a range of its own, and sees its own processes."""
    with booted(host, busybox) as one, booted(host, busybox) as two:
        owners = {each: Path(f"/proc/{each.init_pid}").stat().st_uid for each in (one, two)}
        assert len(set(owners.values())) == 2 and 0 not in owners.values()
        kill = f"kill -9 {two.init_pid}"
        assert one.exec(sh=kill, check=False).exit_code and two.state == State.RUNNING


def test_a_killed_system_leaves_nothing(host: Host, busybox: str) -> None:
    """kill() is as with any container; so is a pause."""
    with booted(host, busybox) as system:
        system.pause()
        assert system.state == State.PAUSED
        system.unpause()
        system.kill()
        assert system.wait(timeout_s=10) == 137
        system.start()


_ON_V2 = """
import os, subprocess, sys
from lxcwrap import Host
if os.path.exists("/sys/fs/cgroup/unified"):
    for words in ("--make-rprivate /", "--bind /sys/fs/cgroup/unified /sys/fs/cgroup"):
        subprocess.run(["mount", *words.split()], check=True)
with Host(sys.argv[1]) as host:
    host.images.import_rootfs(sys.stdin.buffer, tag="system:1")
    with host.containers.launch("system:1", init="system") as system:
        next(line for line in system.log_lines(follow=True) if "booted" in line.text)
        system.exec(sh="mkdir /sys/fs/cgroup/part && echo $$ > /sys/fs/cgroup/part/cgroup.procs")
        print(host._machinery.cgroups.layout, system.exec(["/bin/cat", "/proc/1/cgroup"]).stdout.split()[-1])
        system.kill()
    host.close(stop_server=True)
"""


def test_a_system_boots_on_cgroup_v2(fresh_root: Path, rootfs: bytes) -> None:
    """And nothing else: a hybrid host can show its unified hierarchy alone, in a mount namespace."""
    command = ["unshare", "--mount", sys.executable, "-W", "error", "-c", _ON_V2, str(fresh_root)]
    done = subprocess.run(command, input=rootfs, capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (b"v2 0::/\n", b"")


# --- what is refused ------------------------------------------------------------------------------------


def test_what_is_no_system_is_refused(host: Host, busybox: str) -> None:
    """Before there is a container."""
    before = len(host.containers)
    for options in ({"privileged": True}, {"user": "nobody"}, {"entrypoint": ["x"]}):
        with pytest.raises(InvalidSpecError):
            host.containers.launch(busybox, init="system", **options)
    with pytest.raises(InvalidSpecError):
        host.containers.run(busybox, init="system")
    with pytest.raises(InvalidSpecError, match="no init"):
        host.containers.launch(busybox, ["/sbin/systemd"], init="system")
    assert len(host.containers) == before


def test_an_init_that_is_no_program_fails_at_the_start(host: Host, busybox: str) -> None:
    """As any command."""
    with host.containers.create(busybox, init="system") as system:
        system.path("/sbin/init").unlink()
        with pytest.raises(StartError):
            system.start()


# --- systemd --------------------------------------------------------------------------------------------


@pytest.mark.network
@pytest.mark.slow
def test_systemd_boots(host: Host, debian_system: str) -> None:
    """Debian comes up without a failed unit, its services have cgroups of their own; stop() shuts it down."""
    with host.containers.launch(debian_system, init="system", limits=Limits(memory="512MiB")) as system:
        eventually(lambda: state_of(system) in ("running", "degraded"), within_s=30)
        failed = system.exec(["systemctl", "--failed", "--plain", "--no-legend"]).stdout
        assert (state_of(system), failed) == ("running", "")
        assert "Reached target" in system.logs() and system.top()[0].argv == ("/sbin/init",)
        assert system.exec(["systemd-detect-virt"]).stdout == "lxc\n"
        unit = system.exec(["systemd-run", "--wait", "--pipe", "--quiet", "cat", "/proc/self/cgroup"]).stdout
        assert re.search(r"^0::/system\.slice/run-.*\.service$", unit, re.MULTILINE)
        assert "journald" in system.exec(["journalctl", "--no-pager", "-u", "systemd-journald"]).stdout
        assert system.stop(timeout_s=20) == 0
        assert "Halting system" in system.logs()


def state_of(system: Container) -> str:
    return system.exec(["systemctl", "is-system-running"], check=False).stdout.strip()
