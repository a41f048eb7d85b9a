"""Many threads, processes and forks use one root directory at once; and interrupts come at any line."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.resource_tracker
import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from lxcwrap import (
    CommandFailedError,
    Container,
    ContainerNotFoundError,
    Host,
    LxcwrapError,
    NameInUseError,
    StartError,
    State,
    TimeoutExpired,
    WrongStateError,
)
from tests import faults
from tests.faults import assert_clean
from tests.polling import eventually

THREADS, PROCESSES, ROUNDS = 16, 8, 3
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture(scope="module", autouse=True)
def resource_tracker() -> None:
    """Multiprocessing starts it when it is first needed, and keeps it."""
    multiprocessing.resource_tracker.ensure_running()


def _at_once(*acts: Callable[[], object]) -> list[object]:
    """All in threads that begin together; what each gave or raised."""
    gate = threading.Barrier(len(acts))

    def one(act: Callable[[], object]) -> object:
        gate.wait()
        try:
            return act()
        except LxcwrapError as error:
            return error

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(one, acts))


def _in_processes(root: Path, work: Callable[[Path, int, float], object]) -> list[object]:
    """`work(root, i, begin)` in `PROCESSES` new processes; `begin`: a moment at which all should be there."""
    begin = time.time() + 1.0
    with ProcessPoolExecutor(PROCESSES, mp_context=SPAWN) as pool:
        futures = [pool.submit(work, root, i, begin) for i in range(PROCESSES)]
        return [future.result(timeout=60) for future in futures]


def _mixed(host: Host, who: str) -> int:
    """A bit of everything, with its own containers; how many checks it made."""
    assert host.containers.run("busybox", ["echo", who]).stdout == f"{who}\n"
    with pytest.raises(CommandFailedError) as failed:
        host.containers.run("busybox", sh="echo out; echo err >&2; exit 3")
    assert (failed.value.exit_code, failed.value.stdout, failed.value.stderr) == (3, "out\n", "err\n")
    with host.containers.launch("busybox", ["sleep", "1000"], name=f"{who}-a") as container:
        assert container.exec(["cat"], input=who).stdout == who
        container.rename(f"{who}-b")
        assert host.containers[f"{who}-b"] == container
        assert container in list(host.containers)
        assert container.stop() == 143
        assert container.start().state == State.RUNNING
        host.images.resolve("busybox").tag(f"local/{who.lower()}:1")
        assert host.images[f"local/{who.lower()}:1"] == host.images["busybox"]
        container.image.untag(f"local/{who.lower()}:1")
    with pytest.raises(ContainerNotFoundError):
        container.start()
    return 8


def _mixed_in_process(root: Path, i: int, begin: float) -> int:
    time.sleep(max(0.0, begin - time.time()))
    with Host(root) as host:
        return sum(_mixed(host, f"p{i}-{n}") for n in range(ROUNDS))


def test_threads_share_a_host(fresh_host: Host) -> None:
    """16 at once, with all results right."""

    def work(i: int) -> int:
        return sum(_mixed(fresh_host, f"t{i}-{n}") for n in range(ROUNDS))

    assert _at_once(*(partial(work, i) for i in range(THREADS))) == [8 * ROUNDS] * THREADS
    assert_clean(fresh_host.root)
    assert list(fresh_host.containers) == []


def test_processes_share_a_root_directory_that_is_empty_at_first(fresh_root: Path) -> None:
    """8 at once: they make the default image, start the fork-server, and do all the rest."""
    assert _in_processes(fresh_root, _mixed_in_process) == [8 * ROUNDS] * PROCESSES
    assert_clean(fresh_root)
    with Host(fresh_root) as host:
        assert (len(host.images), len(host.containers)) == (1, 0)


def test_of_many_starts_of_one_container_one_wins(host: Host) -> None:
    """The others are told that it runs."""
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        for _ in range(5):
            results = _at_once(*[container.start] * 8)
            assert results.count(container) == 1
            assert {type(result) for result in results if result != container} <= {WrongStateError}
            container.stop()


def test_of_many_creations_under_one_name_one_wins(host: Host) -> None:
    """The others are told that it is taken."""
    results = _at_once(*[partial(host.containers.create, "busybox", ["true"], name="wanted")] * 8)
    assert sum(isinstance(result, Container) for result in results) == 1
    assert {type(result) for result in results} == {Container, NameInUseError}
    host.containers["wanted"].remove()


def test_a_start_waits_for_the_clean_up_of_the_last_run(host: Host) -> None:
    """However soon it comes."""
    with host.containers.create("busybox", ["true"]) as container:
        for _ in range(30):
            container.start()
            eventually(lambda: container.exit_code == 0)


def test_many_may_stop_at_once(host: Host) -> None:
    """All get the exit code."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        assert _at_once(*[container.stop] * 8) == [143] * 8


