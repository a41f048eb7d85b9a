"""What containers write, as their logs: while they run, afterwards, and over rotations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lxcwrap import Container, Host
from lxcwrap.errors import InvalidSpecError, TimeoutExpired
from tests.polling import eventually


@pytest.fixture(scope="module")
def host(shared_root: Path) -> Iterator[Host]:
    with Host(shared_root) as host:
        yield host


def ended(host: Host, script: str, **options: int | str) -> Container:
    """A container that ran a shell line to its end; to be used in a ``with``."""
    container = host.containers.launch("busybox", sh=script, **options)  # type: ignore[arg-type]  # few of many
    container.wait(timeout_s=30)
    return container


def test_lines_are_in_order_with_stream_and_time(host: Host) -> None:
    """Both streams in one log; times are in UTC and ascend."""
    script = "for i in 1 2 3; do echo out $i; sleep 0.02; echo err $i >&2; sleep 0.02; done"
    began = datetime.now(UTC)
    with ended(host, script) as container:
        lines = list(container.log_lines())
        assert [(line.stream, line.text) for line in lines] == [
            (stream, f"{word} {i}")
            for i in (1, 2, 3)
            for stream, word in (("stdout", "out"), ("stderr", "err"))
        ]
        times = [line.time for line in lines]
        assert times == sorted(times) and began - timedelta(seconds=1) < times[0] < datetime.now(UTC)
        assert container.logs() == "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n"


def test_no_line_is_older_than_its_run(host: Host) -> None:
    """What is written at once is found from the start on, however late that is recorded."""
    for _ in range(5):
        with host.containers.launch("busybox", ["echo", "x"]) as container:
            container.wait()
            assert [line.text for line in container.log_lines(since=container.started_at)] == ["x"]


def test_a_part_of_the_log_can_be_asked_for(host: Host) -> None:
    """The last lines, one stream, a span of time."""
    with ended(host, "seq 5; sleep 0.2; echo late; echo err >&2") as container:
        assert container.logs(tail=2, stream="stdout") == "5\nlate\n"
        assert container.logs(tail=0) == ""
        assert container.logs(stream="stderr") == "err\n"
        late = next(line.time for line in container.log_lines() if line.text == "late")
        assert container.logs(until=late - timedelta(milliseconds=100)) == "1\n2\n3\n4\n5\n"
        assert set(container.logs(since=late).split()) == {"late", "err"}
        with pytest.raises(InvalidSpecError):
            container.logs(tail=-1)


def test_lines_are_whole_however_they_are_written(host: Host) -> None:
    """In pieces, very long, without an end, with bytes that are no text, and empty."""
    long = "head -c 200000 /dev/zero | tr '\\0' x; echo"
    script = f"printf begin; sleep 0.05; echo -end; {long}; printf '\\377\\n\\nlast'"
    with ended(host, script) as container:
        texts = [line.text for line in container.log_lines()]
    assert texts == ["begin-end", "x" * 200000, "\ufffd", "", "last"]


def test_nothing_is_lost_of_much(host: Host) -> None:
    """Of 200,000 lines at full speed, all that was written before the end."""
    with ended(host, "seq 200000") as container:
        assert container.logs() == "".join(f"{number}\n" for number in range(1, 200001))


def test_a_follower_gets_lines_as_they_come_and_ends_with_the_container(host: Host) -> None:
    """From the beginning, or from the tail on."""
    script = "echo early; while ! test -e /go; do sleep 0.01; done; echo late; exit 3"
    with host.containers.launch("busybox", sh=script) as container:
        follower = container.log_lines(follow=True)
        assert next(follower).text == "early" and container.state == "running"
        container.path("/go").touch()
        assert [line.text for line in follower] == ["late"]
        assert container.exit_code == 3
        assert [line.text for line in container.log_lines(follow=True, tail=1)] == ["late"]


def test_following_ends_when_the_container_is_removed(host: Host) -> None:
    """By itself or by others, with all that was written."""
    script = "echo one; sleep 0.2; echo two"
    container = host.containers.launch("busybox", sh=script, auto_remove=True)
    assert [line.text for line in container.log_lines(follow=True)] == ["one", "two"]
    eventually(lambda: container.id not in host.containers)
    container = host.containers.launch("busybox", sh="echo one; exec sleep 1000")
    follower = container.log_lines(follow=True)
    assert next(follower).text == "one"
    container.remove(force=True)
    assert list(follower) == []


def test_following_gives_up_after_its_time(host: Host) -> None:
    """With what was written before."""
    with host.containers.launch("busybox", sh="echo one; exec sleep 1000") as container:
        follower = container.log_lines(follow=True, timeout_s=0.2)
        assert next(follower).text == "one"
        with pytest.raises(TimeoutExpired):
            next(follower)


def test_many_may_follow_at_once(fresh_host: Host) -> None:
    """Each gets everything, over rotations too."""
    script = "i=0; while test $i -lt 40; do seq 200; i=$((i+1)); done"
    counts: list[int] = []
    with fresh_host.containers.launch(
        "busybox", sh=script, log_max_bytes="64KiB", log_max_files=50
    ) as container:
        threads = [
            threading.Thread(target=lambda: counts.append(sum(1 for _ in container.log_lines(follow=True))))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert counts == [8000] * 3


def test_old_lines_go_when_the_log_is_full(host: Host) -> None:
    """Files are bounded in size and number; the newest lines are kept, whole and in order."""
    with ended(host, "seq 100000", log_max_bytes="64KiB", log_max_files=3) as container:
        numbers = [int(line.text) for line in container.log_lines()]
        assert numbers == list(range(numbers[0], 100001)) and numbers[0] > 1
        files = list((host.root / "containers" / container.id / "logs").iterdir())
        assert len(files) <= 3 and all(file.stat().st_size <= 65536 + 8192 for file in files)


def test_the_log_goes_on_over_a_restart(host: Host) -> None:
    """As ``docker logs`` has it; a follower of the new run ends with the new run."""
    with ended(host, "echo run") as container:
        container.start().wait(timeout_s=10)
        assert container.logs() == "run\nrun\n"
        assert [line.text for line in container.log_lines(follow=True)] == ["run", "run"]


def test_a_container_that_never_ran_has_no_lines(host: Host) -> None:
    """And a follower does not wait for it."""
    with host.containers.create("busybox", ["true"]) as container:
        assert container.logs() == "" and list(container.log_lines(follow=True)) == []


def test_logs_of_a_writer_that_is_not_root(host: Host) -> None:
    """It may open /dev/stdout and /dev/stderr, as servers do."""
    with ended(host, "echo a > /dev/stdout; echo b > /dev/stderr", user="nobody") as container:
        assert sorted((line.stream, line.text) for line in container.log_lines()) == [
            ("stderr", "b"),
            ("stdout", "a"),
        ]


def test_exec_does_not_write_to_the_log(host: Host) -> None:
    """Its output belongs to who called it."""
    with host.containers.launch("busybox", ["sleep", "1000"]) as container:
        container.exec(["echo", "mine"])
        assert container.logs() == ""


def test_a_slow_reader_does_not_stop_the_container(host: Host) -> None:
    """Nobody needs to read the log for the container to go on."""
    with host.containers.launch("busybox", sh="seq 300000; echo done >&2") as container:
        follower = container.log_lines(follow=True, stream="stderr")
        began = time.monotonic()
        assert container.wait(timeout_s=30) == 0 and time.monotonic() - began < 30
        assert next(follower).text == "done"
        follower.close()  # type: ignore[attr-defined]  # a generator
