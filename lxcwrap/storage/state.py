"""The records: SQLite in WAL mode, foreign keys on, one transaction per change, migrations by user_version.

images(id = config digest) ─< image_layers(position, chain_id, blob)     tags(reference) >─ images
containers(id, name, image_id, slot = index of the id range, spec) >─ images
sources(digest, repository) >─ images: where registries have an image, or had it
build_cache(key, chain_id, blob): what build steps made
volumes(name) ─< volume_uses >─ containers: which volumes a container has
networks(id, name) ─< endpoints >─ containers: the addresses that are leased, and to whom
containers ─< ports: of the host that lead to a container
snapshots(id, name, spec) >─ images: what containers had on their file systems
outbox: events of changes, until they are in the log
"""

from __future__ import annotations

import os
import sqlite3
import time
from _thread import _local
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from . import outbox

_TIMEOUT_S = 30.0  # of waiting for another's change
# Appended to, never edited: a store of any older version is brought forward on open.
MIGRATIONS = (
    """
    CREATE TABLE images (
        id TEXT PRIMARY KEY,              -- digest of the config blob
        manifest TEXT NOT NULL,           -- digest of the manifest blob
        created_at REAL NOT NULL          -- when it came into this store, Unix time
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_layers (
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
        position INTEGER NOT NULL,        -- 0 is the lowest
        chain_id TEXT NOT NULL,
        blob TEXT NOT NULL,
        PRIMARY KEY (image_id, position)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_layers_by_chain ON image_layers(chain_id);
    CREATE TABLE tags (
        reference TEXT PRIMARY KEY,       -- normalised: registry/repo:tag
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tags_by_image ON tags(image_id);
    CREATE TABLE containers (
        id TEXT PRIMARY KEY,              -- 64 hex digits
        name TEXT NOT NULL UNIQUE,
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE RESTRICT,
        phase TEXT NOT NULL CHECK (phase IN ('creating', 'created', 'removing')),
        slot INTEGER UNIQUE,              -- index of its id range; NULL: privileged, no range
        spec TEXT NOT NULL,               -- JSON
        created_at REAL NOT NULL,
        owner_pid INTEGER NOT NULL,       -- who is creating or removing it: a dead owner's row is cleaned
        owner_start INTEGER NOT NULL      -- that process' start time, as its pid may be used again
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX containers_by_image ON containers(image_id);
    """,
    # Builds: their containers need not be of an image, and what their steps made is found again by key.
    """
    CREATE TABLE new_containers (
        id TEXT PRIMARY KEY,              -- 64 hex digits
        name TEXT NOT NULL UNIQUE,
        image_id TEXT REFERENCES images(id) ON DELETE RESTRICT,       -- NULL: of a build step
        phase TEXT NOT NULL CHECK (phase IN ('creating', 'created', 'removing', 'building')),
        slot INTEGER UNIQUE,              -- index of its id range; NULL: privileged, no range
        spec TEXT NOT NULL,               -- JSON
        created_at REAL NOT NULL,
        owner_pid INTEGER NOT NULL,       -- who is creating or removing it: a dead owner's row is cleaned
        owner_start INTEGER NOT NULL      -- that process' start time, as its pid may be used again
    ) STRICT, WITHOUT ROWID;
    INSERT INTO new_containers SELECT * FROM containers;
    DROP TABLE containers;
    ALTER TABLE new_containers RENAME TO containers;
    CREATE INDEX containers_by_image ON containers(image_id);
    CREATE TABLE build_cache (
        key TEXT PRIMARY KEY,             -- digest of all that decides what the step makes
        chain_id TEXT,                    -- of the layer it made, with its blob; NULL: it changed no file
        diff_id TEXT,
        blob TEXT,
        size INTEGER,                     -- bytes of the blob
        media_type TEXT,
        created_at REAL NOT NULL,         -- when it was run, Unix time
        used_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE sources (
        digest TEXT NOT NULL,             -- of a manifest, or of an index that led to the image
        repository TEXT NOT NULL,         -- registry/repository it was pulled from, or pushed to
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
        PRIMARY KEY (digest, repository, image_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sources_by_image ON sources(image_id);
    """,
    """
    CREATE TABLE volumes (
        name TEXT PRIMARY KEY,
        labels TEXT NOT NULL,             -- JSON
        created_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE volume_uses (
        container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
        volume TEXT NOT NULL REFERENCES volumes(name) ON DELETE RESTRICT,
        PRIMARY KEY (container_id, volume)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX volume_uses_by_volume ON volume_uses(volume);
    """,
    """
    CREATE TABLE networks (
        id TEXT PRIMARY KEY,              -- 64 hex digits
        name TEXT NOT NULL UNIQUE,
        spec TEXT NOT NULL,               -- JSON of a NetworkSpec
        bridge TEXT NOT NULL UNIQUE,      -- name of the link
        created_at REAL NOT NULL,
        last_ip TEXT NOT NULL DEFAULT '', -- the address leased last
        last_ip6 TEXT NOT NULL DEFAULT ''
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE endpoints (              -- one container on one network
        container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
        network_id TEXT NOT NULL REFERENCES networks(id) ON DELETE RESTRICT,
        position INTEGER NOT NULL,        -- the first gives the default route
        interface TEXT NOT NULL,          -- name of the link inside
        link TEXT NOT NULL UNIQUE,        -- name of its other end on the host
        ip TEXT NOT NULL,
        ip6 TEXT,
        mac TEXT NOT NULL,
        aliases TEXT NOT NULL,            -- JSON: further names
        owner_pid INTEGER,                -- who is making or removing it in a running container, or NULL:
        owner_start INTEGER,              -- that of a dead owner is removed
        PRIMARY KEY (container_id, network_id),
        UNIQUE (network_id, ip),
        UNIQUE (network_id, ip6),
        UNIQUE (network_id, mac),
        UNIQUE (container_id, interface)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ports (
        container_id TEXT NOT NULL REFERENCES containers(id) ON DELETE CASCADE,
        network_id TEXT REFERENCES networks(id) ON DELETE SET NULL,
        protocol TEXT NOT NULL,           -- tcp, udp, sctp
        host_ip TEXT NOT NULL,            -- empty: all of the host's addresses
        host_port INTEGER NOT NULL,
        container_port INTEGER NOT NULL,
        PRIMARY KEY (protocol, host_ip, host_port)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX ports_by_container ON ports(container_id);
    """,
    # JSON of a Rate; NULL: that of its container's limits, or of the network's spec.
    """
    ALTER TABLE endpoints ADD COLUMN rate TEXT;
    """,
    "CREATE TABLE outbox (number INTEGER PRIMARY KEY, line TEXT NOT NULL) STRICT;",
    """
    CREATE TABLE snapshots (
        id TEXT PRIMARY KEY,              -- 64 hex digits
        name TEXT UNIQUE,                 -- NULL: it ends with its owner
        image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,  -- made for it alone
        spec TEXT NOT NULL,               -- JSON, of the container
        created_at REAL NOT NULL,
        owner_pid INTEGER NOT NULL,       -- who took it
        owner_start INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX snapshots_by_image ON snapshots(image_id);
    """,
)


