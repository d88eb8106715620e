"""Bars: candles of drivers' components as they are read, and the drivers' own as they are written and read."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.market.bars import Bars, Ints
from closeloop.models.market import MARKET_BOOK, Driver, Timeframe

# A candle whose end lies between two seconds is off the grid: it must not be rounded to it.
_CANDLES = text(
    """
    SELECT w.place, c.* FROM unnest(CAST(:assets AS text[]), CAST(:afters AS timestamptz[]),
        CAST(:untils AS timestamptz[])) WITH ORDINALITY AS w (asset, after, until, place)
    CROSS JOIN LATERAL (
        SELECT array_agg(CAST(ceil(extract(epoch FROM ends_at)) AS bigint) - 60 ORDER BY ends_at) AS start,
               array_agg(CAST(open AS float8) ORDER BY ends_at), array_agg(CAST(high AS float8) ORDER BY ends_at),
               array_agg(CAST(low AS float8) ORDER BY ends_at), array_agg(CAST(close AS float8) ORDER BY ends_at),
               array_agg(CAST(coalesce(volume, 0) AS float8) ORDER BY ends_at)
        FROM price_history p
        WHERE p.asset = w.asset AND interval_seconds = 60 AND NOT provisional
          AND ends_at > w.after AND ends_at <= w.until
    ) c WHERE c.start IS NOT NULL
    """
)
_FIRST_ENDS = text(
    """
    SELECT w.driver, min(c.ends_at) AS ends_at FROM unnest(CAST(:drivers AS text[]), CAST(:assets AS text[]),
        CAST(:afters AS timestamptz[]), CAST(:untils AS timestamptz[])) AS w (driver, asset, after, until)
    CROSS JOIN LATERAL (
        SELECT ends_at FROM price_history p
        WHERE p.asset = w.asset AND interval_seconds = 60 AND NOT provisional
          AND ends_at > w.after AND ends_at <= w.until
        ORDER BY ends_at LIMIT 1
    ) c GROUP BY w.driver
    """
)
_READ = text(
    """
    SELECT w.driver, b.* FROM unnest(CAST(:drivers AS text[]), CAST(:froms AS timestamptz[]),
        CAST(:untils AS timestamptz[])) AS w (driver, from_at, until)
    CROSS JOIN LATERAL (
        SELECT array_agg(CAST(extract(epoch FROM timestamp) AS bigint) ORDER BY timestamp) AS start,
               array_agg(CAST(open_usd AS float8) ORDER BY timestamp),
               array_agg(CAST(high_usd AS float8) ORDER BY timestamp),
               array_agg(CAST(low_usd AS float8) ORDER BY timestamp),
               array_agg(CAST(close_usd AS float8) ORDER BY timestamp),
               array_agg(CAST(volume AS float8) ORDER BY timestamp),
               array_agg(component_count ORDER BY timestamp)
        FROM (
            SELECT * FROM regime_price_data_ohlc
            WHERE driver = w.driver AND book_id = :market AND timeframe = :timeframe
              AND timestamp >= w.from_at AND timestamp < w.until
            ORDER BY timestamp LIMIT :most
        ) r
    ) b WHERE b.start IS NOT NULL
    """
)
_PRICES = "open_usd, high_usd, low_usd, close_usd, volume, component_count, n_source"
_WRITE = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT driver, to_timestamp(start) AS timestamp, CAST(open AS numeric) AS open_usd,
               CAST(high AS numeric) AS high_usd, CAST(low AS numeric) AS low_usd, CAST(close AS numeric) AS close_usd,
               CAST(volume AS numeric) AS volume, component_count, n_source, source
        FROM unnest(CAST(:drivers AS text[]), CAST(:starts AS bigint[]), CAST(:open AS text[]), CAST(:high AS text[]),
             CAST(:low AS text[]), CAST(:close AS text[]), CAST(:volume AS text[]), CAST(:component_count AS int[]),
             CAST(:n_source AS int[]), CAST(:sources AS text[]))
             AS g (driver, start, open, high, low, close, volume, component_count, n_source, source)
    ), gone AS (
        DELETE FROM regime_price_data_ohlc r
        USING unnest(CAST(:of AS text[]), CAST(:froms AS timestamptz[]), CAST(:untils AS timestamptz[]))
              AS w (driver, from_at, until)
        WHERE r.driver = w.driver AND r.book_id = :market AND r.timeframe = :timeframe
          AND r.timestamp >= w.from_at AND r.timestamp < w.until
          AND NOT EXISTS (SELECT 1 FROM given g WHERE g.driver = r.driver AND g.timestamp = r.timestamp)
        RETURNING r.driver, r.timestamp, true AS changed
    ), put AS (
        INSERT INTO regime_price_data_ohlc AS r (driver, book_id, timeframe, timestamp, {_PRICES}, source)
        SELECT driver, :market, :timeframe, timestamp, {_PRICES}, source FROM given
        ON CONFLICT (driver, book_id, timeframe, timestamp) DO UPDATE
        SET open_usd = excluded.open_usd, high_usd = excluded.high_usd, low_usd = excluded.low_usd,
            close_usd = excluded.close_usd, volume = excluded.volume, component_count = excluded.component_count,
            n_source = excluded.n_source, source = excluded.source, revision = r.revision + 1,
            written_at = clock_timestamp()
        WHERE (r.open_usd, r.high_usd, r.low_usd, r.close_usd, r.volume, r.component_count, r.n_source)
              IS DISTINCT FROM (excluded.open_usd, excluded.high_usd, excluded.low_usd, excluded.close_usd,
                                excluded.volume, excluded.component_count, excluded.n_source)
        RETURNING r.driver, r.timestamp, r.revision > 0 AS changed
    )
    SELECT driver, count(*) FILTER (WHERE NOT changed) AS new, count(*) FILTER (WHERE changed) AS changed,
           min(timestamp) AS first
    FROM (SELECT * FROM put UNION ALL SELECT * FROM gone) every GROUP BY driver
    """  # noqa: S608
)
_COUNT = text(
    """
    WITH given AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:drivers AS text[]), CAST(:assets AS text[]), CAST(:kinds AS text[]),
            CAST(:bars AS bigint[])) AS g (driver, asset, kind, bars)
    ), gone AS (
        DELETE FROM market_bar_counts c WHERE c.driver = ANY(CAST(:of AS text[])) AND NOT EXISTS (
            SELECT 1 FROM given g WHERE g.driver = c.driver AND g.asset = c.asset AND g.kind = c.kind)
    )
    INSERT INTO market_bar_counts AS c (driver, asset, kind, bars) SELECT * FROM given
    ON CONFLICT (driver, asset, kind) DO UPDATE SET bars = excluded.bars WHERE c.bars <> excluded.bars
    """
)
_EVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class AssetSpan:
    """Candles of an asset that ended ``after`` an instant (None: all) and ``until`` another, for a driver."""

    driver: Driver
    asset: str
    after: datetime | None
    until: datetime


