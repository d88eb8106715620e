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
from closeloop.gateways.coingecko import CoinGecko
from closeloop.models.market_policy import MarketPolicy
from closeloop.models.market_sources import COINGECKO, CollectMarket, MarketCollected, MarketMode, SourceStanding
from closeloop.store.database import Sessions
from tests.gateways.binance_server import BinanceServer
from tests.gateways.coingecko_server import CoinGeckoServer
from tests.store.databases import query, scratch_database, sessions_on

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ASSETS = ("BNB/USDT", "BTC/USDT", "ETH/USDT", "SOL/USDT")
POLICY = MarketPolicy(alt_components=("SOL", "ETH", "BNB"))
TABLES = (
    "market_sources, market_changes, market_checkpoints, market_bar_counts, price_history, price_coverage, "
    "regime_price_data_ohlc"
)
BTC, ETH = "binance/BTC/USDT", "binance/ETH/USDT"


@dataclass
class Market:
    """A database, and a server that has traded until now and goes on for an hour."""

    sessions: Sessions
    server: BinanceServer
    gecko: CoinGeckoServer
    now: datetime
    """The last minute that had ended when the test began."""

    def activities(
        self, mode: MarketMode = "sources", history: timedelta = DAY, policy: MarketPolicy = POLICY
    ) -> MarketSourceActivities:
        """Of a worker that has just started: it remembers nothing."""
        binance, coingecko = Binance(self.server.url), CoinGecko(self.gecko.url)
        return MarketSourceActivities(self.sessions, policy, mode, binance, coingecko, history)

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
def gecko() -> Iterator[CoinGeckoServer]:
    with CoinGeckoServer() as gecko:
        yield gecko


@pytest.fixture
async def market(module_sessions: Sessions, server: BinanceServer, gecko: CoinGeckoServer) -> Market:
    async with module_sessions.begin() as session:
        await session.execute(text(f"TRUNCATE {TABLES}"))
    made = Market(module_sessions, server, gecko, datetime.now(UTC).replace(second=0, microsecond=0))
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
        if source.source == COINGECKO:
            continue
        assert source.reason == "Binance answers 429: too many requests in a minute"
        assert source.next_attempt_at == source.asked_at + 2 * HOUR
    assert len(report.sources) == len(ASSETS) + 1
    await market.collect(history=HOUR)
    assert len(market.server.asked) == 1
    assert market.server.impatient == []


async def test_down(market: Market) -> None:
    """Since when is on record, and why; when it is up again, nothing is missing."""
    await market.collect(history=HOUR)
    await market.sql("UPDATE market_sources SET collected_until = collected_until - interval '3 minutes'")
    market.server.close()
    report = await market.collect(history=HOUR)
    for source in report.sources[:-1]:
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
    assert len(report.sources) == 3


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


async def polls(market: Market) -> list[tuple[str, float, datetime]]:
    """Bars of dominances: driver, value, start."""
    rows = await market.sql(
        "SELECT driver, open_usd, high_usd, low_usd, close_usd, timestamp, source FROM regime_price_data_ohlc "
        "ORDER BY timestamp, driver"
    )
    for row in rows:
        assert row["open_usd"] == row["high_usd"] == row["low_usd"] == row["close_usd"]
        assert row["source"] == "coingecko"
    return [(row["driver"], float(row["close_usd"]), row["timestamp"]) for row in rows]


async def test_a_poll_is_a_bar_of_its_minute(market: Market) -> None:
    """No more than one in ten minutes, and none that says nothing new."""
    market.gecko.say(btc=52.5, usdt=4.25, updated_at=int(market.now.timestamp()) - 300)
    report = await market.collect(history=HOUR)
    assert (report.polled, report.without, report.unpolled) == (True, {}, None)
    [btc, usdt] = await polls(market)
    assert (btc[:2], usdt[:2]) == (("BTC.d", 52.5), ("USDT.d", 4.25))
    source = by_name(report)[COINGECKO]
    assert btc[2] == usdt[2] == source.asked_at.replace(second=0, microsecond=0)
    assert source.updated_at == market.now - 5 * MINUTE
    assert source.next_attempt_at == source.asked_at + 10 * MINUTE
    await market.collect(history=HOUR)
    assert len(market.gecko.asked) == 1
    await market.later()
    assert (await market.collect(history=HOUR)).polled is False
    assert len(market.gecko.asked) == 2
    assert len(await polls(market)) == 2


@pytest.mark.parametrize(
    ("fault", "headers", "wait"),
    [
        ("rate limit", {"Retry_After": "1800"}, 30 * MINUTE),
        ("internal error", {}, MINUTE),
        ("html", {}, MINUTE),
        ("wrong key", {}, MINUTE),
        ("close", {}, MINUTE),
    ],
)
async def test_coingecko_fails_by_itself(market: Market, fault: str, headers: dict[str, str], wait: timedelta) -> None:
    market.gecko.fail(fault, **headers)
    report = await market.collect(history=HOUR)
    source = by_name(report)[COINGECKO]
    assert (source.failures, source.next_attempt_at) == (1, source.asked_at + wait)
    assert source.sentence.startswith("coingecko has given nothing yet (CoinGecko")
    assert len(report.candles) == len(ASSETS)
    await market.collect(history=HOUR)
    assert (len(market.gecko.asked), market.gecko.impatient) == (1, [])
    market.gecko.behave()
    await market.later()
    assert by_name(await market.collect(history=HOUR))[COINGECKO].failing is False
    assert len(await polls(market)) == 2


async def test_what_an_answer_does_not_have(market: Market) -> None:
    """It makes no bar, and is said; the other share is used."""
    market.gecko.say(btc=52.5, usdt=None)
    market.gecko.fail("not found", path="/simple/price")
    report = await market.collect(history=HOUR)
    assert list(report.without) == ["USDT.d"]
    assert [driver for driver, _, _ in await polls(market)] == ["BTC.d"]


async def test_a_time_without_polls_is_named(market: Market) -> None:
    """By the poll that ends it; nothing is made up for it."""
    await market.collect(history=HOUR)
    await market.sql(
        "UPDATE market_sources SET answered_at = answered_at - interval '3 hours', updated_at = updated_at - "
        "interval '3 hours' WHERE source = 'coingecko'"
    )
    market.gecko.say(btc=52.75, usdt=4.5, updated_at=int(datetime.now(UTC).timestamp()) + 1)
    await market.later()
    report = await market.collect(history=HOUR)
    assert report.unpolled is not None
    assert report.unpolled.to_at - report.unpolled.from_at >= 3 * HOUR
    assert report.unpolled.sentence.startswith(f"no dominances from {report.unpolled.from_at:%Y-%m-%d %H:%M} UTC to ")
    assert len({start for _, _, start in await polls(market)}) in (1, 2)
