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

_SAME = " AND ".join(f"p.{c} = r.{c}" for c in ("open", "high", "low", "close"))


@dataclass(frozen=True)
class CandlesAdded:
    """How many candles were new, and the ends of those that are on record with other prices and stay as they are."""

    new: int
    differing: list[datetime]


async def add(session: AsyncSession, candles: Sequence[dict[str, Any]]) -> CandlesAdded:
    """Store candles (rows of price_history, distinct keys). What is on record is never changed."""
    written = await execute(
        session, insertion(PriceCandle, candles, on_conflict="DO NOTHING", returning="asset, interval_seconds, ends_at")
    )
    if len(written) == len(candles):
        return CandlesAdded(len(written), [])
    differing = await session.execute(
        text(
            f"SELECT r.ends_at FROM {recordset(PriceCandle)} r JOIN price_history p "  # noqa: S608
            f"USING (asset, interval_seconds, ends_at) WHERE NOT ({_SAME}) ORDER BY 1"
        ),
        {"rows": as_json(candles)},
    )
    return CandlesAdded(len(written), list(differing.scalars()))


async def cover(session: AsyncSession, asset: str, interval_seconds: int, from_at: datetime, to_at: datetime) -> None:
    """Record that the source gave every candle it has with an end from ``from_at`` to ``to_at``."""
    row = {"asset": asset, "interval_seconds": interval_seconds, "from_at": from_at, "to_at": to_at}
    await execute(session, insertion(PriceCoverage, [row], on_conflict="DO NOTHING"))


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
