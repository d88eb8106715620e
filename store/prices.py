"""Prices: candles that ended, and what the source said it does not have."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.prices import PriceCandle, PriceCoverage, PriceSeries
from closeloop.store.pages import page
from closeloop.store.rows import as_json, execute, insertion, recordset

_KEY = "asset, interval_seconds, ends_at"
_SAME = " AND ".join(f"p.{c} = g.{c}" for c in ("open", "high", "low", "close"))
# A provisional candle gives way to any other; a final one only where that was asked for.
_RENEW = text(
    f"""
    WITH given AS MATERIALIZED (
        SELECT asset, interval_seconds, ends_at, open, high, low, close, volume, source, import_id,
               coalesce(provisional, false) AS provisional FROM {recordset(PriceCandle)}
    ), old AS MATERIALIZED (
        SELECT {_KEY}, NOT ({_SAME}) AS differs, p.provisional, g.provisional AS given_provisional
        FROM given g JOIN price_history p USING ({_KEY}) WHERE p.provisional OR NOT ({_SAME}) FOR UPDATE OF p
    ), changed AS (
        UPDATE price_history p SET open = g.open, high = g.high, low = g.low, close = g.close, volume = g.volume,
               source = g.source, import_id = g.import_id, provisional = g.provisional
        FROM old o JOIN given g USING ({_KEY})
        WHERE p.asset = o.asset AND p.interval_seconds = o.interval_seconds AND p.ends_at = o.ends_at
          AND (o.provisional AND (o.differs OR NOT g.provisional) OR CAST(:replace AS bool) AND o.differs)
        RETURNING p.asset, p.interval_seconds, p.ends_at
    )
    SELECT o.asset, o.interval_seconds, o.ends_at, o.provisional, o.given_provisional, o.differs,
           c.ends_at IS NOT NULL AS changed
    FROM old o LEFT JOIN changed c USING ({_KEY}) WHERE o.differs OR c.ends_at IS NOT NULL ORDER BY ends_at
    """  # noqa: S608
)


@dataclass(frozen=True)
class CandlesAdded:
    """What became of candles that were given.

    ``new``: how many were not on record. ``replaced``: how many had other prices on record and have these now;
    ``final``: ends of those of them that an outcome may have been computed from. ``differing``: ends of those that are
    on record with other prices and stay as they are.
    """

    new: int
    replaced: int
    final: list[datetime]
    differing: list[datetime]


async def add(session: AsyncSession, candles: Sequence[dict[str, Any]], *, replace: bool = False) -> CandlesAdded:
    """Store candles (rows of price_history, distinct keys).

    What is on record is changed only where it is provisional, or ``replace`` is asked for. A provisional candle that is
    on record as a final one is passed over.
    """
    if not candles:
        return CandlesAdded(0, 0, [], [])
    written = await execute(session, insertion(PriceCandle, candles, on_conflict="DO NOTHING", returning=_KEY))
    if len(written) == len(candles):
        await store.market.changes.candles_changed(session, written)
        return CandlesAdded(len(written), 0, [], [])
    renewed = (await session.execute(_RENEW, {"rows": as_json(candles), "replace": replace})).all()
    await store.market.changes.candles_changed(session, [*written, *(row for row in renewed if row.changed)])
    rows = [row for row in renewed if row.differs]
    changed = [row for row in rows if row.changed]
    return CandlesAdded(
        new=len(written),
        replaced=len(changed),
        final=[row.ends_at for row in changed if not row.provisional],
        differing=[row.ends_at for row in rows if not row.changed and not row.given_provisional],
    )


async def cover(session: AsyncSession, asset: str, interval_seconds: int, from_at: datetime, to_at: datetime) -> None:
    """Record that the source gave every candle it has with an end from ``from_at`` to ``to_at``."""
    row = {"asset": asset, "interval_seconds": interval_seconds, "from_at": from_at, "to_at": to_at}
    await execute(session, insertion(PriceCoverage, [row], on_conflict="DO NOTHING"))


async def delete(
    session: AsyncSession, asset: str, interval_seconds: int | None, from_at: datetime, to_at: datetime
) -> dict[int, list[datetime]]:
    """Delete the candles that lie within a time, and what was known of it; returns their ends, by interval.

    What the source said, and which gaps and refusals imports had there, is forgotten: it will be asked, or read, again.
    """
    values = {"asset": asset, "interval": interval_seconds, "from_at": from_at, "to_at": to_at}
    of = "asset = :asset AND (CAST(:interval AS int) IS NULL OR interval_seconds = :interval)"
    result = await session.execute(
        text(
            f"DELETE FROM price_history WHERE {of} AND ends_at <= :to_at "  # noqa: S608
            "AND ends_at >= CAST(:from_at AS timestamptz) + make_interval(secs => interval_seconds) "
            "RETURNING asset, interval_seconds, ends_at"
        ),
        values,
    )
    ends: dict[int, list[datetime]] = {}
    deleted = result.all()
    await store.market.changes.candles_changed(session, deleted)
    for row in deleted:
        ends.setdefault(row.interval_seconds, []).append(row.ends_at)
    step = "make_interval(secs => interval_seconds)"
    await session.execute(
        text(
            f"WITH cut AS (DELETE FROM price_coverage WHERE {of} AND from_at <= :to_at "  # noqa: S608
            "AND to_at >= CAST(:from_at AS timestamptz) RETURNING *), "
            f"rest AS (SELECT asset, interval_seconds, from_at, CAST(:from_at AS timestamptz) - {step} AS to_at, "
            f"told_at FROM cut UNION ALL SELECT asset, interval_seconds, "
            f"CAST(:to_at AS timestamptz) + {step}, to_at, told_at FROM cut) "
            "INSERT INTO price_coverage (asset, interval_seconds, from_at, to_at, told_at) "
            "SELECT * FROM rest WHERE from_at <= to_at ON CONFLICT DO NOTHING"
        ),
        values,
    )
    for table in ("price_gaps", "price_refusals"):
        await session.execute(
            text(f"DELETE FROM {table} WHERE {of} AND from_at <= :to_at AND to_at >= :from_at"),  # noqa: S608
            values,
        )
    return ends


async def reopen(session: AsyncSession, assets: Sequence[str]) -> int:
    """Let the next resolution try forecasts of these assets that were given up or wait for an attempt; how many.

    The caller has committed the new prices. A resolution under way may not see them: this waits until its transaction
    has ended, so that what it gives up is reopened, too.
    """
    await store.resolution.lock(session)
    result = await session.execute(
        text(
            "UPDATE forecast_resolution_state SET state = 'pending', next_attempt_at = NULL, "
            "first_attempt_at = NULL, attempts = 0, "
            "reason = CASE WHEN state = 'unresolvable' THEN 'prices were imported: to be tried again' ELSE reason END "
            "WHERE asset = ANY(CAST(:assets AS text[])) AND (state = 'unresolvable' OR next_attempt_at IS NOT NULL) "
            "RETURNING 1"
        ),
        {"assets": list(assets)},
    )
    return len(result.all())


async def spans(session: AsyncSession, assets: Sequence[str]) -> dict[str, tuple[datetime, datetime]]:
    """When the first and the last candle of each asset ended; assets without any are left out."""
    result = await session.execute(
        text(
            "SELECT a.asset, (SELECT p.ends_at FROM price_history p WHERE p.asset = a.asset ORDER BY ends_at LIMIT 1), "
            "(SELECT p.ends_at FROM price_history p WHERE p.asset = a.asset ORDER BY ends_at DESC LIMIT 1) "
            "FROM unnest(CAST(:assets AS text[])) AS a (asset)"
        ),
        {"assets": list(assets)},
    )
    return {asset: (first, last) for asset, first, last in result if first is not None}


_SERIES = page(
    "SELECT asset || '/' || interval_seconds AS id, asset, interval_seconds, count(*) AS candles, "
    "min(ends_at) AS first_end, max(ends_at) AS last_end, array_agg(DISTINCT source ORDER BY source) AS sources "
    "FROM price_history GROUP BY asset, interval_seconds",
    key="id",
    order="asset, interval_seconds",
)


async def series(session: AsyncSession, last: int | None = None, before: str | None = None) -> list[PriceSeries]:
    """What candles there are, by asset and interval. See ``pages.page``."""
    result = await session.execute(text(_SERIES), {"last": last, "before": before})
    return [PriceSeries.model_validate(dict(row)) for row in result.mappings()]
