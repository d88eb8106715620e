"""Prices that are missing are asked of a server that behaves like Binance: little, once, and never believed blindly."""

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from closeloop import store
from closeloop.activities.prices import PriceActivities
from closeloop.gateways.binance import Binance
from closeloop.gateways.candles import Candle, candle
from closeloop.models.forecasts import Forecast
from closeloop.models.prices import FetchPrices, PricesFetched
from tests.activities.forecasting import (
    DAY,
    HOUR,
    MINUTE,
    POLICY,
    T0,
    Floor,
    assert_outcome,
    candle_row,
    floor_on,
    forecast,
    plain_outcome,
)
from tests.gateways.binance_server import FAULTS, BinanceServer
from tests.store.databases import backend, wait_until_it_blocks

ADA, ETH = "ADA/BTC", "ETH/BTC"
AS_OF = T0 + 3 * DAY
FIVE = 5 * MINUTE


@pytest.fixture(scope="module")
async def module_floor(dsn: str) -> AsyncIterator[Floor]:
    async with floor_on(dsn) as floor:
        yield floor


@pytest.fixture
async def floor(module_floor: Floor) -> Floor:
    await module_floor.clear()
    return module_floor


def market(seed: int) -> list[Candle]:
    """Five-minute candles of four days, each opening where the last one closed."""
    rng = random.Random(seed)
    made, price = [], 0.0500
    for i in range(4 * 288):
        close = price * (1 + rng.gauss(0, 0.002))
        low, high = sorted((price, close))
        made.append(candle(T0 - DAY / 2 + i * FIVE, *(f"{p:.8f}" for p in (price, high, low, close)), "1"))
        price = float(f"{close:.8f}")
    return made


MARKETS = {ADA: market(1), ETH: market(2)}


@pytest.fixture
def server() -> Iterator[BinanceServer]:
    with BinanceServer() as server:
        for asset, candles in MARKETS.items():
            server.add(asset, candles, 300)
        yield server


def true_price(asset: str, t: datetime) -> float:
    """The last close at or before an instant; within a candle the server trades at its opening price, the same."""
    return float(next(c.close for c in reversed(MARKETS[asset]) if c.start + FIVE <= t))


def hourly_forecasts(count: int, seed: int = 1, **changes: Any) -> list[Forecast]:
    """Forecasts over an hour, issued in half a day."""
    rng = random.Random(seed)
    return [
        forecast(
            f"f-{seed}-{i:04}",
            **{
                "asset": rng.choice([ADA, ETH]),
                "issued_at": T0 + timedelta(seconds=rng.randrange(12 * 3600)),
                "action": rng.choice(["long", "short", "flat"]),
                "confidence": rng.random(),
            }
            | changes,
        )
        for i in range(count)
    ]


async def loop(floor: Floor, source: Binance, as_of: datetime, ask_again: bool = False) -> PricesFetched:
    """Resolve, ask, resolve: what the workflow does while there is more to ask for; what was said last."""
    await floor.resolve(as_of)
    while True:
        fetched = await floor.fetch(source, as_of, ask_again)
        await floor.resolve(as_of, fetched=fetched)
        if not fetched.more:
            return fetched
        ask_again = False


async def assert_right(floor: Floor, *forecasts: Forecast) -> None:
    """These have their outcomes, and no others."""
    found = await floor.outcomes()
    assert set(found) == {one.forecast_id for one in forecasts}
    for one in forecasts:
        prices = [true_price(one.asset, t) for t in (one.issued_at, one.target_at)]
        assert_outcome(found[one.forecast_id], plain_outcome(one, prices[0], prices[1]))


async def test_what_is_missing_is_asked_for_once(floor: Floor, server: BinanceServer) -> None:
    """One request for each asset; none for prices on record; none the second time."""
    forecasts = hourly_forecasts(300)
    await floor.trade("XMR/BTC", {T0 + i * FIVE: 1.0 for i in range(20)})
    await floor.record(*forecasts, forecast("local", asset="XMR/BTC", action="flat"))
    source = Binance(server.url)
    fetched = await loop(floor, source, AS_OF)
    assert (fetched.ranges, fetched.more, fetched.failures, fetched.silence) == (2, False, {}, None)
    assert sorted(asked.parameters["symbol"] for asked in server.asked) == ["ADABTC", "ETHBTC"]
    [rows] = await floor.sql("SELECT count(*) AS n FROM price_history WHERE source = 'binance'")
    assert rows["n"] == fetched.candles == (await floor.report(AS_OF)).candles_fetched
    local = (await floor.outcomes())["local"]
    assert (local["price_at_issue"], local["direction_correct"]) == (1, True)
    await floor.sql("DELETE FROM forecast_outcomes WHERE forecast_id = 'local'")
    await assert_right(floor, *forecasts)
    assert await loop(floor, source, AS_OF, ask_again=True) == PricesFetched()
    assert len(server.asked) == 2


