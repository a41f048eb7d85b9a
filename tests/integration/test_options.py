"""Each option of `run`, `launch` and `create`, as the processes inside see it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lxcwrap import Container, Device, Host, Limits, Mount, Ulimit
from lxcwrap.errors import CommandFailedError, InvalidSpecError, StartError
from tests.polling import eventually


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


@pytest.fixture
def shared(roots: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory of the host to bind."""
    import shutil

    path = roots / "shared-with-containers"
    path.mkdir()
    yield path
    shutil.rmtree(path)


def says(host: Host, script: str, **options: Any) -> str:
    """What a shell line writes under these options."""
    return host.containers.run("busybox", sh=script, **options).stdout.strip()


# --- who and where ---


def test_hostname(host: Host) -> None:
    """Also in /etc/hosts; by default the beginning of the id."""
    assert says(
        host, "hostname; cat /etc/hostname; getent hosts web 2>&1 || grep web /etc/hosts", hostname="web"
    ).split()[:2] == ["web", "web"]
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        assert container.exec(["hostname"]).stdout.strip() == container.id[:12]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({}, "0 0 0"),
        ({"user": "nobody"}, "65534 65534 65534"),
        ({"user": 1000}, "1000 0 0"),
        ({"user": "1000:2000"}, "1000 2000 2000"),
        ({"user": "nobody:root"}, "65534 0 0"),
        ({"user": "1000:1000", "groups": [7, "root"]}, "1000 1000 1000 7 0"),
        ({"user": "0:0", "groups": ["nogroup"]}, "0 0 0 65534"),
    ],
)
def test_user_and_groups(host: Host, options: dict[str, Any], ids: str) -> None:
    """By name and number; for exec too."""
    ask = "echo $(id -u) $(id -g) $(id -G)"
    expected = ids.split()
    for answer in (says(host, ask, **options), exec_in(host, ask, **options)):
        uid, gid, *groups = answer.split()
        assert ([uid, gid], sorted(groups)) == (expected[:2], sorted(expected[2:]))


def exec_in(host: Host, script: str, **options: Any) -> str:
    """What a shell line in a container with these options writes."""
    with host.containers.launch("busybox", ["sleep", "1000"], **options) as container:
        return container.exec(sh=script).stdout.strip()


def test_unknown_users_and_groups_are_told(host: Host) -> None:
    """By their names."""
    with pytest.raises(CommandFailedError, match="stranger"):
        host.containers.run("busybox", ["true"], user="stranger")
    with pytest.raises(CommandFailedError, match="strangers"):
        host.containers.run("busybox", ["true"], groups=["strangers"])


def test_env(host: Host) -> None:
    """Added to the image's; any text, with a PATH always."""
    odd = "a b\n'\"$X ü="
    assert says(host, 'printf %s "$ODD"', env={"ODD": odd}) == odd
    assert says(host, "echo $PORT $HOME", env={"PORT": 80}).startswith("80")
    assert "/bin" in says(host, "echo $PATH")


def test_home_is_the_users(host: Host) -> None:
    """As in Docker."""
    assert says(host, "echo $HOME") == "/root"


def test_cwd(host: Host) -> None:
    """Made when it is missing, belonging to root inside."""
    assert says(host, "pwd; stat -c %u:%g .", cwd="/srv/new/dir").split() == ["/srv/new/dir", "0:0"]
    assert says(host, "pwd", cwd="/etc") == exec_in(host, "pwd", cwd="/etc") == "/etc"
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", cwd="relative")


def test_labels(host: Host) -> None:
    """Kept for others to read."""
    with host.containers.create("busybox", labels={"app": "web", "tier": "1"}) as container:
        assert container.labels == {"app": "web", "tier": "1"}


def test_entrypoint(host: Host) -> None:
    """Goes before the command; an empty list takes the image's away."""
    assert host.containers.run("busybox", ["a", "b"], entrypoint=["echo", "first"]).stdout == "first a b\n"
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", entrypoint=[])


def test_stop_signal(host: Host) -> None:
    """What `stop` sends."""
    script = "trap 'exit 3' USR1; trap '' TERM; echo ready; while :; do sleep 0.01; done"
    with host.containers.launch("busybox", sh=script, stop_signal="USR1") as container:
        eventually(lambda: "ready" in container.logs())
        assert container.stop(timeout_s=20) == 3


