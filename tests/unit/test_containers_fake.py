"""The collection of containers, on a fake host: finding, making, running, and what a failure leaves."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import lxcwrap
from lxcwrap import Container, Host, Limits, State
from lxcwrap.errors import (
    CommandFailedError,
    ContainerNotFoundError,
    ImageNotFoundError,
    InvalidSpecError,
    NameInUseError,
    StartError,
    StillUsedError,
    SupervisorError,
    TimeoutExpired,
)
from lxcwrap.ids import FIRST_BASE, IDENTITY, LAST_BASE, RANGE_SIZE
from lxcwrap.machinery import Machinery
from lxcwrap.supervisor.fake import FakeSupervisor
from lxcwrap.testing import FakeMachinery, fake_host
from tests.polling import eventually

PROGRAMS = {
    "serve": "import time; print('ready', flush=True); time.sleep(60)",
    "warn": "import sys; print('out'); print('err', file=sys.stderr); raise SystemExit(3)",
    "stubborn": """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("on", flush=True)
time.sleep(60)
""",
}


@pytest.fixture(scope="module")
def shared(roots: Path) -> Iterator[Host]:
    with fake_host(roots / os.urandom(4).hex(), programs=PROGRAMS) as host:
        yield host


@pytest.fixture
def host(shared: Host) -> Iterator[Host]:
    """With no container in it, before and after."""
    yield shared
    for container in shared.containers:
        container.remove(force=True)
    eventually(lambda: not os.listdir(shared.root / "containers"))


def machinery(host: Host) -> Machinery:
    return host.containers._machinery


def supervisor(host: Host) -> FakeSupervisor:
    found = machinery(host).supervisor
    assert isinstance(found, FakeSupervisor)
    return found


def traces(host: Host) -> list[str]:
    """All that containers leave in the store: equal traces, nothing was made."""
    root, connection = machinery(host).root, machinery(host).state.connection
    rows = [str(tuple(row)) for row in connection.execute("SELECT * FROM containers ORDER BY id")]
    files = sorted(str(path) for place in (root.containers, root.trash) for path in place.rglob("*"))
    return rows + files


# --- finding --------------------------------------------------------------------------------------------


def test_a_container_is_found_by_name_id_prefix_and_itself(host: Host) -> None:
    """As a read-only mapping."""
    web = host.containers.create("busybox", ["serve"], name="web")
    for key in ("web", web.id, web.id[:12], web.id[:2], web):
        assert host.containers[key] == web and key in host.containers and host.containers.get(key) == web  # type: ignore[arg-type]
    assert list(host.containers) == [web] and len(host.containers) == 1
    assert web.name == "web" and len(web.id) == 64 and web == Container(machinery(host), web.id)
    assert len({web, host.containers["web"]}) == 1


@pytest.mark.parametrize("key", ["", "w", "webb", "%", "_", "web%", "' OR 1=1 --", "g" * 64])
def test_what_is_not_there(host: Host, key: str) -> None:
    """KeyError, as of a dict; no part of a name and no pattern is a name."""
    host.containers.create("busybox", ["serve"], name="web")
    with pytest.raises(ContainerNotFoundError) as caught:
        host.containers[key]
    assert caught.value.container == key and isinstance(caught.value, KeyError)
    assert (
        key not in host.containers and host.containers.get(key) is None and host.containers.get(key, 1) == 1
    )


def test_other_keys_are_in_no_mapping(host: Host) -> None:
    """`in` says no, and raises nothing."""
    for key in (None, 1, b"web"):
        assert key not in host.containers


def test_an_ambiguous_prefix_names_its_candidates(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name wins over prefixes."""
    ids = iter(("aa1" + "0" * 61, "aa2" + "0" * 61, "bb" + "0" * 62))
    monkeypatch.setattr("lxcwrap.containers.secrets.token_hex", lambda _: next(ids))
    first, second = (host.containers.create("busybox", ["serve"]) for _ in range(2))
    with pytest.raises(ContainerNotFoundError) as caught:
        host.containers["aa"]
    assert set(caught.value.candidates) == {first.id, second.id}
    named = host.containers.create("busybox", ["serve"], name="aa")
    assert host.containers["aa"] == named and host.containers["aa1"] == first


def test_the_newest_is_listed_first(host: Host) -> None:
    """All, or those in a state."""
    made = [host.containers.create("busybox", ["serve"]) for _ in range(3)]
    made[1].start()
    assert host.containers.list() == made[::-1]
    assert host.containers.list(state=State.RUNNING) == [made[1]]
    assert host.containers.list(state=State.CREATED) == [made[2], made[0]]


def test_prune_leaves_what_runs(host: Host) -> None:
    """Names of the removed."""
    for name in ("a", "b", "c"):
        host.containers.create("busybox", ["serve"], name=name)
    host.containers["b"].start()
    assert sorted(host.containers.prune()) == ["a", "c"]
    assert [container.name for container in host.containers] == ["b"]


# --- making ---------------------------------------------------------------------------------------------