async def test_times_far_apart_are_asked_for_apart(floor: Floor, server: BinanceServer) -> None:
    """So that those in between are not, and the candles are fine."""
    early, late = forecast("early", issued_at=T0 - 5 * HOUR), forecast("late", issued_at=T0 + 3 * DAY)
    await floor.record(early, late)
    await loop(floor, Binance(server.url), T0 + 4 * DAY)
    assert [asked.parameters["interval"] for asked in server.asked] == ["1m", "1m"]
    await assert_right(floor, early, late)


async def test_an_asset_that_is_refused_is_not_asked_for_again(floor: Floor, server: BinanceServer) -> None:
    """Not for its other times either."""
    await floor.record(*(forecast(f"f-{i}", asset="NOBODY/BTC", issued_at=T0 - 5 * i * DAY) for i in range(4)))
    await loop(floor, Binance(server.url), AS_OF)
    assert [asked.status for asked in server.asked] == [400]
    assert {row["reason"] for row in (await floor.states()).values()} == {
        "the price source does not know NOBODY/BTC, and no prices of it were imported"
    }


async def test_with_small_portions_everything_is_asked_for(floor: Floor, server: BinanceServer) -> None:
    """Also what lies behind forecasts that cannot be priced; no portion is asked for twice."""

    class SmallPortions(PriceActivities):
        forecasts_at_once = 7

    hopeless = hourly_forecasts(20, 5, asset="NOBODY/BTC", issued_at=T0)
    before_listing = hourly_forecasts(20, 6, issued_at=T0 - DAY, asset=ADA)
    forecasts = hourly_forecasts(30, 7, issued_at=T0 + HOUR)
    await floor.record(*hopeless, *before_listing, *forecasts)
    activities = SmallPortions(floor.sessions, POLICY, Binance(server.url))
    request = FetchPrices(resolution_id="r", as_of=AS_OF, ask_again=False)
    portions = 0
    more = True
    while more:
        fetched: PricesFetched = await ActivityEnvironment().run(activities.fetch_prices, request)
        await floor.resolve(AS_OF, fetched=fetched)
        portions, more = portions + 1, fetched.more
        assert portions < 15
    await assert_right(floor, *forecasts)
    states = await floor.states()
    assert {row["reason"] for name, row in states.items() if name.startswith("f-5")} == {
        "the price source does not know NOBODY/BTC, and no prices of it were imported"
    }
    reasons = {row["reason"] for name, row in states.items() if name.startswith("f-6")}
    assert reasons == {"no price at its issue time"}
    assert all(row["attempts"] == 1 for row in states.values())
    answered = [asked.parameters for asked in server.asked if asked.status == 200]
    assert len({tuple(p.items()) for p in answered}) <= 4  # the same rows again only where another portion had them too


# Of each: is anything priced, and what is said of what is not.
WORDS = {
    **dict.fromkeys(("rate limit", "rate limit without a time"), "Binance answers 429"),
    "ban": "Binance answers 418",
    "firewall": "Binance answers 403",
    "internal error": "Binance answers 500",
    "timeout": "Binance answers 408",
    "bad gateway": "Binance answers 502",
    "maintenance": "Binance answers 503",
    "unknown symbol": "does not know",
    "illegal characters": "refuses the request (400",
    "not from here": "CLOSELOOP_BINANCE_URL",
    "redirect": "refuses the request (302",
    "truncated": "did not answer",
    "hang": "did not answer within",
    "slow": "did not answer within",
    "close": "did not answer",
    "nothing": "no price at its issue time",
}
# With these the answer is right, or what is missing in it does no harm.
HARMLESS = {"heavy use", "other clock", "default limit", "gap", "not aligned", "one of another length"}


@pytest.mark.parametrize("fault", FAULTS)
async def test_each_misbehaviour_costs_a_wait_and_never_a_wrong_outcome(
    floor: Floor, server: BinanceServer, fault: str
) -> None:
    forecasts = hourly_forecasts(12, asset=ADA)
    await floor.record(*forecasts)
    server.fail(fault)
    patience = 0.5 if WORDS.get(fault) == "did not answer" else 30  # a busy machine is slow to answer, too
    fetched = await loop(floor, Binance(server.url, timeout_seconds=patience), AS_OF)
    found = await floor.outcomes()
    by_id = {one.forecast_id: one for one in forecasts}
    for name, row in found.items():
        one = by_id[name]
        if fault not in ("gap", "default limit"):
            prices = [true_price(ADA, t) for t in (one.issued_at, one.target_at)]
            assert_outcome(row, plain_outcome(one, prices[0], prices[1]))
    states = await floor.states()
    if fault not in HARMLESS:
        assert (found, fetched.candles) == ({}, 0)
        wanted = WORDS.get(fault, "Binance's answer")
        assert all(wanted in row["reason"] for row in states.values()), {row["reason"] for row in states.values()}
    if fault in ("gap", "default limit"):
        assert 0 < len(found) < len(forecasts)
        assert_inside_the_answer(found, by_id, server)
    for row in states.values():
        assert (row["state"], row["attempts"]) == ("pending", 1)
        assert row["next_attempt_at"] == AS_OF + 30 * MINUTE

    # Half an hour later, a new process, and the source is well: nothing is asked before its time.
    server.behave()
    before = len(server.asked)
    source = Binance(server.url)
    assert await loop(floor, source, AS_OF + 30 * MINUTE - timedelta(seconds=1)) == PricesFetched()
    assert len(server.asked) == before
    await loop(floor, source, AS_OF + 30 * MINUTE)
    assert not server.impatient
    found = await floor.outcomes()
    if fault not in ("gap", "default limit"):
        await assert_right(floor, *forecasts)


