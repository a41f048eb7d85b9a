"""Events of changes of the records: part of the change, so that they are told if, and only if, it was made.

`tell` writes the event into a table, within the transaction. `deliver` moves what is there to the log when
that is committed; whoever is killed between the two leaves it to the next change, or to the next `Host`. One
who is killed while delivering lets events be told twice, never not at all.
"""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from . import eventlog

_ENDS = """
    SELECT 'unpublished' AS kind, json_object('port', json_object('protocol', protocol, 'host_ip', host_ip,
        'host_port', host_port, 'container_port', container_port)) AS facts
        FROM ports WHERE container_id = :id
    UNION ALL SELECT 'disconnected', json_object('network_id', networks.id, 'network', networks.name)
        FROM endpoints JOIN networks ON networks.id = network_id WHERE container_id = :id
    UNION ALL SELECT 'detached', json_object('volume', volume) FROM volume_uses WHERE container_id = :id
"""


def tell(change: sqlite3.Connection, kind: str, **facts: object) -> None:
    """Within a transaction: an event, as `lxcwrap.events` knows it. Of containers the id is ``id``."""
    line = json.dumps({"time": time.time(), "kind": kind, **facts})
    change.execute("INSERT INTO outbox (line) VALUES (?)", (line,))


def tell_removal(change: sqlite3.Connection, container_id: str) -> None:
    """That a container is gone: before its row is deleted, with which all goes that it had."""
    for row in change.execute(_ENDS, {"id": container_id}).fetchall():
        tell(change, row["kind"], id=container_id, **json.loads(row["facts"]))
    tell(change, "removed", id=container_id)


def has_any(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM outbox)").fetchone()[0])


def deliver(connection: sqlite3.Connection, root: Path) -> None:
    """A disk that is full keeps events waiting, not who caused them."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        rows = connection.execute("SELECT line FROM outbox ORDER BY number").fetchall()
        connection.execute("DELETE FROM outbox")
        if rows:  # else another was faster
            eventlog.append(root, "".join(f"{row['line']}\n" for row in rows))
        connection.execute("COMMIT")
    except (OSError, sqlite3.OperationalError):
        with suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
