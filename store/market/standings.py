"""What rank and slope of buckets are computed from: hours of their indices, and what their members did."""

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.bars import Bars
from closeloop.learning.market.buckets import Move
from closeloop.models.market import BUCKETS, MARKET_BOOK, Timeframe

_INDICES = text(
    """
    SELECT driver, CAST(extract(epoch FROM timestamp) AS bigint) AS start, CAST(open_usd AS float8) AS open,
           CAST(high_usd AS float8) AS high, CAST(low_usd AS float8) AS low, CAST(close_usd AS float8) AS close,
           CAST(volume AS float8) AS volume
    FROM regime_price_data_ohlc
    WHERE driver = ANY(CAST(:buckets AS text[])) AND book_id = :market AND timeframe = :timeframe
      AND timestamp >= :since AND timestamp + CAST(:step AS interval) <= :until
    ORDER BY driver, timestamp
    """
)
# A member that has no price of shortly before the window, or none within it, says nothing.
_MOVES = text(
    """
    SELECT t.bucket, t.asset, CAST(b.close AS float8) AS before, CAST(n.close AS float8) AS newest
    FROM market_tokens t
    CROSS JOIN LATERAL (
        SELECT close FROM price_history p
        WHERE p.asset = t.asset AND p.interval_seconds = 60
          AND p.ends_at <= :since AND p.ends_at > CAST(:since AS timestamptz) - interval '1 day'
        ORDER BY ends_at DESC LIMIT 1
    ) b
    CROSS JOIN LATERAL (
        SELECT close FROM price_history p
        WHERE p.asset = t.asset AND p.interval_seconds = 60 AND p.ends_at > :since AND p.ends_at <= :until
        ORDER BY ends_at DESC LIMIT 1
    ) n
    WHERE t.bucket = ANY(CAST(:buckets AS text[]))
      AND t.valid_from <= :until AND (t.valid_to IS NULL OR t.valid_to > :until)
    """
)


async def indices(session: AsyncSession, since: datetime, until: datetime) -> dict[str, Bars]:
    """Hours of the buckets' indices that start from ``since`` on and ended by ``until``, by bucket."""
    result = await session.execute(
        _INDICES,
        {
            "buckets": [bucket.value for bucket in BUCKETS],
            "market": MARKET_BOOK,
            "timeframe": Timeframe.h1.value,
            "step": Timeframe.h1.step,
            "since": since,
            "until": until,
        },
    )
    rows = defaultdict(list)
    for driver, *row in result:
        rows[driver].append(tuple(row))
    return {driver: Bars.of(each) for driver, each in rows.items()}


async def moves(
    session: AsyncSession, buckets: Collection[str], since: datetime, until: datetime
) -> dict[str, dict[str, Move]]:
    """What those did that are in these buckets at ``until``, from ``since`` on: their prices then and now, by bucket
    and asset."""
    result = await session.execute(_MOVES, {"buckets": list(buckets), "since": since, "until": until})
    found: dict[str, dict[str, Move]] = {bucket: {} for bucket in buckets}
    for bucket, asset, before, newest in result:
        found[bucket][asset] = Move(before, newest)
    return found
