"""What a container is kept from by default, seen by its main process, an exec and a call alike."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Host, Limits, Mount
from lxcwrap.ids import FIRST_BASE, LAST_BASE, RANGE_SIZE
from tests.integration import probing
from tests.integration.probing import Report, report
from tests.polling import eventually

# What Docker grants: AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW
# SETFCAP SETGID SETPCAP SETUID SYS_CHROOT.
FOURTEEN = "00000000a80425fb"
NONE = "0000000000000000"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
WHERE = ("start", "exec", "call")


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Mount:
    return Mount.bind(probing.compile_probe(tmp_path_factory.mktemp("probe")), "/probe", read_only=True)


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    """One for all tests here, as it holds what lasts as long as they do."""
    with Host(shared_root) as host:
        yield host


@pytest.fixture(scope="module")
def container(host: Host, probe: Mount) -> Iterator[Container]:
    """One that the tests here look at, and do not change."""
    with host.containers.launch(
        "busybox", ["sleep", "600"], mounts=[probe], env={"GIVEN": "1"}, hostname="inside"
    ) as container:
        yield container


@pytest.fixture(scope="module")
def reports(host: Host, container: Container, probe: Mount) -> dict[str, Report]:
    os.environ["LXCWRAP_TEST_SECRET"] = "of the host"
    started = host.containers.run(
        "busybox", ["/probe"], mounts=[probe], env={"GIVEN": "1"}, hostname="inside"
    ).stdout
    child, own = container.call(probing.probe), container.call(probing.look_around)
    called = {key: value for key, value in report(child).items() if key[0] not in ("env", "fd")}
    del os.environ["LXCWRAP_TEST_SECRET"]
    return {
        "start": report(started),
        "exec": report(container.exec(["/probe"]).stdout),
        "call": Report({**called, **report(own)}),
    }


@pytest.fixture(params=WHERE)
def seen(request: pytest.FixtureRequest, reports: dict[str, Report]) -> Report:
    return reports[request.param]


# --- what it is -------------------------------------------------------------------------------------------


def test_ids_are_of_a_range_of_its_own(seen: Report) -> None:
    """Root inside is a user without a name or rights outside."""
    inner, base, size = map(int, seen["id", "map"].split())
    assert (inner, size) == (0, RANGE_SIZE)
    assert FIRST_BASE <= base < LAST_BASE


def test_capabilities_are_the_fourteen(seen: Report) -> None:
    """Of the container's own user namespace, and none that exec would keep or hand on besides."""
    names = ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb")
    assert [seen["status", name] for name in names] == [FOURTEEN, FOURTEEN, FOURTEEN, NONE, NONE]


def test_no_privileges_and_no_calls_can_be_gained(seen: Report) -> None:
    """no_new_privs, and one seccomp filter."""
    assert [seen["status", name] for name in ("NoNewPrivs", "Seccomp", "Seccomp_filters")] == ["1", "2", "1"]


def test_groups_and_signals_are_those_of_nobody_outside(seen: Report) -> None:
    """Whatever the caller has."""
    assert seen["status", "Groups"].split() in ([], ["0"])
    assert seen["status", "SigBlk"] == NONE
    assert seen["status", "Umask"] == "0022"