@dataclass(frozen=True)
class Span:
    """Bars of a driver that start from an instant on (None: all) and before another."""

    driver: Driver
    from_at: datetime | None
    until: datetime


@dataclass(frozen=True, eq=False)
class SeriesBars:
    """Bars of a driver that are to be written over a span, and of what they were made."""

    span: Span
    bars: Bars
    source: str
    component_count: Ints | None = None
    n_source: Ints | None = None


@dataclass(frozen=True)
class Written:
    """How many bars were new, how many changed or withdrawn, and the ``first`` of them."""

    new: int
    changed: int
    first: datetime


async def candles(session: AsyncSession, asked: Sequence[AssetSpan]) -> list[Bars]:
    """The one-minute candles of each span, in the order of the spans. Those that may not be whole are left out."""
    found = [Bars.of(())] * len(asked)
    if asked:
        for place, *columns in await session.execute(_CANDLES, _of_assets(asked)):
            found[place - 1] = _bars(columns)
    return found


async def first_ends(session: AsyncSession, asked: Sequence[AssetSpan]) -> dict[Driver, datetime]:
    """When the first candle of any of a driver's spans ended, by driver; drivers without any are left out."""
    if not asked:
        return {}
    result = await session.execute(_FIRST_ENDS, _of_assets(asked) | {"drivers": [each.driver.value for each in asked]})
    return {Driver(row.driver): row.ends_at for row in result}


