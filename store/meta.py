"""The meta-producer: what it reads (forecasts and outcomes, never prices), what it said, and whether it may speak."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.meta import META, MetaDecision, MetaDecisionView
from closeloop.store.rows import execute, insertion

_MICROSECONDS = "(extract(epoch FROM {}) * 1000000)::bigint"


async def books(session: AsyncSession, as_of: datetime, state_age: timedelta) -> list[str]:
    """Books that learn and in which a producer issued a forecast within ``state_age`` before ``as_of``."""
    result = await session.execute(
        text(
            "SELECT book_id FROM books b WHERE b.archived_at IS NULL "
            "AND EXISTS (SELECT 1 FROM forecasts f WHERE f.book_id = b.book_id "
            "AND f.issued_at > :after AND f.issued_at <= :as_of AND f.action <> 'no_forecast') ORDER BY book_id"
        ),
        {"after": as_of - state_age, "as_of": as_of},
    )
    return list(result.scalars())


async def count_outcomes(session: AsyncSession, book: str, as_of: datetime) -> int:
    """Resolved outcomes of a book by an instant."""
    result = await session.execute(
        text("SELECT count(*) FROM forecast_outcomes WHERE book_id = :book AND target_at <= :as_of AND NOT shadow"),
        {"book": book, "as_of": as_of},
    )
    return int(result.scalar_one())


async def pairs_forecast(
    session: AsyncSession, book: str, as_of: datetime, state_age: timedelta
) -> list[tuple[str, str]]:
    """(asset, horizon) that producers (not the meta-producer) forecast within ``state_age`` before ``as_of``."""
    result = await session.execute(
        text(
            "SELECT DISTINCT asset, horizon FROM forecasts WHERE book_id = :book AND issued_at > :after "
            "AND issued_at <= :as_of AND action <> 'no_forecast' AND producer_id <> :meta AND NOT shadow ORDER BY 1, 2"
        ),
        {"book": book, "after": as_of - state_age, "as_of": as_of, "meta": META},
    )
    return [(asset, horizon) for asset, horizon in result]


async def history(
    session: AsyncSession, book: str, asset: str, horizon: str, as_of: datetime
) -> AsyncIterator[tuple[str, int, int, str, float | None]]:
    """(producer, issued_at, target_at in µs since 1970, action, return_pct) of what was issued by then, streamed."""
    result = await session.stream(
        text(
            f"SELECT f.producer_id, {_MICROSECONDS.format('f.issued_at')}, {_MICROSECONDS.format('f.target_at')}, "  # noqa: S608
            "f.action, o.return_pct FROM forecasts f LEFT JOIN forecast_outcomes o USING (book_id, forecast_id) "
            "WHERE f.book_id = :book AND f.asset = :asset AND f.horizon = :horizon AND f.issued_at <= :as_of "
            "AND f.action <> 'no_forecast' AND NOT f.shadow ORDER BY f.issued_at, f.forecast_id"
        ),
        {"book": book, "asset": asset, "horizon": horizon, "as_of": as_of},
        execution_options={"yield_per": 10_000},
    )
    async for row in result:
        yield tuple(row)


async def decide(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Record decisions of the meta-producer (rows of meta_decisions); returns the dedupe keys of those that are new."""
    written = await execute(
        session, insertion(MetaDecision, rows, on_conflict="(dedupe_key) DO NOTHING", returning="dedupe_key")
    )
    return {row.dedupe_key for row in written}


async def decisions(
    session: AsyncSession, book: str | None, *, last: int | None = None, before: int | None = None
) -> AsyncIterator[MetaDecisionView]:
    """Decisions of the meta-producer with their outcomes, oldest first, streamed: all, or the ``last`` before an id."""
    query = (
        "SELECT d.id, d.book_id AS book, d.asset, d.horizon, d.as_of, d.action, d.reason, d.confidence, d.state, "
        "d.evidence, d.forecast_id, d.policy_hash, o.return_pct, o.direction_correct, o.brier_score "
        "FROM meta_decisions d LEFT JOIN forecast_outcomes o ON o.book_id = d.book_id "
        "AND o.forecast_id = d.forecast_id WHERE (CAST(:book AS text) IS NULL OR d.book_id = :book) "
        "AND (CAST(:before AS bigint) IS NULL OR d.id < :before) ORDER BY d.id"
    )
    if last is not None:
        query = f"SELECT * FROM ({query} DESC LIMIT :last) newest ORDER BY id"  # noqa: S608
    result = await session.stream(
        text(query),
        {"book": book, "before": before} | ({} if last is None else {"last": last}),
        execution_options={"yield_per": 1000},
    )
    async for row in result.mappings():
        yield MetaDecisionView.model_validate(dict(row))