def test_init(host: Host) -> None:
    """By default ours is PID 1 and reaps; without it the command itself is."""
    assert says(host, "echo $$") != "1"
    assert says(host, "echo $$", init=False) == "1"
    orphan = "(sleep 0.05 & exec true); sleep 0.2; ps -o stat,comm | grep -c ^Z"
    assert host.containers.run("busybox", sh=orphan, check=False).stdout.strip() == "0"


def test_oom_score_adj(host: Host) -> None:
    """Of all its processes."""
    ask = "cat /proc/self/oom_score_adj"
    assert says(host, ask, oom_score_adj=321) == exec_in(host, ask, oom_score_adj=321) == "321"


def test_ulimits(host: Host) -> None:
    """Soft and hard; None is unlimited; for exec too."""
    limits = [
        Ulimit(name="nofile", soft=123, hard=456),
        Ulimit(name="core", soft=0, hard=0),
        Ulimit(name="cpu"),
    ]
    for answer in (
        says(host, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -t", ulimits=limits),
        exec_in(host, "ulimit -n; ulimit -Hn; ulimit -c; ulimit -t", ulimits=limits),
    ):
        assert answer.split() == ["123", "456", "0", "unlimited"]


def test_sysctls(host: Host) -> None:
    """Of its network and IPC; nothing of the host's changes, and those of the host are refused."""
    before = Path("/proc/sys/kernel/shmmni").read_text()
    settings = {
        "net.ipv4.ip_forward": 1,
        "net.core.somaxconn": "77",
        "kernel.shmmni": 99,
        "fs.mqueue.msg_max": 9,
    }
    names = " ".join(f"/proc/sys/{name.replace('.', '/')}" for name in settings)
    assert says(host, f"cat {names}", sysctls=settings).split() == ["1", "77", "99", "9"]
    assert Path("/proc/sys/kernel/shmmni").read_text() == before
    with pytest.raises(InvalidSpecError):
        host.containers.create("busybox", sysctls={"kernel.panic": 1})
    with pytest.raises(StartError, match=r"net\.no\.such"):
        host.containers.run("busybox", ["true"], sysctls={"net.no.such": 1})


def test_extra_hosts(host: Host) -> None:
    """Found by name."""
    hosts = {"db": "10.1.2.3", "six.example.org": "fd00::1"}
    assert says(host, "grep -wE 'db|six' /etc/hosts", extra_hosts=hosts).split() == [
        "10.1.2.3", "db", "fd00::1", "six.example.org"]  # fmt: skip


# --- rights ---


def test_capabilities(host: Host) -> None:
    """Added to and dropped from the usual 14."""

    def bits(**options: Any) -> int:
        return int(says(host, "grep CapEff /proc/self/status", **options).split()[1], 16)

    chown, net_admin = 1 << 0, 1 << 12
    assert bits().bit_count() == 14 and bits() & chown and not bits() & net_admin
    assert bits(cap_add=["net_admin"]) == bits() | net_admin
    assert bits(cap_add=["CAP_NET_ADMIN"], cap_drop=["ALL"]) == net_admin
    assert bits(cap_drop=["ALL"]) == 0
    assert bits(cap_drop=["CHOWN"]) == bits() & ~chown
    with pytest.raises(InvalidSpecError, match="NET_ADMINISTRATION"):
        host.containers.create("busybox", cap_add=["NET_ADMINISTRATION"])


@pytest.mark.parametrize("user", ["0", "1000:1000", "nobody"])
def test_all_capabilities_can_be_dropped_from_any_user(host: Host, user: str) -> None:
    """Our init becomes the user first. In exec and call too, and no set-user-id program brings them back."""
    ask = "grep -E '^Cap|^Uid' /proc/self/status; echo kept > /dev/stdout"
    options: dict[str, Any] = {"cap_drop": ["ALL"], "user": user, "no_new_privs": user != "nobody"}
    none = {f"Cap{kind}:": "0" * 16 for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    for answer in (says(host, ask, **options), exec_in(host, ask, **options)):
        lines = dict(line.split()[:2] for line in answer.splitlines()[:-1])
        assert lines.pop("Uid:") in (user.partition(":")[0], "65534") and lines == none
    for init in (True, False):  # without, process 1 has none either
        with host.containers.launch("busybox", ["sleep", "1000"], init=init, **options) as container:
            for status in (container.call(_status), container.exec(["cat", "/proc/self/status"]).stdout):
                assert {f"{kind}\t{value}" for kind, value in none.items()} <= set(status.splitlines())
            container.kill()  # without an init sleep takes no other signal


def _status() -> str:
    return Path("/proc/self/status").read_text()


def test_devices(host: Host) -> None:
    """Given, they can be used, under another name too; not given, they cannot be made."""
    assert (
        says(host, "head -c 3 /dev/mine | wc -c", devices=[Device(path="/dev/zero", target="/dev/mine")])
        == "3"
    )
    assert says(host, "test -c /dev/fuse && echo there", devices=["/dev/fuse"]) == "there"
    assert says(host, "test -e /dev/fuse || echo none") == "none"
    refused = host.containers.run("busybox", sh="mknod /tmp/mem c 1 1 && cat /tmp/mem", check=False)
    assert refused.exit_code == 1
    for wrong in ("/dev/no-such", "/etc/passwd", "relative"):
        with pytest.raises(InvalidSpecError):
            host.containers.create("busybox", devices=[wrong])


def test_read_only(host: Host) -> None:
    """The root; what is mounted into it can be written."""
    script = "touch /file 2>&1; touch /tmp/file && touch /dev/shm/file && echo done"
    assert says(host, script, read_only=True, tmpfs=["/tmp"]).split()[-3:] == ["file", "system", "done"]
    assert "Read-only" in says(host, "touch /file 2>&1; true", read_only=True)


def test_privileged(host: Host) -> None:
    """Root inside is root outside, with all capabilities; only when it is asked for."""
    identity = "cat /proc/self/uid_map"
    assert says(host, identity, privileged=True).split() == ["0", "0", "4294967295"]
    assert says(host, identity).split()[0] == "0" and says(host, identity).split()[1] != "0"


# --- mounts ---


def test_a_bind_is_the_hosts_directory(host: Host, shared: Path) -> None:
    """Owners are the same inside as outside, both ways."""
    (shared / "ours").write_text("hello")
    os.chown(shared / "ours", 33, 44)
    bind = Mount.bind(shared, "/data/deep")
    script = "cd /data/deep; cat ours; stat -c ' %u:%g' ours; echo theirs > new; chown 7:8 new"
    assert says(host, script, mounts=[bind]).split() == ["hello", "33:44"]
    new = (shared / "new").stat()
    assert ((shared / "new").read_text(), new.st_uid, new.st_gid) == ("theirs\n", 7, 8)


def test_a_bind_may_be_read_only_noexec_or_a_file(host: Host, shared: Path) -> None:
    """And it never lets set-user-id programs or devices through."""
    program = shared / "program"
    program.write_text("#!/bin/sh\necho ran\n")
    program.chmod(0o755)
    assert says(host, "/data/program", mounts=[Mount.bind(shared, "/data")]) == "ran"
    denied = host.containers.run(
        "busybox", ["/data/program"], mounts=[Mount.bind(shared, "/data", exec=False)], check=False
    )
    assert denied.exit_code == 126
    assert "Read-only" in says(
        host, "touch /data/x 2>&1; true", mounts=[Mount.bind(shared, "/data", read_only=True)]
    )
    assert says(host, "/usr/bin/one", mounts=[Mount.bind(program, "/usr/bin/one", read_only=True)]) == "ran"
    os.mknod(shared / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    assert host.containers.run(
        "busybox", ["head", "-c1", "/data/zero"], mounts=[Mount.bind(shared, "/data")], check=False
    ).exit_code


@pytest.mark.parametrize("target", ["/etc", "/etc/passwd/x"])
def test_a_bind_that_cannot_be_mounted_is_told(host: Host, shared: Path, target: str) -> None:
    """A file over a directory; below a file. By the path."""
    (shared / "file").touch()
    with pytest.raises(StartError, match=target):
        host.containers.run("busybox", ["true"], mounts=[Mount.bind(shared / "file", target)])


def test_a_bind_whose_source_has_gone_is_told(host: Host, shared: Path) -> None:
    """At the start, by its name."""
    (shared / "gone").mkdir()
    with host.containers.create(
        "busybox", ["true"], mounts=[Mount.bind(shared / "gone", "/data")]
    ) as container:
        (shared / "gone").rmdir()
        with pytest.raises(StartError, match="gone"):
            container.start()


def test_tmpfs(host: Host) -> None:
    """Of a size and mode, belonging to root inside, and gone with the run."""
    mount = Mount.tmpfs("/scratch/a", size="1MiB", mode=0o750)
    script = "cd /scratch/a; stat -c '%a %u' .; df -k . | tail -1; head -c 2m /dev/zero > big; stat -c %s big"
    with host.containers.create("busybox", sh=script, mounts=[mount]) as container:
        for _ in range(2):
            container.start().wait()
            words = container.logs(tail=3, stream="stdout").split()
            assert words[:2] == ["750", "0"] and words[3:5] == ["1024", "0"] and words[-1] == str(1 << 20)
    assert says(host, "stat -c '%a' /plain; touch /plain/x", tmpfs=["/plain"]) == "1777"


def test_shm_size(host: Host) -> None:
    """64 MiB if not told otherwise."""
    size = "df -k /dev/shm | tail -1 | awk '{print $2}'"
    assert (says(host, size), says(host, size, shm_size="8MiB")) == ("65536", "8192")


@pytest.mark.parametrize("target", ["/", "/proc/x", "/sys", "/dev/.lxcwrap", "relative", "/a/../b"])
def test_what_cannot_be_a_target_is_refused(target: str) -> None:
    """When the mount is made."""
    with pytest.raises(InvalidSpecError):
        Mount.tmpfs(target)


def test_what_is_not_offered_is_refused_and_not_ignored(host: Host) -> None:
    """Two mounts at one place; names of options that do not exist; values of a wrong type."""
    create = host.containers.create
    with pytest.raises(InvalidSpecError):
        create("busybox", mounts=[Mount.tmpfs("/x")], tmpfs=["/x"])
    wrong: list[dict[str, Any]] = [
        {"environment": {}}, {"detach": True}, {"memory": "1g"}, {"env": ["A=1"]}, {"limits": {"memory": 1}},
        {"mounts": ["/tmp:/tmp"]}, {"tmpfs": "/x"}, {"cap_add": "ALL"}, {"devices": "/dev/fuse"},
        {"ulimits": ["x"]}, {"groups": "adm"}, {"labels": ["a=1"]}, {"extra_hosts": ["a:1.2.3.4"]},
        {"sysctls": "net.x=1"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(TypeError, match=next(iter(options))):
            create("busybox", **options)
    assert len(host.containers) == 0


# --- limits ---


def test_limits_hold(host: Host) -> None:
    """Memory, processors, processes, as the kernel has them."""
    limits = Limits(memory="64MiB", swap=0, cpus=0.5, pids=20, cpuset="0")
    with host.containers.launch("busybox", ["sleep", "1000"], limits=limits) as container:
        stats = container.stats()
        assert (stats.memory_limit, stats.pids_limit) == (64 << 20, 20)
        assert "Cpus_allowed_list:\t0\n" in container.exec(["cat", "/proc/self/status"]).stdout
        bomb = container.exec(sh="for i in $(seq 40); do sleep 9 & done", check=False)
        assert bomb.exit_code and "fork" in bomb.stderr


def test_limits_change_while_it_runs_and_stay(host: Host) -> None:
    """What is not named keeps its value; a change the kernel refuses changes nothing."""
    with host.containers.launch("busybox", ["sleep", "1000"], limits=Limits(pids=50)) as container:
        container.update(Limits(memory="80MiB"))
        container.update(Limits(memory="96MiB", swap="1MiB", cpus=0.25, read_bps="10MB", write_bps="10MB"))
        assert (container.stats().memory_limit, container.stats().pids_limit) == (96 << 20, 50)
        assert limits_of(container) == (96 << 20, 50, 0.25)
        with pytest.raises(OSError, match="cpuset"):
            container.update(Limits(memory="128MiB", cpuset="512"))
        assert limits_of(container) == (96 << 20, 50, 0.25) and container.stats().memory_limit == 96 << 20
        container.restart()
        assert (container.stats().memory_limit, container.stats().pids_limit) == (96 << 20, 50)
        with pytest.raises(TypeError):
            container.update({"memory": "1GiB"})  # type: ignore[arg-type]  # wrong on purpose


def limits_of(container: Container) -> tuple[int | None, int | None, float | None]:
    return container.spec.limits.memory, container.spec.limits.pids, container.spec.limits.cpus


def test_limits_of_a_stopped_container_apply_at_its_next_start(host: Host) -> None:
    """They are kept with it."""
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        container.update(Limits(memory="48MiB"))
        assert container.start().stats().memory_limit == 48 << 20
