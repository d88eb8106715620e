"""The spool: messages on disk until closeloop has them on record. One file a process."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import threading
import uuid
from typing import Any, NamedTuple

MOST_ITEMS = 100_000
MOST_BYTES = 256 * 1024 * 1024
LARGEST_MESSAGE = 4 * 1024 * 1024 - 4096
BUSY_SECONDS = 0.05
SETTLED_AT_ONCE = 100  # in a transaction, for which a put may have to wait
ID_FIELDS = {
    "positions": "position_id",
    "forecasts": "forecast_id",
    "heartbeats": "heartbeat_id",
    "thesis-decision": "decision_id",
}


class SpoolClosed(Exception):
    """The spool cannot be used; the text says why."""


class Item(NamedTuple):
    """A message that waits: ``seq`` is its place, ``id`` what it is called on record, ``body`` its JSON."""

    seq: int
    kind: str
    id: str
    body: str


class Refused(NamedTuple):
    """A message that closeloop can never take in as it was sent, and why."""

    kind: str
    id: str
    reason: str


class Spool:
    """Messages in a SQLite file (WAL, synchronous FULL), locked by its process."""

    def __init__(self, path: str, most_items: int = MOST_ITEMS, most_bytes: int = MOST_BYTES) -> None:
        """Open or make the file. Raises SpoolClosed where another process has it, or it cannot be written."""
        self._most_items, self._most_bytes = most_items, most_bytes
        self._pid = os.getpid()
        self._lock = threading.Lock()
        try:
            folder = os.path.dirname(os.path.abspath(path))
            os.makedirs(folder, exist_ok=True)
            self._held = os.open(path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._held)
                raise SpoolClosed("another process has this spool: give each a file of its own") from None
            if not os.path.exists(path):
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))  # it holds trades
            self._db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS items (seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, "
                "id TEXT NOT NULL, body TEXT NOT NULL)"
            )
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS refused (seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, id TEXT NOT NULL, "
                "body TEXT NOT NULL, reason TEXT NOT NULL)"
            )
            self._reader = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            row = self._db.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM items").fetchone()
            self.items, self._bytes = int(row[0]), int(row[1])
            self.refused_items = int(self._db.execute("SELECT count(*) FROM refused").fetchone()[0])
        except (sqlite3.Error, OSError) as error:
            raise SpoolClosed(f"the spool cannot be used: {error}") from None

    def put(self, kind: str, message: Any) -> tuple[str, str | None]:
        """Put a message on disk; its id, and why it was not accepted, if so. Raises SpoolClosed, sqlite3.Error."""
        if os.getpid() != self._pid:
            raise SpoolClosed("this is a fork: make a client of its own, with a spool of its own")
        if not isinstance(message, dict):
            return "", "a message is a dict"
        try:
            body = json.dumps(message, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            return "", f"it is not JSON: {str(error)[:200]}"
        size = len(body)
        if size > LARGEST_MESSAGE:
            return "", f"it is longer than {LARGEST_MESSAGE} bytes"
        own = message.get(ID_FIELDS.get(kind, ""))
        name = own if isinstance(own, str) and 0 < len(own) <= 200 else uuid.uuid4().hex
        with self._lock:
            if self.items >= self._most_items or self._bytes + size > self._most_bytes:
                return name, "the spool is full"
            self._db.execute("INSERT INTO items (kind, id, body) VALUES (?, ?, ?)", (kind, name, body))
            self.items += 1
            self._bytes += size
        return name, None

    def head(self, most: int, most_bytes: int) -> list[Item]:
        """The first messages in order: at least one if there is one, at most so many, of at most so many bytes.

        For one thread, which reads beside those that put: a put never waits for it.
        """
        query = "SELECT seq, kind, id, body FROM items ORDER BY seq LIMIT ?"
        rows = self._reader.execute(query, (most,)).fetchall()
        found: list[Item] = []
        size = 0
        for row in rows:
            size += len(row[3]) + len(row[2]) + 64
            if found and size > most_bytes:
                break
            found.append(Item(*row))
        return found

    def settle(self, done: list[Item], refused: list[tuple[Item, str]]) -> None:
        """Take messages out: those on record, and those that were refused, which are kept apart with the reason."""
        for begin in range(0, len(done), SETTLED_AT_ONCE):
            self._take_out(done[begin : begin + SETTLED_AT_ONCE], [])
        for begin in range(0, len(refused), SETTLED_AT_ONCE):
            some = refused[begin : begin + SETTLED_AT_ONCE]
            self._take_out([item for item, _ in some], some)

    def _take_out(self, gone: list[Item], refused: list[tuple[Item, str]]) -> None:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(
                    "INSERT OR REPLACE INTO refused (seq, kind, id, body, reason) VALUES (?, ?, ?, ?, ?)",
                    [(item.seq, item.kind, item.id, item.body, reason[:2000]) for item, reason in refused],
                )
                self._db.executemany("DELETE FROM items WHERE seq = ?", [(item.seq,) for item in gone])
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self.items -= len(gone)
            self._bytes -= sum(len(item.body) for item in gone)
            self.refused_items += len(refused)

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            if os.getpid() == self._pid:
                self._reader.close()
                self._db.close()
                os.close(self._held)


def look(path: str) -> tuple[int, int, list[Refused]]:
    """How many messages wait and were refused, read only: also while a process has the spool. Raises SpoolClosed."""
    if not os.path.exists(path):
        raise SpoolClosed(f"there is no spool {path}")
    try:
        db = sqlite3.connect(f"file:{path.replace('?', '%3f').replace('#', '%23')}?mode=ro", uri=True, timeout=5)
        try:
            waiting = int(db.execute("SELECT count(*) FROM items").fetchone()[0])
            refused = int(db.execute("SELECT count(*) FROM refused").fetchone()[0])
            rows = db.execute("SELECT kind, id, reason FROM refused ORDER BY seq DESC LIMIT 20").fetchall()
        finally:
            db.close()
    except sqlite3.Error as error:
        raise SpoolClosed(f"{path} is no spool: {error}") from None
    return waiting, refused, [Refused(*row) for row in rows]