def test_a_container_is_started_and_removed_at_once(host: Host) -> None:
    """One of the two is refused, or the removal comes after; nothing is left."""
    for round in range(20):
        container = host.containers.create("busybox", ["sleep", "1000"])
        remove = partial(container.remove, force=bool(round % 2))
        started, removed = _at_once(container.start, remove)
        assert isinstance(started, Container | ContainerNotFoundError | WrongStateError | StartError), started
        assert removed is None or isinstance(removed, WrongStateError), removed
        with suppress(ContainerNotFoundError):
            container.remove(force=True)
    assert_clean(host.root)


def test_many_may_remove_at_once(host: Host) -> None:
    """It is gone in the end, and those too late are told so."""
    for _ in range(5):
        container = host.containers.launch("busybox", ["sleep", "1000"])
        results = _at_once(*[partial(container.remove, force=True)] * 8)
        assert {type(result) for result in results} <= {type(None), ContainerNotFoundError}
        assert container not in host.containers
    assert_clean(host.root)


def test_no_request_is_lost_to_a_server_that_ends(fresh_host: Host) -> None:
    """Again and again it retires while others run containers."""
    fresh_host.containers.run("busybox", ["true"])
    done = threading.Event()

    def retire() -> None:
        while not done.is_set():
            fresh_host._machinery.supervisor.stop()
            time.sleep(random.uniform(0.0, 0.05))

    def work(i: int) -> list[str]:
        return [fresh_host.containers.run("busybox", ["echo", str(i)]).stdout for _ in range(15)]

    retiring = threading.Thread(target=retire)
    retiring.start()
    try:
        results = _at_once(*(partial(work, i) for i in range(4)))
    finally:
        done.set()
        retiring.join()
    assert results == [[f"{i}\n"] * 15 for i in range(4)]
    assert_clean(fresh_host.root)


