"""What the host is kept from: other users of it, hostile images, and what starts and outlives containers."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Host
from lxcwrap.drivers.pidfd import start_time
from lxcwrap.errors import StartError, UnsupportedError
from lxcwrap.ids import FIRST_BASE, LAST_BASE, RANGE_SIZE
from lxcwrap.inside import _root_of
from tests.integration import probing

NOBODY = 65534
GET_STATE = 3  # liblxc: commands.h
BUSYBOX = Path("/bin/busybox")
Entry = tuple[str, bytes, str]  # name, type, where a link leads


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


# --- other users of the host ------------------------------------------------------------------------------


def reachable_to_nobody(paths: list[str]) -> set[str]:
    """Those of `paths` that a user without rights can look at, or into."""
    command = [BUSYBOX, "sh", "-c", 'while read -r path; do [ -e "$path" ] && echo "$path"; done; true']
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [NOBODY]}
    done = subprocess.run(command, input="\n".join(paths), text=True, stdout=-1, check=True, **nobody)  # type: ignore[call-overload]
    return set(done.stdout.splitlines())


def test_users_of_the_host_reach_nothing_of_a_container(host: Host) -> None:
    """Not what it wrote, nor its image's set-user-ID programs; no environment, no log, no record."""
    with host.containers.launch("busybox", ["sleep", "60"], env={"PASSWORD": "x"}) as container:
        container.exec(sh="echo here > /root/file; cp /bin/busybox /root/su; chmod 4755 /root/su; sync")
        found = [
            os.path.join(at, name) for at, inner, files in os.walk(host.root) for name in (*inner, *files)
        ]
        assert any(path.endswith("/upper/root/su") for path in found)
        seen = {os.path.relpath(path, host.root) for path in reachable_to_nobody(found)}
    top = {path.name for path in host.root.iterdir()}
    assert seen - top - {f"containers/{container.id}"} == {path for path in seen if path.startswith("cache/")}


def test_records_with_secrets_can_be_read_by_root_only(host: Host) -> None:
    """Whatever the umask of who makes them."""
    before = os.umask(0)
    try:
        with host.containers.launch("busybox", ["sleep", "60"], env={"PASSWORD": "x"}) as container:
            bundle = host.root / "containers" / container.id
            records = [*bundle.glob("*.json"), *host.root.glob("state.db*"), *(bundle / "logs").iterdir()]
            assert len(records) > 5
            assert {oct(path.stat().st_mode & 0o077) for path in records} == {"0o0"}
    finally:
        os.umask(before)


def test_programs_a_container_makes_are_nobodys_outside(host: Host) -> None:
    """All its files belong to its own ids, also those that lxcwrap wrote for it: a user of the host who helps
    it could run no set-user-ID program of root."""
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        assert container.init_pid
        base = os.stat(f"/proc/{container.init_pid}").st_uid
        bundle = host.root / "containers" / container.id
        container.exec(sh="cat /bin/busybox > /etc/hosts; chmod 4755 /etc/hosts")
        assert (bundle / "files" / "hosts").stat().st_mode & 0o4000
        for path in [*(bundle / "files").iterdir(), *(bundle / "upper").rglob("*")]:
            assert base <= path.lstat().st_uid < base + 65536, path


def test_other_users_cannot_command_liblxc(host: Host) -> None:
    """Its socket has no file, so anybody can connect; nobody but root is listened to."""
    with host.containers.launch("busybox", ["sleep", "60"], name="commanded") as container:
        words = Path("/proc/net/unix").read_text().split()
        # liblxc takes a hash of a path that would be too long.
        names = [
            word
            for word in words
            if word.startswith(("@lxc/", f"@{host.root}")) and word.endswith("/command")
        ]
        assert names
        assert {answers(name, GET_STATE) for name in names} <= {None, -1}
        assert container.exec(["echo", "alive"]).stdout == "alive\n"


def answers(name: str, command: int) -> int | None:
    """liblxc's result for a command (its commands.h) that a user without rights sends; None: no answer."""
    program = f"""
import os, socket, struct
os.setgroups([]); os.setresgid(*[{NOBODY}] * 3); os.setresuid(*[{NOBODY}] * 3)
sock = socket.socket(socket.AF_UNIX); sock.settimeout(5)
try:
    sock.connect({name.replace("@", chr(0), 1)!r})
    who = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    sock.sendmsg([struct.pack("iiQ", {command}, 0, 0)], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, who)])
    print(struct.unpack_from("i", sock.recv(64))[0])
except (OSError, struct.error):
    pass
"""
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], stdout=-1, text=True, check=True)
    return int(done.stdout) if done.stdout else None


def test_ids_are_never_shared(host: Host) -> None:
    """When all ranges are in use there is no further container, rather than two with the same ids."""
    ranges = (LAST_BASE - FIRST_BASE) // RANGE_SIZE
    machinery = host._machinery
    bases = {machinery.idmap(slot).base for slot in range(ranges)}
    assert len(bases) == ranges and min(bases) >= FIRST_BASE and max(bases) < LAST_BASE
    with pytest.raises(UnsupportedError):
        machinery.idmap(ranges)


def test_files_are_never_those_of_a_process_that_took_the_number() -> None:
    """Of a container that has ended, when its main process' number is used again."""
    me = os.getpid()
    assert _root_of(me, start_time(me) - 1) is None
    assert _root_of(1 << 22, 0) is None
    fd = _root_of(me, start_time(me))
    assert fd is not None and os.path.samestat(os.fstat(fd), os.stat("/"))
    os.close(fd)


# --- hostile images ---------------------------------------------------------------------------------------


