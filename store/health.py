"""What the health of the service is computed from."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.events import EventType
from closeloop.models.inbox import Kind


class Hits(NamedTuple):
    """Right ones of all."""

    right: int
    n: int


async def hits(session: AsyncSession, since: datetime, until: datetime) -> Hits:
    """Closed positions that won, in (since, until]."""
    query = text(
        "SELECT count(*) FILTER (WHERE direction_correct) AS hits, count(*) AS n FROM attributions "
        "WHERE closed_at > :since AND closed_at <= :until"
    )
    row = (await session.execute(query, {"since": since, "until": until})).one()
    return Hits(row.hits, row.n)


async def forecasts_right(session: AsyncSession, since: datetime) -> Hits:
    """Forecasts that came true, of those with a target since an instant; shadows are left out."""
    query = text(
        "SELECT count(*) FILTER (WHERE direction_correct) AS hits, count(*) AS n FROM forecast_outcomes "
        "WHERE target_at > :since AND NOT shadow"
    )
    row = (await session.execute(query, {"since": since})).one()
    return Hits(row.hits, row.n)


async def changes(session: AsyncSession, since: datetime) -> tuple[int, int]:
    """Lessons that first had a q of at most 0.05 since an instant, and versions of weights that came into force."""
    query = text(
        "SELECT (SELECT count(*) FROM (SELECT lesson_id FROM lesson_history WHERE q <= 0.05 GROUP BY lesson_id "
        "HAVING min(as_of) >= :since) first_told), "
        "(SELECT count(*) FROM events WHERE type = :applied AND ts >= :since)"
    )
    lessons, versions = (await session.execute(query, {"since": since, "applied": EventType.weights_applied})).one()
    return lessons, versions


async def database(session: AsyncSession) -> tuple[int, datetime | None]:
    """The size of the database in bytes, and when the oldest row of the inbox came."""
    # By kind, as the index has them: the inbox is long.
    query = text(
        "SELECT pg_database_size(current_database()), (SELECT min(o.at) FROM unnest(CAST(:kinds AS text[])) k (kind) "
        "CROSS JOIN LATERAL (SELECT min(received_at) AS at FROM inbox i WHERE i.kind = k.kind) o)"
    )
    size, oldest = (await session.execute(query, {"kinds": [kind.value for kind in Kind]})).one()
    return size, oldest
