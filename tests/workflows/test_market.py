"""A run of the market collects what its sources have, and brings bars and states up to it, whoever asks for it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy

from closeloop import store
from closeloop.gateways.candles import candle
from closeloop.models import launches
from closeloop.models.market import Driver, MarketState, Timeframe
from closeloop.models.market_runs import MarketReport, MarketRequest, TimeframeReport
from closeloop.models.market_series import MarketAdvanced, SeriesAdvanced
from closeloop.models.market_sources import MarketCollected, MarketMode, SourceStanding
from closeloop.models.policy import LearningPolicy
from closeloop.services import market_runs
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import build_market_worker
from tests.gateways.binance_server import BinanceServer
from tests.gateways.coingecko_server import CoinGeckoServer
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ASSETS = ("BTC/USDT", "SOL/USDT", "ETH/USDT", "BNB/USDT")  # HYPE is not known there
AT = datetime(2026, 3, 2, 12, tzinfo=UTC)


@dataclass
class Place:
    """A namespace and a database of the test's own, and sources that have traded for a day."""

    client: Client
    sessions: Sessions
    server: BinanceServer
    gecko: CoinGeckoServer

    async def run(self, timeframe: Timeframe = Timeframe.m1) -> MarketReport:
        return await asyncio.wait_for(market_runs.collect(self.client, MarketRequest(timeframe=timeframe)), PATIENCE)


@pytest.fixture
def server() -> Iterator[BinanceServer]:
    with BinanceServer() as server:
        start = datetime.now(UTC).replace(second=0, microsecond=0) - 13 * HOUR
        for n, asset in enumerate(ASSETS):
            closes = [f"{100 + n + (i * (n + 3)) % 17}" for i in range(14 * 60)]
            server.add(asset, [candle(start + i * MINUTE, c, c, c, c, "1") for i, c in enumerate(closes)], 60)
        yield server


@asynccontextmanager
async def place(
    dsn: str, client: Client, server: BinanceServer, folder: Path, mode: MarketMode
) -> AsyncIterator[Place]:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=8)
        with CoinGeckoServer() as gecko:
            market = build_market_worker(
                own,
                engine,
                LearningPolicy(),
                binance_url=server.url,
                coingecko_url=gecko.url,
                market=mode,
                history=12 * HOUR,
            )
            async with own_worker(own, engine, folder), market:
                yield Place(own, sessions_of(engine), server, gecko)
        await engine.dispose()


async def test_collected_and_computed(dsn: str, client: Client, server: BinanceServer, tmp_path: Path) -> None:
    """From nothing to states, again without a request too many, and a minute that is corrected changes its hour."""
    async with place(dsn, client, server, tmp_path, "sources") as here:
        first = await here.run()
        assert (first.mode, first.not_asked, first.polled) == ("sources", None, True)
        assert set(first.candles) == {f"binance/{asset}" for asset in ASSETS}
        assert all(718 <= count <= 721 for count in first.candles.values())
        assert list(first.failures) == ["binance/HYPE/USDT"]
        assert [of.timeframe for of in first.timeframes] == list(Timeframe), "it had to catch up"
        minutes = {each.driver: each for each in first.of(Timeframe.m1).series}
        for driver in (Driver.btc, Driver.alt):
            assert minutes[driver].published
            assert minutes[driver].states == minutes[driver].bars == first.candles["binance/BTC/USDT"]
        hours = {each.driver: each for each in first.of(Timeframe.h1).series}
        assert hours[Driver.btc].bars in (12, 13)
        memo = await (await here.client.get_workflow_handle("market/1m").describe()).memo()
        assert memo["outcome"] == first.sentence

        asked = len(server.asked)
        second = await here.run(Timeframe.h1)
        assert len(server.asked) - asked in (0, len(ASSETS)), "a minute may have ended meanwhile"
        assert Timeframe.h1 in [of.timeframe for of in second.timeframes]
        assert sum(second.candles.values()) <= 2 * len(ASSETS)

        [row] = await query(
            here.sessions, "SELECT * FROM price_history WHERE asset = 'BTC/USDT' ORDER BY ends_at OFFSET 400 LIMIT 1"
        )
        async with here.sessions.begin() as session:
            corrected = dict(row) | {"open": 103, "close": 104, "high": 105, "low": 99}
            await store.prices.add(session, [corrected], replace=True)
        third = await here.run()
        changed = {of.timeframe: {each.driver: each for each in of.series} for of in third.timeframes}
        assert changed[Timeframe.m1][Driver.btc].bars_changed == 1
        assert changed[Timeframe.h1][Driver.btc].bars_changed == 1


