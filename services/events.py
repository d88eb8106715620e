"""The append-only record of what happened."""

from collections.abc import AsyncIterator
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.errors import NotAcceptable
from closeloop.models.events import EventView
from closeloop.models.retention import Leaving
from closeloop.services import books


async def left_until(session: AsyncSession) -> datetime | None:
    """Events of closes and forecasts from before this have left the database; None where none has."""
    return await store.retention.left_until(session, Leaving.events)


async def listing(
    session: AsyncSession,
    *,
    kind: str | None = None,
    book: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> AsyncIterator[EventView]:
    """Events, oldest first, streamed: only the ``last`` of those before the event ``before``.

    Raises NotOnRecord, and NotAcceptable where ``before`` is no event's id.
    """
    await books.find_if_named(session, book)
    if before is not None and not before.isdecimal():
        raise NotAcceptable(f"{before} is no event's id: 'closeloop events' shows them.")
    async for event in store.events.listing(session, kind, book, last, None if before is None else int(before)):
        yield event
