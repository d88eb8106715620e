"""Outcomes of closed positions: listing them, and their summary by book."""

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.intervals import wilson_interval
from closeloop.models.errors import NotOnRecord
from closeloop.models.positions import OutcomesSummary, PositionKey, PositionOutcome
from closeloop.services import books
from closeloop.services.cursors import in_book


async def listing(
    session: AsyncSession, book: str | None = None, *, last: int | None = None, before: str | None = None
) -> AsyncIterator[PositionOutcome]:
    """Outcomes in the order in which the positions closed, streamed.

    Only the ``last`` of those before the position ``before``: its id where a book is given, else BOOK/ID. Raises
    NotOnRecord and NotAcceptable.
    """
    await books.find_if_named(session, book)
    cursor = None
    if before is not None:
        key = PositionKey(*in_book(book, before))
        cursor = (await store.attributions.load(session, [key])).get(key)
        if cursor is None:
            raise NotOnRecord(f"There is no outcome of {key.book}/{key.position_id}: 'closeloop outcomes' shows them.")
    async for outcome in store.attributions.listing(session, book, last, cursor):
        yield outcome


async def summary(session: AsyncSession, book: str) -> OutcomesSummary:
    """Counts, hit rate with its 95 % interval (Wilson), money, R and hours of a book. Raises NotOnRecord."""
    await books.find_if_named(session, book)
    sums = await store.attributions.summary(session, book)
    low, high = wilson_interval(sums.wins, sums.count) or (None, None)
    return OutcomesSummary(
        book=book,
        count=sums.count,
        wins=sums.wins,
        realized_pnl=sums.realized_pnl,
        currency=sums.currency,
        rr_count=sums.rr_count,
        avg_rr=sums.avg_rr,
        avg_rr_se=None if sums.sd_rr is None else sums.sd_rr / sums.rr_count**0.5,
        avg_time_held_hours=sums.avg_time_held_hours,
        first_closed_at=sums.first_closed_at,
        last_closed_at=sums.last_closed_at,
        with_domain_scores=sums.with_domain_scores,
        hit_rate=sums.wins / sums.count if sums.count else None,
        hit_rate_low=low,
        hit_rate_high=high,
    )