async def read(
    session: AsyncSession, timeframe: Timeframe, spans: Sequence[Span], most: int
) -> dict[Driver, tuple[Bars, Ints | None]]:
    """The first bars that start in each span, at most so many, and their components where they have a number of these;
    drivers without any are left out."""
    if not spans:
        return {}
    result = await session.execute(_READ, _of_spans(timeframe, spans) | {"drivers": _drivers(spans), "most": most})
    return {
        Driver(driver): (_bars(columns), None if None in counts else np.array(counts, np.int64))
        for driver, *columns, counts in result
    }


async def write(session: AsyncSession, timeframe: Timeframe, series: Sequence[SeriesBars]) -> dict[Driver, Written]:
    """Make these the bars of their spans: what differs has its next revision, what is not among them is deleted.

    Where nothing differs nothing is written, and the driver is left out of the answer.
    """
    if not series:
        return {}
    lengths = [len(each.bars) for each in series]

    def column(values: Iterable[Sequence[Any]]) -> list[Any]:
        return [value for part in values for value in part]

    rows: dict[str, Any] = {
        name: column([repr(value) for value in getattr(each.bars, name).tolist()] for each in series)
        for name in ("open", "high", "low", "close", "volume")
    }
    rows |= {
        "drivers": column([each.span.driver.value] * n for each, n in zip(series, lengths, strict=True)),
        "sources": column([each.source] * n for each, n in zip(series, lengths, strict=True)),
        "starts": column(each.bars.start.tolist() for each in series),
        "component_count": column(_counts(each.component_count, None, len(each.bars)) for each in series),
        "n_source": column(_counts(each.n_source, 1, len(each.bars)) for each in series),
    }
    spans = [each.span for each in series]
    result = await session.execute(_WRITE, rows | _of_spans(timeframe, spans) | {"of": _drivers(spans)})
    return {Driver(row.driver): Written(row.new, row.changed, row.first) for row in result}


async def count(session: AsyncSession, counts: Mapping[Driver, Mapping[tuple[str, str], int]]) -> None:
    """How many bars of each driver were refused, mended or dropped in all, by asset and kind."""
    if not counts:
        return
    await session.execute(
        _COUNT,
        {
            "of": [driver.value for driver in counts],
            "drivers": [driver.value for driver, of_driver in counts.items() for _ in of_driver],
            "assets": [asset for of_driver in counts.values() for asset, _ in of_driver],
            "kinds": [kind for of_driver in counts.values() for _, kind in of_driver],
            "bars": [bars for of_driver in counts.values() for bars in of_driver.values()],
        },
    )


async def memberships(session: AsyncSession) -> dict[Driver, dict[str, list[tuple[int, int]]]]:
    """When each token belongs to its bucket: seconds since 1970, until before others."""
    result = await session.execute(
        text(
            "SELECT bucket, array_agg(asset), array_agg(CAST(ceil(extract(epoch FROM valid_from)) AS bigint)), "
            "array_agg(CAST(ceil(extract(epoch FROM coalesce(valid_to, '4000-01-01Z'))) AS bigint)) "
            "FROM market_tokens GROUP BY bucket"
        )
    )
    found: dict[Driver, dict[str, list[tuple[int, int]]]] = {}
    for bucket, *columns in result:
        spans = defaultdict(list)
        for asset, start, end in zip(*columns, strict=True):
            if start < end:  # within one second: no bar starts in it
                spans[asset].append((start, end))
        found[Driver(bucket)] = dict(spans)
    return found


def _bars(columns: Sequence[Sequence[Any]]) -> Bars:
    start, *numbers = columns
    return Bars(np.array(start, np.int64), *(np.array(each, np.float64) for each in numbers))


def _of_assets(asked: Sequence[AssetSpan]) -> dict[str, Any]:
    return {
        "assets": [each.asset for each in asked],
        "afters": [each.after or _EVER for each in asked],
        "untils": [each.until for each in asked],
    }


def _counts(counts: Ints | None, otherwise: int | None, n: int) -> list[int | None]:
    return [otherwise] * n if counts is None else counts.tolist()


def _drivers(spans: Sequence[Span]) -> list[str]:
    return [span.driver.value for span in spans]


def _of_spans(timeframe: Timeframe, spans: Sequence[Span]) -> dict[str, Any]:
    return {
        "market": MARKET_BOOK,
        "timeframe": timeframe.value,
        "froms": [span.from_at or _EVER for span in spans],
        "untils": [span.until for span in spans],
    }
