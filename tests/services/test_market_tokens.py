"""Tokens of buckets on record: rows in, spans out, and marks from where on indices are to be computed anew."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from closeloop.models.errors import NotAcceptable, NotOnRecord
from closeloop.models.market import Driver
from closeloop.models.market_tokens import MAX_TOKEN_ROWS, TokenSpan, TokensReport
from closeloop.services import market_tokens
from closeloop.store.database import Sessions
from tests.services.markets import market


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def span(asset: str, bucket: str, begin: int, end: int | None = None) -> TokenSpan:
    return TokenSpan.model_validate(
        {"asset": asset, "bucket": bucket, "valid_from": day(begin), "valid_to": end and day(end)}
    )


@pytest.fixture
async def sessions(dsn: str) -> AsyncIterator[Sessions]:
    async with market(dsn) as sessions:
        yield sessions


async def said(sessions: Sessions, *rows: TokenSpan | str) -> TokensReport:
    async with sessions.begin() as session:
        return await market_tokens.record(session, enumerate(rows))


async def listed(sessions: Sessions, **of: Any) -> list[tuple[str, str, int, int | None]]:
    async with sessions() as session:
        found = await market_tokens.listing(session, **of)
    return [(one.asset, one.bucket.value, one.valid_from.day, one.valid_to and one.valid_to.day) for one in found]


async def marks(sessions: Sessions) -> dict[str, int]:
    async with sessions.begin() as session:
        taken = await session.execute(text("DELETE FROM market_changes RETURNING subject, from_at"))
        return {subject: at.day for subject, at in taken}


async def test_a_token_that_moves(sessions: Sessions) -> None:
    first = await said(sessions, span("A", "nano", 1), span("B", "nano", 2), span("C/USDT", "big", 3, 9))
    assert (first.recorded, first.already_recorded, first.ended, first.changed_from) == (3, 0, 0, day(1))
    assert await marks(sessions) == {"bucket/nano": 1, "bucket/big": 3}
    moved = await said(sessions, span("A", "small", 5))
    assert (moved.recorded, moved.ended, moved.changed_from) == (1, 1, day(5))
    assert await marks(sessions) == {"bucket/nano": 5, "bucket/small": 5}
    rows = [("A", "nano", 1, 5), ("A", "small", 5, None), ("B", "nano", 2, None), ("C/USDT", "big", 3, 9)]
    assert await listed(sessions) == rows

    again = await said(sessions, span("B", "nano", 7), span("c-usdt", "big", 3, 9), span("C/USDT", "big", 3, 9))
    assert (again.recorded, again.already_recorded, again.changed_from) == (0, 3, None)
    assert await listed(sessions, as_of=day(4), bucket=Driver.nano) == [rows[0], rows[2]]
    assert await listed(sessions, as_of=day(5), bucket=Driver.nano) == [rows[2]]
    assert await listed(sessions, last=1, before="B@2026-01-02T00:00:00.000000Z") == [rows[1]]
    async with sessions() as session:
        with pytest.raises(NotOnRecord, match="There is no B@never"):
            await market_tokens.listing(session, before="B@never")


async def test_said_twice_nothing_changes(sessions: Sessions) -> None:
    rows = [span("A", "small", 5), span("A", "nano", 1), span("A", "nano", 8), span("B", "nano", 1, 4)]
    await said(sessions, *rows)
    before, _ = await listed(sessions), await marks(sessions)
    assert before == [("A", "nano", 1, 5), ("A", "small", 5, 8), ("A", "nano", 8, None), ("B", "nano", 1, 4)]
    again = await said(sessions, *rows)
    assert (again.recorded, again.already_recorded, again.ended, again.changed_from) == (0, 4, 0, None)
    assert (await listed(sessions), await marks(sessions)) == (before, {})


async def test_what_contradicts_itself_is_refused_and_the_rest_recorded(sessions: Sessions) -> None:
    report = await said(
        sessions, span("A", "nano", 1), "bucket: must be another", span("A", "big", 1), span("B", "big", 1)
    )
    assert report.recorded == 2
    assert [(one.row, one.reason) for one in report.rejected] == [
        (1, "bucket: must be another"),
        (2, "A is said another thing of from the same instant on in row 0: one of them holds"),
    ]
    assert await listed(sessions) == [("A", "nano", 1, None), ("B", "big", 1, None)]


async def test_two_at_once(sessions: Sessions) -> None:
    """Each sees what the other has written: no asset is in two buckets."""
    begins = range(1, 20)
    await asyncio.gather(*(said(sessions, span("A", "nano" if n % 2 else "small", n)) for n in begins))
    found = await listed(sessions)
    assert (found[0][:3], found[-1][3]) == (("A", "nano", 1), None)
    for (_, bucket, begin, end), (_, following, next_begin, _) in itertools.pairwise(found):
        assert bucket != following
        assert begin < next_begin == end


async def test_what_dies_on_the_way_leaves_nothing(sessions: Sessions) -> None:
    async with sessions() as session:
        await market_tokens.record(session, [(0, span("A", "nano", 1))])
        await session.rollback()
    assert (await listed(sessions), await marks(sessions)) == ([], {})


async def test_too_many_rows(sessions: Sessions) -> None:
    rows: Iterable[tuple[int, str]] = ((number, "refused") for number in range(MAX_TOKEN_ROWS + 1))
    async with sessions() as session:
        with pytest.raises(NotAcceptable, match="more than 50,000 rows"):
            await market_tokens.record(session, rows)
