"""Containers as they are shown: one as facts, many as a table, with one query for all."""

from __future__ import annotations

import json
import shlex
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from attrs import field, frozen

from .. import lifecycle
from ..errors import ContainerNotFoundError
from ..machinery import Machinery
from ..reference import Reference
from ..results import Stats
from ..specs import State
from . import words
from .blocks import Block, Cell, Facts, Table, Tone

_ALL: Final = "SELECT * FROM containers WHERE phase != 'building' ORDER BY created_at DESC, id"
_ONE: Final = "SELECT * FROM containers WHERE id = ?"
_TAGS: Final = "SELECT image_id, min(reference) AS reference FROM tags GROUP BY image_id"
_ENDPOINTS: Final = """
    SELECT container_id, name, ip, ip6, aliases FROM endpoints JOIN networks ON networks.id = network_id
    ORDER BY position
"""
_PORTS: Final = (
    "SELECT * FROM ports WHERE container_id IS NOT NULL ORDER BY container_port, protocol, host_port"
)
_TONES: Final[dict[State, Tone]] = {
    State.RUNNING: "good",
    State.PAUSED: "busy",
    State.CREATING: "busy",
    State.RESTARTING: "busy",
}
_HEADS: Final = ("Name", "State", "Image", "Ports", "Networks", "Limits", "Command", "Created")
_TERMINATED: Final = (0, 137, 143)  # as those end that a user stops


@frozen
class Listed:
    """What the records say of one container, and its state now."""

    id: str
    name: str
    spec: Mapping[str, Any]
    created_at: datetime
    image: str
    run: lifecycle.Run
    health: str
    endpoints: Sequence[sqlite3.Row] = field(factory=list)
    ports: Sequence[sqlite3.Row] = field(factory=list)


def listed(machinery: Machinery) -> list[Listed]:
    """All, the newest first; those that are removed meanwhile are left out."""
    return _listed(machinery, machinery.state.connection.execute(_ALL))


def one(machinery: Machinery, container_id: str) -> Listed:
    """Raises ContainerNotFoundError."""
    rows = machinery.state.connection.execute(_ONE, (container_id,))
    for container in _listed(machinery, rows):
        return container
    raise ContainerNotFoundError(container_id[:12])


def _listed(machinery: Machinery, rows: Iterable[sqlite3.Row]) -> list[Listed]:
    query = machinery.state.connection.execute
    tags = {row["image_id"]: Reference.parse(row["reference"]).familiar for row in query(_TAGS)}
    endpoints, ports = _grouped(query(_ENDPOINTS)), _grouped(query(_PORTS))
    found = []
    for row in rows:
        container_id, spec = row["id"], json.loads(row["spec"])
        try:
            run = lifecycle.look(machinery, container_id)
        except ContainerNotFoundError:
            continue
        container = Listed(
            id=container_id,
            name=row["name"],
            spec=spec,
            created_at=datetime.fromtimestamp(row["created_at"], UTC),
            image=tags.get(row["image_id"]) or str(row["image_id"])[7:19],
            run=run,
            health=_health(machinery, container_id) if spec.get("health") and run.state.is_alive else "",
            endpoints=endpoints[container_id],
            ports=ports[container_id],
        )
        found.append(container)
    return found


def _grouped(rows: Iterable[sqlite3.Row]) -> defaultdict[str, list[sqlite3.Row]]:
    groups = defaultdict[str, list[sqlite3.Row]](list)
    for row in rows:
        groups[row["container_id"]].append(row)
    return groups


def _health(machinery: Machinery, container_id: str) -> str:
    return str((machinery.records(container_id).read("health") or {}).get("status", "starting"))


# --- cells ---


def tone(container: Listed) -> Tone:
    if container.health == "unhealthy":
        return "bad"
    if container.run.state != State.STOPPED:
        return _TONES.get(container.run.state, "idle")
    ended = container.run.exit
    failed = ended.get("exit_code") not in _TERMINATED or ended.get("oom_killed") or ended.get("error")
    return "bad" if failed else "idle"


def state(container: Listed) -> Cell:
    """``running 5 min, healthy``; ``stopped, exit code 3``."""
    now, run, ended = container.run.state, container.run.run, container.run.exit
    said = [str(now)]
    if now == State.RUNNING and "started_at" in run:
        passed_s = datetime.now(UTC).timestamp() - run["started_at"]
        said[0] += f" {words.span(passed_s)}"
    if container.health:
        said.append(container.health)
    if now == State.STOPPED:
        code = ended.get("exit_code")
        said.append("exit code unknown" if code is None else f"exit code {code}")
        if ended.get("oom_killed"):
            said.append("out of memory")
    return Cell(", ".join(said), "state", tone=tone(container), hint=str(ended.get("error") or ""))


