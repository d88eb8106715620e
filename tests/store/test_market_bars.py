"""Bars and checkpoints of the market as they are written: only what differs, and of old checkpoints a few."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop import store
from closeloop.learning.market.bars import Bars
from closeloop.models.market import Driver, Timeframe
from closeloop.store.database import Sessions
from closeloop.store.market.bars import AssetSpan, SeriesBars, Span, Written
from closeloop.store.market.checkpoints import Asked, Checkpoint, NewCheckpoint, Stage
from tests.activities.market_minutes import Candle
from tests.services.markets import market

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
M1 = Timeframe.m1


@pytest.fixture(scope="module")
async def own(dsn: str) -> AsyncIterator[Sessions]:
    async with market(dsn) as sessions:
        yield sessions


@pytest.fixture
async def session(own: Sessions) -> AsyncIterator[AsyncSession]:
    """Of a transaction that is rolled back."""
    async with own() as session:
        yield session


def bars(*closes: float, first: int = 0) -> Bars:
    start = int(T0.timestamp())
    return Bars.of((start + 60 * (first + i), x, x, x, x, 0.1 + 0.2) for i, x in enumerate(closes))


async def write(session: AsyncSession, given: Bars, first: int = 0, end: int = 10) -> Written | None:
    span = Span(Driver.btc, T0 + first * MINUTE, T0 + end * MINUTE)
    return (await store.market.bars.write(session, M1, [SeriesBars(span, given, "candles")])).get(Driver.btc)


async def test_only_what_differs_is_written(session: AsyncSession) -> None:
    assert await write(session, bars(1.1, 2.0, 1 / 3)) == Written(3, 0, T0)
    assert await write(session, bars(1.1, 2.0, 1 / 3)) is None
    assert await write(session, bars(1.1, 2.5, 1 / 3, 4.0)) == Written(1, 1, T0 + MINUTE)
    assert await write(session, bars(1.1, 1 / 3, 4.0, first=0)) == Written(0, 3, T0 + MINUTE), "the last one is gone"
    assert await write(session, bars(9.0, first=4), first=4) == Written(1, 0, T0 + 4 * MINUTE), "before it: as it was"


async def test_what_is_read_is_what_was_written_to_the_bit(session: AsyncSession) -> None:
    given = bars(1.1, 0.1 + 0.2, 1 / 3, 1e-9, 123456789.123456789)
    await write(session, given)
    span = Span(Driver.btc, T0 + MINUTE, T0 + 9 * MINUTE)
    read, components = (await store.market.bars.read(session, M1, [span], 3))[Driver.btc]
    assert components is None
    for name in ("start", "open", "high", "low", "close", "volume"):
        assert getattr(read, name).tolist() == getattr(given, name).tolist()[1:4]


async def test_candles_of_a_span_that_are_whole(session: AsyncSession) -> None:
    rows = [Candle("X", T0 + i * MINUTE, 1.0, 1.0, 1.0, float(i), 5.0).row() for i in range(1, 7)]
    rows[3] |= {"provisional": True}
    for row in rows:
        row.setdefault("provisional", False)
    await store.prices.add(session, rows)
    after = AssetSpan(Driver.btc, "X", T0 + 2 * MINUTE, T0 + 6 * MINUTE)
    found = await store.market.bars.candles(session, [AssetSpan(Driver.btc, "none", None, T0), after])
    assert [each.close.tolist() for each in found] == [[], [3.0, 5.0, 6.0]]
    assert found[1].start.tolist() == [int(T0.timestamp()) + 60 * i for i in (2, 4, 5)]
    assert await store.market.bars.first_ends(session, [after]) == {Driver.btc: T0 + 3 * MINUTE}


async def test_a_candle_that_becomes_final_is_marked(session: AsyncSession) -> None:
    of = await store.price_imports.begin(session, "Y", 60, None, None)
    row = Candle("Y", T0 + MINUTE, 1.0, 1.0, 1.0, 1.0, 5.0).row() | {"import_id": of.import_id, "provisional": True}
    await store.prices.add(session, [row])
    subject = {store.market.changes.of_asset("Y"): None}
    assert await store.market.changes.take(session, subject) != {}
    later = Candle("Y", T0 + 9 * MINUTE, 1.0, 1.0, 1.0, 1.0, 5.0).row()
    await store.prices.add(session, [later])
    await store.price_imports.heed_fetched(session, "Y", 60)
    assert await store.market.changes.take(session, subject) == {"asset/Y": T0}


async def test_marks_from_an_instant_on_are_left(session: AsyncSession) -> None:
    await store.market.changes.mark(session, {"a": T0, "b": T0 + MINUTE})
    assert await store.market.changes.take(session, {"a": T0 + MINUTE, "b": T0 + MINUTE, "c": None}) == {"a": T0}
    assert await store.market.changes.take(session, {"a": None, "b": None}) == {"b": T0 + MINUTE}


async def checkpoint(session: AsyncSession, minute: int, base: int | None, fingerprint: str = "f") -> None:
    new = Checkpoint(T0 + minute * MINUTE, str(minute).encode())
    before = None if base is None else T0 + base * MINUTE
    await store.market.checkpoints.write(
        session, M1, [NewCheckpoint(Driver.btc, Stage.engine, fingerprint, before, new)]
    )


async def newest(session: AsyncSession, before: int | None = None, fingerprint: str = "f") -> int | None:
    asked = Asked(Driver.btc, Stage.engine, fingerprint, None if before is None else T0 + before * MINUTE)
    found = await store.market.checkpoints.load(session, M1, [asked])
    return int(found[Driver.btc, Stage.engine].carry) if found else None


async def test_of_old_checkpoints_a_few_are_kept(session: AsyncSession) -> None:
    for minute in range(1, 200):
        await checkpoint(session, minute, minute - 1)
    await checkpoint(session, 5_000, 199)
    await checkpoint(session, 5_001, 5_000)
    kept = [await newest(session, before) for before in (5_001, 5_000, 4_999, 198, 180)]
    assert kept == [5_001, 5_000, 199, None, None], "of a day that is over its last"
    for minute in range(5_002, 5_200):
        await checkpoint(session, minute, minute - 1)
    assert [await newest(session, before) for before in (5_199, 5_196, 5_159)] == [5_199, 5_160, 5_100]


async def test_what_does_not_hold_any_more_is_deleted(session: AsyncSession) -> None:
    for minute in (10, 20, 30):
        await checkpoint(session, minute, minute - 10 if minute > 10 else None)
    await checkpoint(session, 25, 10)
    assert [await newest(session, before) for before in (99, 24)] == [25, 10]
    await store.market.checkpoints.drop(session, M1, [(Driver.btc, Stage.engine, T0 + 10 * MINUTE)])
    assert await newest(session) == 10
    assert await newest(session, fingerprint="other") is None
    await checkpoint(session, 15, None, "other")
    assert (await newest(session, fingerprint="other"), await newest(session)) == (15, None)
