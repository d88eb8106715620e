"""The market's sources are asked little, in order, each by itself; what they say is checked, and stored at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import RowMapping, text
from temporalio.testing import ActivityEnvironment

from closeloop.activities.market_sources import MarketSourceActivities
from closeloop.gateways.binance import Binance
from closeloop.gateways.candles import Candle, candle
from closeloop.models.market_policy import MarketPolicy
from closeloop.models.market_sources import CollectMarket, MarketCollected, MarketMode, SourceStanding
from closeloop.store.database import Sessions
from tests.gateways.binance_server import BinanceServer
from tests.store.databases import query, scratch_database, sessions_on

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ASSETS = ("BNB/USDT", "BTC/USDT", "ETH/USDT", "SOL/USDT")
POLICY = MarketPolicy(alt_components=("SOL", "ETH", "BNB"))
BTC, ETH = "binance/BTC/USDT", "binance/ETH/USDT"


@dataclass
class Market:
    """A database, and a server that has traded until now and goes on for an hour."""

    sessions: Sessions
    server: BinanceServer
    now: datetime
    """The last minute that had ended when the test began."""

    def activities(
        self, mode: MarketMode = "sources", history: timedelta = DAY, policy: MarketPolicy = POLICY
    ) -> MarketSourceActivities:
        """Of a worker that has just started: it remembers nothing."""
        return MarketSourceActivities(self.sessions, policy, mode, Binance(self.server.url), history)

    async def collect(self, **how: Any) -> MarketCollected:
        return await ActivityEnvironment().run(self.activities(**how).collect_market, CollectMarket())

    async def sql(self, sql: str) -> list[RowMapping]:
        return await query(self.sessions, sql)

    async def ends(self, asset: str) -> list[datetime]:
        found = await self.sql(f"SELECT ends_at FROM price_history WHERE asset = '{asset}' ORDER BY 1")
        return [row["ends_at"] for row in found]

    async def later(self) -> None:
        """As if every wait were over."""
        await self.sql("UPDATE market_sources SET next_attempt_at = now() - interval '1 second'")

    def trade(self, asset: str, since: datetime, minutes: int) -> None:
        """Candles whose prices tell their minute."""
        prices = (f"{100 + i % 7}.5" for i in range(minutes))
        self.server.add(asset, [_flat(since + i * MINUTE, price) for i, price in enumerate(prices)], 60)


def _flat(start: datetime, price: str) -> Candle:
    return candle(start, price, price, price, price, "1")


@pytest.fixture(scope="module")
async def module_sessions(dsn: str) -> AsyncIterator[Sessions]:
    async with scratch_database(dsn) as scratch, sessions_on(scratch) as sessions:
        yield sessions


@pytest.fixture
def server() -> Iterator[BinanceServer]:
    with BinanceServer() as server:
        yield server


@pytest.fixture
async def market(module_sessions: Sessions, server: BinanceServer) -> Market:
    async with module_sessions.begin() as session:
        await session.execute(text("TRUNCATE market_sources, market_changes, price_history, price_coverage"))
    made = Market(module_sessions, server, datetime.now(UTC).replace(second=0, microsecond=0))
    for asset in ASSETS:
        made.trade(asset, made.now - DAY - HOUR, 26 * 60)
    return made


def by_name(report: MarketCollected) -> dict[str, SourceStanding]:
    return {one.source: one for one in report.sources}


async def test_every_minute_that_has_ended_since_the_beginning(market: Market) -> None:
    """A day is two requests an asset. Minutes that are going on are not taken; those behind come first."""
    report = await market.collect()
    symbols = [asked.parameters["symbol"] for asked in market.server.asked]
    assert sorted(symbols[:4]) == ["BNBUSDT", "BTCUSDT", "ETHUSDT", "SOLUSDT"], "in step"
    assert sorted(symbols[4:8]) == sorted(symbols[:4])
    assert (report.mode, report.more) == ("sources", False)
    for asset in ASSETS:
        ends = await market.ends(asset)
        assert ends[-1] in (market.now - MINUTE, market.now, market.now + MINUTE)
        assert ends == [ends[0] + i * MINUTE for i in range(len(ends))], "no hole, none twice"
        assert ends[0] in (market.now - DAY + MINUTE, market.now - DAY + 2 * MINUTE)
        source = by_name(report)[f"binance/{asset}"]
        assert (source.collected_until, source.failures, source.reason) == (ends[-1], 0, None)
        assert report.candles[source.source] == len(ends)
        [mark] = await market.sql(f"SELECT from_at FROM market_changes WHERE subject = 'asset/{asset}'")
        assert mark["from_at"] == ends[0] - MINUTE
    assert await market.sql("SELECT 1 FROM price_coverage") == [], "candles without a hole say all themselves"


async def test_asked_again_only_for_what_is_new(market: Market) -> None:
    await market.collect(history=HOUR)
    await market.sql("UPDATE market_sources SET collected_until = collected_until - interval '5 minutes'")
    await market.sql("DELETE FROM price_history WHERE ends_at > (SELECT min(collected_until) FROM market_sources)")
    before = {asset: await market.ends(asset) for asset in ASSETS}
    market.server.asked.clear()
    report = await market.collect(history=DAY)
    for asked in market.server.asked:
        asset = asked.parameters["symbol"].replace("USDT", "/USDT")
        begun = datetime.fromtimestamp(int(asked.parameters["startTime"]) / 1000, UTC)
        assert begun == before[asset][-1], "where it stopped"
    assert len(market.server.asked) == len(ASSETS)
    assert {source: new >= 5 for source, new in report.candles.items()} == {f"binance/{a}": True for a in ASSETS}


@pytest.mark.parametrize("mode", ["off", "recorded"])
async def test_nobody_is_asked_where_the_mode_says_so(market: Market, mode: MarketMode) -> None:
    report = await market.collect(mode=mode)
    assert report == MarketCollected(mode=mode)
    assert market.server.asked == []


async def test_one_that_fails_holds_up_no_other(market: Market) -> None:
    """It waits longer each time, and goes on where it stopped: what it missed comes in order."""
    market.server.fail("internal error", asset="ETH/USDT")
    for minutes in (1, 2, 4, 8, 10, 10):
        report = await market.collect(history=HOUR)
        failing = by_name(report)[ETH]
        assert failing.next_attempt_at == failing.asked_at + minutes * MINUTE
        assert failing.sentence.startswith("binance/ETH/USDT has given nothing yet (Binance answers 500; ")
        asked = len(market.server.asked)
        assert by_name(await market.collect(history=HOUR))[ETH] == failing, "not asked before that"
        assert [one.parameters["symbol"] for one in market.server.asked[asked:]].count("ETHUSDT") == 0
        await market.later()
    assert len(await market.ends("BTC/USDT")) >= 59
    assert failing.failures == 6
    market.server.behave()
    found = by_name(await market.collect(history=HOUR))[ETH]
    assert (found.failures, found.reason, found.next_attempt_at) == (0, None, None)
    assert len(await market.ends("ETH/USDT")) >= 59


async def test_a_wait_that_is_asked_for_is_kept(market: Market) -> None:
    """Also by a worker that was started since; for every asset."""
    market.server.fail("rate limit", times=1, Retry_After="7200")
    report = await market.collect(history=HOUR)
    assert len(market.server.asked) == 1
    for source in report.sources:
        assert source.reason == "Binance answers 429: too many requests in a minute"
        assert source.next_attempt_at == source.asked_at + 2 * HOUR
    assert len(report.sources) == len(ASSETS)
    await market.collect(history=HOUR)
    assert len(market.server.asked) == 1
    assert market.server.impatient == []


async def test_down(market: Market) -> None:
    """Since when is on record, and why; when it is up again, nothing is missing."""
    await market.collect(history=HOUR)
    await market.sql("UPDATE market_sources SET collected_until = collected_until - interval '3 minutes'")
    market.server.close()
    report = await market.collect(history=HOUR)
    for source in report.sources:
        assert source.answered_at
        assert source.answered_at < source.asked_at
        assert source.sentence.startswith(
            f"{source.source} gives nothing since {source.answered_at:%Y-%m-%d %H:%M} UTC"
        )
        assert source.reason == "Binance did not answer (ConnectError)"
    with BinanceServer() as server:
        market.server = server
        for asset in ASSETS:
            market.trade(asset, market.now - HOUR - HOUR, 180)
        await market.later()
        assert not any(source.failing for source in (await market.collect(history=HOUR)).sources)


async def test_an_asset_that_nobody_knows(market: Market) -> None:
    """It is named and left alone, ever longer; a policy without it forgets it."""
    policy = MarketPolicy(alt_components=("SOL", "ETH", "BNB", "NOBODY"))
    for hours in (1, 2, 4, 8, 16, 24, 24):
        report = await market.collect(history=HOUR, policy=policy)
        unknown = by_name(report)["binance/NOBODY/USDT"]
        assert unknown.reason == "it does not know NOBODY/USDT"
        assert unknown.next_attempt_at == unknown.asked_at + hours * HOUR
        await market.later()
    assert len(await market.ends("SOL/USDT")) >= 59
    assert "binance/NOBODY/USDT" not in by_name(await market.collect(history=HOUR))


@pytest.mark.parametrize("fault", ["NaN", "out of order", "html", "other interval", "after the range"])
async def test_nonsense_is_not_used(market: Market, fault: str) -> None:
    market.server.fail(fault, asset="BTC/USDT")
    report = await market.collect(history=HOUR)
    assert await market.ends("BTC/USDT") == []
    source = by_name(report)[BTC]
    assert source.reason
    assert source.reason.startswith("Binance's answer ")
    assert source.collected_until is None


async def test_minutes_that_do_not_exist_are_not_asked_for_again(market: Market) -> None:
    """A hole is on record as one, so that forecasts know it, too."""
    market.server.fail("gap", asset="BTC/USDT")
    report = await market.collect(history=HOUR)
    ends = await market.ends("BTC/USDT")
    assert 35 <= len(ends) <= 42
    assert by_name(report)[BTC].collected_until == ends[-1]
    [covered] = await market.sql("SELECT asset, from_at, to_at FROM price_coverage")
    assert (covered["asset"], covered["to_at"]) == ("BTC/USDT", ends[-1])
    assert covered["from_at"] <= ends[0]


async def test_an_asset_that_was_listed_late(market: Market) -> None:
    """The first request finds its first candle, however long it did not exist."""
    market.trade("NEW/USDT", market.now - HOUR, 120)
    policy = MarketPolicy(alt_components=("NEW",))
    report = await market.collect(history=100 * DAY, policy=policy)
    asked = [one for one in market.server.asked if one.parameters["symbol"] == "NEWUSDT"]
    assert len(asked) == 1
    assert (await market.ends("NEW/USDT"))[0] == market.now - HOUR + MINUTE
    assert len(report.sources) == 2


async def test_one_without_any_candle(market: Market) -> None:
    """That proves nothing: it is asked again by the next run, from the beginning."""
    market.server.fail("nothing", asset="BTC/USDT")
    source = by_name(await market.collect(history=HOUR))[BTC]
    assert (source.failing, source.collected_until) == (False, None)
    assert source.sentence.endswith(": it has given no candle")
    market.server.behave()
    assert by_name(await market.collect(history=HOUR))[BTC].collected_until is not None


async def test_candles_that_were_imported_stay(market: Market) -> None:
    end = market.now - 30 * MINUTE
    await market.sql(
        "INSERT INTO price_history (asset, interval_seconds, ends_at, open, high, low, close, source) "
        f"VALUES ('BTC/USDT', 60, '{end.isoformat()}', 7, 7, 7, 7, 'file')"
    )
    report = await market.collect(history=HOUR)
    ends = await market.ends("BTC/USDT")
    assert ends == [ends[0] + i * MINUTE for i in range(len(ends))]
    assert report.candles[BTC] == len(ends) - 1
    assert await market.sql("SELECT close FROM price_history WHERE source = 'file'") == [{"close": 7}]


async def test_two_that_ask_at_once_store_each_candle_once(market: Market) -> None:
    reports = await asyncio.gather(*(market.collect(history=HOUR) for _ in range(2)))
    for asset in ASSETS:
        ends = await market.ends(asset)
        assert sum(report.candles.get(f"binance/{asset}", 0) for report in reports) == len(ends)
        assert ends == [ends[0] + i * MINUTE for i in range(len(ends))]
