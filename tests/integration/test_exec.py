"""Commands in a running container: `exec`, and `popen` in the shape of `subprocess.Popen`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lxcwrap import DEVNULL, PIPE, STDOUT, Container, Host, State
from lxcwrap.errors import CommandFailedError, InvalidSpecError, TimeoutExpired, WrongStateError
from tests.polling import eventually


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    """One for the module: of two in a process, SQLite keeps the files of the first that closes."""
    with Host(shared_root) as host:
        yield host


@pytest.fixture(scope="module")
def box(host: Host) -> Iterator[Container]:
    """A container that all tests of the module share."""
    with host.containers.launch(
        "busybox", ["sleep", "1000"], env={"MAIN": "yes"}, cwd="/tmp", user="root"
    ) as container:
        yield container


def pids(box: Container) -> set[int]:
    return {process.pid for process in box.top()}


# --- exec ---


def test_exec_gives_output_and_exit_code(box: Container) -> None:
    """As `run` does."""
    done = box.exec(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert box.exec(sh="echo $((6 * 7))").stdout == "42\n"
    with pytest.raises(CommandFailedError) as error:
        box.exec(["false"])
    assert (error.value.exit_code, error.value.container) == (1, box.name)


@pytest.mark.parametrize(
    "arguments", [{}, {"argv": ["true"], "sh": "true"}, {"argv": "true"}, {"input": 5, "sh": "cat"}]
)
def test_what_cannot_be_meant_is_a_type_error(box: Container, arguments: dict[str, object]) -> None:
    """No command, two, a str as one, a number as input."""
    with pytest.raises(TypeError):
        box.exec(**arguments)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("code", [0, 1, 125, 127, 128, 200, 255])
def test_exit_codes_are_exact(box: Container, code: int) -> None:
    """All that eight bits hold."""
    assert box.exec(sh=f"exit {code}", check=False).exit_code == code


@pytest.mark.parametrize("number", [1, 9, 11, 15, 64])
def test_death_by_signal_is_128_and_its_number(box: Container, number: int) -> None:
    """As of the main process."""
    assert box.exec(sh=f"kill -{number} $$", check=False).exit_code == 128 + number


@pytest.mark.parametrize(("command", "code"), [("no-such", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_be_run(box: Container, command: str, code: int) -> None:
    """By exec and popen alike; stderr names it."""
    done = box.exec([command], check=False)
    assert done.exit_code == code and command in done.stderr
    with box.popen([command]) as process:
        assert process.exec_error and process.wait() == code


def test_environment_and_directory_are_the_main_process_ones(box: Container) -> None:
    """Unless told otherwise; nothing comes from the caller."""
    os.environ["OF_THE_CALLER"] = "1"
    try:
        assert set(box.exec(["env"]).stdout.split()) >= {"MAIN=yes"}
        assert "OF_THE_CALLER" not in box.exec(["env"]).stdout
    finally:
        del os.environ["OF_THE_CALLER"]
    assert box.exec(sh="echo $MAIN $A", env={"MAIN": "no", "A": "b c"}).stdout == "no b c\n"
    assert box.exec(["pwd"]).stdout == "/tmp\n"
    assert box.exec(["pwd"], cwd="/etc").stdout == "/etc\n"


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("nobody", "65534 65534"),
        ("nobody:root", "65534 0"),
        (1234, "1234 0"),
        ("1234:5", "1234 5"),
        ("0", "0 0"),
    ],
)
def test_a_command_as_another_user(box: Container, user: str | int, ids: str) -> None:
    """By name or number, with a group, or the user's own, or that of root for a number without an entry."""
    assert box.exec(sh="echo $(id -u) $(id -g)", user=user).stdout.strip() == ids
    assert box.exec(sh="echo kept > /dev/stdout", user=user).stdout == "kept\n"


@pytest.mark.parametrize("user", ["nobody-here", "root:nogroup-here"])
def test_an_unknown_user_is_told(box: Container, user: str) -> None:
    """The command is not run."""
    with pytest.raises(CommandFailedError, match="-here"):
        box.exec(["touch", "/tmp/was-run"], user=user)
    assert not box.path("/tmp/was-run").exists()
    for wrong in (70000, "1:70000", "a:b:c", "a\nb"):
        with pytest.raises(InvalidSpecError):
            box.exec(["true"], user=wrong)


