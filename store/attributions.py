"""Attributions: the outcome of each closed position, written once."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.positions import Attribution, PositionKey, PositionOutcome
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

# SQL that is true of a close that was sent live, not imported: a workflow run's id has hyphens, an import's has none.
# The index attributions_live has the same condition.
IS_LIVE = "attributed_by LIKE '________-____-____-____-____________'"

_COLUMNS = (
    "book_id AS book, position_id, symbol, direction, opened_at, closed_at, realized_pnl, rr, time_held_hours, "
    "max_drawdown_pct, max_favorable_pct, direction_correct, regime_at_entry, conviction_id, conviction_status, "
    "domain_scores_at_entry, cycle_id, completed_at, producers, attributed_at, attributed_by, policy_hash"
)


async def insert(
    session: AsyncSession, outcomes: Sequence[PositionOutcome], together_with: Sequence[Write] = ()
) -> set[PositionKey]:
    """Insert outcomes (sorted by key) in one statement with the writes of ``together_with``.

    Returns the keys of the outcomes that this call wrote; the others were on record.
    """
    rows = [_row(outcome) for outcome in outcomes]
    written = await execute(
        session,
        *together_with,
        insertion(Attribution, rows, on_conflict="(book_id, position_id) DO NOTHING", returning="book_id, position_id"),
    )
    return {PositionKey(r.book_id, r.position_id) for r in written}


async def load(session: AsyncSession, keys: Sequence[PositionKey]) -> dict[PositionKey, PositionOutcome]:
    """The outcomes of these positions, by key; a position without an attribution is left out."""
    if not keys:
        return {}
    result = await session.execute(
        text(
            f"SELECT {_COLUMNS} FROM attributions WHERE (book_id, position_id) IN "  # noqa: S608
            f"(SELECT book_id, position_id FROM {recordset(Attribution)})"
        ),
        {"rows": as_json([{"book_id": k.book, "position_id": k.position_id} for k in keys])},
    )
    outcomes = [PositionOutcome.model_validate(dict(row)) for row in result.mappings()]
    return {o.key: o for o in outcomes}


async def listing(
    session: AsyncSession, book: str | None, last: int | None = None, before: PositionOutcome | None = None
) -> AsyncIterator[PositionOutcome]:
    """Outcomes by (closed_at, book, position_id), streamed: all, or the ``last`` of those before the given one."""
    before_it = (
        "(CAST(:closed_at AS timestamptz) IS NULL OR (closed_at, book_id, position_id) < "
        '(CAST(:closed_at AS timestamptz), CAST(:before_book AS text), CAST(:before_id AS text) COLLATE "C")) '
    )
    of_books = "(CAST(:book AS text) IS NULL OR book_id = :book)"
    if last is None:
        query = (
            f"SELECT {_COLUMNS} FROM attributions WHERE {of_books} AND {before_it}"  # noqa: S608
            "ORDER BY closed_at, book_id, position_id"
        )
    else:
        # The last of each book, by the index of each, and the last of those: no index over all books is needed.
        query = (
            f"SELECT * FROM (SELECT {_COLUMNS} FROM (SELECT book_id AS of_book FROM books WHERE {of_books}) b "  # noqa: S608
            f"CROSS JOIN LATERAL (SELECT * FROM attributions WHERE book_id = b.of_book AND {before_it}"
            "ORDER BY closed_at DESC, position_id DESC LIMIT :last) a "
            "ORDER BY closed_at DESC, book_id DESC, position_id DESC LIMIT :last) newest "
            "ORDER BY closed_at, book, position_id"
        )
    result = await session.stream(
        text(query),
        {
            "book": book,
            "closed_at": before.closed_at if before else None,
            "before_book": before.book if before else None,
            "before_id": before.position_id if before else None,
        }
        | ({} if last is None else {"last": last}),
        execution_options={"yield_per": 1000},
    )
    async for batch in result.mappings().partitions():
        for row in batch:
            yield PositionOutcome.model_validate(dict(row))


@dataclass(frozen=True)
class OutcomeSums:
    """Counts and sums of a book's outcomes. Money in ``currency``, null where it is unknown.

    ``avg_rr`` and the standard deviation ``sd_rr`` are in R, over the ``rr_count`` outcomes whose risk is known.
    """

    count: int
    wins: int
    realized_pnl: Decimal
    currency: str | None
    rr_count: int
    avg_rr: float | None
    sd_rr: float | None
    avg_time_held_hours: float | None
    first_closed_at: datetime | None
    last_closed_at: datetime | None
    with_domain_scores: int


async def summary(session: AsyncSession, book: str) -> OutcomeSums:
    """Counts and sums of a book's outcomes."""
    result = await session.execute(
        text(
            "SELECT count(*) AS count, count(*) FILTER (WHERE direction_correct) AS wins, "
            "coalesce(sum(realized_pnl), 0) AS realized_pnl, count(rr) AS rr_count, "
            "(SELECT currency FROM books WHERE book_id = :book) AS currency, avg(rr) AS avg_rr, "
            "stddev_samp(rr) AS sd_rr, avg(time_held_hours) AS avg_time_held_hours, "
            "min(closed_at) AS first_closed_at, max(closed_at) AS last_closed_at, "
            "count(*) FILTER (WHERE domain_scores_at_entry IS NOT NULL) AS with_domain_scores "
            "FROM attributions WHERE book_id = :book"
        ),
        {"book": book},
    )
    return OutcomeSums(**result.mappings().one())


def _row(outcome: PositionOutcome) -> dict[str, Any]:
    row: dict[str, Any] = {"cycle_id": None} | outcome.model_dump()
    row["book_id"] = row.pop("book")
    return row
