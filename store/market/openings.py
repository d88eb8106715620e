"""Closed trades with what is known of the market at their opening, for what states have been worth."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.policy import SameTrade
from closeloop.models.positions import SAME_RESULT
from closeloop.store.repeats import identity

ROWS_PER_FETCH = 2_000

# Of an entry context, which may be long, what says something of the market.
_CONTEXT = (
    "jsonb_build_object('regime_states', p.entry_context -> 'regime_states', 'bucket', p.entry_context -> 'bucket', "
    "'mcap_bucket', p.entry_context -> 'mcap_bucket', 'scope', p.entry_context -> 'scope')"
)
# What lessons call a trade's scope, as far as it is told from another one by it.
_SCOPE = "jsonb_build_array(p.entry_context -> 'scope', p.entry_context -> 'regime_states', c.states)"


async def closed(
    session: AsyncSession, book: str, since: datetime | None, as_of: datetime, rule: SameTrade
) -> AsyncIterator[Sequence[RowMapping]]:
    """Trades of a book that were opened from ``since`` on and closed by ``as_of``, as they closed, in batches.

    ``rr`` is None where the risk is not known; ``again``: it is another one of them that closed before it.
    ``source``, ``states`` and ``known_then`` are of what was filled in. ``recorded_later``: after ``as_of``.
    """
    again = "false"
    if rule != "never":
        same = identity(rule, "p", _SCOPE)
        again = (
            f"{SAME_RESULT.format('p.')} IS NOT NULL AND a.position_id <> first_value(a.position_id) "
            f"OVER (PARTITION BY {same} ORDER BY a.closed_at, a.position_id)"
        )
    result = await session.stream(
        text(
            "SELECT a.position_id, a.symbol, a.rr, extract(epoch FROM a.opened_at)::float8 AS opened_at, "  # noqa: S608
            f"{again} AS again, {_CONTEXT} AS context, c.source, c.states, c.known_then, a.attributed_at > :as_of OR "
            "coalesce(c.filled_at > :as_of, false) AS recorded_later FROM attributions a "
            "JOIN positions p USING (book_id, position_id) LEFT JOIN market_contexts c USING (book_id, position_id) "
            "WHERE a.book_id = :book AND a.closed_at <= :as_of "
            "AND (CAST(:since AS timestamptz) IS NULL OR a.opened_at >= :since) ORDER BY a.closed_at, a.position_id"
        ),
        {"book": book, "since": since, "as_of": as_of},
        execution_options={"yield_per": ROWS_PER_FETCH},
    )
    async for batch in result.mappings().partitions():
        yield batch
