"""What a driver's states on a timeframe have been: of a short series how far it is, and stretches of one state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market import MARKET_BOOK, Driver, Flag, MarketStateRow, Timeframe
from closeloop.models.market_views import StateRun

Channel = tuple[Driver, Timeframe]

_TABLE = MarketStateRow.__tablename__
# A revision that withdraws a bar has nothing in it.
_WITHDRAWN = "(revision > 0 AND state IS NULL AND indicators = '{}')"
_NEWEST = text(
    f"""
    SELECT c.driver, c.timeframe, s.bar_end, s.revision, s.computed_at, s.state, s.prev_state, s.flags, s.ts, s.ox,
           s.dx, s.edx, s.bars
    FROM unnest(CAST(:drivers AS text[]), CAST(:timeframes AS text[])) AS c (driver, timeframe)
    CROSS JOIN LATERAL (
        SELECT *, count(*) OVER () AS bars FROM (
            SELECT DISTINCT ON (bar_end) * FROM {_TABLE} m
            WHERE m.driver = c.driver AND m.timeframe = c.timeframe AND m.bar_end <= :instant
            ORDER BY bar_end DESC, computed_at <= :instant DESC, revision DESC
        ) newest WHERE NOT {_WITHDRAWN} ORDER BY bar_end DESC LIMIT 1
    ) s
    """  # noqa: S608
)


async def newest(session: AsyncSession, instant: datetime, channels: Sequence[Channel]) -> dict[Channel, Any]:
    """The newest bar of each of these channels that had ended by an instant, whether or not it has a state that may be
    used, as a row of market_states with ``bars``, how many there are; a channel without one is left out.

    It counts the series: ask for short ones only.
    """
    if not channels:
        return {}
    result = await session.execute(
        _NEWEST,
        {
            "instant": instant,
            "drivers": [driver.value for driver, _ in channels],
            "timeframes": [timeframe.value for _, timeframe in channels],
        },
    )
    return {(Driver(row.driver), Timeframe(row.timeframe)): row for row in result}


_RUNS = text(
    f"""
    WITH newest AS (
        SELECT DISTINCT ON (m.driver, m.timeframe, m.bar_end) m.driver, m.timeframe, m.bar_start, m.bar_end, m.revision,
               m.state, m.prev_state, m.published, m.flags
        FROM unnest(CAST(:timeframes AS text[]), CAST(:sinces AS timestamptz[])) AS w (timeframe, since)
        JOIN {_TABLE} m ON m.driver = ANY(CAST(:drivers AS text[])) AND m.timeframe = w.timeframe
             AND m.bar_end > w.since AND m.bar_end <= :until
        ORDER BY m.driver, m.timeframe, m.bar_end, m.revision DESC
    ), marked AS (
        SELECT *, state IS DISTINCT FROM lag(state) OVER (PARTITION BY driver, timeframe ORDER BY bar_end) AS begins
        FROM newest WHERE state IS NOT NULL
    ), numbered AS (
        SELECT *, count(*) FILTER (WHERE begins) OVER (PARTITION BY driver, timeframe ORDER BY bar_end) AS run
        FROM marked
    )
    SELECT driver, timeframe, min(state) AS state, min(bar_start) AS from_, max(bar_end) AS "to", count(*) AS bars,
           min(prev_state) FILTER (WHERE begins) AS prev_state, max(revision) AS revision,
           count(*) FILTER (WHERE published) AS published,
           {", ".join(f"count(*) FILTER (WHERE '{flag}' = ANY(flags)) AS {flag}" for flag in Flag)}
    FROM numbered GROUP BY driver, timeframe, run
    ORDER BY from_ DESC, driver DESC, timeframe DESC LIMIT :most
    """  # noqa: S608
)


async def runs(
    session: AsyncSession, drivers: Sequence[Driver], sinces: Mapping[Timeframe, datetime], until: datetime, most: int
) -> list[StateRun]:
    """Stretches of one state of these drivers, of bars that ended after their timeframe's instant and by ``until``, as
    they are on record now: the ``most`` that began last, the earliest first."""
    result = await session.execute(
        _RUNS,
        {
            "drivers": [driver.value for driver in drivers],
            "timeframes": [timeframe.value for timeframe in sinces],
            "sinces": list(sinces.values()),
            "until": until,
            "most": most,
        },
    )
    found = []
    for row in result.mappings():
        flags = {flag: count for flag in Flag if (count := row[flag.value])}
        began_earlier = row["prev_state"] == row["state"]
        found.append(StateRun.model_validate({**row, "flags": flags, "began_earlier": began_earlier}))
    return found[::-1]


@dataclass(frozen=True)
class DrawnBar:
    """A bar with its state: ``start`` in seconds since 1970; ``state`` null where it has none."""

    start: int
    close: float
    state: str | None
    published: bool


_BARS = text(
    f"""
    SELECT CAST(extract(epoch FROM b.timestamp) AS bigint) AS start, CAST(b.close_usd AS float8) AS close, s.state,
           coalesce(s.published, false) AS published
    FROM regime_price_data_ohlc b LEFT JOIN (
        SELECT DISTINCT ON (bar_end) bar_start, state, published FROM {_TABLE} m
        WHERE m.driver = :driver AND m.timeframe = :timeframe AND bar_end > :since AND bar_end <= :until
        ORDER BY bar_end, revision DESC
    ) s ON s.bar_start = b.timestamp
    WHERE b.driver = :driver AND b.book_id = :market AND b.timeframe = :timeframe
      AND b.timestamp > CAST(:since AS timestamptz) - CAST(:step AS interval)
      AND b.timestamp <= CAST(:until AS timestamptz) - CAST(:step AS interval)
    ORDER BY b.timestamp DESC LIMIT :most
    """  # noqa: S608
)


async def bars(
    session: AsyncSession, driver: Driver, timeframe: Timeframe, since: datetime, until: datetime, most: int
) -> list[DrawnBar]:
    """Bars that ended after ``since`` and by ``until``, with their states, as they are on record now: the newest
    ``most``, in order."""
    values = {
        "driver": driver.value, "timeframe": timeframe.value, "market": MARKET_BOOK, "since": since, "until": until,
        "step": timeframe.step, "most": most,
    }  # fmt: skip
    result = await session.execute(_BARS, values)
    return [DrawnBar(*row) for row in result][::-1]