@pytest.mark.parametrize("data", ["", "text ü\n", b"\xff\x00\n", b"x" * 3_000_000])
def test_input_comes_back_whole(box: Container, data: str | bytes) -> None:
    """More than any pipe holds."""
    assert box.exec(["cat"], input=data).stdout_bytes == (data.encode() if isinstance(data, str) else data)


def test_a_command_is_killed_when_its_time_is_over(box: Container) -> None:
    """What it wrote is on the error, and it is gone."""
    before = pids(box)
    with pytest.raises(TimeoutExpired) as error:
        box.exec(sh="echo out; echo err >&2; exec sleep 1000", timeout_s=0.4)
    assert (error.value.stdout, error.value.stderr) == ("out\n", "err\n")
    eventually(lambda: pids(box) <= before)


def test_what_a_script_waits_for_ends_with_it(box: Container) -> None:
    """When its time is over, or its caller is interrupted: nothing of it stays in the container."""
    before = pids(box)
    with pytest.raises(TimeoutExpired):
        box.exec(sh="sleep 1000; echo never", timeout_s=0.3)
    eventually(lambda: pids(box) <= before)


def test_background_processes_are_not_waited_for(box: Container) -> None:
    """Though they hold the output open."""
    began = time.monotonic()
    assert box.exec(sh="sleep 30 & echo $!").stdout.strip().isdecimal()
    assert time.monotonic() - began < 10


def test_many_threads_may_exec_at_once(fresh_host: Host) -> None:
    """Each gets its own output."""
    outputs: dict[int, str] = {}

    def work(number: int) -> None:
        outputs[number] = container.exec(["echo", str(number)]).stdout

    with fresh_host.containers.launch("busybox", ["sleep", "1000"]) as container:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outputs == {number: f"{number}\n" for number in range(12)}


# --- popen ---


