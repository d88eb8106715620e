"""States of the uptrend engine: which one holds as of an instant, and how they are written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.engine import INDICATORS, STATES, Rows
from closeloop.models.market import Driver, Flag, MarketState, MarketStateRow, Timeframe
from closeloop.models.market_views import ChannelAsOf, Scores

Ages = Mapping[tuple[Driver, Timeframe], timedelta]
"""By driver and timeframe, how long after the end of its bar a state is used."""

# Of several revisions of a bar the newest counts that was on record at the instant. Where none was (candles that were
# imported, an outage that was made up for), nobody knew the state: what it would have been is what the newest of all
# says, which like every revision is made of bars that had ended by then.
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
            ORDER BY bar_end DESC, computed_at <= i.instant DESC, revision DESC
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


_VALUES = "state, prev_state, published, provisional, flags, ts, ox, dx, edx, indicators"
# A bar that is computed anew and differs, or is gone, is a row of the next revision; one that does not differ is none.
_WRITE = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT driver, to_timestamp(g.bar_start) AS bar_start, to_timestamp(g.bar_start + :step) AS bar_end, state,
               prev_state, published, provisional, CAST(flags AS text[]) AS flags, ts, ox, dx, edx,
               CAST(indicators AS float8[]) AS indicators
        FROM unnest(CAST(:drivers AS text[]), CAST(:starts AS bigint[]), CAST(:state AS text[]),
             CAST(:prev_state AS text[]), CAST(:published AS bool[]), CAST(:provisional AS bool[]),
             CAST(:flags AS text[]), CAST(:ts AS float8[]), CAST(:ox AS float8[]), CAST(:dx AS float8[]),
             CAST(:edx AS float8[]), CAST(:indicators AS text[]))
             AS g (driver, bar_start, state, prev_state, published, provisional, flags, ts, ox, dx, edx, indicators)
    ), old AS MATERIALIZED (
        SELECT DISTINCT ON (m.driver, m.bar_end) m.*
        FROM unnest(CAST(:of AS text[]), CAST(:afters AS timestamptz[]), CAST(:untils AS timestamptz[]))
             AS w (driver, after, until)
        JOIN market_states m ON m.driver = w.driver AND m.timeframe = :timeframe
             AND m.bar_end > w.after AND m.bar_end <= w.until
        ORDER BY m.driver, m.bar_end, m.revision DESC
    ), now AS (
        SELECT g.driver, g.bar_end, g.bar_start, coalesce(o.revision + 1, 0) AS revision,
               {", ".join(f"g.{name}" for name in _VALUES.split(", "))}
        FROM given g LEFT JOIN old o ON o.driver = g.driver AND o.bar_end = g.bar_end
        WHERE o.driver IS NULL OR ({", ".join(f"o.{name}" for name in _VALUES.split(", "))})
              IS DISTINCT FROM ({", ".join(f"g.{name}" for name in _VALUES.split(", "))})
        UNION ALL
        SELECT driver, bar_end, bar_start, revision + 1, NULL, NULL, false, false, '{{}}', NULL, NULL, NULL, NULL,
               '{{}}'
        FROM old o WHERE indicators <> '{{}}'
          AND NOT EXISTS (SELECT 1 FROM given g WHERE g.driver = o.driver AND g.bar_end = o.bar_end)
    ), put AS (
        INSERT INTO market_states (driver, timeframe, bar_end, bar_start, revision, {_VALUES})
        SELECT driver, :timeframe, bar_end, bar_start, revision, {_VALUES} FROM now RETURNING driver, revision
    )
    SELECT driver, count(*) FILTER (WHERE revision = 0) AS new, count(*) FILTER (WHERE revision > 0) AS changed
    FROM put GROUP BY driver
    """  # noqa: S608
)
_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class SeriesStates:
    """What the engine says of the bars of a series that ended after an instant (None: all) and until another one."""

    driver: Driver
    after: datetime | None
    until: datetime
    rows: Rows | None


async def write(
    session: AsyncSession, timeframe: Timeframe, series: Sequence[SeriesStates]
) -> dict[Driver, tuple[int, int]]:
    """Make these the states of their bars; how many are new and how many changed, by driver, where any.

    A bar whose state is on record and is not among them is withdrawn.
    """
    if not series:
        return {}
    full = [each for each in series if each.rows is not None]
    parts = [each.rows for each in full if each.rows is not None]

    def column(values: Iterable[Sequence[Any]]) -> list[Any]:
        return [value for part in values for value in part]

    result = await session.execute(
        _WRITE,
        {
            "timeframe": timeframe.value,
            "step": timeframe.seconds,
            "of": [each.driver.value for each in series],
            "afters": [each.after or _EVER for each in series],
            "untils": [each.until for each in series],
            "drivers": column([each.driver.value] * len(rows) for each, rows in zip(full, parts, strict=True)),
            "starts": column(rows.start.tolist() for rows in parts),
            "state": column(_names(rows.state) for rows in parts),
            "prev_state": column(_names(rows.prev_state) for rows in parts),
            "published": column(rows.published.tolist() for rows in parts),
            "provisional": column(rows.provisional.tolist() for rows in parts),
            "flags": column(_flags(rows) for rows in parts),
            **{
                name: column([None if math.isnan(x) else x for x in getattr(rows, name).tolist()] for rows in parts)
                for name in ("ts", "ox", "dx", "edx")
            },
            "indicators": column(_indicators(rows) for rows in parts),
        },
    )
    return {Driver(row.driver): (row.new, row.changed) for row in result}


def _names(states: Any) -> list[str | None]:
    return [STATES[state].value if state >= 0 else None for state in states.tolist()]


def _flags(rows: Rows) -> list[str]:
    """Of each bar an array as PostgreSQL reads it."""
    names = [flag.value for flag in rows.flags]
    table = np.array(list(rows.flags.values())).T.tolist()
    return ["{" + ",".join(name for name, holds in zip(names, row, strict=True) if holds) + "}" for row in table]


def _indicators(rows: Rows) -> list[str]:
    levels = {"support": rows.support, "resistance": rows.resistance}
    table = np.array([(rows.indicators | levels)[name] for name in INDICATORS]).T.tolist()
    return ["{" + ",".join("NULL" if x != x else repr(x) for x in row) + "}" for row in table]
