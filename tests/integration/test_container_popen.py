"""`containers.popen`: a new container as a process of the caller's."""

from __future__ import annotations

import os
import select
import signal

import pytest

from lxcwrap import PIPE, Container, Host, InvalidSpecError, State
from lxcwrap.errors import ExecError, StartError
from tests.polling import eventually


def is_gone(host: Host, name: str) -> bool:
    return name not in host.containers


def test_its_streams_are_the_callers(host: Host) -> None:
    """Apart and whole; it leaves nothing."""
    with host.containers.popen(
        "busybox", sh="cat; echo oops >&2; exit 3", stdin=PIPE, stdout=PIPE, stderr=PIPE
    ) as process:
        assert process.communicate(b"hello", timeout_s=30) == (b"hello", b"oops\n")
        assert process.wait() == 3
    eventually(lambda: is_gone(host, process.container))


def test_it_is_a_container_as_others(host: Host) -> None:
    """Found by its name, with what was asked for; a signal goes to its main process."""
    with host.containers.popen("busybox", ["sleep", "1000"], env={"A": "1"}) as process:
        container = host.containers[process.container]
        assert isinstance(container, Container) and container.state is State.RUNNING
        assert container.exec(sh="echo $A").stdout == "1\n"
        process.terminate()
        assert process.wait(timeout_s=30) == 128 + signal.SIGTERM
    eventually(lambda: is_gone(host, process.container))


def test_what_is_not_taken_is_logged(host: Host) -> None:
    """As of any container."""
    with host.containers.popen("busybox", sh="echo hello; read x", stdin=PIPE) as process:
        container = host.containers[process.container]
        eventually(lambda: container.logs() == "hello\n")
        process.communicate(b"\n", timeout_s=30)


def test_its_terminal_is_the_callers(host: Host) -> None:
    """It hangs up when the caller lets go of it."""
    process = host.containers.popen("busybox", ["sh", "-c", "test -t 0 && tty; sleep 1000"], tty=True)
    assert process.tty is not None
    assert os.read(process.tty.fileno(), 100).startswith(b"/dev/")
    process.close()
    eventually(lambda: is_gone(host, process.container))


def test_its_end_can_be_selected_for(host: Host) -> None:
    """By its descriptor, with others."""
    with host.containers.popen("busybox", ["true"]) as process:
        assert select.select([process], [], [], 30)[0] == [process]
        assert process.poll() == 0
        assert process.fileno() == -1


@pytest.mark.parametrize(("command", "code"), [("/nothing", 127), ("/etc", 126)])
def test_a_command_that_cannot_be_run_ends(host: Host, command: str, code: int) -> None:
    """As a shell has it."""
    with host.containers.popen("busybox", [command], stderr=PIPE) as process:
        assert process.exec_error and process.wait(timeout_s=30) == code


def test_a_start_that_fails_leaves_nothing(host: Host) -> None:
    """Neither a container nor descriptors."""
    with pytest.raises(InvalidSpecError):
        host.containers.popen("busybox", ["true"], hostname="-")
    with pytest.raises(StartError):
        host.containers.popen("busybox", ["true"], network="none", sysctls={"net.nothing": 1}, stdout=PIPE)
    eventually(lambda: len(host.containers) == 0)


def test_only_a_terminal_can_be_interacted_with(host: Host) -> None:
    """And the error says how to have one."""
    with host.containers.popen("busybox", ["true"]) as process, pytest.raises(ExecError, match="tty=True"):
        process.interact()
