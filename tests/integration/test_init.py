"""The containers' init by itself: as an ordinary process, in a small root, and as PID 1 of a namespace."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lxcwrap.drivers.seccomp import INIT

PID1 = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
PYTHON = (sys.executable, "-I", "-S", "-c")
BUSYBOX = ("/bin/busybox", "sh", "-c")


class Outcome(NamedTuple):
    exit_code: int
    stdout: str
    stderr: str


class Packet(NamedTuple):
    text: str
    pid: int
    fds: list[int]


class Status:
    """The receiving end of the init's ``-f``."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.ours.settimeout(10)

    def receive(self) -> Packet | None:
        """The next packet; None at the end, when the command runs: of that, without ``-x``, an "R" tells."""
        data, controls, _, _ = self.ours.recvmsg(200, 200)
        if data == b"R":
            data, controls, _, _ = self.ours.recvmsg(200, 200)
        pid, fds = 0, array.array("i")
        for _, kind, value in controls:
            if kind == socket.SCM_CREDENTIALS:
                pid = struct.unpack("3i", value)[0]
            else:
                fds.frombytes(value)
        return Packet(data.decode(), pid, list(fds)) if data else None

    def texts(self) -> list[str]:
        return [packet.text for packet in iter(self.receive, None)]

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def status() -> Iterator[Status]:
    status = Status()
    yield status
    status.close()