class State:
    """The records under one root directory. Safe from any thread and any process; a connection per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # threading.local itself: threading would cost every fork of the server 440 KB (its after-fork hook).
        self._local = _local()

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection, for reading. A forked child gets its own: none must cross fork."""
        own: _Own | None = getattr(self._local, "own", None)
        if own is not None and own.pid != os.getpid():
            # First: as long as it is open, SQLite takes the parent's locks on the file for this process' own.
            own.connection.close()
            own = None
        if own is None:
            own = self._local.own = _Own(self._open())
        return own.connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path,
            timeout=_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        connection.row_factory = sqlite3.Row
        _use_wal(connection)
        # NORMAL: after a power cut the last changes may be missing, never half there; no fsync per change.
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version < len(MIGRATIONS):
            self._migrate(connection)
        elif version > len(MIGRATIONS):
            from ..errors import UnsupportedError

            connection.close()
            raise UnsupportedError(f"{self._path} was written by a newer lxcwrap", "upgrade this one")
        return connection

    @staticmethod
    def _migrate(connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            for script in MIGRATIONS[version:]:
                for statement in _statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    def transaction(self) -> Transaction:
        """One change: all or nothing. Others wait for it (IMMEDIATE), so read-then-write is safe inside."""
        return Transaction(self.connection, self._path.parent)

    def deliver(self) -> None:
        """Tell what killed processes have changed and not told."""
        if outbox.has_any(self.connection):
            outbox.deliver(self.connection, self._path.parent)

    def close(self) -> None:
        self._local.own = None


class Transaction:
    """A ``with`` that an interrupt does not leave open: all others would wait. If one comes at the very call
    of `__exit__` the thread's next transaction, such as that of the clean-up, ends it. Then the events of the
    change are told."""

    def __init__(self, connection: sqlite3.Connection, root: Path) -> None:
        self._connection = connection
        self._root = root

    def __enter__(self) -> sqlite3.Connection:
        self._roll_back()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._roll_back()
            raise
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                has_told = outbox.has_any(self._connection)
                self._connection.execute("COMMIT")
                if has_told:
                    outbox.deliver(self._connection, self._root)
        finally:
            self._roll_back()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _Connection(sqlite3.Connection):
    """Closed when it is garbage, in whichever order a cycle is taken apart: Python 3.13 would warn."""

    def __del__(self) -> None:
        self.close()


class _Own:
    """A thread's connection, closed when the thread ends: left to itself it would wait for the garbage
    collector, as it is in a cycle with its cache of statements."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.pid = os.getpid()

    def __del__(self) -> None:
        if self.pid == os.getpid():
            self.connection.close()


def _use_wal(connection: sqlite3.Connection) -> None:
    # The first time this needs the whole file to itself, and SQLite does not wait for that.
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(0.005)


def _statements(script: str) -> Iterator[str]:
    # executescript() would commit the surrounding transaction.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