def test_a_server_ends_when_it_is_idle_and_loses_nothing(
    fresh_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here after 20 ms: requests meet it at all points of its ending."""
    from lxcwrap.supervisor import spawning

    idle = "import lxcwrap.supervisor.boot, lxcwrap.supervisor.server as s; s._IDLE_S = 0.02; from lxcwrap"
    monkeypatch.setattr(spawning, "BOOT", spawning.BOOT.replace("from lxcwrap", idle, 1))
    with fresh_host.containers.launch("busybox", ["sleep", "1000"]) as container:
        for n in range(40):
            time.sleep(0.015 + 0.0005 * n)
            assert container.exec(["echo", str(n)]).stdout == f"{n}\n"


def test_versions_have_servers_of_their_own(fresh_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program with a newer lxcwrap uses the same containers, but never the older server."""
    from lxcwrap.supervisor import spawning, wire

    with fresh_host.containers.launch("busybox", ["sleep", "1000"]) as container:
        older = fresh_host._machinery.supervisor.pid()
        newer = "from lxcwrap.supervisor import wire; wire.SERVER = 'server-next'; from lxcwrap"
        monkeypatch.setattr(spawning, "BOOT", spawning.BOOT.replace("from lxcwrap", newer, 1))
        monkeypatch.setattr(wire, "SERVER", "server-next")
        assert container.exec(["echo", "hi"]).stdout == "hi\n"
        assert fresh_host._machinery.supervisor.pid() not in (None, older)
        assert container.stop() == 143
        fresh_host._machinery.supervisor.stop()
    monkeypatch.undo()


# --- the caller's own threads and forks -------------------------------------------------------------------


def test_other_threads_of_the_caller_are_not_held_up(host: Host) -> None:
    """A notebook stays alive: nothing holds the interpreter's lock while it waits."""
    delays: list[float] = []
    done = threading.Event()

    def tick() -> None:
        last = time.perf_counter()
        while not done.is_set():
            time.sleep(0.001)
            now = time.perf_counter()
            delays.append(now - last - 0.001)
            last = now

    ticking = threading.Thread(target=tick)
    ticking.start()
    try:
        for _ in range(5):
            host.containers.run("busybox", ["sleep", "0.02"])
            with host.containers.launch("busybox", ["sleep", "1000"]) as container:
                container.exec(["true"])
                container.call(os.getpid)
                container.stop()
    finally:
        done.set()
        ticking.join()
    worst = sorted(delays)
    print(f"longest delay: {worst[-1] * 1e3:.2f} ms")  # noqa: T201  # for pytest -s
    assert worst[-1] < 0.2  # a machine that does much else delays it, too


def _in_fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_goes_on_with_a_host_of_its_parent(host: Host) -> None:
    """As multiprocessing does it; and the parent is not disturbed."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:

        def work() -> None:
            assert container.exec(["echo", "hi"]).stdout == "hi\n"
            assert host.containers.run("busybox", ["echo", "hi"]).stdout == "hi\n"
            container.rename("renamed-by-child")

        assert _in_fork(work) == 0
        assert container.name == "renamed-by-child"
        with pytest.raises(TimeoutExpired):
            container.exec(["sleep", "9"], timeout_s=0.05)


def test_a_forked_child_that_outlives_its_parent_loses_no_change(fresh_root: Path) -> None:
    """SQLite must not believe that it holds the locks of its parent's connections."""
    reader, writer = os.pipe()

    def parent() -> None:
        host = Host(fresh_root)
        host.images.resolve("busybox")
        child = os.fork()
        if child:
            os._exit(0)
        host.images["busybox"].tag("child:0")
        os.read(reader, 1)  # until the parent has gone, and others have opened and closed the records
        host.images["busybox"].tag("child:1")
        os.close(writer)
        os._exit(0)

    assert _in_fork(parent) == 0
    for n in range(2):
        assert _in_fork(lambda: Host(fresh_root).images["busybox"].tag(f"other:{n}")) == 0  # noqa: B023
    os.write(writer, b"x")
    os.close(writer)
    with Host(fresh_root) as host:
        eventually(lambda: "child:1" in host.images["busybox"].tags)
        assert {"child:0", "other:0", "other:1"} <= set(host.images["busybox"].tags)
    os.close(reader)


def test_a_forked_child_that_lives_on_does_not_keep_what_its_parent_held(host: Host) -> None:
    """Locks are given back although the child has the descriptors, too."""
    with host.containers.create("busybox", ["sleep", "1000"]) as container:
        with container._open_root():  # holds the container's lock
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
        try:
            began = time.monotonic()
            assert container.start().state == State.RUNNING
            assert time.monotonic() - began < 5
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


# --- interrupts -------------------------------------------------------------------------------------------


def _run(host: Host) -> None:
    host.containers.run("busybox", ["true"], name="interrupted")


def _life(host: Host) -> None:
    with host.containers.launch("busybox", ["sleep", "1000"], name="interrupted") as container:
        container.exec(["true"])
        with suppress(TimeoutExpired):
            container.wait(timeout_s=0)
        container.stop()


@pytest.mark.parametrize("act", [_run, _life])
def test_an_interrupt_at_any_line_leaves_nothing(host: Host, act: Callable[[Host], None]) -> None:
    """Ctrl-C in a notebook: what was begun is undone, and the host goes on being used."""
    stride = int(os.environ.get("LXCWRAP_TEST_FAULT_STRIDE", "89"))

    def interrupt_all() -> None:
        n, interrupted = 1, True
        while interrupted:
            interrupted = False
            try:
                with faults.striking(faults.interrupt, n):
                    act(host)
            except KeyboardInterrupt:
                interrupted = True
            gc.collect()  # the traceback's frames may be in a cycle
            with host._machinery.state.transaction():
                pass  # ends one that was interrupted at the very end of its block
            if container := host.containers.get("interrupted"):  # in the clean-up itself
                container.remove(force=True)
            assert_clean(host.root)
            n += stride

    # In a fork: what an interrupt falls upon between two lines, Python cannot close.
    assert _in_fork(interrupt_all) == 0


def test_nothing_is_left_open_after_many_operations(host: Host) -> None:
    """Also not after failures."""

    def operate() -> None:
        _mixed(host, "many")
        with pytest.raises(StartError):
            host.containers.launch("busybox", ["/missing"])
        with pytest.raises(TimeoutExpired):
            host.containers.run("busybox", ["sleep", "9"], timeout_s=0.05)
        with pytest.raises(NameInUseError), host.containers.create("busybox", name="twice"):
            host.containers.create("busybox", name="twice")

    operate()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(10):
        operate()
    assert len(os.listdir("/proc/self/fd")) == len(before)