@contextmanager
def started(
    argv: Sequence[str],
    *options: str,
    before: Sequence[str] = (),
    status: Status | None = None,
    init: str = str(INIT),
    env: dict[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> Iterator[subprocess.Popen[str]]:
    """The init running `argv`, itself run by `before`; killed at the end."""
    fds = (status.theirs.fileno(),) if status else ()
    report = ("-f", str(*fds)) if fds else ()
    command = [*before, init, *report, *options, "--", *argv]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=stdin, stdout=pipe, stderr=pipe, text=True, env=env, pass_fds=fds
    ) as process:
        if status:
            status.theirs.close()
        try:
            yield process
        finally:
            if process.poll() is None:
                _kill_with_children(process)


def _kill_with_children(process: subprocess.Popen[str]) -> None:
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        os.kill(int(child), signal.SIGKILL)
    process.kill()


def run(argv: Sequence[str], *options: str, **how: Any) -> Outcome:
    with started(argv, *options, **how) as process:
        stdout, stderr = process.communicate(timeout=20)
        return Outcome(process.returncode, stdout, stderr)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small root directory with busybox and the init; names as in a usual image."""
    for name in ("bin", "etc", "tmp"):
        (tmp_path / name).mkdir()
    shutil.copy2(INIT, tmp_path / "init")
    shutil.copy2("/bin/busybox", tmp_path / "bin/busybox")
    for applet in ("id", "pwd", "sh"):
        (tmp_path / "bin" / applet).symlink_to("busybox")
    (tmp_path / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n# comment\n\nbroken:x:no:1::/:\nweb:x:101:102:Web:/srv/web:/bin/sh\n"
        "1234:x:55:56::/numeric:\nweb:x:999:999::/second:\nshort:x:77:78"
    )
    (tmp_path / "etc/group").write_text(
        "root:x:0:root\nwww:x:102:\nadm:x:4:daemon,web\nlog:x:5:webmaster,web,root\nbad:x:y:web\n777:x:8:\n"
    )
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o011)
    return tmp_path


def run_in(root: Path, argv: Sequence[str], *options: str, env: dict[str, str] | None = None) -> Outcome:
    return run(
        argv, *options, before=("/usr/sbin/chroot", str(root)), init="/init", env=env or {"PATH": "/bin"}
    )


def test_the_source_has_no_warnings() -> None:
    """Those who install it may have a newer compiler, so only here a warning is an error."""
    source = INIT.with_name("init.c")
    subprocess.run(
        ["cc", "-std=gnu11", "-Os", "-Wall", "-Wextra", "-Werror", "-c", source, "-o", "/dev/null"],
        check=True,
    )


# --- exit codes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("-x",)])
def test_the_exit_code_is_the_commands(mode: tuple[str, ...]) -> None:
    """All 256, supervised or not."""
    for code in range(256):
        assert run([*BUSYBOX, f"exit {code}"], *mode).exit_code == code


@pytest.mark.parametrize("number", [1, 2, 6, 9, 11, 15, 34, 64])
def test_a_killed_command_is_128_and_the_signal(number: int) -> None:
    """As shells say it, also of real-time signals."""
    assert run([*BUSYBOX, f"kill -{number} $$"]).exit_code == 128 + number
    assert run([*BUSYBOX, f"kill -{number} $$"], before=PID1).exit_code == 128 + number


@pytest.mark.parametrize("mode", [(), ("-x",)])
@pytest.mark.parametrize(
    ("argv", "options", "exit_code", "packet", "message"),
    [
        (["no-such"], [], 127, "E2 exec", "cannot run 'no-such': No such file or directory"),
        (["/no/such"], [], 127, "E2 exec", "cannot run '/no/such': No such file or directory"),
        ([""], [], 127, "E2 exec", "cannot run '': No such file or directory"),
        (["/etc/passwd"], [], 126, "E13 exec", "cannot run '/etc/passwd': Permission denied"),
        (["/etc"], [], 126, "E13 exec", "cannot run '/etc': Permission denied"),
        (["/etc/passwd/x"], [], 126, "E20 exec", "cannot run '/etc/passwd/x': Not a directory"),
        (["true"], ["-u", "nobody-here"], 125, "E2 user", "cannot become user 'nobody-here': not in"),
        (["true"], ["-u", "0:nogroup-here"], 125, "E2 user", "cannot join group 'nogroup-here': not in"),
        (["true"], ["-G", "0,none-such"], 125, "E2 user", "cannot join group 'none-such': not in"),
        (["true"], ["-u", "99999999999"], 125, "E2 user", "cannot become user '99999999999': not in"),
        (["true"], ["-C", "/etc/passwd"], 125, "E20 cwd", "cannot enter directory '/etc/passwd': Not a"),
        (["true"], ["-C", "/proc/no/way"], 125, "E2 cwd", "cannot make directory '/proc/no': No such"),
        (["true"], ["-s", "/no/filter"], 125, "E2 seccomp", "cannot load filter '/no/filter': No such"),
        (["true"], ["-s", "/dev/null"], 125, "E22 seccomp", "cannot load filter '/dev/null': Invalid"),
        (["true"], ["-s", "/etc/passwd"], 125, "E22 seccomp", "cannot load filter '/etc/passwd': Invalid"),
    ],
)
def test_what_cannot_be_run_is_told_apart(
    status: Status,
    mode: Sequence[str],
    argv: list[str],
    options: list[str],
    exit_code: int,
    packet: str,
    message: str,
) -> None:
    """127 not found, 126 cannot be run, 125 could not be set up; a line and a packet say why."""
    outcome = run(argv, *mode, *options, status=status)
    assert outcome.exit_code == exit_code
    assert outcome.stderr.startswith(f"lxcwrap: {message}")
    assert outcome.stderr.count("\n") == 1
    assert status.texts() == ["S", packet]


@pytest.mark.parametrize("mode", [(), ("-x",)])
def test_the_command_gets_no_more_than_the_capabilities_named(mode: Sequence[str]) -> None:
    """Though the init needs others to become the user."""
    outcome = run(["grep", "-E", "Cap(Eff|Bnd)", "/proc/self/status"], *mode, "-k", "21", "-u", "0:7")
    assert outcome.stdout.split()[1::2] == [f"{0x21:016x}"] * 2
    outcome = run(["grep", "-E", "Cap(Eff|Bnd)", "/proc/self/status"], *mode, "-k", "0", "-u", "1000:1000")
    assert outcome.stdout.split()[1::2] == [f"{0:016x}"] * 2


def test_a_file_without_interpreter_line_is_not_given_to_a_shell(tmp_path: Path, status: Status) -> None:
    """execvp(3) would run it with /bin/sh; the command asked for cannot be run, and that is said."""
    script = tmp_path / "script"
    script.write_text("touch ran\n")
    script.chmod(0o755)
    assert run([str(script)], "-C", str(tmp_path), status=status).exit_code == 126
    assert status.texts() == ["S", f"E{errno.ENOEXEC} exec"]
    assert not (tmp_path / "ran").exists()


def test_the_command_is_looked_up_in_path(tmp_path: Path) -> None:
    """One that may not be run does not hide a later one, but is the reason given when there is none."""
    (tmp_path / "tool").write_text("")
    assert run(["tool"], env={"PATH": f"/nowhere:{tmp_path}:/tmp"}).exit_code == 126
    other = tmp_path / "other"
    other.mkdir()
    (other / "tool").symlink_to("/bin/true")
    assert run(["tool"], env={"PATH": f"{tmp_path}:{other}"}).exit_code == 0
    assert run(["true"], env={}).exit_code == 0


# --- being PID 1 --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [(), PID1], ids=["process", "pid1"])
def test_orphans_are_reaped(before: Sequence[str]) -> None:
    """Processes whose parent ended come to the init, and leave no zombie."""
    orphans = "for i in 1 2 3 4 5 6 7 8; do (busybox sleep 0.05 & :); done; sleep 0.3"
    count = (
        f"{orphans}; for d in /proc/[0-9]*; do grep -H ^PPid: $d/status; done 2>/dev/null | grep -c :.$PPID$"
    )
    outcome = run([*BUSYBOX, count], before=before)
    assert outcome.stdout == "1\n"  # the shell itself


def test_the_end_of_the_command_ends_the_container() -> None:
    """Whatever it left behind goes with it, and its output ends."""
    begin = time.monotonic()
    assert run([*BUSYBOX, "busybox sleep 1000 & exit 3"], before=PID1).exit_code == 3
    assert time.monotonic() - begin < 5


FORWARDED = [
    n for n in sorted(signal.valid_signals()) if n not in (signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD)
]
LISTENER = """
import signal
signals = signal.valid_signals()
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
print("ready", flush=True)
while True:
    number = signal.sigwait(signals)
    print(int(number), flush=True)
"""


@pytest.mark.parametrize("before", [(), PID1], ids=["process", "pid1"])
def test_signals_are_forwarded(before: Sequence[str], status: Status) -> None:
    """Every one that can be, to the command alone."""
    with started([*PYTHON, LISTENER], before=before, status=status) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        first = status.receive()
        assert first
        for number in FORWARDED:
            os.kill(first.pid, number)
            assert process.stdout.readline() == f"{int(number)}\n"


def test_term_ends_a_command_without_a_handler() -> None:
    """As PID 1 itself it would be spared, and stopping it would take until the kill."""
    status = Status()
    with started(["sleep", "1000"], before=PID1, status=status) as process:
        first = status.receive()
        assert first
        os.kill(first.pid, signal.SIGTERM)
        assert process.wait(5) == 143
    status.close()


def test_a_signal_to_all_reaches_the_command_once() -> None:
    """kill(0) in the command must not come back through the init: they share no process group."""
    program = (
        "import os, signal, time; seen = []; signal.signal(signal.SIGUSR1, lambda *_: seen.append(1));"
        "os.kill(0, signal.SIGUSR1); time.sleep(0.1); print(len(seen), os.getsid(0) == os.getpid())"
    )
    assert run([*PYTHON, program]).stdout == "1 True\n"
    assert (
        run([*PYTHON, program], "-x", before=("setsid", "sh", "-c", '"$@"; true', "sh")).stdout == "1 True\n"
    )


def test_the_command_alone_has_stdin() -> None:
    """Once it closes it, the writer gets EPIPE instead of filling a pipe that nobody reads."""
    with started([*BUSYBOX, "exec <&-; echo closed; sleep 20"], stdin=subprocess.PIPE) as process:
        assert process.stdout and process.stdin
        assert process.stdout.readline() == "closed\n"
        with pytest.raises(BrokenPipeError):
            for _ in range(1000):  # the init may come to close its own a little later
                os.write(process.stdin.fileno(), b"x")
                time.sleep(0.001)


def test_an_idle_init_costs_little_memory() -> None:
    """Private memory of one among several: below 120 kB."""
    idle = [*BUSYBOX, "echo $PPID; exec busybox sleep 1000"]
    with started(idle) as one, started(idle) as two:
        assert one.stdout and two.stdout
        pids = [int(one.stdout.readline()), int(two.stdout.readline())]
        assert pids == [one.pid, two.pid]
        for pid in pids:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kilobytes = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
            assert kilobytes["Private_Clean"] + kilobytes["Private_Dirty"] < 120


# --- what the command starts with ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [(), ("-x",)])
def test_nothing_is_inherited(mode: tuple[str, ...]) -> None:
    """No descriptor but 0, 1, 2; signals neither blocked nor ignored; the usual umask."""
    fd = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(fd, True)
    show = "ls /proc/self/fd | tr '\\n' ' '; grep -E 'Sig(Blk|Ign)' /proc/self/status; umask"
    keep = ("env", "--ignore-signal=INT", "--ignore-signal=PIPE", "--block-signal=TERM", "sh", "-c")
    command = [*keep, 'umask 077; exec "$@"', "sh", str(INIT), *mode, "--", *BUSYBOX, show]
    done = subprocess.run(command, close_fds=False, capture_output=True, text=True, check=True)
    os.close(fd)
    zero = "0" * 16
    assert done.stdout == f"0 1 2 3 SigBlk:\t{zero}\nSigIgn:\t{zero}\n0022\n"  # 3: ls reads the directory


@pytest.mark.parametrize("mode", [(), ("-x",)])
def test_status_names_the_process_that_stays(mode: tuple[str, ...], status: Status) -> None:
    """First packet S from the init, or with -x from the command; the end once the command runs."""
    with started([*BUSYBOX, "echo $$ $PPID; sleep 9"], *mode, status=status) as process:
        packet = status.receive()
        assert packet and packet.text == "S"
        assert status.receive() is None
        assert process.stdout
        own, parent = process.stdout.readline().split()
        assert packet.pid == int(own if mode else parent) == process.pid


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "0:0:0 5:/root"),
        (["-u", "0"], "0:0:0 5:/root"),
        (["-u", "web"], "101:102:102 4 5:/srv/web"),
        (["-u", "101"], "101:102:102 4 5:/srv/web"),
        (["-u", "web:"], "101:102:102 4 5:/srv/web"),
        (["-u", "web:adm"], "101:4:4:/srv/web"),
        (["-u", "web:9"], "101:9:9:/srv/web"),
        (["-u", "web:777"], "101:8:8:/srv/web"),
        (["-u", "4000"], "4000:0:0:/"),
        (["-u", "4000:4001"], "4000:4001:4001:/"),
        (["-u", ":www"], "0:102:102:/root"),
        (["-u", "1234"], "55:56:56:/numeric"),
        (["-u", "short"], "77:78:78:/"),
        (["-G", "www,12"], "0:0:0 5 12 102:/root"),
        (["-u", "web:adm", "-G", "7"], "101:4:4 7:/srv/web"),
    ],
)
def test_users_are_looked_up_as_docker_does(root: Path, options: list[str], expected: str) -> None:
    """By name or number; without a group the user's own groups; an unknown number has group 0."""
    show = 'echo "$(id -u):$(id -g):$(id -G):$HOME"'
    assert run_in(root, ["sh", "-c", show], *options).stdout == f"{expected}\n"


def test_home_is_kept_when_given(root: Path) -> None:
    """An environment that says HOME is right."""
    assert run_in(root, ["sh", "-c", "echo $HOME"], env={"PATH": "/bin", "HOME": "/mine"}).stdout == "/mine\n"


@pytest.mark.parametrize("hostile", ["fifo", "directory", "missing", "garbage", "zero"])
def test_hostile_user_databases_do_no_harm(root: Path, hostile: str) -> None:
    """What is no database counts as empty: numbers work, names are refused, nothing hangs."""
    for name in ("passwd", "group"):
        path = root / "etc" / name
        path.unlink()
        if hostile == "fifo":
            os.mkfifo(path)
        elif hostile == "directory":
            path.mkdir()
        elif hostile == "zero":
            os.mknod(path, 0o20666, os.makedev(1, 5))
        elif hostile == "garbage":
            path.write_bytes(
                b"\0\xff:::::\n:\nweb\nweb:\nweb::\nweb:x:1\nweb:x:-1:-1::/\n" + b"a" * 300000 + b":" * 9
            )
    assert run_in(root, ["sh", "-c", "echo ran"], "-u", "7:8", "-G", "9").stdout == "ran\n"
    assert run_in(root, ["sh", "-c", "echo ran"], "-u", "web").exit_code == 125


def test_the_working_directory_is_made(root: Path) -> None:
    """By root, with all on the way; the command's user must be able to enter it."""
    assert run_in(root, ["pwd"], "-u", "web", "-C", "/srv/a/b").stdout == "/srv/a/b\n"
    made = (root / "srv/a/b").stat()
    assert (made.st_uid, made.st_gid, made.st_mode & 0o7777) == (0, 0, 0o755)
    (root / "srv/a").chmod(0o700)
    assert run_in(root, ["pwd"], "-u", "web", "-C", "/srv/a/b").exit_code == 125
    assert run_in(root, ["pwd"], "-C", "/srv/a/b").stdout == "/srv/a/b\n"


# --- a terminal ---------------------------------------------------------------------------------------------


class Terminal:
    """The master side that a ``T`` packet brought."""

    def __init__(self, packet: Packet | None) -> None:
        assert packet and packet.text == "T"
        (self.fd,) = packet.fds

    def read_until(self, text: str) -> str:
        seen = ""
        while text not in seen:
            assert select.select([self.fd], [], [], 10)[0], f"{text!r} not in {seen!r}"
            seen += os.read(self.fd, 4096).decode()
        return seen

    def write(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


@contextmanager
def in_terminal(argv: Sequence[str], *options: str) -> Iterator[tuple[subprocess.Popen[str], Terminal]]:
    status = Status()
    with started(argv, "-t", *options, status=status) as process:
        first = status.receive()
        assert first and first.text == "S"
        terminal = Terminal(status.receive())
        assert status.receive() is None
        yield process, terminal
        os.close(terminal.fd)
    status.close()


@pytest.mark.parametrize("mode", [(), ("-x",)])
def test_a_terminal_is_the_commands_own(mode: tuple[str, ...]) -> None:
    """Controlling terminal on 0, 1 and 2; it belongs to the user; sizes, Ctrl-C and Ctrl-Z work."""
    with in_terminal(["bash", "--norc", "-i"], "-u", "nobody", "-C", "/", *mode) as (process, terminal):
        terminal.resize(33, 77)
        terminal.write("PS1='> '; tty; stat -c %U $(tty); stty size; echo at-$((40+2))\n")
        seen = terminal.read_until("at-42")
        assert "/dev/pts/" in seen
        assert "nobody" in seen
        assert "33 77" in seen
        assert "no job control" not in seen
        terminal.write("(echo go-$((1+1)); exec sleep 1000)\n")
        terminal.read_until("go-2")
        time.sleep(0.1)  # until sleep is executed, the shell's own handler takes the signal
        terminal.write("\x03")
        terminal.write("echo then-$?\n")
        assert "then-130" in terminal.read_until("then-130")
        terminal.write("exit 5\n")
        assert process.wait(10) == 5


def test_hanging_up_ends_the_command() -> None:
    """Closing the master is what closing a window is: SIGHUP."""
    status = Status()
    with started(["sleep", "1000"], "-t", status=status) as process:
        status.receive()
        terminal = Terminal(status.receive())
        os.close(terminal.fd)
        assert process.wait(5) == 128 + signal.SIGHUP
    status.close()


def test_without_a_ptmx_the_reason_is_told(root: Path, status: Status) -> None:
    """E with the errno and the stage."""
    outcome = run(["id"], "-t", before=("/usr/sbin/chroot", str(root)), init="/init", status=status)
    assert outcome.exit_code == 125
    assert status.texts() == ["S", f"E{errno.ENOENT} tty"]
