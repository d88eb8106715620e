"""A database of a test's own whose rows leave it, and what the archives then hold."""

import gzip
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from closeloop.activities.attribution import attribute
from closeloop.activities.retention import RetentionActivities
from closeloop.gateways.archive import ArchiveFolder
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import AttributedClose
from closeloop.models.retention import Leaving, LeavingBatch, LeftBatch
from closeloop.store.database import Sessions
from tests.activities.attributing import accepted
from tests.closes import closed
from tests.store.databases import query, scratch_database, sessions_on

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
POLICY = LearningPolicy()


@dataclass
class Store:
    """The database, and the folder of its archives."""

    dsn: str
    sessions: Sessions
    folder: Path

    def activities(self, batch_rows: int = 20_000, **retention: Any) -> RetentionActivities:
        policy = LearningPolicy.model_validate({"retention": retention})
        return RetentionActivities(self.sessions, policy, ArchiveFolder(self.folder), batch_rows)

    async def leave(
        self, table: Leaving = Leaving.events, *, batch_rows: int = 20_000, **retention: Any
    ) -> list[LeftBatch]:
        """All batches until there are no more."""
        activities, left = self.activities(batch_rows, **retention), []
        while True:
            left.append(await activities.let_leave(LeavingBatch(table=table, as_of=NOW)))
            if not left[-1].more:
                return left

    async def close(self, *names: str, book: str = "b") -> list[AttributedClose]:
        async with self.sessions.begin() as session:
            answers = await attribute(session, [closed(book, name) for name in names], POLICY, NOW, "a test")
        return [accepted(answer) for answer in answers]

    async def age(self, days: float, where: str = "true") -> None:
        """As if events had been appended so many days ago."""
        async with self.sessions.begin() as session:
            await session.execute(text("SET LOCAL session_replication_role = replica"))  # events are append-only
            await session.execute(text(f"UPDATE events SET ts = :at WHERE {where}"), {"at": NOW - days * DAY})

    async def rows(self, table: Leaving = Leaving.events) -> list[dict[str, Any]]:
        """Every row as PostgreSQL writes it as JSON."""
        found = await query(self.sessions, f"SELECT row_to_json(t) AS row FROM {table} t ORDER BY 1\\:\\:text")
        return [row["row"] for row in found]

    async def finished(self, table: Leaving = Leaving.events) -> Sequence[Any]:
        """The archives of which the rows have left, the first first."""
        return await query(
            self.sessions,
            "SELECT file, rows, bytes FROM archives WHERE done_at IS NOT NULL AND source = :table ORDER BY archive_id",
            table=str(table),
        )

    async def archived(self, table: Leaving = Leaving.events) -> list[dict[str, Any]]:
        """Every line of the finished archives of a table."""
        lines: list[dict[str, Any]] = []
        for row in await self.finished(table):
            path = self.folder / row["file"]
            assert path.stat().st_size == row["bytes"]
            found = gzip.decompress(path.read_bytes()).decode().splitlines()
            assert len(found) == row["rows"]
            lines += [json.loads(line) for line in found]
        return lines

    async def failing(self) -> Sequence[Any]:
        return await query(self.sessions, "SELECT task, subject, reason FROM failing_work")


def ordered(rows: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


@asynccontextmanager
async def store_on(dsn: str, folder: Path) -> AsyncIterator[Store]:
    """A database of its own on the session's server."""
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield Store(scratch, sessions, folder)
