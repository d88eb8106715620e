"""Workers are killed, with SIGKILL, in the middle of a resolution and of asking: each outcome is there, once."""

import asyncio
import random
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from temporalio.client import Client, WorkflowHandle

from closeloop.models.forecasts import Forecast, ResolutionReport, ResolutionRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.workers.registration import register_search_attributes
from tests.activities.forecasting import (
    DAY,
    MINUTE,
    T0,
    Floor,
    abstention,
    assert_outcome,
    floor_on,
    forecast,
    plain_outcome,
)
from tests.activities.test_prices import AS_OF, MARKETS, assert_right, hourly_forecasts
from tests.conftest import NO_SOURCE
from tests.faults.forecasts_worker import READY
from tests.gateways.binance_server import BinanceServer
from tests.waiting import PATIENCE, until
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker
from tests.workers.processes import line, script

FIVE = 5 * MINUTE


@asynccontextmanager
async def worker(
    client: Client, floor: Floor, folder: Path, source: str = NO_SOURCE
) -> AsyncIterator[asyncio.subprocess.Process]:
    address = client.service_client.config.target_host
    arguments = (address, client.namespace, floor.dsn, str(folder), source)
    async with script("tests.faults.forecasts_worker", *arguments, home=folder) as process:
        assert await line(process) == READY
        yield process


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL


async def start(client: Client, as_of: datetime) -> WorkflowHandle[object, ResolutionReport]:
    return await client.start_workflow(
        "ForecastResolutionWorkflow",
        ResolutionRequest(as_of=as_of),
        id=f"forecast-resolution/{uuid.uuid4().hex}",
        task_queue=TASK_QUEUE,
        result_type=ResolutionReport,
    )


async def test_killed_in_the_middle(dsn: str, client: Client, tmp_path: Path) -> None:
    """A resolution and a price request, side by side: both wait until Temporal notices that the worker is silent."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    async with floor_on(dsn) as resolving, floor_on(dsn) as asking, floor_on(dsn) as unasked:
        await asyncio.gather(
            killed_while_resolving(resolving, await own_namespace(client), first),
            killed_while_asking(asking, await own_namespace(client), second),
            nobody_asks(unasked, await own_namespace(client), tmp_path),
        )


def thousands(count: int) -> list[Forecast]:
    rng = random.Random(8)
    made = []
    for i in range(count):
        at = T0 + rng.randrange(2 * 86400) * timedelta(seconds=1)
        if rng.random() < 0.02:
            made.append(abstention(f"f-{i:05}", issued_at=at))
        else:
            action, regime = rng.choice(["long", "short", "flat"]), rng.choice(["BULL", None])
            values = {"producer_id": f"p{i % 4}", "action": action, "confidence": rng.random(), "regime": regime}
            made.append(forecast(f"f-{i:05}", issued_at=at, horizon=rng.choice(["1h", "4h"]), **values))
    return made


async def killed_while_resolving(floor: Floor, own: Client, folder: Path) -> None:
    await register_search_attributes(own)
    rng, price, closes = random.Random(2), 100.0, {}
    for i in range(3 * 288):
        price *= 1 + rng.gauss(0, 0.002)
        closes[T0 + i * FIVE] = price
    forecasts = thousands(12_000)
    scored = [one for one in forecasts if one.action != "no_forecast"]
    as_of = T0 + 3 * DAY
    await floor.trade("ADA/BTC", closes)
    for i in range(0, len(forecasts), 6_000):
        await floor.record(*forecasts[i : i + 6_000])
    async with worker(own, floor, folder) as process:
        handle = await start(own, as_of)

        async def under_way() -> bool:
            return bool(await floor.sql("SELECT 1 FROM forecast_outcomes LIMIT 1"))

        await until("outcomes", under_way)
        await kill(process)
    [killed] = await floor.sql("SELECT count(*) AS n FROM forecast_outcomes")
    assert 0 < killed["n"] < len(scored)
    async with worker(own, floor, folder):
        other = await start(own, as_of)  # does not wait for the one that was killed
        reports = await asyncio.wait_for(asyncio.gather(handle.result(), other.result()), PATIENCE)
    assert sum(report.resolved for report in reports) == len(scored)
    assert sum(report.abstained for report in reports) == len(forecasts) - len(scored)
    assert reports[0].resolved >= killed["n"]
    found = await floor.outcomes()
    assert set(found) == {one.forecast_id for one in scored}
    for one in scored:
        prices = [closes[t - (t - T0) % FIVE] for t in (one.issued_at, one.target_at)]
        assert_outcome(found[one.forecast_id], plain_outcome(one, prices[0], prices[1]))
    told = await floor.events("forecast.outcome.v1")
    assert sorted(payload["forecast_id"] for payload in told) == sorted(found)
    assert await floor.states() == {}
    rows = await floor.sql(
        "SELECT producer_id, outcomes, correct, abstentions FROM producer_performance "
        "WHERE asset = '' AND horizon = '' AND regime = '' ORDER BY 1"
    )
    for row in rows:
        of = [o for o in found.values() if o["producer_id"] == row["producer_id"]]
        assert (row["outcomes"], row["correct"]) == (len(of), sum(o["direction_correct"] for o in of))
    assert [row["producer_id"] for row in rows] == ["p0", "p1", "p2", "p3", "ta"]


async def killed_while_asking(floor: Floor, own: Client, folder: Path) -> None:
    await register_search_attributes(own)
    forecasts = hourly_forecasts(500)
    with BinanceServer() as server:
        for asset, candles in MARKETS.items():
            server.add(asset, candles, 300)
        server.fail("hang", asset="ETH/BTC")  # the first asset's answer is stored, the second never comes
        await floor.record(*forecasts)
        async with worker(own, floor, folder, server.url) as process:
            handle = await start(own, AS_OF)
            await until("both asked for", lambda: len(server.asked) == 2)
            await kill(process)
        assert await floor.outcomes() == {}
        server.behave()
        async with worker(own, floor, folder, server.url):
            report = await asyncio.wait_for(handle.result(), PATIENCE)
        await assert_right(floor, *forecasts)
        [rows] = await floor.sql("SELECT count(*) AS n FROM price_history")
        assert (report.resolved, report.pending, report.candles_fetched) == (len(forecasts), 0, rows["n"])
        assert len(await floor.events("forecast.outcome.v1")) == len(forecasts)
        assert [a.parameters["symbol"] for a in server.asked] == ["ADABTC", "ETHBTC", "ETHBTC"]  # ADA is stored


async def nobody_asks(floor: Floor, own: Client, folder: Path) -> None:
    """No worker of the price source runs: what local prices allow is resolved, the rest says why it is not."""
    await register_search_attributes(own)
    await floor.trade("ADA/BTC", {T0: 1, T0 + 60 * MINUTE: 2})
    await floor.record(forecast("local"), forecast("other", asset="ETH/BTC"))
    async with own_worker(own, floor.engine, folder):
        report = await asyncio.wait_for((await start(own, AS_OF)).result(), PATIENCE)
    assert (report.resolved, report.reasons) == (1, {"no worker asked the price source in time": 1})
    assert set(await floor.outcomes()) == {"local"}
