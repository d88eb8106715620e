"""Outcomes that were computed from candles which were replaced or deleted since: marked, listed, and corrected."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.prices import AffectedOutcome
from closeloop.store.resolution import (
    MARK_DAYS,
    SCORED,
    WITH_PRICES,
    DueForecast,
    PageScores,
    look_up_by_index,
    scored,
)

_USED = " OR ".join(
    f"o.{end}_candle_seconds = :interval AND o.{end}_candle_ends_at = ANY(CAST(:ends AS timestamptz[]))"
    for end in ("issue", "target")
)
# Outcomes of before candles were kept with them: any that may have been computed from one.
_MAY_HAVE_USED = " OR ".join(
    f"o.{end}_candle_ends_at IS NULL AND o.{instant} >= CAST(:first AS timestamptz) "
    f"AND o.{instant} <= CAST(:last AS timestamptz) + interval '30 minutes'"
    for end, instant in (("issue", "issued_at"), ("target", "target_at"))
)
_VALUES = (
    "price_at_issue", "price_at_target", "return_pct", "direction_correct", "brier_score", "log_score",
    "issue_candle_ends_at", "issue_candle_seconds", "issue_price_source", "target_candle_ends_at",
    "target_candle_seconds", "target_price_source",
)  # fmt: skip
_OLD = ", ".join(
    f"'{name}', {'o.' + name + '::text' if name.startswith('price_at') else 'o.' + name}" for name in _VALUES
)
_CORRECT = text(
    f"""
    WITH {SCORED}, before AS MATERIALIZED (
        SELECT o.book_id, o.forecast_id, jsonb_build_object({_OLD}) AS values
        FROM forecast_outcomes o JOIN scored s ON o.book_id = s.book_id AND o.forecast_id = s.forecast_id COLLATE "C"
        WHERE (o.price_at_issue, o.price_at_target) <> (s.price_at_issue, s.price_at_target)
    ), new AS (
        UPDATE forecast_outcomes o SET {", ".join(f"{name} = s.{name}" for name in _VALUES)},
               revision = o.revision + 1, policy_hash = CAST(:policy_hash AS text)
        FROM before b JOIN scored s USING (book_id, forecast_id)
        WHERE o.book_id = b.book_id AND o.forecast_id = b.forecast_id COLLATE "C"
        RETURNING o.*
    ), appended AS (
        INSERT INTO events (type, source, payload, dedupe_key)
        SELECT 'forecast.outcome_corrected.v1', 'closeloop', jsonb_build_object(
                   'book', o.book_id, 'forecast_id', o.forecast_id, 'producer_id', o.producer_id, 'asset', o.asset,
                   'horizon', o.horizon, 'target_at', o.target_at, 'shadow', o.shadow, 'revision', o.revision,
                   'before', b.values, 'after', jsonb_build_object({_OLD}), 'corrected_at', CAST(:now AS timestamptz)),
               'forecast.outcome_corrected.v1/' || o.book_id || '/' || o.forecast_id || '/' || o.revision
        FROM new o JOIN before b USING (book_id, forecast_id)
    ), refit AS (
        UPDATE recalibration_maps m SET outdated = true
        WHERE (m.book_id, m.producer_id) IN (SELECT book_id, producer_id FROM new WHERE NOT shadow)
    ), {MARK_DAYS}
    SELECT count(*) FROM new
    """  # noqa: S608
)
_WITHDRAW = text(
    f"""
    WITH new AS (
        DELETE FROM forecast_outcomes o
        USING unnest(CAST(:books AS text[]), CAST(:ids AS text[])) AS k (book_id, forecast_id)
        WHERE o.book_id = k.book_id AND o.forecast_id = k.forecast_id COLLATE "C" RETURNING o.*
    ), queued AS (
        INSERT INTO forecast_resolution_state (book_id, forecast_id, asset, target_at, reason, revision)
        SELECT book_id, forecast_id, asset, target_at, 'the candle of its price was replaced or deleted', revision + 1
        FROM new
    ), appended AS (
        INSERT INTO events (type, source, payload, dedupe_key)
        SELECT 'forecast.outcome_corrected.v1', 'closeloop', jsonb_build_object(
                   'book', o.book_id, 'forecast_id', o.forecast_id, 'producer_id', o.producer_id, 'asset', o.asset,
                   'horizon', o.horizon, 'target_at', o.target_at, 'shadow', o.shadow, 'revision', o.revision + 1,
                   'before', jsonb_build_object({_OLD}), 'after', NULL),
               'forecast.outcome_corrected.v1/' || o.book_id || '/' || o.forecast_id || '/' || o.revision + 1
        FROM new o
    ), refit AS (
        UPDATE recalibration_maps m SET outdated = true
        WHERE (m.book_id, m.producer_id) IN (SELECT book_id, producer_id FROM new WHERE NOT shadow)
    ), {MARK_DAYS}
    SELECT count(*) FROM new
    """  # noqa: S608
)
_PAGE = text(
    f"""
    WITH asked AS MATERIALIZED (
        SELECT o.book_id, o.forecast_id, o.target_at, CAST(NULL AS timestamptz) AS next_attempt_at, 0 AS attempts,
               CAST(NULL AS timestamptz) AS first_attempt_at, o.revision, o.asset, o.action, o.confidence, o.issued_at
        FROM outcomes_to_recompute m JOIN forecast_outcomes o USING (book_id, forecast_id)
        WHERE CAST(:asset AS text) IS NULL OR o.asset = :asset
        ORDER BY o.book_id, o.forecast_id LIMIT :limit
    )
    {WITH_PRICES}
    """  # noqa: S608
)


async def mark(session: AsyncSession, asset: str, interval_seconds: int, ends: Sequence[datetime], reason: str) -> int:
    """Mark the outcomes that were computed from candles of these ends (at least one); how many there are.

    The caller holds the resolution's lock: none is computed from the old candles after this.
    """
    result = await session.execute(
        text(
            "WITH marked AS (INSERT INTO outcomes_to_recompute (book_id, forecast_id, reason) "  # noqa: S608
            "SELECT o.book_id, o.forecast_id, CAST(:reason AS text) FROM forecast_outcomes o "
            f"WHERE o.asset = :asset AND ({_USED} OR {_MAY_HAVE_USED}) "
            "ON CONFLICT (book_id, forecast_id) DO UPDATE SET reason = excluded.reason RETURNING 1) "
            "SELECT count(*) FROM marked"
        ),
        {
            "asset": asset,
            "interval": interval_seconds,
            "ends": list(ends),
            "first": min(ends),
            "last": max(ends),
            "reason": reason,
        },
    )
    return int(result.scalar_one())


async def listing(
    session: AsyncSession, asset: str | None, last: int | None, before: tuple[str, str] | None
) -> list[AffectedOutcome]:
    """Marked outcomes by (book, forecast): the ``last`` of those before a cursor."""
    book, forecast = before or (None, None)
    result = await session.execute(
        text(
            "SELECT * FROM (SELECT o.book_id AS book, o.forecast_id, o.asset, o.target_at, o.return_pct, m.reason, "
            "m.marked_at FROM outcomes_to_recompute m JOIN forecast_outcomes o USING (book_id, forecast_id) "
            "WHERE (CAST(:asset AS text) IS NULL OR o.asset = :asset) AND (CAST(:book AS text) IS NULL "
            'OR (o.book_id, o.forecast_id) < (CAST(:book AS text), CAST(:forecast AS text) COLLATE "C")) '
            "ORDER BY o.book_id DESC, o.forecast_id DESC LIMIT CAST(:last AS bigint)) newest ORDER BY 1, 2"
        ),
        {"asset": asset, "book": book, "forecast": forecast, "last": last},
    )
    return [AffectedOutcome.model_validate(dict(row)) for row in result.mappings()]


async def page(session: AsyncSession, asset: str | None, tolerance: timedelta, limit: int) -> list[DueForecast]:
    """The next marked outcomes, with the prices that are on record now."""
    await look_up_by_index(session)
    result = await session.execute(_PAGE, {"asset": asset, "tolerance": tolerance, "limit": limit})
    return [DueForecast._make(row) for row in result]


async def correct(
    session: AsyncSession,
    outcomes: Sequence[DueForecast],
    scores: PageScores,
    *,
    now: datetime,
    policy_hash: str,
    block: timedelta,
) -> int:
    """Write the outcomes whose prices differ, with an event that keeps the old values; how many they are.

    The days whose sums change are marked, and the maps fitted to them. The caller holds the resolution's lock.
    """
    if not outcomes:
        return 0
    values: dict[str, Any] = {"now": now, "policy_hash": policy_hash, "block": int(block.total_seconds())}
    result = await session.execute(_CORRECT, scored(outcomes, scores) | values)
    return int(result.scalar_one())


async def withdraw(session: AsyncSession, outcomes: Sequence[DueForecast], *, block: timedelta) -> None:
    """Take outcomes back whose price there is no more, with an event; their forecasts wait for a price again."""
    if outcomes:
        await session.execute(_WITHDRAW, _keys(outcomes) | {"block": int(block.total_seconds())})


async def unmark(session: AsyncSession, outcomes: Sequence[DueForecast]) -> None:
    """These have been computed again."""
    await session.execute(
        text(
            "DELETE FROM outcomes_to_recompute m USING "
            "unnest(CAST(:books AS text[]), CAST(:ids AS text[])) AS k (book_id, forecast_id) "
            'WHERE m.book_id = k.book_id AND m.forecast_id = k.forecast_id COLLATE "C"'
        ),
        _keys(outcomes),
    )


def _keys(outcomes: Sequence[DueForecast]) -> dict[str, Any]:
    return {"books": [one.book for one in outcomes], "ids": [one.forecast_id for one in outcomes]}