def assert_inside_the_answer(found: Any, forecasts: dict[str, Forecast], server: BinanceServer) -> None:
    """Prices that an answer with a gap gave are of candles that are not too old."""
    closes = {float(c.close): c.start + MINUTE * 1 for c in server.candles(ADA, 60)}
    for name, row in found.items():
        for price, t in (("price_at_issue", forecasts[name].issued_at), ("price_at_target", forecasts[name].target_at)):
            assert float(row[price]) in closes, (name, price, t)


async def test_a_wait_that_is_short_is_waited_for(floor: Floor, server: BinanceServer) -> None:
    forecasts = hourly_forecasts(20)
    await floor.record(*forecasts)
    server.fail("rate limit", times=1, Retry_After="1")
    await loop(floor, Binance(server.url), AS_OF)
    assert [asked.status for asked in server.asked] == [429, 200, 200]
    assert server.impatient == []
    await assert_right(floor, *forecasts)


async def test_a_source_that_asks_to_wait_is_not_asked_for_other_assets(floor: Floor, server: BinanceServer) -> None:
    """Nor by the next resolution of the same process."""
    await floor.record(*hourly_forecasts(20))
    server.fail("ban")
    source = Binance(server.url)
    for as_of in (AS_OF, AS_OF + DAY):
        fetched = await loop(floor, source, as_of, ask_again=True)
        assert fetched.silence is not None
    assert [asked.status for asked in server.asked] == [418]
    assert {row["attempts"] for row in (await floor.states()).values()} == {2}


async def test_a_dead_source_is_asked_once_for_all_assets(floor: Floor, server: BinanceServer) -> None:
    forecasts = hourly_forecasts(50)
    await floor.record(*forecasts)
    server.close()
    fetched = await loop(floor, Binance(server.url), AS_OF)
    assert (fetched.ranges, fetched.more) == (0, False)
    reasons = {row["reason"] for row in (await floor.states()).values()}
    assert reasons == {fetched.silence} == {"Binance did not answer (ConnectError)"}
    with BinanceServer(server.port) as again:
        for asset, candles in MARKETS.items():
            again.add(asset, candles, 300)
        await loop(floor, Binance(again.url), AS_OF, ask_again=True)
    await assert_right(floor, *forecasts)


async def test_one_asset_does_not_stand_in_for_another(floor: Floor, server: BinanceServer) -> None:
    forecasts = hourly_forecasts(30, asset=ETH)
    await floor.record(*forecasts, *hourly_forecasts(30, 2, asset=ADA))
    server.fail("newest first", asset=ADA)
    fetched = await loop(floor, Binance(server.url), AS_OF)
    assert set(fetched.failures) == {ADA}
    await assert_right(floor, *forecasts)


async def test_a_candle_that_may_not_be_there_yet_is_waited_for(floor: Floor) -> None:
    """A target of this very moment: what the source does not have yet is not taken for a gap."""
    now = datetime.now(UTC)
    with BinanceServer() as server:
        begun = now - now.replace(second=0, microsecond=0).minute % 5 * MINUTE - 6 * HOUR
        begun = begun.replace(second=0, microsecond=0)
        server.add(ADA, [candle(begun + i * FIVE, "1", "1", "1", "1", "1") for i in range(66)], 300)
        last = begun + 66 * FIVE  # half an hour ago; since then nobody traded, or the source lags behind
        sure, unsure = forecast("sure", issued_at=last - HOUR), forecast("unsure", issued_at=last - 40 * MINUTE)
        await floor.record(sure, unsure)
        await loop(floor, Binance(server.url), now)
    assert set(await floor.outcomes()) == {"sure"}
    assert (await floor.states())["unsure"]["reason"] == "no candle yet of the interval before its target time"


async def test_an_import_while_a_forecast_is_given_up_reopens_it(floor: Floor) -> None:
    """Whichever of the two is first."""
    await floor.record(forecast("f"))
    silent = PricesFetched(unknown=[ADA], failures={ADA: "unknown"})
    async with floor.sessions.begin() as giving_up:
        await store.resolution.lock(giving_up)
        await store.resolution.record_unpriced(
            giving_up, [store.resolution.Unpriced(forecast("f").key, "no price", T0, None, given_up=True)]
        )
        async with floor.sessions.begin() as importing:
            await store.prices.add(importing, [candle_row(ADA, T0, 1.0), candle_row(ADA, T0 + HOUR, 2.0)])
        reopening = asyncio.create_task(floor.reopen(ADA))
        await wait_until_it_blocks(floor.sessions, await backend(giving_up))
    assert await reopening == 1
    await floor.resolve(AS_OF, fetched=silent)
    assert set(await floor.outcomes()) == {"f"}
