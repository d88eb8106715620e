"""``market collect`` and what ``status`` says of the market, beside sources on loopback that fail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter

from closeloop.gateways.candles import candle
from closeloop.models.market import Timeframe
from closeloop.models.policy import LearningPolicy
from closeloop.models.schedules import MARKET_SCHEDULES
from closeloop.store.database import open_engine
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import build_market_worker
from tests.faults.stack_process import StackProcess
from tests.gateways.binance_server import BinanceServer
from tests.gateways.coingecko_server import CoinGeckoServer
from tests.store.databases import scratch_database
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ASSETS = ("BTC/USDT", "SOL/USDT", "ETH/USDT", "BNB/USDT", "HYPE/USDT")


@asynccontextmanager
async def place(stack: StackProcess, folder: Path) -> AsyncIterator[tuple[dict[str, str], CoinGeckoServer]]:
    """A namespace and a database of the test's own with workers that ask sources; where commands find them."""
    plain = await own_namespace(await stack.client())
    address = plain.service_client.config.target_host
    own = await Client.connect(address, namespace=plain.namespace, data_converter=pydantic_data_converter)
    await register_search_attributes(own)
    start = datetime.now(UTC).replace(second=0, microsecond=0) - 8 * HOUR
    async with scratch_database(stack.database_url) as scratch:
        engine = open_engine(scratch, pool_size=8)
        with BinanceServer() as server, CoinGeckoServer() as gecko:
            for asset in ASSETS:
                closes = [f"{100 + i % 7}" for i in range(9 * 60)]
                server.add(asset, [candle(start + i * MINUTE, c, c, c, c, "1") for i, c in enumerate(closes)], 60)
            market = build_market_worker(
                own,
                engine,
                LearningPolicy(),
                binance_url=server.url,
                coingecko_url=gecko.url,
                market="sources",
                history=7 * HOUR,
            )
            async with own_worker(own, engine, folder), market:
                yield {"TEMPORAL_NAMESPACE": own.namespace, "DATABASE_URL": scratch}, gecko
        await engine.dispose()


async def test_collected_by_hand(stack: StackProcess, tmp_path: Path) -> None:
    """What came, what failed and why, also later in ``status``; the schedules come with the setting and go with it."""
    async with place(stack, tmp_path) as (where, gecko):
        quiet = await stack.cli("status", "--json", **where)
        assert quiet.json()["market"] is None, "nothing of it, where it is off and nothing is on record"
        assert "market:" not in (await stack.cli("status", **where)).out

        gecko.fail("rate limit", Retry_After="1800")
        result = await stack.cli("market", "collect", "--json", **where)
        report = result.json()
        assert (result.status, report["mode"]) == (1, "sources")
        assert sorted(report["candles"]) == [f"binance/{asset}" for asset in sorted(ASSETS)]
        failing = {one["source"]: one["reason"] for one in report["sources"] if one["reason"]}
        assert failing == {"coingecko": "CoinGecko answers 429: too many requests in a minute"}
        assert [of["timeframe"] for of in report["timeframes"]] == list(Timeframe)
        states = {each["driver"]: each for each in report["timeframes"][0]["series"] if each["state"]}
        assert set(states) == {"BTC", "ALT"}
        assert all(each["published"] and each["bars"] >= 419 for each in states.values())

        again = await stack.cli("market", "collect", "--timeframe", "1h", **where)
        assert again.status == 1, "it waits, and that is said"
        assert "failed: coingecko has given nothing yet (CoinGecko answers 429: " in again.out
        assert gecko.impatient == []

        on = where | {"CLOSELOOP_MARKET": "sources"}
        applied = await stack.cli("schedules", "apply", **on)
        assert [f"applied {one.id}" for one in MARKET_SCHEDULES] == applied.out.splitlines()[-3:]
        # The worker's minute may run by now: it changes nothing of what is asserted.
        connection = await asyncpg.connect(where["DATABASE_URL"])
        await connection.execute(
            "INSERT INTO regime_price_data_ohlc (driver, timeframe, timestamp, open_usd, high_usd, low_usd, close_usd) "
            "SELECT 'BTC.d', '1m', date_trunc('minute', now()) - t * interval '1 hour', 50, 50, 50, 50 "
            "FROM unnest(ARRAY[30, 28]) t"
        )
        await connection.execute(
            "INSERT INTO market_states (driver, timeframe, bar_end, revision, bar_start, published, provisional, "
            "flags, indicators, state) VALUES ('nano', '1h', '2026-10-01T10:00Z', 0, '2026-10-01T09:00Z', true, "
            "false, '{}', '{}', 'S1')"
        )
        await connection.close()
        said, text = (await stack.cli("status", "--json", **on)).json()["market"], (await stack.cli("status", **on)).out
        assert said["mode"] == "sources"
        assert {one["source"]: one["failures"] > 0 for one in said["sources"]} == {
            **{f"binance/{asset}": False for asset in ASSETS},
            "coingecko": True,
        }
        assert [(one["driver"], one["timeframe"]) for one in said["still"]] == [("nano", "1h")]
        assert len(said["unpolled"]) == 1
        for sentence in (
            "market: CLOSELOOP_MARKET is sources here; the newest state is of ",
            "market: coingecko has given nothing yet (CoinGecko answers 429: too many requests in a minute; ",
            "market: nano 1h stands still since 2026-10-01 10:00 UTC",
            "market: no dominances from ",
        ):
            assert sentence in text
        listed = await stack.cli("schedules", "list", "--json", CLOSELOOP_MARKET="recorded")
        assert [one["id"] for one in listed.json()][-3:] == [one.id for one in MARKET_SCHEDULES]
        removed = await stack.cli("schedules", "apply", **where)
        assert "market" not in removed.out
        seen = (await stack.cli("status", "--json", **where)).json()
        assert [one["id"] for one in seen["schedules"] if "market" in one["id"]] == []
        assert (seen["market"]["mode"], seen["market"]["still"]) == ("off", [])


async def test_where_the_market_is_off(stack: StackProcess) -> None:
    """The stack's worker asks nobody, and says so."""
    result = await stack.cli("market", "collect")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[0] == (
        "CLOSELOOP_MARKET is off where the worker runs: nobody was asked, from what is on record"
    )
