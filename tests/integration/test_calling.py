"""Functions called in containers: options, output, time, interrupts."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lxcwrap import CallError, Container, Host, InvalidSpecError, TimeoutExpired, WrongStateError
from tests.integration import called
from tests.polling import eventually


@pytest.fixture
def container(host: Host) -> Iterator[Container]:
    with host.containers.launch("busybox", ["sleep", "1000"], env={"OWN": "1"}) as container:
        yield container


def is_called(container: Container) -> bool:
    """Whether a function runs in it."""
    for process in container.top():
        with suppress(FileNotFoundError, ProcessLookupError):  # it ended just now
            if Path(f"/proc/{process.host_pid}/comm").read_text() == "lxcwrap-call\n":
                return True
    return False


# --- what comes back -------------------------------------------------------------------------------------


def test_exception_comes_with_its_traceback(container: Container) -> None:
    """That of inside is a note on it, to be read with that of here."""
    with pytest.raises(FileNotFoundError) as caught:
        container.call(called.read, "/no/such")
    assert caught.value.filename == "/no/such"
    assert "called.py" in caught.value.__notes__[0] and "in read" in caught.value.__notes__[0]


def test_closures_and_lambdas_work(container: Container) -> None:
    """By cloudpickle."""
    factor = 6
    assert container.call(lambda number: number * factor, 7) == 42


def test_output_is_passed_on(container: Container, capfd: pytest.CaptureFixture[str]) -> None:
    """To the streams of this process, as it comes, by whatever program."""
    assert container.call(called.say, "ä" * 100_000, "err") is None
    out, err = capfd.readouterr()
    assert (out, err) == ("ä" * 100_000 + "\nechoed\n", "err\n")


def test_output_is_captured(container: Container, capfd: pytest.CaptureFixture[str]) -> None:
    """On request, and then nothing is passed on; that of a function that fails is a note."""
    done = container.calling().captured(called.say, "out", "err")
    assert (done.value, done.stdout, done.stderr) == (None, "out\nechoed\n", "err\n")
    assert 0 < done.duration_s < 60
    with pytest.raises(ZeroDivisionError) as caught:
        container.calling().captured(called.say_and_fail, "clue")
    assert "clue" in caught.value.__notes__[-1]
    assert capfd.readouterr() == ("", "")


def test_function_may_leave_its_streams(container: Container) -> None:
    """Closing them, or leaving a process behind that keeps them, keeps nobody waiting."""
    assert container.call(called.close_streams) == "closed"
    began = time.monotonic()
    assert container.call(called.leave_a_sleeper)
    assert time.monotonic() - began < 60


def test_function_that_dies_is_told(container: Container) -> None:
    """By a signal, or by leaving."""
    for code in (3, -signal.SIGSEGV):
        with pytest.raises(CallError) as caught:
            container.call(called.die, code)
        assert str(128 - code if code < 0 else code) in caught.value.reason


# --- options ---------------------------------------------------------------------------------------------


def test_time_is_kept(container: Container) -> None:
    """The function is killed; what it wrote is on the error."""
    with pytest.raises(TimeoutExpired) as caught:
        container.calling(timeout_s=1.5).captured(called.say_and_sleep, "begun")
    assert (caught.value.stdout, caught.value.timeout_s) == ("begun\n", 1.5)
    eventually(lambda: not is_called(container))
    assert container.calling(timeout_s=60).call(os.getppid) >= 0


def test_interrupt_kills_the_function(container: Container) -> None:
    """Ctrl-C, or a notebook's stop button."""

    def interrupt() -> None:
        eventually(lambda: is_called(container))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        container.calling(timeout_s=100).call(time.sleep, 1000)
    thread.join()
    eventually(lambda: not is_called(container))


def test_function_runs_as_who_is_asked_for(container: Container) -> None:
    """By the container's own names; with its groups, and without capabilities."""
    container.path("/etc/passwd").write_text("root:x:0:0::/:/bin/sh\njoe:x:1000:100::/:/bin/sh\n")
    container.path("/etc/group").write_text("root:x:0:\nusers:x:100:\nmail:x:8:joe\n")
    root = container.call(called.who)
    assert root[:2] == (0, 0) and root[3] != "0000000000000000"
    expectations: dict[str | int, tuple[int, int, list[int]]] = {
        "joe": (1000, 100, [8, 100]),
        "1000": (1000, 100, [8, 100]),
        "joe:mail": (1000, 8, [8]),
        "77:88": (77, 88, [88]),
        5: (5, 0, [0]),
    }
    for user, expected in expectations.items():
        assert container.calling(user=user).call(called.who) == (*expected, "0000000000000000"), user
    with pytest.raises(CallError) as caught:
        container.calling(user="nobody-of-that-name").call(called.who)
    assert "nobody-of-that-name" in caught.value.reason
    with pytest.raises(InvalidSpecError):
        container.calling(user=70000).call(called.who)


def test_users_of_a_hostile_container_keep_nobody_waiting(container: Container) -> None:
    """A FIFO in the place of the file is none."""
    container.exec(sh="rm -f /etc/passwd; mkfifo /etc/passwd")
    with pytest.raises(CallError):
        container.calling(user="joe", timeout_s=60).call(called.who)
    assert container.calling(user="7", timeout_s=60).call(os.getuid) == 7


def test_variables_come_on_top(container: Container) -> None:
    """Of those of the container."""
    assert container.calling(env={"MORE": "2"}).call(called.variables, "OWN", "MORE", "HOME") == [
        "1",
        "2",
        None,
    ]


def test_modules_are_imported_before(
    container: Container, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are this program's, and need not exist in the container; what is missing is named."""
    (tmp_path / "lately.py").write_text("VALUE = 5")
    monkeypatch.syspath_prepend(tmp_path)
    assert container.calling(imports=["lately"]).call(called.import_lately) == 5
    with pytest.raises(ModuleNotFoundError) as caught:
        container.call(called.import_lately)
    assert "imports=" in str(caught.value)
    with pytest.raises(CallError) as missing:
        container.calling(imports=["no_such_module"]).call(os.getpid)
    assert "no_such_module" in missing.value.reason
    with pytest.raises(TypeError):
        container.calling(imports="numpy")


# --- decorated -------------------------------------------------------------------------------------------


def test_decorated_function_is_called_inside(container: Container) -> None:
    """With its name, and by its name where it can be imported; with options, too."""

    @container.function
    def add(one: int, other: int = 1) -> int:
        """Adds."""
        assert os.getpid() != here
        return one + other

    here = os.getpid()
    assert add(1, other=2) == 3 and (add.__name__, add.__doc__) == ("add", "Adds.")
    patient = container.calling(timeout_s=0.3)
    with pytest.raises(TimeoutExpired):
        patient.function(time.sleep)(1000)


def test_decorated_function_of_a_module_needs_no_cloudpickle(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found there under the decorator."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    assert container.call(inspect.unwrap(called.decorated), 20) == 40


def test_what_does_not_run_is_not_called(container: Container) -> None:
    """Nor does it hang on a paused one."""
    container.pause()
    with pytest.raises(WrongStateError):
        container.call(os.getpid)
    container.unpause()


def test_calls_of_many_threads(container: Container) -> None:
    """Each gets its own answer."""
    answers: dict[int, int] = {}

    def ask(number: int) -> None:
        answers[number] = container.call(called.double, number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: 2 * number for number in range(12)}
