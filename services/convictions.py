"""Recording convictions ahead of their positions."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.errors import BookArchived
from closeloop.models.positions import ConvictionsReport, RecordedConviction
from closeloop.services import books


async def record(session: AsyncSession, convictions: Sequence[RecordedConviction]) -> ConvictionsReport:
    """Record convictions, so that a close need only name one's id; the first recording stands. Commits.

    Raises BookArchived, and records none, where one is of a book that was removed.
    """
    async with session.begin():
        for archived in (await store.books.archived(session, {one.book for one in convictions})).values():
            raise BookArchived(f"Nothing was recorded: {books.archived_sentence(archived)}.")
        added = await store.convictions.record_ahead(session, convictions)
    return ConvictionsReport(added=added, already_recorded=len(convictions) - added)
