"""What status tells of the market: where each series ends, and when there were no dominances."""

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import DOMINANCES, Driver, Timeframe
from closeloop.models.market_sources import Unpolled

MOST_LISTED = 10


async def newest_ends(session: AsyncSession) -> dict[tuple[Driver, Timeframe], datetime]:
    """When the newest bar with a state of each series ended; series without any are left out."""
    result = await session.execute(
        text(
            "SELECT d.driver, t.timeframe, s.bar_end FROM unnest(CAST(:drivers AS text[])) AS d (driver) "
            "CROSS JOIN unnest(CAST(:timeframes AS text[])) AS t (timeframe) CROSS JOIN LATERAL ("
            "SELECT bar_end FROM market_states m WHERE m.driver = d.driver AND m.timeframe = t.timeframe "
            "ORDER BY bar_end DESC LIMIT 1) s"
        ),
        {"drivers": [driver.value for driver in Driver], "timeframes": [one.value for one in Timeframe]},
    )
    return {(Driver(row.driver), Timeframe(row.timeframe)): row.bar_end for row in result}


async def without_dominance(session: AsyncSession, since: datetime, longest: timedelta) -> list[Unpolled]:
    """Times of more than ``longest`` between two values of dominances, the newest first."""
    result = await session.execute(
        text(
            "SELECT from_at, to_at FROM ("
            "SELECT timestamp AS to_at, lag(timestamp) OVER (ORDER BY timestamp) AS from_at "
            "FROM regime_price_data_ohlc WHERE driver = ANY(CAST(:drivers AS text[])) AND timeframe = '1m' "
            "AND timestamp >= :since) gaps WHERE to_at - from_at > :longest ORDER BY from_at DESC LIMIT :most"
        ),
        {
            "drivers": [driver.value for driver in DOMINANCES],
            "since": since,
            "longest": longest,
            "most": MOST_LISTED,
        },
    )
    return [Unpolled(from_at=row.from_at, to_at=row.to_at) for row in result]