async def test_from_what_is_on_record(dsn: str, client: Client, server: BinanceServer, tmp_path: Path) -> None:
    async with place(dsn, client, server, tmp_path, "recorded") as here:
        start = AT - 5 * HOUR
        rows: list[dict[str, Any]] = [
            {"asset": "BTC/USDT", "interval_seconds": 60, "ends_at": start + (i + 1) * MINUTE, "source": "file"}
            | dict.fromkeys(("open", "high", "low", "close"), 100 + i % 7)
            for i in range(120)
        ]
        async with here.sessions.begin() as session:
            await store.prices.add(session, rows)
        report = await here.run()
        assert (report.mode, report.candles, report.sources, report.failures) == ("recorded", {}, [], {})
        assert server.asked == here.gecko.asked == []
        assert (
            report.asked
            == "CLOSELOOP_MARKET is recorded where the worker runs: nobody was asked, from what is on record"
        )
        [btc] = [each for each in report.of(Timeframe.m1).series if each.bars]
        assert (btc.driver, btc.bars, btc.bar_end, btc.published) == (Driver.btc, 120, rows[-1]["ends_at"], False)
        # What a run that began anew had counted before is in its report.
        again: MarketReport = await here.client.execute_workflow(
            "MarketWorkflow",
            MarketRequest(continued=report),
            id="continued",
            task_queue=launches.TASK_QUEUE,
            result_type=MarketReport,
        )
        assert [each.bars for each in again.of(Timeframe.m1).series if each.bars] == [120]
        assert [of.timeframe for of in again.timeframes] == list(Timeframe)


def test_asked_for_twice_it_is_one_run() -> None:
    launch = launches.market(MarketRequest(timeframe=Timeframe.h1))
    assert (launch.id, launch.conflict) == ("market/1h", WorkflowIDConflictPolicy.USE_EXISTING)


def test_what_a_report_says() -> None:
    """Batches are added up; a failure that is over is none."""
    report = MarketReport(timeframe=Timeframe.m1, until=AT)
    down = SourceStanding(
        source="coingecko",
        asked_at=AT,
        answered_at=AT - HOUR,
        failures=3,
        reason="CoinGecko answers 500",
        next_attempt_at=AT + 4 * MINUTE,
    )
    fine = SourceStanding(source="binance/BTC/USDT", asked_at=AT, answered_at=AT, collected_until=AT)
    for more in (True, False):
        report.collected(MarketCollected(mode="sources", candles={fine.source: 1_000}, sources=[fine, down], more=more))
    one = SeriesAdvanced(driver=Driver.btc, bars=5_000, states=5_000, bar_end=AT - DAY)
    last = SeriesAdvanced(driver=Driver.btc, bars=1, states=1, bar_end=AT, state=MarketState.s3, published=True)
    report.advanced(MarketAdvanced(timeframe=Timeframe.m1, series=[one], failed={"ALT": "ValueError: no"}, more=True))
    assert report.failures["1m ALT"] == "ValueError: no"
    alt = SeriesAdvanced(driver=Driver.alt)
    report.advanced(MarketAdvanced(timeframe=Timeframe.m1, series=[last, alt]))
    assert report.sentence == (
        "2,000 new candles; 1m: 5,001 bars, 5,001 states; BTC S3 at 2026-03-02 12:00 UTC; coingecko gives nothing "
        "since 2026-03-02 11:00 UTC (CoinGecko answers 500; 3 times in a row); asked again from 2026-03-02 12:04 UTC"
    )
    assert list(report.failures) == ["coingecko"]
    assert report.of(Timeframe.m1).caught_up
    assert not TimeframeReport(timeframe=Timeframe.m1, series=[last]).caught_up
    changed = last.model_copy(update={"bars": 0, "bars_changed": 1})
    assert TimeframeReport(timeframe=Timeframe.m1, series=[changed]).caught_up
