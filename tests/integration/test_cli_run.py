"""``lxcwrap run`` and ``exec``: streams, exit codes, terminals, interrupts."""

from __future__ import annotations

import os
import signal
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import Container, Host
from tests.integration.commanding import TIMEOUT_S, cli, exit_code, on_terminal, started
from tests.integration.test_terminal import read_until
from tests.polling import eventually


@pytest.fixture
def box(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        yield container


# --- run ---


def test_run_is_as_a_command_here(host: Host) -> None:
    """Its output apart, its exit code, and its container is gone when it returns."""
    done = cli("run", "--name", "once", "busybox", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert "once" not in host.containers


def test_run_takes_options_as_docker_does(host: Host) -> None:
    """Those before the image are ours, all behind it is the command's."""
    script = "echo $A $B $PWD $(id -u) $(hostname) $0 $1; touch /x 2>/dev/null || echo refused"
    options = ["-e", "A=1", "--env=B=2", "-w/tmp", "-u", "7", "-h", "inside", "-m64m", "--read-only", "--rm"]
    done = cli("run", *options, "busybox", "sh", "-c", script, "-it", "--name")
    assert done.stdout == "1 2 /tmp 7 inside -it --name\nrefused\n"


def test_run_reads_input_when_asked(host: Host, tmp_path: Path) -> None:
    """With -i, from pipe or file, to its end; else there is none."""
    many = "line\n" * 300_000
    assert cli("run", "-i", "busybox", "wc", "-l", stdin=many).stdout == "300000\n"
    assert cli("run", "busybox", "cat", stdin="secret").stdout == ""


def test_run_does_not_wait_for_input_nobody_wants(host: Host) -> None:
    """A command that ends before it has read all ends us."""
    assert cli("run", "-i", "busybox", "true", stdin="x" * 10_000_000).returncode == 0


@pytest.mark.parametrize(("command", "code"), [("/nothing", 127), ("/etc", 126)])
def test_a_command_that_cannot_be_run_is_said(host: Host, command: str, code: int) -> None:
    """By the codes of a shell."""
    done = cli("run", "busybox", command)
    assert done.returncode == code and command in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--pull", "never", "no-such-image:1", "true"),
        ("run", "-m", "much", "busybox", "true"),
        ("run", "--no-such-option", "busybox", "true"),
        ("run", "-it", "busybox", "sh"),  # stdin is no terminal
        ("exec", "no-such-container", "true"),
    ],
    ids=" ".join,
)
def test_our_own_failures_are_told_from_the_commands(host: Host, words: tuple[str, ...]) -> None:
    """By 125, and one line."""
    done = cli(*words)
    assert done.returncode == 125
    assert done.stderr.startswith("lxcwrap") and done.stderr.count("\n") == 1


def test_a_traceback_is_shown_when_asked_for(host: Host) -> None:
    """By --debug, before the command or behind it."""
    assert "Traceback" in cli("--debug", "ps", "--root", "/proc/nowhere").stderr
    assert "Traceback" not in cli("ps", "--root", "/proc/nowhere").stderr


def test_a_reader_that_goes_ends_the_command(host: Host) -> None:
    """Quietly, as in a pipeline of one machine."""
    with started("run", "busybox", "yes") as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "y\n"
        process.stdout.close()
        assert process.wait(TIMEOUT_S) != 0
        assert "Traceback" not in process.stderr.read()
    assert not host.containers.list()


# --- interrupts ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_stops_and_removes_it(host: Host, number: signal.Signals) -> None:
    """It may say goodbye, and the exit code tells of the signal."""
    script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with started("run", "--name", "stopped", "busybox", "sh", "-c", script) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, errors) == (128 + number, "bye\n", "")
    assert "stopped" not in host.containers


def test_a_second_interrupt_kills_it(host: Host) -> None:
    """When it will not stop, nobody has to wait for ten seconds."""
    script = "trap 'echo no' TERM; echo ready; while :; do sleep 0.05; done"
    with started("run", "busybox", "sh", "-c", script) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "no\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 130
        assert time.monotonic() - began < 8
    assert not host.containers.list()


def test_an_interrupt_of_exec_is_the_commands(box: Container) -> None:
    """The container goes on."""
    script = "trap 'echo got it; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    with started("exec", box.name, "sh", "-c", script) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output) == (130, "got it\n")
    assert box.state == "running"


# --- exec ---


def test_exec_is_as_run_in_one_that_runs(box: Container) -> None:
    """Streams, variables, exit code."""
    script = "cat; pwd; exit $A"
    done = cli("exec", "-i", "-e", "A=1", "-w", "/tmp", box.name, "sh", "-c", script, stdin="in\n")
    assert (done.returncode, done.stdout) == (1, "in\n/tmp\n")
    assert cli("exec", box.name, "/nothing").returncode == 127


def test_exec_may_be_left_alone(box: Container) -> None:
    """With -d it goes on by itself."""
    assert cli("exec", "-d", box.name, "sleep", "999").returncode == 0
    eventually(lambda: ("sleep", "999") in {process.argv for process in box.top()})


# --- terminals ---


def test_run_joins_terminals(host: Host) -> None:
    """Size, keys, Ctrl-C inside, exit code; afterwards ours is as it was, and the container gone."""
    with on_terminal("run", "-it", "--name", "joined", "busybox", "sh") as (pid, terminal):
        before = termios.tcgetattr(terminal)
        os.write(terminal, b"echo $(stty size | tr ' ' x)-$(tty | cut -c1-9)\n")
        read_until(terminal, b"30x90-/dev/pts/", within_s=TIMEOUT_S)
        os.write(terminal, b"sleep 1234\n")
        container = host.containers["joined"]
        eventually(lambda: ("sleep", "1234") in {process.argv for process in container.top()})
        os.write(terminal, b"\x03")
        os.write(terminal, b"echo status-$?\n")
        read_until(terminal, b"status-130", within_s=TIMEOUT_S)
        os.write(terminal, b"exit 7\n")
        assert exit_code(pid) == 7
        assert termios.tcgetattr(terminal) == before
    assert "joined" not in host.containers


def test_a_terminal_closed_ends_it(host: Host) -> None:
    """As when a window is closed: nothing goes on unseen."""
    with on_terminal("run", "-it", "busybox", "sh", "-c", "echo ready; sleep 1000") as (_, terminal):
        read_until(terminal, b"ready", within_s=TIMEOUT_S)
    eventually(lambda: not host.containers.list(), within_s=TIMEOUT_S)


def test_a_terminal_without_keys(host: Host) -> None:
    """-t alone, for those that colour what they write; our stdin may be anything."""
    done = cli("run", "-t", "busybox", "sh", "-c", "test -t 1 && echo yes; exit 4")
    assert (done.returncode, done.stdout) == (4, "yes\n")


def test_exec_joins_terminals(box: Container) -> None:
    """As run does."""
    with on_terminal("exec", "-it", box.name, "sh", "-c", "tty; exit 6") as (pid, terminal):
        read_until(terminal, b"/dev/pts/", within_s=TIMEOUT_S)
        assert exit_code(pid) == 6