def test_namespaces_are_its_own(seen: Report, reports: dict[str, Report]) -> None:
    """All but the clock's; those of an exec and a call are the container's."""
    outside = {name: os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    shared = {name for name, link in seen.of("ns").items() if link == outside[name]}
    assert shared == {"time", "time_for_children"}
    assert reports["exec"].of("ns") == reports["call"].of("ns")


def test_the_namespaces_are_those_of_the_main_process(
    container: Container, reports: dict[str, Report]
) -> None:
    """An exec is inside."""
    assert container.init_pid
    ours = {name: os.readlink(f"/proc/{container.init_pid}/ns/{name}") for name in reports["exec"].of("ns")}
    assert reports["exec"].of("ns") == ours


def test_descriptors_are_the_standard_streams(reports: dict[str, Report]) -> None:
    """A called function has the pipe for its result besides."""
    assert set(reports["start"].of("fd")) == {"0", "1", "2"}
    assert set(reports["exec"].of("fd")) == {"0", "1", "2"}
    assert len(reports["call"].of("fd").keys() - {"0", "1", "2"}) == 1


def test_the_environment_is_what_was_asked_for(reports: dict[str, Report]) -> None:
    """Nothing of the caller's or the fork-server's."""
    asked = {"PATH": PATH, "GIVEN": "1"}
    assert reports["call"].of("env") == asked
    assert (
        reports["start"].of("env")
        == reports["exec"].of("env")
        == {**asked, "HOME": "/root", "container": "lxc"}
    )


def test_the_host_name_is_its_own(seen: Report) -> None:
    assert seen["name", "host"] == "inside"


def test_the_first_process_shows_what_was_asked_for(container: Container) -> None:
    """/proc/1 can be read inside."""
    environment = container.exec(["cat", "/proc/1/environ"]).stdout_bytes
    assert set(environment.rstrip(b"\0").split(b"\0")) == {
        f"PATH={PATH}".encode(),
        b"GIVEN=1",
        b"container=lxc",
    }
    words = container.exec(["cat", "/proc/1/cmdline"]).stdout.split("\0")
    assert (words[0], words[-4:]) == ("/dev/.lxcwrap/init", ["--", "sleep", "600", ""])


# --- what it may do ---------------------------------------------------------------------------------------


def test_calls_that_reach_the_kernel_are_refused(seen: Report) -> None:
    """For root inside; clone3 so that programs fall back to clone, whose flags can be looked at."""
    wanted = {name: errno.ENOSYS if name == "clone3" else errno.EPERM for name in seen.of("call")}
    assert len(wanted) > 35
    assert {name: int(value) for name, value in seen.of("call").items()} == wanted


def test_device_nodes_cannot_be_made(seen: Report) -> None:
    """A FIFO can."""
    assert {name: int(value) for name, value in seen.of("node").items()} == {
        "block": errno.EPERM,
        "char": errno.EPERM,
        "fifo": 0,
    }


def opened(container: Container, where: str, how: str, *paths: str) -> dict[str, int]:
    """errno of opening each to "read" or "write"."""
    words = ("open", *paths)
    text = (
        container.call(probing.probe, *words)
        if where == "call"
        else container.exec(["/probe", *words]).stdout
    )
    return {path: int(result) for path, result in report(text).of(how).items()}


@pytest.mark.parametrize("where", ["exec", "call"])
def test_what_tells_of_the_host_is_masked(container: Container, where: str) -> None:
    """Memory, keys and timers of the kernel cannot be read: there is nothing, or an empty file."""
    names = ("kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "kpagecount")
    present = (f"/proc/{name}" for name in names if os.path.exists(f"/proc/{name}"))
    read = opened(container, where, "read", *present)
    assert read and set(read.values()) <= {errno.ENODATA, errno.EACCES, errno.EPERM}
    masked = ("/proc/acpi", "/proc/scsi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap")
    found = container.exec(["find", *filter(os.path.isdir, masked), "-mindepth", "1"])
    assert found.stdout == ""


@pytest.mark.parametrize("where", ["exec", "call"])
def test_what_configures_the_kernel_is_read_only(container: Container, where: str) -> None:
    """Also for root inside."""
    files = (
        *("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/kernel/msgmax"),
        *("/proc/sys/vm/panic_on_oom", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/suid_dumpable"),
        *("/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/power/state"),
        *("/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled"),
        *("/dev/.lxcwrap/init", "/dev/.lxcwrap/filter.bpf"),
    )
    present = [path for path in files if os.path.exists(path) or path.startswith("/dev")]
    written = opened(container, where, "write", *present)
    assert len(written) > 8
    assert set(written.values()) <= {errno.EROFS, errno.EACCES, errno.ENOENT}
    # Root inside does not own most of them. It owns this one, so it is the mount that refuses.
    assert written["/proc/sys/kernel/msgmax"] == errno.EROFS


def test_masks_and_mounts_cannot_be_undone(container: Container) -> None:
    """Nor moved away, nor hidden."""
    lines = """
        umount /proc/keys; umount /dev/.lxcwrap; umount -l /proc; mount -o bind /tmp /dev/.lxcwrap
        mount -o remount,rw /proc/sys; mount -o remount,rw /sys
        mount -t proc proc /tmp; mount -t sysfs sys /tmp; mount -t tmpfs t /tmp
        mv /dev/.lxcwrap /dev/x; rm -rf /dev/.lxcwrap; touch /dev/.lxcwrap/x; mv /dev /y; mv /proc /y
        chmod 755 /dev/.lxcwrap/init
    """
    for command in filter(str.strip, lines.replace("\n", ";").split(";")):
        assert container.exec(sh=command, check=False).exit_code != 0, command


def test_devices_are_those_every_program_needs(container: Container) -> None:
    """/dev holds these and nothing else, and what is a device there is of the known kinds."""
    found = container.exec(sh="cd /dev && find . ! -type d ! -path './.lxcwrap/*' | sort").stdout.split()
    links = {"./fd", "./stdin", "./stdout", "./stderr"}
    nodes = {f"./{name}" for name in ["full", "null", "ptmx", "pts/ptmx", "random", "tty", "urandom", "zero"]}
    assert set(found) == links | nodes | {"./.lxc-boot-id"}
    assert container.exec(["ls", "-A", "/dev/.lxcwrap"]).stdout.split() == ["filter.bpf", "init"]


# --- whom it can reach ------------------------------------------------------------------------------------


def test_processes_of_the_host_are_out_of_sight_and_reach(container: Container) -> None:
    """There are its own alone."""
    names = container.exec(["ls", "/proc"]).stdout.split()
    assert sum(name.isdecimal() for name in names) <= 4
    assert container.exec(["kill", "-0", str(os.getpid())], check=False).exit_code != 0


def test_the_network_is_a_loopback_of_its_own(container: Container) -> None:
    """It is up; sockets of the host are not there, also not those without a file."""
    assert container.exec(["ls", "/sys/class/net"]).stdout.split() == ["lo"]
    assert "LOOPBACK,UP" in container.exec(["ip", "link", "show", "lo"]).stdout
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name := f"\0lxcwrap-test-{os.getpid()}")
        listener.listen()
        assert name[1:] in Path("/proc/net/unix").read_text()
        assert name[1:] not in container.exec(["cat", "/proc/net/unix"]).stdout


def test_two_containers_share_layers_and_no_ids(host: Host, container: Container) -> None:
    """The image's files are root's in both; what one writes belongs to its own range on the disk."""
    with host.containers.launch("busybox", ["sleep", "60"]) as other:
        bases = []
        for each in (container, other):
            assert each.exec(["stat", "-c", "%u:%g", "/bin/busybox"]).stdout == "0:0\n"
            each.exec(sh="touch /tmp/root; touch /tmp/user; chown 1000:50 /tmp/user")
            upper = host.root / "containers" / each.id / "upper" / "tmp"
            base = (upper / "root").stat().st_uid
            status = (upper / "user").stat()
            assert (status.st_uid - base, status.st_gid - base) == (1000, 50)
            assert Path(f"/proc/{each.init_pid}").stat().st_uid == base
            each.exec(["rm", "/tmp/root", "/tmp/user"])
            bases.append(base)
        assert abs(bases[0] - bases[1]) >= RANGE_SIZE


def test_the_first_process_cannot_be_killed_from_inside(container: Container) -> None:
    """It shrugs off what its own root sends; what it forwards is another matter."""
    for signal in ("KILL", "STOP"):
        container.exec(["kill", f"-{signal}", "1"])
    assert container.exec(["echo", "alive"]).stdout == "alive\n"


def test_set_user_id_programs_gain_nothing(container: Container) -> None:
    """A user inside stays who it is."""
    container.exec(sh="cp /probe /tmp/suid && chmod 4755 /tmp/suid")
    assert container.exec(["/tmp/suid", "ids"], user=1000).stdout == "1000 1000\n"
    container.exec(["rm", "/tmp/suid"])


# --- what passes through ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tracer(host: Host, probe: Mount) -> Iterator[Container]:
    """A container with a capability more: to trace what is not its own."""
    with host.containers.launch(
        "busybox", ["sleep", "600"], mounts=[probe], cap_add=["SYS_PTRACE"]
    ) as container:
        yield container


def test_a_called_function_cannot_be_read_or_traced(container: Container, tracer: Container) -> None:
    """Its process has memory and libraries of the host; a capability inside is none over it."""
    script = """
        until [ -e /tmp/ready ]; do sleep 0.01; done
        /probe trace $(cat /tmp/ready); touch /tmp/go
    """
    for each in (container, tracer):
        with each.popen(["sh", "-c", script], stdout=subprocess.PIPE) as tracing:
            each.call(probing.wait_for, "/tmp/go", "/tmp/ready")
            results = report(tracing.communicate()[0].decode()).of("trace")
        assert len(results) == 11
        assert set(map(int, results.values())) <= {errno.EACCES, errno.EPERM}
        each.exec(["rm", "/tmp/go", "/tmp/ready"])


def test_what_enters_by_exec_cannot_be_traced_before_it_is_confined(
    container: Container, tracer: Container
) -> None:
    """Init cannot be read inside, so it cannot be traced: here it hangs where it would load its filter."""
    script = """
        mkfifo /tmp/filter; /dev/.lxcwrap/init -x -s /tmp/filter -- true & pid=$!
        until grep -qx init /proc/$pid/comm; do :; done
        /probe trace $pid; kill -9 $pid; rm /tmp/filter
    """
    for each in (container, tracer):
        assert each.exec(["cat", "/dev/.lxcwrap/init"], check=False).exit_code != 0
        results = report(each.exec(sh=script).stdout).of("trace")
        assert set(map(int, results.values())) <= {errno.EACCES, errno.EPERM}


def test_what_enters_is_never_seen_as_a_copy_of_the_fork_server(tracer: Container) -> None:
    """A process inside that looks into all newcomers finds commands only. A race: were something wrong, about
    every fourth exec would show it."""
    with tracer.popen(["/probe", "catch", "/tmp/end"], stdout=subprocess.PIPE) as catching:
        for _ in range(25):
            tracer.exec(["true"])
        tracer.exec(["touch", "/tmp/end"])
        caught = report(catching.communicate()[0].decode()).of("caught")
    assert [program for program in caught if not program.startswith("/bin/")] == []
    tracer.exec(["rm", "/tmp/end"])


@pytest.mark.parametrize("user", [0, 1000])
def test_standard_streams_can_be_opened_as_files(container: Container, host: Host, user: int) -> None:
    """As programs do that can log to a file only."""
    line = "echo out > /dev/stdout; echo error > /dev/stderr; cat < /dev/stdin"
    for done in (
        container.exec(sh=line, input="in\n", user=user),
        host.containers.run("busybox", sh=line, input="in\n", user=user),
    ):
        assert (done.stdout, done.stderr) == ("out\nin\n", "error\n")


def test_the_output_of_the_first_process_can_be_written_to(host: Host) -> None:
    """/proc/1/fd/1 is how programs that log to a file are made to log to the container's output."""
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        container.exec(sh="echo by another way > /proc/1/fd/1")
        eventually(lambda: container.logs() == "by another way\n")


# --- what it can use up -----------------------------------------------------------------------------------


def test_a_fork_bomb_stays_within_its_limit(host: Host) -> None:
    """And the limit cannot be reached from inside."""
    with host.containers.launch("busybox", ["sleep", "60"], limits=Limits(pids=20)) as container:
        bomb = container.exec(sh="while sleep 60 & do :; done", check=False)
        assert "can't fork" in bomb.stderr
        assert 15 < container.stats().pids <= 20
        container.kill()
    assert host.containers.run("busybox", ["ls", "-A", "/sys/fs/cgroup"]).stdout == ""


def test_output_without_end_takes_little_of_the_disk(host: Host) -> None:
    """Logs are rotated."""
    script = "yes | head -c 1000000; exec sleep 60"
    with host.containers.launch("busybox", sh=script, log_max_bytes=65536, log_max_files=2) as container:
        logs = host.root / "containers" / container.id / "logs"
        eventually(lambda: int(max(os.listdir(logs))) > 14)
        assert sum(file.stat().st_size for file in logs.iterdir()) <= 2 * 65536
