"""Factors of the market's drivers in a book's levers."""

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.market_drivers import DriverFactors
from closeloop.store.rows import execute, insertion


async def in_force(session: AsyncSession, book: str, at: datetime | None = None) -> RowMapping | None:
    """The factors of a book that were in force at an instant (None: the newest); None where nobody decided by then."""
    result = await session.execute(
        text(
            "SELECT version, factors, since, operator, note, proposal FROM driver_factors WHERE book_id = :book "
            "AND (CAST(:at AS timestamptz) IS NULL OR since <= :at) ORDER BY version DESC LIMIT 1"
        ),
        {"book": book, "at": at},
    )
    return result.mappings().first()


async def put_in_force(
    session: AsyncSession, book: str, factors: Mapping[str, float], operator: str, note: str, proposal: int | None
) -> None:
    """A new version of a book's factors, in force from this moment on. The caller holds the book."""
    found = await in_force(session, book)
    # Never before the version that it follows: a clock that was set back must not put them in another order.
    since = await session.execute(
        text("SELECT greatest(clock_timestamp(), CAST(:least AS timestamptz))"),
        {"least": None if found is None else found["since"]},
    )
    row = {
        "book_id": book,
        "version": 1 if found is None else found["version"] + 1,
        "factors": dict(factors),
        "since": since.scalar_one(),
        "operator": operator,
        "note": note,
        "proposal": proposal,
    }
    await execute(session, insertion(DriverFactors, [row]))