@pytest.fixture
def victim() -> Iterator[Path]:
    """A directory of the host that anybody may write to."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o777)
    yield path
    path.rmdir()  # which fails if anything is in it


def image_with(host: Host, *entries: Entry) -> str:
    """An image of a shell and `entries`."""
    shell, buffer = BUSYBOX.read_bytes(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, kind, link in (("bin", tarfile.DIRTYPE, ""), ("bin/sh", tarfile.REGTYPE, ""), *entries):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.mode = kind, link, 0o777
            member.devmajor, member.devminor = (1, 11) if kind == tarfile.CHRTYPE else (7, 0)
            member.size = len(shell) if name == "bin/sh" else 0
            archive.addfile(member, io.BytesIO(shell))
    buffer.seek(0)
    host.images.import_rootfs(buffer, tag="hostile:1")
    return "hostile:1"


def outcome(host: Host, image: str, script: str, *, read_only: bool) -> str:
    try:
        return host.containers.run(image, ["/bin/sh", "-c", script], read_only=read_only, timeout_s=20).stdout
    except StartError:
        return "refused"
    finally:
        host.images[image].remove()


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("way", ["{victim}", "../../../../..{victim}", "etc"])
def test_mounts_are_not_led_out_of_the_root(
    host: Host, victim: Path, name: str, way: str, read_only: bool
) -> None:
    """By a link in the place of /proc, /sys or /dev: such an image does not start."""
    image = image_with(host, (name, tarfile.SYMTYPE, way.format(victim=victim)))
    assert outcome(host, image, "echo started", read_only=read_only) == "refused"
    assert list(victim.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], "127.0.0.1\tlocalhost\n"),
        ([("etc", tarfile.SYMTYPE, "{victim}")], "127.0.0.1\tlocalhost\n"),
        ([("etc", tarfile.SYMTYPE, "../../..{victim}")], "127.0.0.1\tlocalhost\n"),
        (
            [("etc", tarfile.DIRTYPE, ""), ("etc/hosts", tarfile.SYMTYPE, "{victim}/hosts")],
            "127.0.0.1\tlocalhost\n",
        ),
        ([("etc", tarfile.DIRTYPE, ""), ("etc/hosts", tarfile.CHRTYPE, "")], "127.0.0.1\tlocalhost\n"),
        ([("etc", tarfile.DIRTYPE, ""), ("etc/hosts", tarfile.FIFOTYPE, "")], "127.0.0.1\tlocalhost\n"),
        ([("etc", tarfile.DIRTYPE, ""), ("etc/hosts", tarfile.SYMTYPE, "hosts")], "refused"),
        ([("etc", tarfile.DIRTYPE, ""), ("etc/hosts", tarfile.DIRTYPE, "")], "refused"),
        ([("etc", tarfile.REGTYPE, "")], "refused"),
    ],
)
def test_files_are_mounted_within_the_root(
    host: Host, victim: Path, entries: list[Entry], expected: str
) -> None:
    """Whatever is in their place or on the way: what is missing is made, inside."""
    image = image_with(host, *((name, kind, link.format(victim=victim)) for name, kind, link in entries))
    assert (
        outcome(host, image, "/bin/sh -c 'read -r line < /etc/hosts; echo \"$line\"'", read_only=True)
        == expected
    )
    assert list(victim.iterdir()) == []


def test_device_nodes_of_an_image_cannot_be_opened(host: Host) -> None:
    """The layers are mounted so that no node works, and the device policy would refuse most."""
    image = image_with(host, ("block", tarfile.BLKTYPE, ""), ("char", tarfile.CHRTYPE, ""))
    script = "[ -b /block ] && echo there; for node in block char; do (: < /$node) && echo opened; done; true"
    assert outcome(host, image, script, read_only=False) == "there\n"


# --- what is left, and what is inherited -------------------------------------------------------------------


def test_trees_of_any_depth_are_deleted(host: Host) -> None:
    """A container can nest directories beyond what paths, stacks and open files allow."""
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        container.call(probing.nest, "/tmp", 3000)
    assert os.listdir(host.root / "trash") == []
    assert os.path.exists("/bin")


def test_containers_inherit_nothing_of_who_started_the_first(fresh_root: Path) -> None:
    """Priority, limits, processors, address layout, ignored signals, groups: those of any other container."""
    program = """
import ctypes, os, resource, signal, sys
os.nice(7); os.umask(0o077); os.setgroups([7777]); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, -1))
resource.setrlimit(resource.RLIMIT_NOFILE, (99, 999))
signal.signal(signal.SIGUSR1, signal.SIG_IGN); signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
ctypes.CDLL(None).personality(0x40000)
open("/proc/self/oom_score_adj", "w").write("500")
from lxcwrap import Host
with Host(sys.argv[1]) as host:
    print(host.containers.run("busybox", sh=sys.argv[2]).stdout, end="")
"""
    look = """
        cat /proc/self/personality /proc/self/oom_score_adj; cut -d' ' -f19 /proc/self/stat; ulimit -f; umask
        grep -E '^(Groups|SigIgn|SigBlk)' /proc/self/status; grep Cpus_allowed_list /proc/self/status
        [ $(ulimit -n) -gt 99 ] && echo files
    """
    done = subprocess.run([sys.executable, "-c", program, fresh_root, look], stdout=-1, text=True, check=True)
    lines = done.stdout.split("\n")
    assert lines[:5] == ["00000000", "0", "0", "unlimited", "0022"]
    assert [line.split()[1:] for line in lines[5:8]] == [["0"], ["0" * 16], ["0" * 16]]
    assert (
        lines[8].split()[1]
        == Path("/proc/1/status").read_text().partition("Cpus_allowed_list:\t")[2].split()[0]
    )
    assert lines[9] == "files"
