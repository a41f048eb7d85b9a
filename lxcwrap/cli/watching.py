"""``logs``, ``stats`` and ``events``: what goes on."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from .creation import seconds
from .output import Column, Facts, plain, print_json_line, show
from .parsing import Commands, completed_by
from .targets import host_of

if TYPE_CHECKING:
    from .. import Container, Stats


def add(commands: Commands) -> None:
    logs = commands.add("logs", _logs, "what a container wrote", json=True)
    logs.add_argument("-f", "--follow", action="store_true", help="wait for more, until it ends")
    logs.add_argument("-n", "--tail", default="all", metavar="N", help="the last lines only")
    logs.add_argument("-t", "--timestamps", action="store_true")
    for name in ("since", "until"):
        logs.add_argument(f"--{name}", metavar="TIME", help="2026-01-31T12:00:00, or 10m: so long ago")
    completed_by(logs.add_argument("container"), "containers")
    stats = commands.add("stats", _stats, "what containers use", json=True)
    stats.add_argument("--no-stream", action="store_true", help="once")
    stats.add_argument("--interval", default="1s", metavar="TIME")
    completed_by(stats.add_argument("container", nargs="*"), "containers")
    events = commands.add("events", _events, "what happens, until interrupted", json=True)
    events.add_argument("--since", metavar="TIME", help="what has happened from then on; 10m: so long ago")
    events.add_argument("--no-follow", action="store_true", help="what there has been, and no more")


def moment(text: str | None) -> datetime | None:
    """``2026-01-31T12:00:00`` (local time, if no zone is given) or ``10m``, which is so long ago."""
    if text is None:
        return None
    try:
        return datetime.now(UTC) - timedelta(seconds=seconds(text))
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError(f"{text!r} is no time: write 2026-01-31T12:00:00, or 10m for so long ago") from None


def _logs(given: Namespace) -> int:
    if given.tail != "all" and not given.tail.isdecimal():
        raise ValueError(f"--tail {given.tail!r}: a number, or all")
    with host_of(given) as host:
        lines = host.containers[given.container].log_lines(
            follow=given.follow,
            tail=None if given.tail == "all" else int(given.tail),
            since=moment(given.since),
            until=moment(given.until),
        )
        for line in lines:
            if given.json:
                print_json_line(line)
                continue
            stamp = f"{line.time.isoformat()} " if given.timestamps else ""
            stream = sys.stdout if line.stream == "stdout" else sys.stderr
            print(stamp + line.text, file=stream, flush=given.follow)
    return 0


def _events(given: Namespace) -> int:
    from ..progress.board import clean

    with host_of(given) as host:
        since = moment(given.since) or (datetime.fromtimestamp(0, UTC) if given.no_follow else None)
        for event in host.events(since=since, follow=not given.no_follow):
            facts = {"kind": type(event).__name__, **plain(event)}
            if given.json:
                print_json_line(facts)
                continue
            time = facts.pop("time")
            words = (f"{name}={value}" for name, value in facts.items() if name != "kind" and value != "")
            print(time, facts["kind"], *map(clean, words), flush=True)
    return 0


# --- what they use ---


def _stats(given: Namespace) -> int:
    interval_s = seconds(given.interval)
    with host_of(given) as host:
        before: dict[str, Stats] = {}
        while True:
            named = [host.containers[name] for name in given.container]
            if not before:
                _sample(named or host.containers.list(), before)
                _pause(min(interval_s, 0.5))
            rows = _sample(named or host.containers.list(), before)
            if sys.stdout.isatty() and not given.no_stream and not given.json:
                print("\033[H\033[J", end="")
            if given.json and not given.no_stream:
                for row in rows:
                    print_json_line(row)
            else:
                show(rows, _COLUMNS, as_json=given.json)
            sys.stdout.flush()
            if given.no_stream or (named and not rows):
                return 0
            _pause(interval_s)


def _pause(interval_s: float) -> None:
    from time import sleep

    sleep(interval_s)


def _sample(containers: list[Container], before: dict[str, Stats]) -> list[dict[str, Any]]:
    """Of those that run; processors' worth of time since the values `before`, which these replace."""
    rows = []
    for container, name, now in _running(containers):
        share = None
        if (last := before.get(container.id)) is not None:
            share = (now.cpu_s - last.cpu_s) / max((now.time - last.time).total_seconds(), 1e-3)
        before[container.id] = now
        rows.append({**plain(now), "id": container.id, "name": name, "cpu_share": share})
    return rows


def _running(containers: list[Container]) -> Iterator[tuple[Container, str, Stats]]:
    from ..errors import NotFoundError, WrongStateError

    for container in containers:
        try:
            yield container, container.name, container.stats()
        except (NotFoundError, WrongStateError):
            continue


def _of(used: Any, limit: Any) -> str:
    from ..display.words import size

    return f"{size(used)} / {size(limit)}" if limit else size(used)


def _both(first: str, second: str, facts: Facts) -> str:
    from ..display.words import size

    return f"{size(facts[first])} / {size(facts[second])}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


_COLUMNS = (
    Column("NAME", lambda facts: facts["name"]),
    Column("CPU", lambda facts: _percent(facts["cpu_share"]), is_number=True),
    Column("MEMORY", lambda facts: _of(facts["memory_working_set"], facts["memory_limit"]), is_number=True),
    Column("NET IN / OUT", lambda facts: _both("rx_bytes", "tx_bytes", facts), is_number=True),
    Column("DISK IN / OUT", lambda facts: _both("read_bytes", "write_bytes", facts), is_number=True),
    Column("PIDS", lambda facts: str(facts["pids"]), is_number=True),
)
