"""Outcomes of decisions: what is due, the prices and candles on record for it, and what was found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.learning.decision_outcomes import Candles
from closeloop.models.decisions import HORIZONS_DAYS, LearningDecision, LearningOutcome
from closeloop.store.books import not_archived
from closeloop.store.resolution import price_at
from closeloop.store.rows import as_json, execute, insertion, recordset

_OPEN = not_archived("d.book_id")
# A close that came after the outcome was filled in: the decision is due again, now.
_NOTICE_CLOSES = text(
    "UPDATE learning_decisions d SET next_due_at = CAST(:as_of AS timestamptz) FROM learning_outcomes o, positions p "  # noqa: S608
    "WHERE d.awaits_close AND (o.book_id, o.decision_id) = (d.book_id, d.decision_id) "
    "AND (p.book_id, p.position_id) = (d.book_id, d.position_id) AND p.closed_at <= CAST(:as_of AS timestamptz) "
    f"AND (d.next_due_at IS NULL OR d.next_due_at > CAST(:as_of AS timestamptz)) AND {_OPEN}"
)
_PRICES = " ".join(
    f"CROSS JOIN LATERAL (SELECT d.symbol AS asset, d.decided_at + interval '{days} days' AS t) i{days} "
    f"LEFT JOIN LATERAL ({price_at(f'i{days}')}) p{days} ON true "
    for days in (0, *HORIZONS_DAYS)
)
_PRICED = ", ".join(f"CASE WHEN p{days}.certain THEN p{days}.close END AS price_{days}" for days in (0, *HORIZONS_DAYS))
_RETURNS = ", ".join(f"o.return_{days}d" for days in HORIZONS_DAYS)
_DUE = text(
    f"""
    WITH due AS MATERIALIZED (
        SELECT d.* FROM learning_decisions d
        WHERE d.next_due_at <= CAST(:as_of AS timestamptz) AND {_OPEN}
          AND (d.symbol, d.decided_at, d.book_id, d.decision_id) > (CAST(:symbol AS text) COLLATE "C",
               CAST(:at AS timestamptz), CAST(:book AS text), CAST(:id AS text) COLLATE "C")
        ORDER BY d.symbol, d.decided_at, d.book_id, d.decision_id LIMIT :limit
        FOR UPDATE OF d SKIP LOCKED
    )
    SELECT d.book_id, d.decision_id, d.symbol, d.decided_at, d.decision_type, d.position_id, d.expected_volume_ratio,
           d.catalyst_materialized, {_RETURNS}, o.price_at_decision, o.price_at_evaluation, o.evaluation_date,
           o.max_favorable_excursion, o.max_adverse_excursion, o.thesis_accuracy_score, o.volume_pattern_accuracy,
           coalesce(o.unresolvable, '{{}}') AS unresolvable, c.closed_at, c.exit_price, c.exit_reason, {_PRICED}
    FROM due d LEFT JOIN learning_outcomes o USING (book_id, decision_id)
    LEFT JOIN positions c ON c.book_id = d.book_id AND c.position_id = d.position_id
         AND c.closed_at <= CAST(:as_of AS timestamptz)
    {_PRICES}
    ORDER BY d.symbol, d.decided_at, d.book_id, d.decision_id
    """  # noqa: S608
)


@dataclass(frozen=True)
class DueDecision:
    """A decision of which an outcome is due, with what was found before and the prices on record.

    ``prices`` by days after the decision (0: at it), each as exact as it is on record; missing where there is none.
    """

    row: RowMapping

    @property
    def cursor(self) -> tuple[str, datetime, str, str]:
        """Where the next page begins."""
        return self.row["symbol"], self.row["decided_at"], self.row["book_id"], self.row["decision_id"]

    @property
    def prices(self) -> dict[int, Any]:
        """See the class."""
        return {days: p for days in (0, *HORIZONS_DAYS) if (p := self.row[f"price_{days}"]) is not None}


async def notice_closes(session: AsyncSession, as_of: datetime) -> None:
    """Have the decisions looked at again whose positions closed since."""
    await session.execute(_NOTICE_CLOSES, {"as_of": as_of})


async def due(
    session: AsyncSession,
    as_of: datetime,
    after: tuple[str, datetime, str, str] | None,
    limit: int,
    tolerance: timedelta,
) -> list[DueDecision]:
    """Decisions that are due, by symbol and time, locked; those that another transaction has are passed over."""
    symbol, at, book, decision_id = after or ("", datetime(1, 1, 1, tzinfo=as_of.tzinfo), "", "")
    values = {
        "as_of": as_of,
        "symbol": symbol,
        "at": at,
        "book": book,
        "id": decision_id,
        "limit": limit,
        "tolerance": tolerance,
    }
    return [DueDecision(row) for row in (await session.execute(_DUE, values)).mappings()]


async def candles(session: AsyncSession, symbol: str, begin: datetime, end: datetime) -> list[Candles]:
    """Candles of at most 30 minutes that ended in a time, by interval; provisional ones are left out."""
    result = await session.execute(
        text(
            "SELECT interval_seconds, array_agg(CAST(extract(epoch FROM ends_at) AS bigint) ORDER BY ends_at) AS ends, "
            "array_agg(CAST(high AS float8) ORDER BY ends_at) AS high, "
            "array_agg(CAST(low AS float8) ORDER BY ends_at) AS low, "
            "array_agg(CAST(close AS float8) ORDER BY ends_at) AS close, "
            "array_agg(coalesce(CAST(volume AS float8), 'NaN') ORDER BY ends_at) AS volume "
            "FROM price_history WHERE asset = :asset AND interval_seconds <= 1800 AND NOT provisional "
            "AND ends_at > :begin AND ends_at <= :end GROUP BY interval_seconds ORDER BY interval_seconds"
        ),
        {"asset": symbol, "begin": begin, "end": end},
    )
    return [
        Candles(
            row.interval_seconds,
            np.array(row.ends, dtype=np.int64),
            *(np.array(column, dtype=np.float64) for column in (row.high, row.low, row.close, row.volume)),
        )
        for row in result
    ]


async def write(
    session: AsyncSession, outcomes: Sequence[Mapping[str, Any]], due_next: Sequence[Mapping[str, Any]]
) -> None:
    """Store what was found, and when each decision is due next. A return that is on record stays."""
    columns = [name for name in outcomes[0] if name not in ("book_id", "decision_id")] if outcomes else []
    kept = {f"return_{days}d" for days in HORIZONS_DAYS} | {"price_at_decision", "thesis_accuracy_score"}
    renewed = ", ".join(
        f"{name} = coalesce(learning_outcomes.{name}, excluded.{name})" if name in kept else f"{name} = excluded.{name}"
        for name in columns
    )
    await execute(
        session,
        insertion(LearningOutcome, outcomes, on_conflict=f"(book_id, decision_id) DO UPDATE SET {renewed}"),
    )
    if due_next:
        await session.execute(
            text(
                "UPDATE learning_decisions d SET next_due_at = r.next_due_at, "  # noqa: S608
                "awaits_close = d.awaits_close AND r.awaits_close "
                f"FROM {recordset(LearningDecision)} r "
                "WHERE (d.book_id, d.decision_id) = (r.book_id, r.decision_id)"
            ),
            {"rows": as_json(due_next)},
        )
