"""The append-only record of what happened."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.events import Event, EventType, EventView
from closeloop.store.rows import Write, execute, insertion


def appending(events: Sequence[tuple[EventType, str, dict[str, Any]]]) -> Write | None:
    """The write that appends events (type, what it is about, payload).

    Type and what it is about make the dedupe key: an event whose key is on record is not written again, even with
    another payload.
    """
    return insertion(
        Event,
        [
            {"type": kind, "source": "closeloop", "payload": payload, "dedupe_key": f"{kind}/{about}"}
            for kind, about, payload in events
        ],
        on_conflict="(dedupe_key) DO NOTHING",
    )


async def append(session: AsyncSession, *events: tuple[EventType, str, dict[str, Any]]) -> None:
    """Append now, in a statement of its own; see :func:`appending`."""
    await execute(session, appending(events))


async def payloads(session: AsyncSession, kind: EventType, about: Sequence[str]) -> list[dict[str, Any]]:
    """Payloads of the events of a type about these things, in no order; none where no such event is on record."""
    if not about:
        return []
    result = await session.execute(
        text("SELECT payload FROM events WHERE dedupe_key = ANY(CAST(:keys AS text[]))"),
        {"keys": [f"{kind}/{one}" for one in about]},
    )
    return list(result.scalars())


async def listing(
    session: AsyncSession, kind: str | None, book: str | None, last: int | None = None, before: int | None = None
) -> AsyncIterator[EventView]:
    """Events, oldest first, streamed: all, or the ``last`` of those before the event ``before``."""
    query = (
        "SELECT id, type, ts, source, payload, dedupe_key FROM events "
        "WHERE (CAST(:kind AS text) IS NULL OR type = :kind) "
        "AND (CAST(:book AS text) IS NULL OR payload ->> 'book' = :book) "
        "AND (CAST(:before AS bigint) IS NULL OR id < :before) ORDER BY id"
    )
    if last is not None:
        query = f"SELECT * FROM ({query} DESC LIMIT :last) newest ORDER BY id"  # noqa: S608
    result = await session.stream(
        text(query),
        {"kind": kind, "book": book, "before": before} | ({} if last is None else {"last": last}),
        execution_options={"yield_per": 1000},
    )
    async for batch in result.mappings().partitions():
        for row in batch:
            yield EventView.model_validate(dict(row))
