"""`run`: output, input, exit codes, time limits and interruptions, as `subprocess.run` has them."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Literal

import pytest

import lxcwrap
from lxcwrap import Host, Limits
from lxcwrap.errors import CommandFailedError, InvalidSpecError, TimeoutExpired
from tests.polling import eventually


def test_run_gives_output_and_exit_code(host: Host) -> None:
    """On the default host, or the one named."""
    with lxcwrap.use_host(host):
        done = lxcwrap.run("busybox", ["sh", "-c", "echo out; echo err >&2"])
    assert lxcwrap.run("busybox", ["true"], host=host).exit_code == 0
    assert (done.exit_code, done.stdout, done.stderr) == (0, "out\n", "err\n")
    assert done.stdout_bytes == b"out\n" and not done.oom_killed and 0 < done.duration_s < 30
    assert "out" in repr(done)


def test_nothing_is_left_of_a_run(host: Host) -> None:
    """Neither when it does well nor when it fails."""
    host.containers.run("busybox", ["true"], name="once")
    with pytest.raises(CommandFailedError):
        host.containers.run("busybox", ["false"], name="once")
    assert len(host.containers) == 0


def test_a_shell_line_is_given_as_sh(host: Host) -> None:
    """A str as command is ambiguous, and refused."""
    assert host.containers.run("busybox", sh="echo $((6 * 7)) | tr 4 5").stdout == "52\n"
    with pytest.raises(TypeError, match="sh="):
        host.containers.run("busybox", "echo hello")
    with pytest.raises(TypeError):
        host.containers.run("busybox", ["true"], sh="true")


@pytest.mark.parametrize("code", [0, 1, 2, 77, 125, 126, 127, 128, 129, 200, 255])
def test_exit_codes_are_exact(host: Host, code: int) -> None:
    """Of the main process, with our init and without."""
    for init in (True, False):
        assert host.containers.run("busybox", sh=f"exit {code}", check=False, init=init).exit_code == code


@pytest.mark.parametrize("name", ["HUP", "INT", "KILL", "SEGV", "TERM", "USR1", "RTMAX"])
def test_death_by_signal_is_128_and_its_number(host: Host, name: str) -> None:
    """As a shell tells it."""
    number = signal.Signals[f"SIG{name}"]
    assert host.containers.run("busybox", sh=f"kill -{number} $$", check=False).exit_code == 128 + number


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(
    ("command", "code"),
    [(["no-such"], 127), (["/no/such"], 127), (["/etc/passwd"], 126), (["/etc"], 126), (["/bin/sh/x"], 126)],
)
def test_a_command_that_cannot_be_run(host: Host, command: list[str], code: int, init: bool) -> None:
    """127 where there is none, 126 where it is none; stderr says why, as a shell would."""
    done = host.containers.run("busybox", command, check=False, init=init)
    assert done.exit_code == code and command[0] in done.stderr


def test_a_failed_check_tells_all(host: Host) -> None:
    """Exit code, both outputs and the command."""
    with pytest.raises(CommandFailedError) as error:
        host.containers.run("busybox", sh="echo out; echo the reason >&2; exit 3")
    assert (error.value.exit_code, error.value.stdout, error.value.stderr) == (3, "out\n", "the reason\n")
    assert error.value.argv[0] == "/bin/sh" and "the reason" in str(error.value)


@pytest.mark.parametrize("data", ["", "text ü\n", b"\xff\x00\n", b"x" * 3_000_000])
def test_input_reaches_the_command_whole(host: Host, data: str | bytes) -> None:
    """And comes back: more than any pipe holds, both ways at once."""
    sent = data.encode() if isinstance(data, str) else data
    assert host.containers.run("busybox", ["cat"], input=data).stdout_bytes == sent


def test_without_input_stdin_is_at_its_end(host: Host) -> None:
    """A command that reads does not hang."""
    assert host.containers.run("busybox", ["cat"]).stdout == ""


def test_input_that_nobody_reads_is_no_error(host: Host) -> None:
    """As with subprocess."""
    assert host.containers.run("busybox", ["true"], input=b"x" * 3_000_000).exit_code == 0


def test_big_output_on_both_streams_is_kept_apart(host: Host) -> None:
    """40 MB each, at the same time."""
    size = 40_000_000
    done = host.containers.run(
        "busybox", sh=f"head -c {size} /dev/zero >&2 & head -c {size} /dev/zero | tr '\\0' a; wait"
    )
    assert done.stdout_bytes.count(b"a") == size and done.stderr_bytes.count(b"\0") == size


def test_output_that_is_no_text_is_kept_as_bytes(host: Host) -> None:
    """As text, what is no UTF-8 is replaced."""
    done = host.containers.run("busybox", ["printf", "\\377a"])
    assert (done.stdout_bytes, done.stdout) == (b"\xffa", "\ufffda")


def test_a_run_is_killed_when_its_time_is_over(host: Host) -> None:
    """What it wrote until then is on the error, and nothing is left."""
    with pytest.raises(TimeoutExpired) as error:
        host.containers.run("busybox", sh="trap '' TERM; echo out; echo err >&2; sleep 100", timeout_s=0.5)
    assert (error.value.stdout, error.value.stderr, error.value.timeout_s) == ("out\n", "err\n", 0.5)
    assert isinstance(error.value, TimeoutError) and len(host.containers) == 0


def test_the_time_is_over_also_when_the_output_is_closed(host: Host) -> None:
    """And when there is much of it."""
    began = time.monotonic()
    for script in ("exec >&- 2>&-; sleep 100", "yes"):
        with pytest.raises(TimeoutExpired) as error:
            host.containers.run("busybox", sh=script, timeout_s=0.3)
        assert bool(error.value.stdout) == (script == "yes")
    assert time.monotonic() - began < 20


def test_background_processes_end_with_the_main_one(host: Host) -> None:
    """They hold the output open; nobody waits for them."""
    began = time.monotonic()
    assert host.containers.run("busybox", sh="sleep 100 & echo done").stdout == "done\n"
    assert time.monotonic() - began < 20


def test_memory_over_the_limit_is_told_as_such(host: Host) -> None:
    """Whichever process was killed for it."""
    limits = Limits(memory="16MiB", swap=0)
    hog = "head -c 200m /dev/zero | tail -c 100m > /dev/null"
    done = host.containers.run("busybox", sh=f"{hog}; exit 4", limits=limits, check=False)
    assert done.oom_killed and done.exit_code == 4
    with pytest.raises(CommandFailedError) as error:
        host.containers.run("busybox", sh="exec tail -c 100m /dev/zero", limits=limits)
    assert error.value.oom_killed and error.value.exit_code == 137 and "memory" in str(error.value)


def test_a_terminal_is_refused_where_output_is_collected(host: Host) -> None:
    """With what to use instead."""
    with pytest.raises(InvalidSpecError, match=r"launch\(\)"):
        host.containers.run("busybox", ["true"], tty=True)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_caller_kills_and_removes_its_run(host: Host, how: signal.Signals) -> None:
    """The container is gone before the exception is seen: that of Ctrl-C, or one a handler raises."""
    program = (
        "import signal, sys, lxcwrap\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "host = lxcwrap.Host(sys.argv[1])\n"
        "try:\n"
        "    host.containers.run('busybox', ['sleep', '1000'], name='interrupted')\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(9 if len(host.containers) else 3)\n"
    )
    caller = subprocess.Popen([sys.executable, "-c", program, host.root])
    try:
        eventually(lambda: (found := host.containers.get("interrupted")) and found.state == "running")
        caller.send_signal(how)
        assert caller.wait(timeout=20) == (3 if how == signal.SIGINT else 5)
    finally:
        caller.kill()
        caller.wait()
    assert len(host.containers) == 0


def test_output_is_told_as_it_comes(host: Host) -> None:
    """Each stream by its name, and all of it; the result has it, too."""
    told: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def tell(stream: Literal["stdout", "stderr"], data: bytes) -> None:
        told[stream] += data

    done = host.containers.run("busybox", sh="echo out; echo err >&2", on_output=tell)
    assert told == {"stdout": b"out\n", "stderr": b"err\n"}
    assert (done.stdout_bytes, done.stderr_bytes) == (b"out\n", b"err\n")
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        container.exec(["echo", "more"], on_output=tell)
    assert told["stdout"] == b"out\nmore\n"


def test_who_is_told_of_output_may_end_the_run(host: Host) -> None:
    """What it raises comes out, and the command is ended, in a container of its own or in another."""

    def refuse(stream: str, data: bytes) -> None:
        raise RuntimeError(stream)

    with pytest.raises(RuntimeError):
        host.containers.run("busybox", sh="echo x; sleep 60", on_output=refuse)
    with host.containers.launch("busybox", ["sleep", "60"]) as container:
        with pytest.raises(RuntimeError):
            container.exec(sh="echo x; sleep 60", on_output=refuse)
        assert len(container.top()) <= 2
