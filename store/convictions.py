"""Convictions: what was believed, and by which domains, when a position was opened."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.convictions import ConvictionLog, ConvictionScore, RecordedConviction
from closeloop.models.positions import ClosedPosition, PositionKey
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

# Several trades may name one conviction: the outcome is that of the trade that closed last, in whatever order the
# closes arrive. Of two that closed at the same time a win counts.
_LATEST_OUTCOME = (
    "outcome = excluded.outcome, outcome_ts = excluded.outcome_ts WHERE conviction_scores.outcome_ts IS NULL OR "
    "(conviction_scores.outcome_ts, conviction_scores.outcome) < (excluded.outcome_ts, excluded.outcome)"
)
# The rows are locked by key before they are updated: two batches that update the same convictions in different orders
# would deadlock. Of a conviction that was formed after a trade was opened, that trade's outcome says nothing.
_SET_OUTCOME = (
    "WITH r AS MATERIALIZED (SELECT * FROM json_to_recordset(CAST(:rows AS json)) "
    "AS r(book_id text, id text, outcome smallint, outcome_ts timestamptz, opened_at timestamptz)), "
    "held AS MATERIALIZED (SELECT s.book_id, s.id, s.formed_at FROM conviction_scores s "
    "JOIN (SELECT DISTINCT book_id, id FROM r) named USING (book_id, id) ORDER BY 1, 2 FOR UPDATE OF s), "
    "f AS (SELECT DISTINCT ON (book_id, id) book_id, id, outcome, outcome_ts FROM held JOIN r USING (book_id, id) "
    "WHERE formed_at IS NULL OR formed_at <= opened_at ORDER BY book_id, id, outcome_ts DESC, outcome DESC) "
    "UPDATE conviction_scores s SET outcome = f.outcome, outcome_ts = f.outcome_ts FROM f "
    "WHERE (s.book_id, s.id) = (f.book_id, f.id) AND (s.outcome_ts IS NULL OR "
    "(s.outcome_ts, s.outcome) < (f.outcome_ts, f.outcome))"
)


class RecordedScores(NamedTuple):
    """What is on record of a conviction whose scores its close did not bring; its cycle is null where it is not.

    ``scores``: null where they are not on record. ``formed_later``: they were formed after the position was opened.
    """

    cycle_id: str | None
    scores: dict[str, float] | None
    formed_later: bool


class ConvictionTrade(NamedTuple):
    """A trade that names a conviction, with its outcome y (+1 or -1)."""

    book: str
    conviction_id: str
    outcome: int
    opened_at: datetime
    closed_at: datetime


def recording(closes: Sequence[tuple[ClosedPosition, int]]) -> list[Write]:
    """Writes that record the convictions that closes bring, each with its outcome y (+1 or -1).

    The outcome of one whose scores the close does not bring is not written here: see :func:`setting_outcomes`.
    """
    scores: dict[tuple[str, str], dict[str, Any]] = {}
    logs: dict[tuple[str, str, str], dict[str, Any]] = {}
    outcomes: dict[tuple[str, str], dict[str, Any]] = {}
    for position, outcome in sorted(closes, key=lambda c: (c[0].closed_at, c[1])):
        conviction = position.conviction
        if conviction is None:
            continue
        if conviction.domain_scores is None and conviction.cycle_id is None and conviction.magnitude is None:
            continue
        key = (position.book, conviction.conviction_id)
        cycle_id = conviction.cycle_id or conviction.conviction_id
        scores.setdefault(key, {"symbol": position.symbol, "cycle_id": cycle_id, "magnitude": conviction.magnitude})
        if conviction.domain_scores is not None:
            outcomes[key] = {"outcome": outcome, "outcome_ts": position.closed_at}
            log = {
                "book_id": position.book,
                "cycle_id": cycle_id,
                "symbol": position.symbol,
                "domain_scores": conviction.domain_scores,
            }
            logs.setdefault((position.book, cycle_id, position.symbol), log)
    none: dict[str, Any] = {"outcome": None, "outcome_ts": None}
    brought = [{"book_id": k[0], "id": k[1]} | scores[k] | outcomes.get(k, none) for k in sorted(scores)]
    writes = [
        insertion(
            ConvictionScore,
            brought,
            on_conflict=f"(book_id, id) DO UPDATE SET {_LATEST_OUTCOME}",
        ),
        _log([logs[key] for key in sorted(logs)]),
    ]
    return [write for write in writes if write is not None]


def setting_outcomes(trades: Sequence[ConvictionTrade]) -> Write | None:
    """The write that sets the outcome of convictions on record from the trades that name them."""
    rows = [
        {"book_id": t.book, "id": t.conviction_id, "outcome": t.outcome, "outcome_ts": t.closed_at}
        | {"opened_at": t.opened_at}
        for t in trades
    ]
    return Write(_SET_OUTCOME, as_json(rows)) if rows else None


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
) -> dict[PositionKey, RecordedScores]:
    """What is on record for positions that name a conviction without bringing its scores."""
    wanted = [
        {
            "position_id": p.key.position_id,
            "book_id": p.book,
            "id": p.conviction.conviction_id,
            "cycle_id": p.conviction.cycle_id,
            "symbol": p.symbol,
            "opened_at": p.opened_at,
        }
        for p in positions
        if p.conviction is not None
    ]
    if not wanted:
        return {}
    result = await session.execute(
        text(
            "SELECT w.book_id, w.position_id, COALESCE(w.cycle_id, s.cycle_id) AS cycle_id, l.domain_scores, "
            "COALESCE(l.formed_at > w.opened_at, false) AS formed_later FROM json_to_recordset(CAST(:rows AS json)) "
            "AS w(book_id text, position_id text, id text, cycle_id text, symbol text, opened_at timestamptz) "
            "LEFT JOIN conviction_scores s ON (s.book_id, s.id) = (w.book_id, w.id) "
            "LEFT JOIN conviction_log l ON (l.book_id, l.cycle_id, l.symbol) "
            "= (w.book_id, COALESCE(w.cycle_id, s.cycle_id), w.symbol)"
        ),
        {"rows": as_json(wanted)},
    )
    return {
        PositionKey(r.book_id, r.position_id): RecordedScores(r.cycle_id, r.domain_scores, r.formed_later)
        for r in result
    }


async def record_ahead(session: AsyncSession, convictions: Sequence[RecordedConviction]) -> int:
    """Record convictions that no close brought; the first recording stands. Returns how many were new."""
    distinct = {(c.book, c.conviction_id): c for c in reversed(convictions)}
    logs = {(c.book, c.cycle_id, c.symbol): c for c in reversed(convictions)}
    # The log first, in a statement of its own, as a close does: PostgreSQL executes the parts of one statement from the
    # last to the first, and taking the same locks in two orders would deadlock.
    await execute(
        session,
        _log(
            [
                {
                    "book_id": book,
                    "cycle_id": cycle,
                    "symbol": symbol,
                    "domain_scores": c.domain_scores,
                    "formed_at": c.formed_at,
                }
                for (book, cycle, symbol), c in sorted(logs.items())
            ]
        ),
    )
    rows = await execute(
        session,
        insertion(
            ConvictionScore,
            [
                {
                    "book_id": c.book,
                    "id": i,
                    "cycle_id": c.cycle_id,
                    "symbol": c.symbol,
                    "magnitude": c.magnitude,
                    "formed_at": c.formed_at,
                }
                for (_, i), c in sorted(distinct.items())
            ],
            on_conflict="(book_id, id) DO NOTHING",
            returning="id",
        ),
    )
    return len(rows)


def _log(rows: Sequence[dict[str, Any]]) -> Write | None:
    return insertion(ConvictionLog, rows, on_conflict="(book_id, cycle_id, symbol) DO NOTHING")
