"""Bars and states as they are computed live: in whatever pieces, what one look at everything would give."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from closeloop.models.market import Driver
from tests.activities.market_minutes import (
    ALT,
    BTC,
    HOUR,
    MINUTE,
    T0,
    TOKENS,
    Candle,
    Market,
    market_on,
    walk,
)

MINUTES = 30 * 60
UNTIL = T0 + MINUTES * MINUTE


@pytest.fixture(scope="module")
async def two(dsn: str) -> AsyncIterator[tuple[Market, Market]]:
    async with market_on(dsn) as one, market_on(dsn) as other:
        yield one, other


@pytest.fixture
async def live(two: tuple[Market, Market]) -> Market:
    await two[0].clear()
    return two[0]


@pytest.fixture
async def batch(two: tuple[Market, Market]) -> Market:
    await two[1].clear()
    return two[1]


def everything(minutes: int = MINUTES) -> list[Candle]:
    """BTC, ALT (HYPE from later on), and four tokens with gaps; with spikes, and two candles that cannot be."""
    candles = walk(BTC, minutes, 1)
    candles[700] = Candle(BTC, candles[700].end, 200.0, 210.0, 190.0, 200.0, 5.0)  # a spike
    for at, asset in enumerate(ALT):
        start = 500 if asset == ALT[-1] else 0
        candles += walk(asset, minutes - start, 10 + at, T0 + start * MINUTE, 0.02)
    for at, asset in enumerate(TOKENS):
        candles += walk(asset, minutes, 20 + at, gaps=0.5)
    return candles


async def members(market: Market) -> None:
    for asset in TOKENS[:3]:
        await market.belong(asset, Driver.nano)
    await market.belong(TOKENS[3], Driver.nano, T0 + HOUR, T0 + 20 * HOUR)
    await market.belong(TOKENS[3], Driver.small, T0 + 20 * HOUR)


def polls(minutes: int = MINUTES) -> dict:  # type: ignore[type-arg]
    return {each.end - timedelta(seconds=20): each.close / 2 for each in walk("d", minutes, 3)[4::10]}


async def test_live_in_random_pieces_is_one_batch(live: Market, batch: Market) -> None:
    rng = random.Random(4)
    candles = sorted(everything(), key=lambda each: each.end)
    for market in (live, batch):
        await members(market)
    await batch.trade(candles)
    await batch.poll(polls())
    await batch.advance_all(UNTIL)
    at, now, told = 0, T0, polls()
    while now < UNTIL:
        # As it goes most of the time, after an outage, and for a moment minute by minute.
        now = min(UNTIL, now + rng.choice([1, 1, 2, 7, 45, 400]) * MINUTE)
        end = at + sum(each.end <= now for each in candles[at:])
        await live.trade(candles[at:end])
        await live.poll({when: value for when, value in told.items() if now >= when})
        told = {when: value for when, value in told.items() if now < when}
        at = end
        await live.advance_all(now + timedelta(seconds=rng.randrange(60)), batch=rng.choice([100, 5_000]))
    await live.same_as(batch)
    assert await live.revised() == {}
    states = await live.states()
    assert {(driver, timeframe) for driver, timeframe, _ in states} >= {
        (driver, timeframe) for driver in ("BTC", "ALT", "nano", "BTC.d") for timeframe in ("1m", "1h")
    }
    assert {row[0] for (_, timeframe, _), row in states.items() if timeframe == "1m"} == {
        None,
        "S0",
        "S1",
        "S2",
        "S3",
        "S4",
    }
