"""What changed under a series of the market, and from where on it has to be computed anew.

Who changes something marks it in the same transaction; who computes takes the marks up in his.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import Driver, Timeframe

MINUTE = Timeframe.m1.seconds


def of_asset(asset: str) -> str:
    """The subject of an asset's one-minute candles."""
    return f"asset/{asset}"


def of_bucket(bucket: str) -> str:
    """The subject of a bucket's membership."""
    return f"bucket/{bucket}"


def of_bars(driver: Driver, timeframe: Timeframe) -> str:
    """The subject of a driver's bars."""
    return f"bars/{driver}/{timeframe}"


async def candles_changed(session: AsyncSession, keys: Iterable[Any]) -> None:
    """Mark candles that were stored, replaced or deleted (rows with ``asset``, ``interval_seconds``, ``ends_at``)."""
    first: dict[str, datetime] = {}
    for key in keys:
        if key.interval_seconds == MINUTE:
            subject = of_asset(key.asset)
            first[subject] = min(first.get(subject, key.ends_at), key.ends_at)
    await mark(session, {subject: end - timedelta(seconds=MINUTE) for subject, end in first.items()})


async def mark(session: AsyncSession, starts: Mapping[str, datetime]) -> None:
    """Mark that something changed from a start on, by subject."""
    if not starts:
        return
    await session.execute(
        text(
            "INSERT INTO market_changes AS c (subject, from_at) SELECT * FROM "
            "unnest(CAST(:subjects AS text[]), CAST(:starts AS timestamptz[])) AS g (subject, from_at) "
            'ORDER BY g.subject COLLATE "C" '
            "ON CONFLICT (subject) DO UPDATE SET from_at = excluded.from_at WHERE excluded.from_at < c.from_at"
        ),
        {"subjects": list(starts), "starts": list(starts.values())},
    )


async def take(session: AsyncSession, subjects: Mapping[str, datetime | None]) -> dict[str, datetime]:
    """Take up the marks of these subjects that are before an instant (None: all): from where on, by subject.

    Marks of a transaction that has not ended are left: what it changed is not seen yet either.
    """
    result = await session.execute(
        text(
            "DELETE FROM market_changes c USING (SELECT m.subject FROM market_changes m JOIN "
            "unnest(CAST(:subjects AS text[]), CAST(:befores AS timestamptz[])) AS g (subject, before) USING (subject) "
            "WHERE g.before IS NULL OR m.from_at < g.before FOR UPDATE OF m SKIP LOCKED) free "
            "WHERE c.subject = free.subject RETURNING c.subject, c.from_at"
        ),
        {"subjects": list(subjects), "befores": list(subjects.values())},
    )
    return {row.subject: row.from_at for row in result}