def test_created_is_not_started(host: Host) -> None:
    """It has all it was made with, and no run."""
    web = host.containers.create("busybox", ["serve"], name="web", labels={"a": "b"}, limits=Limits(pids=9))
    assert (web.state, web.exit_code, web.init_pid, web.started_at) == (State.CREATED, None, None, None)
    assert web.spec.argv == ("serve",) and dict(web.labels) == {"a": "b"} and web.spec.limits.pids == 9
    assert web.image == host.images["busybox"]
    with pytest.raises(StillUsedError):
        web.image.remove()


def test_names_are_unique(host: Host) -> None:
    """At creation and at renaming; nothing was changed by the attempt."""
    web = host.containers.create("busybox", ["serve"], name="web")
    other = host.containers.create("busybox", ["serve"], name="other")
    before = traces(host)
    with pytest.raises(NameInUseError):
        host.containers.create("busybox", ["serve"], name="web")
    with pytest.raises(NameInUseError):
        other.rename("web")
    with pytest.raises(InvalidSpecError):
        other.rename("a/b")
    assert traces(host) == before
    web.rename("web")
    web.rename("front")
    assert (web.name, web.spec.name) == ("front", "front") and "web" not in host.containers
    other.rename("web")


def test_many_threads_create_at_once(host: Host) -> None:
    """Each container has a range of its own."""
    errors: list[BaseException] = []

    def create() -> None:
        try:
            for _ in range(3):
                host.containers.create("busybox", ["serve"])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    rows = machinery(host).state.connection.execute("SELECT slot FROM containers").fetchall()
    assert sorted(row[0] for row in rows) == list(range(18))


def test_a_free_range_is_used_again(host: Host) -> None:
    """The lowest; privileged ones have none."""

    def slot(container: Container) -> int | None:
        query = "SELECT slot FROM containers WHERE id = ?"
        return machinery(host).state.connection.execute(query, (container.id,)).fetchone()[0]  # type: ignore[no-any-return]

    made = [host.containers.create("busybox", ["serve"]) for _ in range(3)]
    assert [slot(container) for container in made] == [0, 1, 2]
    made[1].remove()
    assert slot(host.containers.create("busybox", ["serve"], privileged=True)) is None
    assert slot(host.containers.create("busybox", ["serve"])) == 1
    made[0].remove()
    assert slot(host.containers.create("busybox", ["serve"])) == 0


def test_ranges_never_overlap(tmp_path: Path) -> None:
    """Within the bounds, for any slot; of any root directory."""
    for name in ("a", "b", "c"):
        made = FakeMachinery(tmp_path / name, FakeSupervisor())
        last = (LAST_BASE - FIRST_BASE) // RANGE_SIZE
        maps = sorted(made.idmap(slot) for slot in (*range(50), *range(last - 50, last)))
        assert all(low.base + low.size <= high.base for low, high in pairwise(maps))
        assert maps[0].base >= FIRST_BASE and maps[-1].base + maps[-1].size <= LAST_BASE + RANGE_SIZE
        assert made.idmap(None) == IDENTITY
        made.close()


@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("nonesuch", ["x"]), {}, ImageNotFoundError),
        (("busybox", "true"), {}, TypeError),
        (("busybox", ["serve"]), {"nam": "x"}, TypeError),
        (("busybox", ["serve"]), {"name": "a/b"}, InvalidSpecError),
        (("busybox", []), {}, InvalidSpecError),
        (("busybox", None), {}, InvalidSpecError),
    ],
)
def test_wrong_calls_make_nothing(
    host: Host, arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception]
) -> None:
    """By every way to make one; the supervisor was not even asked."""
    before, asked = traces(host), len(supervisor(host).requests)
    ways: tuple[Callable[..., object], ...] = (
        host.containers.create,
        host.containers.launch,
        host.containers.run,
    )
    for way in ways:
        with pytest.raises(error):
            way(*arguments, **options)
    assert traces(host) == before and len(supervisor(host).requests) == asked


def test_whatever_call_fails_creation_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The n-th system call that changes something fails, for every n."""
    host.containers.create("busybox", ["serve"]).remove()  # what is made once is made
    before, names, fuse = traces(host), ("mkdir", "chmod", "rename", "open"), [0]
    real = {name: getattr(os, name) for name in names}

    def failing(name: str) -> Callable[..., Any]:
        def call(path: Any, *args: Any, **kwargs: Any) -> Any:
            if "containers/" in os.fspath(path) and not (name == "open" and not args[0] & os.O_CREAT):
                fuse[0] -= 1
                if fuse[0] == 0:
                    raise OSError(28, "No space left on device")
            return real[name](path, *args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(os, name, failing(name))
    for number in range(1, 100):
        fuse[0] = number
        try:
            web = host.containers.create("busybox", ["serve"], name="web")
        except OSError:
            assert traces(host) == before, number
            continue
        break
    fuse[0] = 0
    web.remove()
    assert 5 < number < 99  # some failed, and then it did not any more
    assert traces(host) == before


def test_a_failed_record_leaves_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full, or the store locked for too long."""
    before, state = traces(host), machinery(host).state
    real, calls = state.transaction, [0]

    def failing() -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise sqlite3.OperationalError("database or disk is full")
        return real()

    monkeypatch.setattr(state, "transaction", failing)
    with pytest.raises(sqlite3.OperationalError):
        host.containers.create("busybox", ["serve"])
    assert traces(host) == before


