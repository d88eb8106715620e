"""Rows that leave the database: which are old enough, deleting exactly those, and what left."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.events import LEAVING_TYPES
from closeloop.models.retention import ArchivesOf, Leaving

ROWS_PER_FETCH = 200
LOOKED_AT_BEYOND = 20_000
"""Events are read in the order in which they were appended. So many with a later time, because of a clock that was
wrong, do not hide the older ones behind them."""
FOLDERS_LISTED = 10

# A line leaves once a later one was in force at the horizon. The newest accepted one of a lesson stays in any case.
_OLD_LINES = (
    "FROM lesson_history h WHERE h.as_of < :horizon AND EXISTS (SELECT FROM lesson_history n "
    "WHERE n.lesson_id = h.lesson_id AND n.version > h.version AND n.as_of < :horizon) "
    "AND (h.status NOT IN ('active', 'baseline') OR EXISTS (SELECT FROM lesson_history n "
    "WHERE n.lesson_id = h.lesson_id AND n.version > h.version AND n.status IN ('active', 'baseline'))) "
    "ORDER BY h.lesson_id, h.version LIMIT :rows"
)
# Those that a close was filled in from stay.
_OLD_LEVERS = (
    "FROM market_levers h WHERE h.given_at < :horizon "
    "AND NOT EXISTS (SELECT FROM market_contexts c WHERE c.levers_id = h.levers_id) "
    "ORDER BY h.given_at, h.levers_id LIMIT :rows"
)
_OLD_EVENTS = (
    "FROM (SELECT * FROM events WHERE type = :type ORDER BY id LIMIT :looked_at) h WHERE h.ts < :horizon "
    "ORDER BY h.id LIMIT :rows"
)


_OLD = {
    Leaving.events: ("h.id", _OLD_EVENTS),
    Leaving.lesson_history: ("h.lesson_id, h.version", _OLD_LINES),
    Leaving.market_levers: ("h.levers_id", _OLD_LEVERS),
}


async def leaving(
    session: AsyncSession, table: Leaving, horizon: datetime, rows: int
) -> AsyncIterator[Sequence[tuple[tuple[Any, ...], str]]]:
    """(key, row as JSON) of at most ``rows`` rows that are old enough to leave, the oldest first, streamed.

    A row as JSON has every column, as PostgreSQL writes it: no digit is lost.
    """
    for sql, values in _queries("key", table, horizon, rows):
        if rows <= 0:
            return
        values["rows"] = rows
        result = await session.stream(text(sql), values, execution_options={"yield_per": ROWS_PER_FETCH})
        async for batch in result.partitions():
            rows -= len(batch)
            yield [(tuple(row[:-1]), row[-1]) for row in batch]


async def count_leaving(session: AsyncSession, table: Leaving, horizon: datetime, at_most: int) -> int:
    """How many rows are old enough to leave; counting ends at ``at_most``."""
    counted = 0
    for sql, values in _queries("count", table, horizon, at_most):
        if counted < at_most:
            values["rows"] = at_most - counted
            counted += (await session.execute(text(sql), values)).scalar_one()
    return counted


def _queries(what: str, table: Leaving, horizon: datetime, rows: int) -> list[tuple[str, dict[str, Any]]]:
    key, old = _OLD[table]
    sql = f"SELECT {key}, row_to_json(h)::text {old}"
    if what == "count":
        sql = f"SELECT count(*) FROM (SELECT 1 {old}) counted"  # noqa: S608
    if table is not Leaving.events:
        return [(sql, {"horizon": horizon})]
    return [(sql, {"horizon": horizon, "type": kind, "looked_at": rows + LOOKED_AT_BEYOND}) for kind in LEAVING_TYPES]


async def delete(session: AsyncSession, table: Leaving, keys: Sequence[tuple[Any, ...]], horizon: datetime) -> int:
    """Delete exactly these rows; returns how many were there."""
    if table is Leaving.events:
        await session.execute(
            text("SELECT set_config('closeloop.archiving', :horizon, true)"), {"horizon": horizon.isoformat()}
        )
        result = await session.execute(
            text(
                "WITH gone AS (DELETE FROM events WHERE id = ANY(CAST(:ids AS bigint[])) RETURNING 1) "
                "SELECT count(*) FROM gone"
            ),
            {"ids": [key[0] for key in keys]},
        )
        deleted = int(result.scalar_one())
        await session.execute(text("SELECT set_config('closeloop.archiving', '', true)"))
        return deleted
    if table is Leaving.market_levers:
        result = await session.execute(
            text(
                "WITH gone AS (DELETE FROM market_levers WHERE levers_id = ANY(CAST(:ids AS text[])) RETURNING 1) "
                "SELECT count(*) FROM gone"
            ),
            {"ids": [key[0] for key in keys]},
        )
        return int(result.scalar_one())
    result = await session.execute(
        text(
            "WITH gone AS (DELETE FROM lesson_history h USING unnest(CAST(:ids AS text[]), CAST(:versions AS int[])) "
            'AS k (lesson_id, version) WHERE h.lesson_id = k.lesson_id COLLATE "C" AND h.version = k.version '
            "RETURNING 1) SELECT count(*) FROM gone"
        ),
        {"ids": [key[0] for key in keys], "versions": [key[1] for key in keys]},
    )
    return int(result.scalar_one())


async def begin(session: AsyncSession, table: Leaving, horizon: datetime, folder: str | None, file: str | None) -> int:
    """Put on record that a batch is about to leave, into this file; returns its id."""
    result = await session.execute(
        text(
            "INSERT INTO archives (source, horizon, folder, file) VALUES (:source, :horizon, :folder, :file) "
            "RETURNING archive_id"
        ),
        {"source": str(table), "horizon": horizon, "folder": folder, "file": file},
    )
    return int(result.scalar_one())


async def unfinished(session: AsyncSession, table: Leaving) -> list[tuple[int, str | None]]:
    """(id, file) of the batches of a table that were begun and not finished: nothing of them has left."""
    result = await session.execute(
        text("SELECT archive_id, file FROM archives WHERE source = :source AND done_at IS NULL ORDER BY archive_id"),
        {"source": str(table)},
    )
    return [(row.archive_id, row.file) for row in result]


async def give_up(session: AsyncSession, archive_id: int) -> None:
    """Forget a batch of which nothing has left."""
    await session.execute(text("DELETE FROM archives WHERE archive_id = :id AND done_at IS NULL"), {"id": archive_id})


async def finish(session: AsyncSession, archive_id: int, rows: int, size: int) -> bool:
    """Put on record that a batch has left; False if it was given up meanwhile."""
    result = await session.execute(
        text(
            "UPDATE archives SET rows = :rows, bytes = :bytes, done_at = clock_timestamp() "
            "WHERE archive_id = :id AND done_at IS NULL RETURNING 1"
        ),
        {"id": archive_id, "rows": rows, "bytes": size},
    )
    return result.first() is not None


async def left_until(session: AsyncSession, table: Leaving) -> datetime | None:
    """Of a table, rows from before this have left; None where none has."""
    result = await session.execute(
        text("SELECT max(horizon) FROM archives WHERE source = :source AND done_at IS NOT NULL AND rows > 0"),
        {"source": str(table)},
    )
    until: datetime | None = result.scalar_one()
    return until


async def archives(session: AsyncSession) -> list[ArchivesOf]:
    """What has left each table."""
    result = await session.execute(
        text(
            "SELECT source, coalesce(sum(rows), 0)::bigint AS rows, count(file) FILTER (WHERE done_at IS NOT NULL) "
            "AS files, coalesce(sum(bytes), 0)::bigint AS bytes, max(horizon) FILTER (WHERE done_at IS NOT NULL) "
            "AS until, count(*) FILTER (WHERE done_at IS NULL) AS unfinished FROM archives GROUP BY source"
        )
    )
    found = {row.source: row for row in result}
    folders = await session.execute(
        text(
            "SELECT source, folder FROM archives WHERE done_at IS NOT NULL AND folder IS NOT NULL "
            "GROUP BY source, folder ORDER BY max(archive_id) DESC"
        )
    )
    places: dict[str, list[str]] = {}
    for source, folder in folders:
        places.setdefault(source, []).append(folder)
    answers = []
    for table in Leaving:
        row = found.get(table)
        answers.append(
            ArchivesOf(
                table=table,
                rows=row.rows if row else 0,
                files=row.files if row else 0,
                bytes=row.bytes if row else 0,
                until=row.until if row else None,
                folders=places.get(table, [])[:FOLDERS_LISTED],
                unfinished=row.unfinished if row else 0,
            )
        )
    return answers
