"""Recording convictions ahead of their positions."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.positions import ConvictionsReport, RecordedConviction


async def record(session: AsyncSession, convictions: Sequence[RecordedConviction]) -> ConvictionsReport:
    """Record convictions, so that a close need only name one's id; the first recording stands. Commits."""
    async with session.begin():
        added = await store.convictions.record_ahead(session, convictions)
    return ConvictionsReport(added=added, already_recorded=len(convictions) - added)
