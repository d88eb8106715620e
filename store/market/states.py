"""States of the uptrend engine: which one holds as of an instant."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import Driver, Flag, MarketState, MarketStateRow, Timeframe
from closeloop.models.market_views import ChannelAsOf, Scores

Ages = Mapping[tuple[Driver, Timeframe], timedelta]
"""By driver and timeframe, how long after the end of its bar a state is used."""

# A first revision holds whenever it was computed: it depends on nothing that came after its bar. A later one does, and
# is used only by who could have known it.
_AS_OF = text(
    f"""
    SELECT i.place, s.* FROM unnest(CAST(:instants AS timestamptz[])) WITH ORDINALITY AS i (instant, place)
    CROSS JOIN unnest(CAST(:drivers AS text[]), CAST(:timeframes AS text[]), CAST(:ages AS interval[]))
               AS c (driver, timeframe, age)
    CROSS JOIN LATERAL (
        SELECT * FROM (
            SELECT DISTINCT ON (bar_end) * FROM {MarketStateRow.__tablename__} m
            WHERE m.driver = c.driver AND m.timeframe = c.timeframe
              AND m.bar_end <= i.instant AND m.bar_end >= i.instant - c.age
              AND (m.revision = 0 OR m.computed_at <= i.instant)
            ORDER BY bar_end DESC, revision DESC
        ) newest WHERE published AND state IS NOT NULL ORDER BY bar_end DESC LIMIT 1
    ) s
    """  # noqa: S608
)


async def as_of(session: AsyncSession, instant: datetime, ages: Ages) -> list[ChannelAsOf]:
    """The state of each of these channels that holds at an instant; a channel without one is left out.

    That of the newest published bar that had ended by then, and is not older than its age.
    """
    [found] = await as_of_each(session, [instant], ages)
    return found


async def as_of_each(session: AsyncSession, instants: Sequence[datetime], ages: Ages) -> list[list[ChannelAsOf]]:
    """The same at each of these instants, in their order."""
    channels: Sequence[tuple[Driver, Timeframe]] = list(ages)
    result = await session.execute(
        _AS_OF,
        {
            "instants": list(instants),
            "drivers": [driver.value for driver, _ in channels],
            "timeframes": [timeframe.value for _, timeframe in channels],
            "ages": [ages[channel] for channel in channels],
        },
    )
    found = {(row.place, row.driver, row.timeframe): row for row in result}
    return [
        [
            _channel(row, instant)
            for driver, timeframe in channels
            if (row := found.get((place, driver.value, timeframe.value))) is not None
        ]
        for place, instant in enumerate(instants, 1)
    ]


def _channel(row: Row[Any], instant: datetime) -> ChannelAsOf:
    # Not validated: thousands are asked for at once, and the values come from our own table.
    return ChannelAsOf.model_construct(
        driver=Driver(row.driver),
        timeframe=Timeframe(row.timeframe),
        bar_end=row.bar_end,
        revision=row.revision,
        computed_at=row.computed_at,
        known_then=row.computed_at <= instant,
        state=MarketState(row.state),
        prev_state=None if row.prev_state is None else MarketState(row.prev_state),
        provisional=row.provisional,
        flags=[Flag(flag) for flag in row.flags],
        scores=Scores(ts=row.ts, ox=row.ox, dx=row.dx, edx=row.edx),
    )
