"""The append-only record of what happened."""

from collections.abc import AsyncIterator

from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.models.errors import NotAcceptable
from closeloop.models.events import EventView


def listing(
    session: AsyncSession,
    *,
    kind: str | None = None,
    book: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> AsyncIterator[EventView]:
    """Events, oldest first, streamed: only the ``last`` of those before the event ``before``.

    Raises NotAcceptable where ``before`` is no event's id.
    """
    if before is not None and not before.isdecimal():
        raise NotAcceptable(f"{before} is no event's id: 'closeloop events' shows them.")
    return store.events.listing(session, kind, book, last, None if before is None else int(before))
