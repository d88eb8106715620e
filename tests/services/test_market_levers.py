"""Levers as of an instant, from states, indices and prices on record. Nothing is committed: the market is shared."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from closeloop.models.errors import NotAcceptable
from closeloop.models.market import Driver, MarketStateRow, MarketToken, RegimeBar, Timeframe
from closeloop.models.market_levers import (
    BucketContext,
    ContextSource,
    LeversRequest,
    RefusedToken,
    TokenAsked,
)
from closeloop.models.policy import LeversPolicy
from closeloop.models.prices import PriceCandle
from closeloop.services import market_levers
from closeloop.store.rows import execute, insertion

NOW = datetime(2001, 3, 4, 12, 0, 30, tzinfo=UTC)
HOUR = NOW.replace(minute=0, second=0)
POLICY = LeversPolicy()
NANO = LeversRequest(bucket="nano", timeframe="1h")


def state(driver: Driver, timeframe: Timeframe, bar_end: datetime, name: str = "S3", **more: Any) -> dict[str, Any]:
    return {
        "driver": driver, "timeframe": timeframe, "bar_end": bar_end, "bar_start": bar_end - timeframe.step,
        "revision": 0, "computed_at": bar_end, "state": name, "prev_state": name, "published": True,
        "provisional": False, "flags": [], "indicators": [],
    } | more  # fmt: skip


async def add(session: AsyncSession, kind: Any, rows: list[dict[str, Any]]) -> None:
    await execute(session, insertion(kind, rows))


async def rising(session: AsyncSession, hours: int = 24) -> None:
    """Indices of nano (up 10 % a day) and big (flat), and three tokens of nano, two of which rose."""
    bars = []
    for bucket, a_day in (("nano", 0.1), ("big", 0.0)):
        for hour in range(hours):
            open_, close = 100 + a_day * 100 * hour / 24, 100 + a_day * 100 * (hour + 1) / 24
            bars.append({
                "driver": bucket, "timeframe": "1h", "timestamp": HOUR - timedelta(hours=hours - hour),
                "open_usd": open_, "high_usd": close, "low_usd": open_, "close_usd": close, "volume": 1,
            })  # fmt: skip
    await add(session, RegimeBar, bars)
    tokens = [
        {
            "asset": f"MARKET-LEVERS-{name}",
            "valid_from": NOW - timedelta(days=9),
            "bucket": "nano",
            "valid_to": valid_to,
        }
        for name, valid_to in (("A", None), ("B", None), ("C", NOW + timedelta(days=1)), ("GONE", NOW))
    ]
    await add(session, MarketToken, tokens)
    prices = {"A": (1, 2), "B": (1, 3), "C": (1, 0.5), "GONE": (1, 99)}
    candles = [
        {
            "asset": f"MARKET-LEVERS-{name}", "interval_seconds": 60, "ends_at": at, "open": price, "high": price,
            "low": price, "close": price, "source": "test",
        }
        for name, (before, now) in prices.items()
        for at, price in ((HOUR - timedelta(hours=24), before), (HOUR, now), (HOUR + timedelta(hours=1), 1000))
    ]  # fmt: skip
    await add(session, PriceCandle, candles)


async def test_states_that_held(session: AsyncSession) -> None:
    await add(
        session,
        MarketStateRow,
        [
            state(Driver.btc, Timeframe.d1, HOUR - timedelta(hours=47)),
            state(Driver.btc, Timeframe.h1, HOUR, "S1", flags=["buy_signal"]),
            state(Driver.btc, Timeframe.m1, HOUR + timedelta(minutes=1)),  # has not ended
            state(Driver.alt, Timeframe.h1, HOUR - timedelta(hours=2)),  # 30 seconds too old
            state(Driver.nano, Timeframe.h1, HOUR, "S0", prev_state="S2"),
            state(Driver.btc_d, Timeframe.m1, HOUR - timedelta(minutes=29)),
            state(Driver.usdt_d, Timeframe.m1, HOUR - timedelta(minutes=31)),  # too old
            state(Driver.mid, Timeframe.h1, HOUR),  # another bucket's
        ],
    )
    found = await market_levers.as_of(session, NANO, NOW, POLICY)
    assert [(each.driver, each.timeframe, [part.name for part in each.parts]) for each in found.contributions] == [
        ("BTC", "1d", ["S3"]), ("BTC", "1h", ["S1", "S1+buy_signal"]), ("nano", "1h", ["S0", "S2>S0"]),
        ("BTC.d", "1m", ["S3"]),
    ]  # fmt: skip
    assert len(found.missing) == 11
    assert (found.context, found.context_source, found.bucket_multiplier) == (None, None, 1.0)
    without = await market_levers.as_of(session, LeversRequest(timeframe="1h"), NOW, POLICY)
    assert "BUCKET/1h" in without.missing


async def test_the_bucket_is_looked_at_where_the_engine_says_nothing(session: AsyncSession) -> None:
    await rising(session)
    found = await market_levers.as_of(session, NANO, NOW, POLICY)
    assert found.context_source is ContextSource.indices
    assert found.context is not None
    assert (found.context.rank, found.context.leader) == (1, "MARKET-LEVERS-B")
    assert found.context.confidence == pytest.approx(1 / 3)
    assert found.context.slope == pytest.approx(0.095, abs=0.003)
    assert found.bucket_multiplier == 1.0  # two rose and one fell: not sure enough
    surer = await market_levers.as_of(session, NANO, NOW, LeversPolicy(min_confidence=0.3))
    assert surer.bucket_multiplier == pytest.approx(1.12 + 0.4 * found.context.slope)


async def test_what_the_engine_says_stands(session: AsyncSession) -> None:
    await rising(session)
    said = BucketContext(rank=6, slope=0.0, confidence=1.0)
    found = await market_levers.as_of(session, NANO.model_copy(update={"context": said}), NOW, POLICY)
    assert (found.context, found.context_source) == (said, ContextSource.request)
    assert found.bucket_multiplier == pytest.approx(0.88)


async def test_too_few_hours_say_nothing(session: AsyncSession) -> None:
    await rising(session, hours=11)
    found = await market_levers.as_of(session, NANO, NOW, POLICY)
    assert (found.context, found.context_source) == (None, None)


async def test_what_there_is_not_is_refused_before_anything_is_read(session: AsyncSession) -> None:
    with pytest.raises(NotAcceptable, match="nano, small, mid, big"):
        await market_levers.as_of(session, LeversRequest(bucket="huge", timeframe="1h"), NOW, POLICY)
    assert not session.in_transaction()
    await session.execute(text("SELECT 1"))


async def test_many_tokens_get_what_each_alone_gets(session: AsyncSession) -> None:
    await rising(session)
    await add(
        session,
        MarketStateRow,
        [state(Driver.btc, Timeframe.h1, HOUR, "S1"), state(Driver.nano, Timeframe.h1, HOUR, "S0", prev_state="S2")],
    )
    said = BucketContext(rank=6, slope=0.0, confidence=1.0)
    asked: list[TokenAsked | RefusedToken] = [
        TokenAsked(token="a", bucket="nano", timeframe="1h"),
        TokenAsked(token="b", bucket="nano", timeframe="1m", intent={"hi_buy": 0.4}, context=said),
        TokenAsked(token="odd", bucket="huge", timeframe="1h"),
        TokenAsked(token="c", timeframe="1h", intent={"sell": 1.0}),
        TokenAsked(token="late", bucket="nano", timeframe="2h"),
        RefusedToken(index=5, token=None, reason="no JSON"),
        TokenAsked(token="d", bucket="nano", timeframe="1h", intent={"hi_buy": 1.0}),
    ]
    surer = LeversPolicy(min_confidence=0.3)
    found = await market_levers.of_tokens(session, asked, NOW, surer)
    assert [each.token for each in found.tokens] == ["a", "b", "c", "d"]
    for each in found.tokens:
        [request] = [one for one in asked if one.token == each.token]
        assert isinstance(request, TokenAsked)
        alone = await market_levers.as_of(session, request, NOW, surer)
        assert each.levers == alone
    assert [(each.index, each.token) for each in found.refused] == [(2, "odd"), (4, "late"), (5, None)]
    assert "nano, small, mid, big" in found.refused[0].reason