def port(row: Mapping[str, Any] | sqlite3.Row) -> str:
    """``8080 → 80``, with the host's address and the protocol where these are not the usual."""
    address = row["host_ip"]
    host = f"[{address}]:" if ":" in address else f"{address}:" if address else ""
    protocol = "" if row["protocol"] == "tcp" else f"/{row['protocol']}"
    return f"{host}{row['host_port']} \u2192 {row['container_port']}{protocol}"


def _command(spec: Mapping[str, Any]) -> str:
    return shlex.join(spec["argv"])


def _limits(spec: Mapping[str, Any]) -> str:
    limits = spec["limits"]
    figures = (
        (limits.get("memory"), words.size),
        (limits.get("cpus"), lambda cpus: f"{cpus:g} cpu"),
        (limits.get("cpuset"), lambda cpuset: f"cpus {cpuset}"),
        (limits.get("pids"), lambda pids: f"{pids} pids"),
        (limits.get("disk"), lambda disk: f"disk {words.size(disk)}"),
    )
    return ", ".join(write(figure) for figure, write in figures if figure is not None)


def _networks(container: Listed) -> str:
    mode = container.spec.get("network_mode", "own")
    if mode != "own":
        return "host" if mode == "host" else f"of {mode.partition(':')[2][:12]}"
    return ", ".join(f"{row['name']} {row['ip']}" for row in container.endpoints)


# --- pages ---


def table(machinery: Machinery) -> list[Block]:
    found = listed(machinery)
    running = sum(container.run.state == State.RUNNING for container in found)
    note = f"{len(found)}, {running} running"
    return [
        Table(title="Containers", note=note, heads=_HEADS, rows=list(map(_row, found)), empty="no containers")
    ]


def _row(container: Listed) -> tuple[Cell, ...]:
    command = _command(container.spec)
    return (
        Cell(container.name, "name", hint=container.id[:12]),
        state(container),
        Cell(container.image),
        Cell(", ".join(map(port, container.ports))),
        Cell(_networks(container)),
        Cell(_limits(container.spec)),
        Cell(command, "code", hint=command),
        Cell(words.ago(container.created_at), "dim"),
    )


def card(machinery: Machinery, container_id: str, stats: Stats | None) -> list[Block]:
    """stats: what it uses; None: it does not run."""
    try:
        container = one(machinery, container_id)
    except ContainerNotFoundError:
        return [Facts(title=Cell(container_id[:12], tone="idle"), note="removed")]
    spec, ended = container.spec, container.run.exit
    facts = (
        ("state", state(container)),
        ("error", Cell(str(ended.get("error") or ""))),
        ("image", Cell(container.image)),
        ("command", Cell(_command(spec), "code")),
        ("networks", Cell(_networks(container))),
        ("ports", Cell(", ".join(map(port, container.ports)))),
        ("mounts", Cell(", ".join(map(_mount, spec["mounts"])), "code")),
        ("limits", Cell(_limits(spec))),
        *(usage(stats) if stats else ()),
        ("user", Cell(spec.get("user", ""))),
        (
            "restart",
            Cell("" if spec["restart"]["when"] == "no" else spec["restart"]["when"].replace("_", " ")),
        ),
        ("labels", labels(spec["labels"])),
        ("created", Cell(words.ago(container.created_at))),
    )
    return [Facts(title=Cell(container.name, tone=tone(container)), note=container.id[:12], facts=facts)]


def _mount(mount: Mapping[str, Any]) -> str:
    source = mount["source"] or mount["kind"]
    return f"{source} \u2192 {mount['target']}{' (read-only)' if mount['read_only'] else ''}"


def labels(given: Mapping[str, str]) -> Cell:
    return Cell(", ".join(f"{key}={value}" for key, value in given.items()), "code")


def usage(stats: Stats) -> tuple[tuple[str, Cell], ...]:
    """What a container uses, as facts."""
    return (
        (
            "cpu",
            Cell(
                f"{words.duration(stats.cpu_s)} used"
                + (f", {stats.cpu_share:.2f} now" if stats.cpu_share else "")
            ),
        ),
        ("memory", _of(stats.memory_usage, stats.memory_limit, words.size)),
        ("processes", _of(stats.pids, stats.pids_limit, str)),
        ("network", Cell(f"{words.size(stats.rx_bytes)} in, {words.size(stats.tx_bytes)} out")),
        ("disk", Cell(f"{words.size(stats.read_bytes)} read, {words.size(stats.write_bytes)} written")),
    )


def _of(used: int, limit: int | None, write: Any) -> Cell:
    if not limit:
        return Cell(write(used))
    return Cell(f"{write(used)} of {write(limit)}", share=used / limit)