def test_pipes_are_real_files(box: Container) -> None:
    """Written and read while the command runs."""
    with box.popen(["sh", "-c", "while read x; do echo got $x; done"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin and process.stdout and process.stderr is None and process.poll() is None
        process.stdin.write(b"one\n")
        assert process.stdout.read(100) == b"got one\n"
        process.stdin.close()
        assert process.stdout.read(100) == b""
        assert process.wait(timeout_s=10) == process.exit_code == process.returncode == 0


def test_communicate_keeps_the_streams_apart(box: Container) -> None:
    """With much in all three."""
    script = "tee /dev/stderr | tr a b"
    with box.popen(["sh", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        assert process.communicate(b"a" * 2_000_000, timeout_s=30) == (b"b" * 2_000_000, b"a" * 2_000_000)


def test_stderr_may_go_where_stdout_goes(box: Container, tmp_path: Path) -> None:
    """A pipe, a file, or nowhere."""
    command = ["sh", "-c", "echo a; echo b >&2; echo c"]
    with box.popen(command, stdout=PIPE, stderr=STDOUT) as process:
        assert process.communicate() == (b"a\nb\nc\n", b"")
    with (tmp_path / "out").open("wb") as file, box.popen(command, stdout=file, stderr=STDOUT) as process:
        assert process.wait() == 0
    assert (tmp_path / "out").read_text() == "a\nb\nc\n"
    with box.popen(command, stdout=DEVNULL, stderr=STDOUT) as process:
        assert process.communicate() == (b"", b"")
    with pytest.raises(ValueError, match="stderr"):
        box.popen(command, stdout=STDOUT)


def test_files_and_descriptors_are_used_directly(box: Container, tmp_path: Path) -> None:
    """From their position on, and the caller's stay open."""
    (tmp_path / "in").write_bytes(b"skipped\nline\n")
    with (tmp_path / "in").open("rb", buffering=0) as source, (tmp_path / "out").open("wb") as sink:
        source.seek(8)
        with box.popen(["cat"], stdin=source, stdout=sink.fileno()) as process:
            assert process.wait() == 0
        assert not source.closed and sink.write(b"more\n")
    assert (tmp_path / "out").read_bytes() == b"line\nmore\n"


def test_two_commands_can_be_piped_together(box: Container) -> None:
    """One's stdout is the other's stdin, and the end gets through."""
    with box.popen(["seq", "3"], stdout=PIPE) as first:
        assert first.stdout
        with box.popen(["tac"], stdin=first.stdout, stdout=PIPE) as second:
            first.stdout.close()
            assert second.communicate(timeout_s=10) == (b"3\n2\n1\n", b"")


def test_wait_and_poll(box: Container) -> None:
    """Poll never waits; wait gives up after its time and the command goes on."""
    with box.popen(["sh", "-c", "read x; exit 7"], stdin=PIPE) as process:
        assert process.poll() is None and process.exit_code is None
        with pytest.raises(TimeoutExpired):
            process.wait(timeout_s=0.05)
        assert process.stdin
        process.stdin.write(b"\n")
        assert [process.wait(timeout_s=10), process.wait(), process.poll()] == [7, 7, 7]


def test_communicate_can_be_called_again_after_its_time_was_over(box: Container) -> None:
    """What had been read is not lost."""
    with box.popen(["sh", "-c", "echo early; sleep 0.4; echo late"], stdout=PIPE) as process:
        with pytest.raises(TimeoutExpired) as error:
            process.communicate(timeout_s=0.2)
        assert error.value.stdout == b"early\n"
        assert process.communicate(timeout_s=10) == (b"early\nlate\n", b"")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (lambda process: process.kill(), 137),
        (lambda process: process.terminate(), 143),
        (lambda process: process.send_signal("INT"), 130),
        (lambda process: process.send_signal(signal.SIGUSR1), 128 + signal.SIGUSR1),
    ],
)
def test_signals(box: Container, act: object, code: int) -> None:
    """By method, name or number; harmless after the end."""
    with box.popen(["sleep", "1000"]) as process:
        act(process)  # type: ignore[operator]  # a lambda above
        assert process.wait(timeout_s=10) == code
        act(process)  # type: ignore[operator]


def test_its_pid_is_the_hosts_number(box: Container) -> None:
    """A process in the container's namespaces."""
    with box.popen(["sleep", "1000"]) as process:
        assert os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink(f"/proc/{box.init_pid}/ns/net")
        assert process.pid in {each.host_pid for each in box.top()}
        process.kill()


def test_a_failing_block_kills_the_command(box: Container) -> None:
    """An interrupted program must not wait for it."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), box.popen(["sleep", "1000"]) as process:
        raise KeyboardInterrupt
    assert process.poll() == 137 and time.monotonic() - began < 10


# --- and the container's own life ---


@pytest.mark.parametrize("state", [State.CREATED, State.PAUSED, State.STOPPED])
def test_only_a_running_container_can_be_entered(host: Host, state: State) -> None:
    """Else it is told at once: a paused one would answer only when it is thawed."""
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        if state != State.CREATED:
            container.start()
            container.pause() if state == State.PAUSED else container.stop()
        for act in (
            lambda: container.exec(["true"]),
            lambda: container.popen(["true"]),
            lambda: container.call(os.getpid),
        ):
            with pytest.raises(WrongStateError) as error:
                act()
            assert (error.value.state, error.value.container) == (state, container.name)


def test_a_command_ends_with_the_container(host: Host) -> None:
    """Killed, as everything in it."""
    with (
        host.containers.launch("busybox", ["sleep", "1000"]) as container,
        container.popen(["sleep", "1000"], stdout=PIPE) as process,
    ):
        container.kill()
        assert process.communicate(timeout_s=10) == (b"", b"")
        assert process.wait() == 137


def test_exec_while_the_main_process_ends(host: Host) -> None:
    """Each attempt does well, is killed or is told that the container does not run; none hangs."""
    outcomes = set()
    for _ in range(6):
        with host.containers.launch("busybox", sh="sleep 0.02") as container:
            while True:
                try:
                    outcomes.add(container.exec(["true"], check=False, timeout_s=20).exit_code)
                except WrongStateError as error:
                    assert error.state == State.STOPPED
                    break
    assert outcomes <= {0, 137}


def test_an_exec_that_is_interrupted_while_it_starts_runs_no_more(box: Container) -> None:
    """Though the one who starts it answers only later."""
    before, server = pids(box), box._machinery.supervisor.pid()
    assert server
    os.kill(server, signal.SIGSTOP)
    going_on = threading.Timer(0.6, os.kill, (server, signal.SIGCONT))
    going_on.start()
    main = threading.main_thread().ident
    interrupting = threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT))
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        box.exec(sh="sleep 1000; true")
    going_on.join()
    interrupting.join()
    eventually(lambda: pids(box) <= before)
