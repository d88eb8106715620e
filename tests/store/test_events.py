"""Events are appended and read; PostgreSQL itself refuses to change them."""

import pytest
from sqlalchemy.exc import DBAPIError

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.models.policy import LearningPolicy
from closeloop.store.database import Sessions
from tests.closes import START, closed
from tests.store.databases import query

OF_THE_BOOK = "SELECT type, dedupe_key, payload FROM events WHERE payload ->> 'book' = :book ORDER BY id"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET source = 'somebody else' WHERE payload ->> 'book' = :book",
        "UPDATE events SET source = 'somebody else' WHERE payload ->> 'book' = :book AND false",
        "DELETE FROM events WHERE payload ->> 'book' = :book",
    ],
)
async def test_events_are_append_only(statement: str, book: str, sessions: Sessions) -> None:
    await attribute_one(sessions, book)
    before = await query(sessions, OF_THE_BOOK, book=book)
    with pytest.raises(DBAPIError, match="append-only"):
        await query(sessions, statement, book=book)
    assert await query(sessions, OF_THE_BOOK, book=book) == before
    assert len(before) == 2


async def test_events_cannot_be_truncated(book: str, sessions: Sessions) -> None:
    await attribute_one(sessions, book)
    with pytest.raises(DBAPIError, match="append-only: TRUNCATE refused"):
        await query(sessions, "TRUNCATE events")
    assert len(await query(sessions, OF_THE_BOOK, book=book)) == 2


async def test_listing_filters_and_keeps_the_order(book: str, sessions: Sessions) -> None:
    for name in ("p-1", "p-2", "p-3"):
        await attribute_one(sessions, book, name)
    async with sessions() as session:
        everything = [row async for row in store.events.listing(session, None, book)]
        outcomes = [row async for row in store.events.listing(session, "learning.outcome.v1", book)]
        newest = [row async for row in store.events.listing(session, "learning.outcome.v1", book, last=2)]
        none = [row async for row in store.events.listing(session, None, f"{book}-other")]
    assert [row.id for row in everything] == sorted(row.id for row in everything)
    assert len(everything) == 6
    assert [row.payload["position_id"] for row in outcomes] == ["p-1", "p-2", "p-3"]
    assert [row.payload["position_id"] for row in newest] == ["p-2", "p-3"]
    assert none == []
    async with sessions() as session:
        before = [row async for row in store.events.listing(session, None, book, last=2, before=everything[3].id)]
    assert before == everything[1:3]


async def attribute_one(sessions: Sessions, book: str, position_id: str = "p-1") -> None:
    async with sessions.begin() as session:
        await attribute(session, [closed(book, position_id)], LearningPolicy(), START.replace(year=2027), "a test")
