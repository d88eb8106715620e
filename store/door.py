"""What the HTTP door counted, by the minute."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.door import DoorMinute
from closeloop.store.rows import execute, insertion

# A process adds to its own row: nobody else writes it, and a minute may be written several times.
_ADD = (
    "(minute, kind, process) DO UPDATE SET counts = (SELECT jsonb_object_agg(key, n) FROM (SELECT key, sum(value) AS n "
    "FROM (SELECT key, value\\:\\:float8 FROM jsonb_each_text(door_minutes.counts) UNION ALL "
    "SELECT key, value\\:\\:float8 FROM jsonb_each_text(excluded.counts)) both_ GROUP BY key) summed)"
)


async def count(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add counts to the rows of their minutes."""
    await execute(session, insertion(DoorMinute, rows, on_conflict=_ADD))


async def forget(session: AsyncSession, days: int) -> None:
    """Delete the counts of minutes that are older."""
    await session.execute(
        text("DELETE FROM door_minutes WHERE minute < clock_timestamp() - make_interval(days => :days)"),
        {"days": days},
    )


async def sums(session: AsyncSession, since: datetime) -> dict[str, dict[str, float]]:
    """What was counted since an instant, by kind and name, over all processes."""
    result = await session.execute(
        text(
            "SELECT kind, key, sum(CAST(value AS float8)) AS n FROM door_minutes, jsonb_each_text(counts) "
            "WHERE minute >= :since GROUP BY kind, key"
        ),
        {"since": since},
    )
    found: dict[str, dict[str, float]] = {}
    for row in result:
        found.setdefault(row.kind, {})[row.key] = row.n
    return found
