"""What the market was when positions were opened, where their closes did not say."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market_contexts import ContextSource, ContextView, FoundContext, MarketContext
from closeloop.models.positions import PositionKey
from closeloop.store.pages import page
from closeloop.store.rows import Write, as_json, execute, insertion, recordset

_COLUMNS = (
    "book_id AS book, position_id, source, levers_id, as_of, known_then, states AS regime_states, "
    'a_value AS "A_value", e_value AS "E_value"'
)
# The marks of outcomes that are still to be learned from: whoever learns from one holds its mark.
_HOLD_MARKS = (
    "SELECT 1 FROM "  # noqa: S608
    f"(SELECT * FROM {recordset(MarketContext)} ORDER BY book_id, position_id) r CROSS JOIN LATERAL "
    "(SELECT u.book_id FROM unlearned u WHERE (u.learner, u.book_id, u.position_id) = "
    "(:learner, r.book_id, r.position_id) FOR UPDATE) u"
)
_NEXT = (
    "SELECT a.position_id, a.opened_at, p.entry_context, c.filled_by, c.a_value "
    "FROM attributions a JOIN positions p USING (book_id, position_id) "
    "LEFT JOIN market_contexts c USING (book_id, position_id) WHERE a.book_id = :book "
    'AND (CAST(:after AS text) IS NULL OR a.position_id > CAST(:after AS text) COLLATE "C") '
    "ORDER BY a.position_id LIMIT :limit"
)


async def found(session: AsyncSession, keys: Sequence[PositionKey]) -> dict[PositionKey, FoundContext]:
    """What the record has of the market at the openings of these positions; of most nothing."""
    rows = await of(session, keys)
    return {
        key: FoundContext(ContextSource(row["source"]), row["states"], row["a_value"], row["e_value"])
        for key, row in rows.items()
    }


async def of(session: AsyncSession, keys: Sequence[PositionKey]) -> dict[PositionKey, RowMapping]:
    """The rows of these positions, by key."""
    if not keys:
        return {}
    result = await session.execute(
        text(
            "SELECT c.* FROM market_contexts c WHERE (c.book_id, c.position_id) IN "  # noqa: S608
            f"(SELECT book_id, position_id FROM {recordset(MarketContext)})"
        ),
        {"rows": as_json([_key(key) for key in keys])},
    )
    return {PositionKey(row["book_id"], row["position_id"]): row for row in result.mappings()}


def adding(rows: Sequence[Mapping[str, Any]]) -> Write | None:
    """The write that puts contexts (sorted by key) on record; a position's first one stays. Returns the keys."""
    return insertion(
        MarketContext, rows, on_conflict="(book_id, position_id) DO NOTHING", returning="book_id, position_id"
    )


async def add(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> set[PositionKey]:
    """Put contexts on record now; returns the keys of those that had none."""
    return {PositionKey(row.book_id, row.position_id) for row in await execute(session, adding(rows))}


async def next_closes(session: AsyncSession, book: str, after: str | None, limit: int) -> Sequence[RowMapping]:
    """The next attributed positions of a book, by id: position_id, opened_at, entry_context as sent.

    ``filled_by`` (None: nobody filled it in) and ``a_value`` are those of its context on record.
    """
    result = await session.execute(text(_NEXT), {"book": book, "after": after, "limit": limit})
    return result.mappings().all()


async def hold_marks(session: AsyncSession, learner: str, keys: Collection[PositionKey]) -> None:
    """Wait until no other transaction teaches this learner one of these outcomes; later ones wait for this one."""
    if keys:
        await session.execute(
            text(_HOLD_MARKS), {"learner": learner, "rows": as_json([_key(key) for key in sorted(keys)])}
        )


async def listing(
    session: AsyncSession, book: str, last: int | None = None, before: str | None = None
) -> list[ContextView]:
    """Contexts of a book by position; at most the ``last`` of those before the position ``before``."""
    query = f"SELECT {_COLUMNS} FROM market_contexts WHERE book_id = :book"  # noqa: S608
    result = await session.execute(
        text(page(query, key="position_id", order="position_id")), {"book": book, "last": last, "before": before}
    )
    return [ContextView.model_validate(dict(row)) for row in result.mappings()]


def _key(key: PositionKey) -> dict[str, str]:
    return {"book_id": key.book, "position_id": key.position_id}
