"""Whether engines read learned parameters: the modes of books."""

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.parameters import ModeView, ParameterModeRow
from closeloop.store.rows import execute, insertion


async def mode(session: AsyncSession, book: str) -> ModeView:
    """The mode of a book that is in force."""
    query = text(
        "SELECT book_id AS book, mode, share, since, operator FROM parameter_modes WHERE book_id = :book "
        "ORDER BY since DESC LIMIT 1"
    )
    row = (await session.execute(query, {"book": book})).mappings().one_or_none()
    return ModeView(book=book) if row is None else ModeView.model_validate(dict(row))


async def set_mode(session: AsyncSession, view: ModeView) -> None:
    """Put a mode in force, from ``since``."""
    row = view.model_dump() | {"book_id": view.book}
    del row["book"]
    await execute(session, insertion(ParameterModeRow, [row]))


async def modes(session: AsyncSession, book: str, last: int | None = None) -> list[ModeView]:
    """The modes that a book had, oldest first; at most the ``last`` ones."""
    query = text(
        "SELECT * FROM (SELECT book_id AS book, mode, share, since, operator FROM parameter_modes "
        "WHERE book_id = :book ORDER BY since DESC LIMIT CAST(:last AS bigint)) newest ORDER BY since"
    )
    return [
        ModeView.model_validate(dict(row))
        for row in (await session.execute(query, {"book": book, "last": last})).mappings()
    ]


async def clock(session: AsyncSession) -> datetime:
    """The database's time: the books' rows are ordered by it, whatever the clocks of the doors."""
    now: datetime = (await session.execute(text("SELECT clock_timestamp()"))).scalar_one()
    return now