def test_a_launch_that_fails_leaves_nothing(host: Host) -> None:
    """No such command, or the supervisor's process dies."""
    before = traces(host)
    with pytest.raises(StartError, match="nonesuch"):
        host.containers.launch("busybox", ["nonesuch"])
    assert traces(host) == before
    ways: tuple[Callable[..., object], ...] = (host.containers.launch, host.containers.run)
    for way in ways:
        supervisor(host).fail_at = len(supervisor(host).requests) + 1
        with pytest.raises(SupervisorError):
            way("busybox", ["serve"])
        assert traces(host) == before


def test_leaving_the_block_removes(host: Host) -> None:
    """Also by an exception; also if it was removed within."""
    with pytest.raises(KeyError), host.containers.launch("busybox", ["serve"]) as web:
        raise KeyError
    assert web not in host.containers and len(host.containers) == 0
    with host.containers.launch("busybox", ["serve"]) as web:
        web.remove(force=True)


# --- run ------------------------------------------------------------------------------------------------


def test_run_is_as_subprocess_run(host: Host) -> None:
    """Output, exit code, input; nothing is left of it."""
    before = traces(host)
    done = lxcwrap.run("busybox", ["echo", "hello"])  # on the default host, which the fake one is
    assert (done.exit_code, done.stdout, done.stderr, done.argv) == (0, "hello\n", "", ("echo", "hello"))
    assert host.containers.run("busybox", ["cat"], input="x").stdout == "x"
    with pytest.raises(CommandFailedError) as caught:
        host.containers.run("busybox", ["warn"])
    assert (caught.value.exit_code, caught.value.stdout, caught.value.stderr) == (3, "out\n", "err\n")
    assert host.containers.run("busybox", ["warn"], check=False).exit_code == 3
    assert host.containers.run("busybox", ["nonesuch"], check=False).exit_code == 127
    assert host.containers.run("busybox", ["env"], env={"A": "b c"}).stdout.count("A=b c\n") == 1
    _settle(host, before)


def test_run_kills_when_its_time_is_over(host: Host) -> None:
    """With what was said until then."""
    before = traces(host)
    with pytest.raises(TimeoutExpired) as caught:
        host.containers.run("busybox", ["stubborn"], timeout_s=0.3)
    assert caught.value.stdout == "on\n" and isinstance(caught.value, TimeoutError)
    _settle(host, before)


def test_run_refuses_what_it_cannot_do(host: Host) -> None:
    """Before anything is made."""
    before = traces(host)
    with pytest.raises(InvalidSpecError):
        host.containers.run("busybox", ["serve"], tty=True)
    with pytest.raises(TypeError):
        host.containers.run("busybox", ["cat"], input=1)  # type: ignore[arg-type]  # on purpose
    assert traces(host) == before


def _settle(host: Host, before: list[str]) -> None:
    """The monitor clears up while the caller goes on."""
    eventually(lambda: traces(host) == before)


# --- clearing -------------------------------------------------------------------------------------------


def test_the_next_host_clears_what_killed_processes_left(host: Host) -> None:
    """Half-made rows, directories without a row, trash; not what a living process is making."""
    web = host.containers.create("busybox", ["serve"], name="web")
    before, made = traces(host), machinery(host)
    values = ("cd" * 32, "half", web.image.id, 7, "{}", 0.0)
    for owner in ((1 << 22, 1), (os.getpid(), 1)):  # a pid that is not there; ours, of a process long before
        with made.state.transaction() as change:
            insert = "INSERT INTO containers VALUES (?, ?, ?, 'creating', ?, ?, ?, ?, ?)"
            change.execute(insert, (*values, *owner))
        for name in ("cd" * 32, "ef" * 32):
            (made.root.containers / name / "upper").mkdir(parents=True)
        (made.root.trash / "x").mkdir()
        made.clean()
        assert traces(host) == before


def test_a_killed_monitor_is_found_and_its_run_closed(host: Host) -> None:
    """Nobody saw the end: there is no exit code, and the reason is told."""
    web = host.containers.launch("busybox", ["serve"], name="web")
    run = machinery(host).records(web.id).read("run")
    assert run is not None
    for pid in (run["monitor"], run["init_pid"]):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: web.state == State.STOPPED)
    eventually(lambda: not machinery(host).records(web.id).is_held())
    machinery(host).clean()
    assert (web.exit_code, web.init_pid) == (None, None) and "killed" in (web.error or "")
    web.start()
    assert web.state == State.RUNNING
