"""States of the uptrend engine: which one holds as of an instant."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import Driver, MarketStateRow, Timeframe
from closeloop.models.market_views import ChannelAsOf, Scores

Ages = Mapping[tuple[Driver, Timeframe], timedelta]
"""By driver and timeframe, how long after the end of its bar a state is used."""

# A first revision holds whenever it was computed: it depends on nothing that came after its bar. A later one does, and
# is used only by who could have known it.
_AS_OF = text(
    f"""
    SELECT s.* FROM unnest(CAST(:drivers AS text[]), CAST(:timeframes AS text[]), CAST(:ages AS interval[]))
                    AS c (driver, timeframe, age)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT DISTINCT ON (bar_end) * FROM {MarketStateRow.__tablename__} m
            WHERE m.driver = c.driver AND m.timeframe = c.timeframe
              AND m.bar_end <= :as_of AND m.bar_end >= CAST(:as_of AS timestamptz) - c.age
              AND (m.revision = 0 OR m.computed_at <= :as_of)
            ORDER BY bar_end DESC, revision DESC
        ) newest WHERE published AND state IS NOT NULL ORDER BY bar_end DESC LIMIT 1
    ) s
    """  # noqa: S608
)


async def as_of(session: AsyncSession, instant: datetime, ages: Ages) -> list[ChannelAsOf]:
    """The state of each of these channels that holds at an instant; a channel without one is left out.

    That of the newest published bar that had ended by then, and is not older than its age.
    """
    channels: Sequence[tuple[Driver, Timeframe]] = list(ages)
    result = await session.execute(
        _AS_OF,
        {
            "drivers": [driver.value for driver, _ in channels],
            "timeframes": [timeframe.value for _, timeframe in channels],
            "ages": [ages[channel] for channel in channels],
            "as_of": instant,
        },
    )
    found = {(row.driver, row.timeframe): row for row in result}
    return [
        ChannelAsOf(
            driver=driver,
            timeframe=timeframe,
            bar_end=row.bar_end,
            revision=row.revision,
            computed_at=row.computed_at,
            known_then=row.computed_at <= instant,
            state=row.state,
            prev_state=row.prev_state,
            provisional=row.provisional,
            flags=row.flags,
            scores=Scores(ts=row.ts, ox=row.ox, dx=row.dx, edx=row.edx),
        )
        for driver, timeframe in channels
        if (row := found.get((driver.value, timeframe.value))) is not None
    ]