async def is_decision(session: AsyncSession, number: int) -> bool:
    """Whether there is a decision with this id."""
    return (
        await session.execute(text("SELECT 1 FROM meta_decisions WHERE id = :id"), {"id": number})
    ).first() is not None


class OutcomeCounts(NamedTuple):
    """How many outcomes (``n``), how many of them were right, and their mean Brier score (None without any)."""

    n: int
    correct: int
    brier: float | None


class MetaOutcomes(NamedTuple):
    """Outcomes of the meta-producer's forecasts in one mode, shadow or live.

    ``return_pct``: mean return of a long or short before costs (5 is 5 %); None where it only said flat.
    """

    n: int
    correct: int
    brier: float
    mean_confidence: float
    return_pct: float | None
    first_at: datetime
    last_at: datetime


async def count_by_reason(session: AsyncSession, book: str) -> dict[str, int]:
    """How often the meta-producer emitted (under ``emitted``) and abstained, by reason.

    Abstentions come last; otherwise the most frequent reason comes first.
    """
    result = await session.execute(
        text(
            "SELECT coalesce(reason, 'emitted') AS reason, count(*) AS n FROM meta_decisions WHERE book_id = :book "
            "GROUP BY 1 ORDER BY bool_and(action = 'no_forecast'), 2 DESC, 1"
        ),
        {"book": book},
    )
    return {row.reason: row.n for row in result}


async def scored(session: AsyncSession, book: str, *, shadow: bool) -> MetaOutcomes | None:
    """Outcomes of the meta-producer's live forecasts, or of its shadow ones; None where none is resolved."""
    result = await session.execute(
        text(
            "SELECT count(*) AS n, count(*) FILTER (WHERE o.direction_correct) AS correct, "
            "avg(o.brier_score) AS brier, avg(o.confidence) AS mean_confidence, "
            "avg(CASE o.action WHEN 'long' THEN o.return_pct WHEN 'short' THEN -o.return_pct END) AS return_pct, "
            "min(o.issued_at) AS first_at, max(o.issued_at) AS last_at "
            "FROM forecast_outcomes o WHERE o.book_id = :book AND o.producer_id = :meta AND o.shadow = :shadow"
        ),
        {"book": book, "meta": META, "shadow": shadow},
    )
    found = MetaOutcomes._make(result.one())
    return found if found.n else None


async def producers_meanwhile(session: AsyncSession, book: str, state_age: timedelta) -> OutcomeCounts:
    """Outcomes of the other producers over the same time as those of the meta-producer.

    They count where the meta-producer has an outcome of the same asset and horizon, with a target at most ``state_age``
    later.
    """
    result = await session.execute(
        text(
            "SELECT count(*) AS n, count(*) FILTER (WHERE p.direction_correct) AS correct, avg(p.brier_score) AS brier "
            "FROM forecast_outcomes p CROSS JOIN LATERAL (SELECT 1 FROM forecast_outcomes m "
            "WHERE m.book_id = p.book_id AND m.producer_id = :meta AND m.asset = p.asset AND m.horizon = p.horizon "
            "AND m.target_at >= p.target_at AND m.target_at < p.target_at + CAST(:age AS interval) LIMIT 1) heard "
            "WHERE p.book_id = :book AND p.producer_id <> :meta AND NOT p.shadow"
        ),
        {"book": book, "meta": META, "age": state_age},
    )
    return OutcomeCounts._make(result.one())


# -- shadow and live ---------------------------------------------------------------------------------------------------


async def mode(session: AsyncSession, book: str) -> RowMapping | None:
    """Whether a book's meta-producer is live, since when and who decided that; None if nobody ever did."""
    result = await session.execute(
        text("SELECT live, since, operator, note FROM meta_modes WHERE book_id = :book"), {"book": book}
    )
    return result.mappings().first()


async def set_mode(session: AsyncSession, book: str, live: bool, since: datetime, operator: str, note: str) -> bool:
    """Make a book's meta-producer live, or send it back to shadow; False if it was in that mode already."""
    await execute(session, store.books.creating([book]))
    result = await session.execute(
        text(
            "INSERT INTO meta_modes AS m (book_id, live, since, operator, note) "
            "VALUES (:book, :live, :since, :operator, :note) ON CONFLICT (book_id) DO UPDATE SET "
            "live = excluded.live, since = excluded.since, operator = excluded.operator, note = excluded.note "
            "WHERE m.live <> excluded.live RETURNING 1"
        ),
        {"book": book, "live": live, "since": since, "operator": operator, "note": note},
    )
    return result.first() is not None
