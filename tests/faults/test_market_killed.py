"""A worker is killed, with SIGKILL, while it collects: what was stored is not asked for again, nothing is missing."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from temporalio.client import Client

from closeloop.gateways.candles import candle
from closeloop.models.launches import market
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_runs import MarketRequest
from closeloop.services.launching import result, start
from closeloop.workers.registration import register_search_attributes
from tests.activities.forecasting import Floor, floor_on
from tests.faults.forecasts_worker import READY
from tests.gateways.binance_server import BinanceServer
from tests.gateways.coingecko_server import CoinGeckoServer
from tests.waiting import PATIENCE, until
from tests.workers.namespaces import own_namespace
from tests.workers.processes import line, script

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ASSETS = ("BNB/USDT", "BTC/USDT", "ETH/USDT", "SOL/USDT")


@asynccontextmanager
async def worker(
    client: Client, floor: Floor, folder: Path, server: BinanceServer, gecko: CoinGeckoServer
) -> AsyncIterator[asyncio.subprocess.Process]:
    address = client.service_client.config.target_host
    arguments = (address, client.namespace, floor.dsn, str(folder), server.url, gecko.url)
    async with script("tests.faults.forecasts_worker", *arguments, home=folder) as process:
        assert await line(process) == READY
        yield process


async def test_killed_while_collecting(dsn: str, client: Client, tmp_path: Path) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    async with floor_on(dsn) as floor:
        with BinanceServer() as server, CoinGeckoServer() as gecko:
            for asset in ASSETS:
                begun = now - 13 * HOUR
                server.add(asset, [candle(begun + i * MINUTE, "1", "1", "1", "1", "1") for i in range(14 * 60)], 60)
            server.fail("hang", asset="ETH/USDT")  # those before it in the alphabet are stored, its answer never comes
            async with worker(own, floor, tmp_path, server, gecko) as process:
                handle = await start(own, market(MarketRequest()))
                await until("it was asked for", lambda: "ETHUSDT" in [a.parameters["symbol"] for a in server.asked])
                process.kill()
                assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
            stored = await floor.sql("SELECT asset, count(*) AS n FROM price_history GROUP BY 1 ORDER BY 1")
            assert [row["asset"] for row in stored] == ["BNB/USDT", "BTC/USDT"]
            server.behave()
            server.asked.clear()
            async with worker(own, floor, tmp_path, server, gecko):
                report = await asyncio.wait_for(result(handle), PATIENCE)
            whole = await floor.sql(
                "SELECT asset, count(*) AS n, max(ends_at) - min(ends_at) AS length FROM price_history "
                "GROUP BY 1 ORDER BY 1"
            )
    assert [row["asset"] for row in whole] == list(ASSETS)
    for row in whole:
        assert row["length"] == (row["n"] - 1) * MINUTE, "no minute is missing"
        assert row["n"] >= 12 * 60 - 1
    again = [a for a in server.asked if a.parameters["symbol"] in ("BNBUSDT", "BTCUSDT")]
    for asked in again:  # a minute may have ended since
        assert int(asked.parameters["startTime"]) >= int((now - HOUR).timestamp()) * 1_000
    minutes = {each.driver: each for each in report.of(Timeframe.m1).series}
    for driver in (Driver.btc, Driver.alt):
        assert minutes[driver].bars == minutes[driver].states >= 12 * 60 - 1
