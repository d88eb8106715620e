"""Convictions: what was believed, and by which domains, when a position was opened."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.positions import ClosedPosition, ConvictionLog, ConvictionScore, PositionKey, RecordedConviction
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

# Several trades may name one conviction: the outcome is that of the trade that closed last, in whatever order the
# closes arrive. Of two that closed at the same time a win counts.
_LATEST_OUTCOME = (
    "outcome = excluded.outcome, outcome_ts = excluded.outcome_ts WHERE conviction_scores.outcome_ts IS NULL OR "
    "(conviction_scores.outcome_ts, conviction_scores.outcome) < (excluded.outcome_ts, excluded.outcome)"
)
# The rows are locked by key before they are updated: two batches that update the same convictions in different orders
# would deadlock.
_SET_OUTCOME = (
    "UPDATE conviction_scores s SET outcome = f.outcome, outcome_ts = f.outcome_ts FROM "  # noqa: S608
    "(SELECT s.book_id, s.id, r.outcome, r.outcome_ts FROM conviction_scores s "
    f"JOIN {recordset(ConvictionScore)} r USING (book_id, id) ORDER BY 1, 2 FOR UPDATE OF s) f "
    "WHERE (s.book_id, s.id) = (f.book_id, f.id) AND (s.outcome_ts IS NULL OR "
    "(s.outcome_ts, s.outcome) < (f.outcome_ts, f.outcome))"
)


def recording(closes: Sequence[tuple[ClosedPosition, int]]) -> list[Write]:
    """Writes that record the convictions of closes, each with its outcome y (+1 or -1).

    A close that only names a conviction's id creates no row: the outcome of the conviction is set if it is on record.
    """
    scores: dict[tuple[str, str], dict[str, Any]] = {}
    logs: dict[tuple[str, str, str], dict[str, Any]] = {}
    outcomes: dict[tuple[str, str], dict[str, Any]] = {}
    for position, outcome in sorted(closes, key=lambda c: (c[0].closed_at, c[1])):
        conviction = position.conviction
        if conviction is None:
            continue
        key = (position.book, conviction.conviction_id)
        outcomes[key] = {"outcome": outcome, "outcome_ts": position.closed_at}
        if conviction.domain_scores is None and conviction.cycle_id is None and conviction.magnitude is None:
            continue
        cycle_id = conviction.cycle_id or conviction.conviction_id
        scores.setdefault(key, {"symbol": position.symbol, "cycle_id": cycle_id, "magnitude": conviction.magnitude})
        if conviction.domain_scores is not None:
            log = {
                "book_id": position.book,
                "cycle_id": cycle_id,
                "symbol": position.symbol,
                "domain_scores": conviction.domain_scores,
            }
            logs.setdefault((position.book, cycle_id, position.symbol), log)
    brought = [{"book_id": k[0], "id": k[1]} | scores[k] | outcomes[k] for k in sorted(scores)]
    named_only = [{"book_id": k[0], "id": k[1]} | outcomes[k] for k in sorted(outcomes.keys() - scores.keys())]
    writes = [
        insertion(
            ConvictionScore,
            brought,
            on_conflict=f"(book_id, id) DO UPDATE SET {_LATEST_OUTCOME}",
        ),
        _log([logs[key] for key in sorted(logs)]),
    ]
    if named_only:
        writes.append(Write(_SET_OUTCOME, as_json(named_only)))
    return [write for write in writes if write is not None]


async def lock(session: AsyncSession, positions: Sequence[ClosedPosition]) -> None:
    """Lock the rows of these positions' convictions by key, until the transaction ends.

    Needed where some positions bring a conviction and others only name one: two statements write these rows, so that
    two batches with the same convictions could each hold a row that the other waits for.
    """
    keys = sorted({(p.book, p.conviction.conviction_id) for p in positions if p.conviction is not None})
    await session.execute(
        text(
            f"SELECT 1 FROM conviction_scores s JOIN {recordset(ConvictionScore)} r USING (book_id, id) "  # noqa: S608
            "ORDER BY s.book_id, s.id FOR UPDATE OF s"
        ),
        {"rows": as_json([{"book_id": book, "id": i} for book, i in keys])},
    )


async def recorded_scores(
    session: AsyncSession, positions: Sequence[ClosedPosition]
) -> dict[PositionKey, dict[str, float]]:
    """Domain scores on record for positions that name a conviction without bringing its scores."""
    wanted = [
        {
            "position_id": p.key.position_id,
            "book_id": p.book,
            "id": p.conviction.conviction_id,
            "cycle_id": p.conviction.cycle_id,
            "symbol": p.symbol,
        }
        for p in positions
        if p.conviction is not None
    ]
    if not wanted:
        return {}
    result = await session.execute(
        text(
            "SELECT w.book_id, w.position_id, l.domain_scores FROM json_to_recordset(CAST(:rows AS json)) "
            "AS w(book_id text, position_id text, id text, cycle_id text, symbol text) "
            "LEFT JOIN conviction_scores s ON (s.book_id, s.id) = (w.book_id, w.id) "
            "JOIN conviction_log l ON (l.book_id, l.cycle_id, l.symbol) "
            "= (w.book_id, COALESCE(w.cycle_id, s.cycle_id), w.symbol)"
        ),
        {"rows": as_json(wanted)},
    )
    return {PositionKey(r.book_id, r.position_id): r.domain_scores for r in result}


async def record_ahead(session: AsyncSession, convictions: Sequence[RecordedConviction]) -> int:
    """Record convictions before their positions; the first recording stands. Returns how many were new."""
    distinct = {(c.book, c.conviction_id): c for c in reversed(convictions)}
    logs = {(c.book, c.cycle_id, c.symbol): c.domain_scores for c in reversed(convictions)}
    # The log first, in a statement of its own, as a close does: PostgreSQL executes the parts of one statement from the
    # last to the first, and taking the same locks in two orders would deadlock.
    await execute(
        session,
        _log(
            [
                {"book_id": book, "cycle_id": cycle, "symbol": symbol, "domain_scores": scores}
                for (book, cycle, symbol), scores in sorted(logs.items())
            ]
        ),
    )
    rows = await execute(
        session,
        insertion(
            ConvictionScore,
            [
                {"book_id": c.book, "id": i, "cycle_id": c.cycle_id, "symbol": c.symbol, "magnitude": c.magnitude}
                for (_, i), c in sorted(distinct.items())
            ],
            on_conflict="(book_id, id) DO NOTHING",
            returning="id",
        ),
    )
    return len(rows)


def _log(rows: Sequence[dict[str, Any]]) -> Write | None:
    return insertion(ConvictionLog, rows, on_conflict="(book_id, cycle_id, symbol) DO NOTHING")
