"""Bars and states as they are computed live: in whatever pieces, what one look at everything would give."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.market_series import MarketSeriesActivities
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_series import AdvanceMarket
from closeloop.models.policy import LearningPolicy
from closeloop.services.market_series import take_dominance
from tests.activities.market_minutes import (
    ALT,
    BTC,
    HOUR,
    MINUTE,
    POLICY,
    T0,
    TOKENS,
    Candle,
    Market,
    market_on,
    walk,
)
from tests.store.databases import query

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
        now = min(UNTIL, now + rng.choice([1, 2, 45, 200, 400]) * MINUTE)
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


# -- what comes late, changes or goes ----------------------------------------------------------------------------------

SHORT = 400
SHORT_UNTIL = T0 + SHORT * MINUTE


def majors(minutes: int = SHORT) -> list[Candle]:
    return [each for seed, asset in enumerate((BTC, *ALT)) for each in walk(asset, minutes, seed)]


def sorted_out(candles: list[Candle], asset: str, *minutes: int) -> tuple[list[Candle], list[Candle]]:
    """The candles without those of these minutes of an asset; and those."""
    ends = {T0 + (minute + 1) * MINUTE for minute in minutes}
    late = [each for each in candles if each.asset == asset and each.end in ends]
    return [each for each in candles if each not in late], late


@pytest.mark.parametrize(
    ("asset", "driver", "minute", "revised_at"),
    [
        (BTC, "BTC", 250, 252),  # the bar is new, the next one is another
        (ALT[0], "ALT", 250, 251),  # the index went on without it
        (BTC, "BTC", SHORT - 1, None),
        (BTC, "BTC", 59, 61),  # the last of an hour that was rolled up without it
    ],
)
async def test_a_late_minute(
    live: Market, batch: Market, asset: str, driver: str, minute: int, revised_at: int | None
) -> None:
    candles = majors()
    early, late = sorted_out(candles, asset, minute)
    await batch.trade(candles)
    await batch.advance_all(SHORT_UNTIL)
    await live.trade(early)
    await live.advance_all(SHORT_UNTIL)
    first = await live.states("first")
    await live.trade(late)
    await live.advance_all(SHORT_UNTIL)
    await live.same_as(batch)
    revised = await live.revised()
    assert revised.pop((driver, "1m"), None) == (T0 + revised_at * MINUTE if revised_at else None)
    assert set(revised) <= {(driver, "1h")}
    hour = T0 + minute // 60 * HOUR
    changed = [key for key in await live.revised_bars() if key[1] == "1h"]
    assert changed[:1] == ([(driver, "1h", hour)] if hour + HOUR <= SHORT_UNTIL else [])
    now = await live.states("first")
    assert {key: now[key] for key in first} == first, "what was said first stays on record"


async def test_a_replaced_candle_and_deleted_ones(live: Market, batch: Market) -> None:
    candles = majors()
    await live.trade(candles)
    await live.advance_all(SHORT_UNTIL)
    other = dataclasses.replace(candles[300], close=candles[300].close * 1.002, high=candles[300].high * 1.003)
    await live.trade([other], replace=True)
    await live.advance_all(SHORT_UNTIL)
    assert await live.revised() == {("BTC", "1m"): other.end}
    assert await live.revised_bars() == [("BTC", "1m", T0 + 300 * MINUTE)]
    async with live.sessions.begin() as session:
        await store.prices.delete(session, BTC, 60, T0 + 340 * MINUTE, T0 + 380 * MINUTE)
        await store.prices.delete(session, ALT[1], 60, T0, SHORT_UNTIL)
    await live.advance_all(SHORT_UNTIL)
    gone = (T0 + 340 * MINUTE, T0 + 380 * MINUTE)
    await batch.trade(
        [
            each
            for each in (other, *candles[:300], *candles[301:])
            if each.asset != ALT[1] and not (each.asset == BTC and gone[0] < each.end <= gone[1])
        ]
    )
    await batch.advance_all(SHORT_UNTIL)
    await live.same_as(batch)


async def test_everything_deleted_is_withdrawn(live: Market) -> None:
    await live.trade(majors())
    await live.advance_all(SHORT_UNTIL)
    assert len(await live.bars()) > 2 * SHORT
    async with live.sessions.begin() as session:
        for asset in (BTC, *ALT):
            await store.prices.delete(session, asset, 60, T0, SHORT_UNTIL)
    await live.advance(Timeframe.m1, SHORT_UNTIL)
    await live.trade(walk("BTC/USDT", 3, 5, SHORT_UNTIL))
    await live.advance_all(SHORT_UNTIL + 3 * MINUTE)
    bars = await live.bars()
    assert {(driver, timeframe) for driver, timeframe, _ in bars} == {("BTC", "1m"), ("ALT", "1h")}
    await live.trade(walk(ALT[0], 3, 5, SHORT_UNTIL))
    await live.advance_all(SHORT_UNTIL + 3 * MINUTE)
    states = await live.states()
    assert {(driver, timeframe) for driver, timeframe, _ in states} == {("BTC", "1m")}


async def test_a_changed_membership(live: Market, batch: Market) -> None:
    candles = [each for seed, asset in enumerate(TOKENS) for each in walk(asset, SHORT, 20 + seed, gaps=0.3)]
    for market in (live, batch):
        await market.trade(candles)
        for asset in TOKENS[:3]:
            await market.belong(asset, Driver.nano)
    await live.advance_all(SHORT_UNTIL)
    left, joined = T0 + 200 * MINUTE, T0 + 100 * MINUTE
    for market in (live, batch):
        await market.belong(TOKENS[2], Driver.nano, T0, left)
        await market.belong(TOKENS[3], Driver.nano, joined)
    await live.advance_all(SHORT_UNTIL)
    await batch.advance_all(SHORT_UNTIL)
    await live.same_as(batch)
    assert (await live.revised())["nano", "1m"] > joined


@pytest.mark.parametrize(
    "change", [{"flip_atr": 0.5}, {"composite": "mean_of_prices"}, {"spike_limits": {"major": 0.001}}]
)
async def test_other_numbers_of_the_policy(live: Market, batch: Market, change: dict[str, Any]) -> None:
    await live.trade(majors())
    await batch.trade(majors())
    await live.advance_all(SHORT_UNTIL)
    policy = LearningPolicy.model_validate({"market": POLICY.market.model_dump() | change})
    for batch_bars in (70, 5_000):  # what was begun goes on
        [told, *_] = [await live.advance(timeframe, SHORT_UNTIL, policy, batch_bars) for timeframe in Timeframe]
    assert len(told) == 1
    await batch.advance_all(SHORT_UNTIL, policy)
    await live.same_as(batch)
    assert await live.revised() != {}


async def test_a_policy_of_levers_computes_nothing_anew(live: Market) -> None:
    await live.trade(majors())
    await live.advance_all(SHORT_UNTIL)
    policy = LearningPolicy.model_validate({"market": POLICY.market.model_dump(), "levers": {"regime_strength": 0.5}})
    for timeframe in Timeframe:
        [told] = await live.advance(timeframe, SHORT_UNTIL, policy)
        assert [(each.bars_changed, each.states, each.states_changed) for each in told.series] == [(0, 0, 0)] * 8


# -- once --------------------------------------------------------------------------------------------------------------


async def rows_of_everything(market: Market) -> list[Any]:
    tables = ("regime_price_data_ohlc", "market_states", "market_checkpoints", "market_bar_counts", "market_changes")
    return [
        sorted(str(dict(row)) for row in await query(market.sessions, f"SELECT * FROM {table}")) for table in tables
    ]


async def test_again_writes_nothing(live: Market) -> None:
    await live.trade(majors())
    await live.poll({each.end: each.close for each in walk("d", SHORT, 3)[9::10]})
    await live.advance_all(SHORT_UNTIL)
    before = await rows_of_everything(live)
    for timeframe in Timeframe:
        [told] = await live.advance(timeframe, SHORT_UNTIL)
        assert [(each.bars, each.states) for each in told.series] == [(0, 0)] * 8
    assert await rows_of_everything(live) == before
    [told] = await live.advance(Timeframe.m1, SHORT_UNTIL)
    btc = next(each for each in told.series if each.driver == Driver.btc)
    assert (btc.bar_end, btc.published) == (SHORT_UNTIL, True)
    assert btc.state is not None


async def test_bars_that_cannot_be_are_counted_once(live: Market, batch: Market) -> None:
    candles = majors()
    bad = {
        200: {"high": 1.0, "low": 2.0},  # inverted
        210: {"open": 0.0},
        220: {"high": max(candles[220].open, candles[220].close) * 0.9999},  # mended
        230: {"close": candles[230].close * 2, "high": candles[230].close * 2},  # a spike
    }
    wrong = [dataclasses.replace(candles[at], **changes) for at, changes in bad.items()]
    expected = {("BTC", BTC, kind): 1 for kind in ("high_below_low", "not_positive", "repaired", "spikes")}
    rest = [each for at, each in enumerate(candles) if at not in bad]
    await live.trade(rest + wrong)
    await live.advance_all(SHORT_UNTIL)
    await live.advance_all(SHORT_UNTIL)
    assert await live.counts() == expected
    assert len([1 for driver, timeframe, _ in await live.bars() if (driver, timeframe) == ("BTC", "1m")]) == SHORT - 3
    early, late = sorted_out(rest + wrong, BTC, 100)
    await batch.trade(early)
    await batch.advance_all(SHORT_UNTIL)
    await batch.trade(late)
    await batch.advance_all(SHORT_UNTIL)
    await batch.same_as(live)  # counted once, though it was gone through twice
    await live.trade([candles[at] for at in bad], replace=True)
    await live.advance_all(SHORT_UNTIL)
    assert await live.counts() == {}


async def test_an_hour_waits_for_its_last_minute(live: Market) -> None:
    await live.trade(majors(119))
    await live.advance_all(T0 + 2 * HOUR)
    hours = [start for driver, timeframe, start in await live.bars() if (driver, timeframe) == ("BTC", "1h")]
    assert hours == [T0]
    await live.trade(majors(120)[119::120])
    await live.advance_all(T0 + 2 * HOUR)
    assert ("BTC", "1h", T0 + HOUR) in await live.bars()
    assert await live.revised() == {}


# -- who else is there, and what is damaged ----------------------------------------------------------------------------


async def test_two_at_once(live: Market, batch: Market) -> None:
    for market in (live, batch):
        await market.trade(majors())
    await batch.advance_all(SHORT_UNTIL)
    await asyncio.gather(*(live.advance_all(SHORT_UNTIL, batch=90) for _ in range(2)))
    await live.same_as(batch)
    assert await live.revised() == {}


async def test_a_series_that_another_one_holds(live: Market, batch: Market) -> None:
    for market in (live, batch):
        await market.trade(majors())
    activities = MarketSeriesActivities(live.sessions, POLICY)
    message = AdvanceMarket(timeframe=Timeframe.m1, until=SHORT_UNTIL)
    async with live.sessions.begin() as session:
        assert await store.locks.market_series(session, Timeframe.m1, [Driver.btc]) == [Driver.btc]
        told = await ActivityEnvironment().run(activities.advance_market, message)
        assert [each.driver for each in told.series] == list(Driver)[1:]
        assert told.more
    await live.advance_all(SHORT_UNTIL)
    await batch.advance_all(SHORT_UNTIL)
    await live.same_as(batch)


@pytest.mark.parametrize("stage", ["bars", "engine"])
async def test_a_damaged_checkpoint(live: Market, batch: Market, stage: str) -> None:
    for market in (live, batch):
        await market.trade(majors())
    await batch.advance_all(SHORT_UNTIL)
    await live.advance_all(SHORT_UNTIL - HOUR)
    await query(
        live.sessions,
        "UPDATE market_checkpoints SET carry = overlay(carry PLACING 'x' FROM 90) WHERE stage = :stage",
        stage=stage,
    )
    await live.advance_all(SHORT_UNTIL)
    await live.same_as(batch)
    assert await live.revised() == {}


async def test_a_damaged_series_fails_alone(live: Market, batch: Market) -> None:
    for market in (live, batch):
        await market.trade(majors())
        await market.advance_all(SHORT_UNTIL - HOUR)
    change = "UPDATE regime_price_data_ohlc SET low_usd = {} WHERE driver = 'BTC' AND timeframe = '1m' "
    await query(live.sessions, "DELETE FROM market_checkpoints WHERE driver = 'BTC' AND stage = 'engine'")
    await query(live.sessions, change.format("-low_usd"))
    for _ in range(2):
        [told] = await live.advance(Timeframe.m1, SHORT_UNTIL)
        assert told.failed == {"BTC": "ValueError: the bar of 2026-01-01 00:00 on record has impossible prices"}
        assert [each.driver for each in told.series] == list(Driver)[1:]
    async with live.sessions() as session:
        assert [(row.task, row.subject) for row in await store.failures.listing(session, 9)] == [("market", "BTC/1m")]
    await query(live.sessions, change.format("-low_usd"))
    await live.advance_all(SHORT_UNTIL)
    await batch.advance_all(SHORT_UNTIL)
    await live.same_as(batch)
    async with live.sessions() as session:
        assert await store.failures.listing(session, 9) == []


# -- dominances --------------------------------------------------------------------------------------------------------


async def test_polls(live: Market) -> None:
    at = T0 + timedelta(seconds=20)
    assert await live.poll({at: 50.0, at + timedelta(seconds=30): 50.5}) == [True, True]
    assert await live.poll({at: None, at + MINUTE: 0.0, at + 2 * MINUTE: float("nan")}) == [False] * 3
    assert await live.poll({at + 5 * MINUTE: 70.0, at + 9 * MINUTE: 50.1}) == [False, True], "the first is a jump"
    assert await live.poll({at + 4 * MINUTE: 50.0}) == [False], "older than one that was taken"
    found = {start: row[3] for (driver, _, start), row in (await live.bars()).items() if driver == "BTC.d"}
    assert {start: float(close) for start, close in found.items()} == {T0: 50.5, T0 + 9 * MINUTE: 50.1}
    assert await live.counts() == {("BTC.d", "BTC.d", "spikes"): 1}
    assert await live.poll({at + 20 * MINUTE: 70.0, at + 30 * MINUTE: 70.1}) == [False, True], "the second confirms"
    with pytest.raises(ValueError, match="BTC is not polled"):
        async with live.sessions.begin() as session:
            await take_dominance(session, Driver.btc, at, 1.0, POLICY.market)
