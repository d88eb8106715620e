"""A resolution as a whole, in Temporal, against a server that behaves like Binance; and what engines send."""

import asyncio
import dataclasses
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from closeloop import store
from closeloop.activities.forecasts import ForecastActivities
from closeloop.activities.meta import MetaActivities
from closeloop.activities.prices import PriceActivities
from closeloop.activities.producers import ProducerActivities
from closeloop.gateways.binance import Binance
from closeloop.models.approvals import ApprovalRequest
from closeloop.models.forecasts import ResolutionReport, ResolutionRequest
from closeloop.models.launches import MARKET_TASK_QUEUE, TASK_QUEUE
from closeloop.models.policy import LearningPolicy
from closeloop.services.meta_decisions import back_to_shadow, propose_leaving_shadow
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import WORKFLOWS, workflow_runner
from tests.activities.forecasting import HOUR, MINUTE, POLICY, T0, Floor, abstention, floor_on, forecast
from tests.activities.test_prices import ADA, AS_OF, MARKETS, assert_right, hourly_forecasts
from tests.conftest import NO_SOURCE
from tests.gateways.binance_server import BinanceServer
from tests.waiting import PATIENCE
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker

HANGING_SECONDS = 3.0  # what a server that hangs is given; others get what a busy machine may need


@dataclasses.dataclass
class Exchange:
    """A floor with a namespace of its own, whose worker asks a server that is the test's."""

    floor: Floor
    client: Client

    async def start(self, as_of: datetime | None = AS_OF, **more: Any) -> WorkflowHandle[Any, ResolutionReport]:
        return await self.client.start_workflow(
            "ForecastResolutionWorkflow",
            ResolutionRequest(as_of=as_of, **more),
            id=f"forecast-resolution/{uuid.uuid4().hex}",
            task_queue=TASK_QUEUE,
            result_type=ResolutionReport,
        )

    async def resolve(self, as_of: datetime | None = AS_OF, **more: Any) -> ResolutionReport:
        return await asyncio.wait_for((await self.start(as_of, **more)).result(), PATIENCE)

    def market(self, server: BinanceServer, patience_seconds: float = 60.0) -> Worker:
        """A worker that asks this server, and does not know for how long another one was asked to wait."""
        source = Binance(server.url, timeout_seconds=patience_seconds)
        prices = PriceActivities(self.floor.sessions, POLICY, source)
        return Worker(self.client, task_queue=MARKET_TASK_QUEUE, activities=[prices.fetch_prices])


@pytest.fixture(scope="module")
async def module_exchange(
    dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Exchange]:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with floor_on(dsn) as floor, own_worker(own, floor.engine, tmp_path_factory.mktemp("overlays")):
        yield Exchange(floor, own)


@pytest.fixture
async def exchange(module_exchange: Exchange) -> Exchange:
    await module_exchange.floor.clear()
    return module_exchange


@pytest.fixture
def server() -> Iterator[BinanceServer]:
    with BinanceServer() as server:
        for asset, candles in MARKETS.items():
            server.add(asset, candles, 300)
        yield server


async def attempts(handle: WorkflowHandle[Any, Any]) -> Counter[str]:
    """How often each activity was begun."""
    names, begun = {}, Counter[str]()
    async for event in handle.fetch_history_events():
        if event.HasField("activity_task_scheduled_event_attributes"):
            names[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
        if event.HasField("activity_task_started_event_attributes"):
            started = event.activity_task_started_event_attributes
            begun[names[started.scheduled_event_id]] += started.attempt
    return begun


# -- a resolution ------------------------------------------------------------------------------------------------------


async def test_prices_are_asked_for_outcomes_written_and_producers_judged(
    exchange: Exchange, server: BinanceServer
) -> None:
    floor, forecasts = exchange.floor, hourly_forecasts(200)
    await floor.record(*forecasts, abstention("silent", issued_at=T0), forecast("later", issued_at=AS_OF))
    async with exchange.market(server):
        handle = await exchange.start()
        report = await asyncio.wait_for(handle.result(), PATIENCE)
        [rows] = await floor.sql("SELECT count(*) AS n FROM price_history")
        assert report.model_dump() == {
            "as_of": AS_OF,
            "resolved": 200,
            "abstained": 1,
            "pending": 0,
            "unresolvable": 0,
            "reasons": {},
            "candles_fetched": rows["n"],
            "failed": {},
            "workflow_id": handle.id,
        }
        await assert_right(floor, *forecasts)
        assert Counter(asked.parameters["symbol"] for asked in server.asked) == {"ADABTC": 1, "ETHBTC": 1}
        [row] = await floor.sql(
            "SELECT * FROM producer_performance WHERE asset = '' AND horizon = '' AND producer_id = 'ta'"
        )
        outcomes = (await floor.outcomes()).values()
        assert (row["outcomes"], row["correct"]) == (200, sum(o["direction_correct"] for o in outcomes))
        assert (row["abstentions"], row["as_of"]) == (1, AS_OF)
        assert [version["producer_id"] for version in await floor.sql("SELECT * FROM recalibration_maps")] == ["ta"]
        meta = exchange.client.get_workflow_handle(f"meta-forecast/{AS_OF:%Y-%m-%dT%H:%M:%S.%fZ}")
        assert (await meta.result())["abstained"] == {"insufficient_data": 1}
        description = await handle.describe()
        assert await description.memo_value("outcome") == "200 resolved, 0 pending, 0 given up, 1 abstentions"

        again = await exchange.resolve()
        assert (again.resolved, again.abstained, again.candles_fetched) == (0, 0, 0)
        assert len(server.asked) == 2
    assert len(await floor.events("forecast.outcome.v1")) == 200


async def test_two_at_once(exchange: Exchange, server: BinanceServer) -> None:
    floor, forecasts = exchange.floor, hourly_forecasts(600)
    await floor.record(*forecasts)
    async with exchange.market(server):
        reports = await asyncio.gather(*(exchange.resolve() for _ in range(3)), exchange.resolve(AS_OF + MINUTE))
    assert sum(report.resolved for report in reports) == len(forecasts)
    await assert_right(floor, *forecasts)
    assert len(await floor.events("forecast.outcome.v1")) == len(forecasts)
    assert await floor.states() == {}


async def test_with_a_dead_source_local_prices_are_enough_for_what_they_are_enough_for(
    exchange: Exchange, server: BinanceServer
) -> None:
    """And nothing is tried twice; half an hour later, all is well."""
    floor, forecasts = exchange.floor, hourly_forecasts(30)
    local = forecast("local", asset="XMR/BTC")
    await floor.trade("XMR/BTC", {T0: 1, T0 + HOUR: 2})
    await floor.record(*forecasts, local)
    url = server.url
    server.close()
    async with exchange.market(server):
        handle = await exchange.start(ask_again=True)
        report = await asyncio.wait_for(handle.result(), PATIENCE)
        assert (report.resolved, report.pending) == (1, 30)
        assert report.reasons == {"Binance did not answer (ConnectError)": 30}
        begun = await attempts(handle)
        assert (begun["resolve_pages"], begun["fetch_prices"]) == (2, 1)
        assert set(await floor.outcomes()) == {"local"}

        with BinanceServer(int(url.rsplit(":", 1)[1])) as alive:
            for asset, candles in MARKETS.items():
                alive.add(asset, candles, 300)
            too_early = await exchange.resolve(AS_OF + 29 * MINUTE)
            assert (too_early.resolved, too_early.reasons, alive.asked) == (0, report.reasons, [])
            assert (await exchange.resolve(AS_OF + 30 * MINUTE)).resolved == 30
    await floor.sql("DELETE FROM forecast_outcomes WHERE forecast_id = 'local'")
    await assert_right(floor, *forecasts)


@pytest.mark.parametrize("fault", ["hang", "rate limit", "zero", "newest first"])
async def test_a_source_that_misbehaves_costs_a_wait(exchange: Exchange, server: BinanceServer, fault: str) -> None:
    """Each for its own reason; a resolution by hand asks again at once, and gets the right price once there is one."""
    floor, forecasts = exchange.floor, hourly_forecasts(30)
    await floor.record(*forecasts)
    server.fail(fault)
    reasons = {
        "hang": f"Binance did not answer within {HANGING_SECONDS:g} s",
        "rate limit": "Binance answers 429: too many requests in a minute",
        "zero": "Binance's answer has a candle with impossible numbers (close: must be positive)",
        "newest first": "Binance's answer has candles that were not asked for, or out of order, or twice",
    }
    async with exchange.market(server, HANGING_SECONDS if fault == "hang" else 60.0):
        handle = await exchange.start()
        report = await asyncio.wait_for(handle.result(), PATIENCE)
        assert (report.resolved, report.reasons) == (0, {reasons[fault]: 30})
        assert (await attempts(handle))["fetch_prices"] == 1
        everything = fault == "rate limit"  # it holds for both assets: the second is not asked for
        assert len(server.asked) == (1 if everything else 2)
        assert await floor.outcomes() == {}
        if fault == "rate limit":  # half a minute: whoever asks meanwhile gets no answer, and the server no request
            assert (await exchange.resolve(ask_again=True)).reasons == {
                "Binance asked to wait before the next request": 30
            }
            assert len(server.asked) == 1
    server.behave()
    async with exchange.market(server):
        assert (await exchange.resolve(ask_again=True)).resolved == 30
    await assert_right(floor, *forecasts)


async def test_a_wait_that_the_source_asks_for_is_kept(exchange: Exchange, server: BinanceServer) -> None:
    forecasts = hourly_forecasts(30)
    await exchange.floor.record(*forecasts)
    server.fail("rate limit", times=1, Retry_After="1")
    async with exchange.market(server):
        assert (await exchange.resolve()).resolved == 30
    assert [asked.status for asked in server.asked] == [429, 200, 200]
    assert server.impatient == []


async def test_a_backlog_is_continued_as_new(exchange: Exchange) -> None:
    """With pages of twenty, and a source that is away: once before it is asked, and once after."""
    own = dataclasses.replace(exchange.floor)

    class SmallPages(ForecastActivities):
        page_size = 20
        pages = 1

    forecasts = hourly_forecasts(100, asset=ADA)
    unpriced = hourly_forecasts(1_300, 9, asset="NOBODY/BTC", producer_id="x")
    await own.record(*forecasts, *unpriced)
    for candle in MARKETS[ADA]:
        await own.trade(ADA, {candle.start + 5 * MINUTE: candle.close})
    small, prices = SmallPages(own.sessions, POLICY), PriceActivities(own.sessions, POLICY, Binance(NO_SOURCE))
    producers, queue = ProducerActivities(own.sessions, POLICY), f"small-{uuid.uuid4().hex}"
    async with (
        Worker(
            exchange.client,
            task_queue=queue,
            workflows=WORKFLOWS,
            activities=[
                small.resolve_pages,
                small.report_resolution,
                producers.update_performance,
                producers.update_recalibration,
                MetaActivities(own.sessions, POLICY).speak_meta,
            ],
            workflow_runner=workflow_runner(),
        ),
        Worker(exchange.client, task_queue=MARKET_TASK_QUEUE, activities=[prices.fetch_prices]),
    ):
        handle: WorkflowHandle[Any, ResolutionReport] = await exchange.client.start_workflow(
            "ForecastResolutionWorkflow",
            ResolutionRequest(as_of=AS_OF),
            id=f"forecast-resolution/{queue}",
            task_queue=queue,
            result_type=ResolutionReport,
        )
        report = await asyncio.wait_for(handle.result(), PATIENCE)
    runs = [run async for run in exchange.client.list_workflows(f"WorkflowId = '{handle.id}'")]
    assert len(runs) >= 3
    assert (report.resolved, report.pending) == (100, 1_300)
    assert report.reasons == {"Binance did not answer (ConnectError)": 1_300}
    assert {row["attempts"] for row in (await own.states()).values()} == {1}
    await assert_right(own, *forecasts)
    [counted] = await own.sql("SELECT * FROM resolutions")
    assert counted["resolution_id"] == f"{handle.id}/{handle.first_execution_run_id}"


async def test_the_future_is_not_resolved(exchange: Exchange) -> None:
    """Nothing would be asked for again before then."""
    await exchange.floor.record(forecast("f"))
    with pytest.raises(WorkflowFailureError) as failed:
        await exchange.resolve(datetime.now(UTC) + timedelta(days=1))
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.message == "as_of: must not be in the future"
    assert (await exchange.floor.states())["f"]["attempts"] == 0


# -- what engines send -------------------------------------------------------------------------------------------------

MESSAGE = {
    "forecast_id": "f",
    "book": "b",
    "producer_id": "ta",
    "asset": ADA,
    "horizon": "1h",
    "action": "long",
    "confidence": 0.7,
    "issued_at": "2026-03-02T00:00:00Z",
}


async def send(exchange: Exchange, workflow: str, message: Any, name: str | None = None) -> Any:
    return await asyncio.wait_for(
        exchange.client.execute_workflow(
            workflow, message, id=name or f"{workflow}/{uuid.uuid4().hex}", task_queue=TASK_QUEUE
        ),
        PATIENCE,
    )


async def test_an_engine_sends_a_forecast(exchange: Exchange) -> None:
    name = "forecast/b/f"
    assert await send(exchange, "ForecastWorkflow", MESSAGE, name) == {"forecast_id": "f", "already_recorded": False}
    assert await send(exchange, "ForecastWorkflow", MESSAGE, name) == {"forecast_id": "f", "already_recorded": True}
    with pytest.raises(WorkflowFailureError) as failed:
        await send(exchange, "ForecastWorkflow", MESSAGE | {"action": "short", "confidence": 0.6})
    assert isinstance(failed.value.cause, ApplicationError)
    assert failed.value.cause.type == "ForecastConflict"
    assert failed.value.cause.message.endswith("differing: action, confidence")
    assert len(await exchange.floor.events("forecast.v1")) == 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "confidence above 1": ({"confidence": 1.0000001}, "confidence"),
    "confidence below 0": ({"confidence": -0.1}, "confidence"),
    "confidence NaN": ({"confidence": "NaN"}, "confidence"),
    "no confidence": ({"confidence": None}, "confidence"),
    "unknown action": ({"action": "sideways"}, "action"),
    "horizon of nothing": ({"horizon": "0h"}, "horizon"),
    "horizon of an unknown unit": ({"horizon": "5x"}, "horizon"),
    "horizon of a fraction": ({"horizon": "1.5h"}, "horizon"),
    "horizon in other digits": ({"horizon": "١h"}, "horizon"),
    "over a year": ({"horizon": "366d"}, "horizon"),
    "over a year in minutes": ({"horizon": "525601m"}, "horizon"),
    "naive time": ({"issued_at": "2026-03-02T00:00:00"}, "issued_at"),
    "a number for a time": ({"issued_at": 1772409600}, "issued_at"),
    "reason of no abstention": ({"abstention_reason": "none"}, "abstention_reason"),
    "over-long id": ({"forecast_id": "x" * 201}, "forecast_id"),
    "control characters": ({"producer_id": "a\x00b"}, "producer_id"),
    "book that is none": ({"book": "my book"}, "book"),
    "in the future": (
        {"issued_at": "2999-01-01T00:00:00Z"},
        "issued_at: must not be more than 5 minutes in the future",
    ),
    "larger than a message": ({"added_later": "x" * 262_144}, "message: must be at most 256 KiB of JSON"),
}


async def test_what_is_refused_names_the_field_and_leaves_nothing(exchange: Exchange) -> None:
    async def reason(change: dict[str, Any]) -> str:
        with pytest.raises(WorkflowFailureError) as failed:
            await send(exchange, "ForecastWorkflow", MESSAGE | change)
        assert isinstance(failed.value.cause, ApplicationError), failed.value.cause
        return failed.value.cause.message

    reasons = await asyncio.gather(*(reason(change) for change, _ in REFUSED.values()))
    told = dict(zip(REFUSED, reasons, strict=True))
    assert {name: text for name, text in told.items() if REFUSED[name][1] not in text} == {}
    assert await exchange.floor.sql("SELECT * FROM forecasts") == []
    at_the_edge: list[dict[str, Any]] = [
        {"horizon": "365d"},
        {"confidence": 0},
        {"confidence": 1},
        {"horizon": "8760h"},
    ]
    for i, change in enumerate(at_the_edge):
        await send(exchange, "ForecastWorkflow", MESSAGE | change | {"forecast_id": f"edge-{i}"})
    assert len(await exchange.floor.states()) == len(at_the_edge)


async def test_a_heartbeat_counts_once_by_its_workflow_or_its_own_name(exchange: Exchange) -> None:
    beat = {"book": "b", "producer_id": "ta", "successes": 2}
    assert await send(exchange, "HeartbeatWorkflow", beat, "heartbeat/1") is True
    assert await send(exchange, "HeartbeatWorkflow", beat, "heartbeat/1") is False
    assert await send(exchange, "HeartbeatWorkflow", beat, "heartbeat/2") is True
    named = beat | {"heartbeat_id": "n", "failures": 1, "error": "timeout"}
    assert await send(exchange, "HeartbeatWorkflow", named) is True
    assert await send(exchange, "HeartbeatWorkflow", named) is False
    future = beat | {"at": "2999-01-01T00:00:00Z"}
    assert await send(exchange, "HeartbeatWorkflow", future, "heartbeat/" + "x" * 900) is True
    [row] = await exchange.floor.sql("SELECT * FROM producer_health")
    assert (row["successes"], row["failures"], row["last_error"]) == (8, 1, "timeout")
    assert row["last_success_at"] < datetime.now(UTC) + timedelta(minutes=1)
    for wrong in (beat | {"successes": 0}, beat | {"failures": -1}, beat | {"at": "2026-01-01T00:00:00"}):
        with pytest.raises(WorkflowFailureError):
            await send(exchange, "HeartbeatWorkflow", wrong)


# -- leaving shadow ----------------------------------------------------------------------------------------------------


async def proposing(exchange: Exchange, book: str, hours: float = 1.0) -> ApprovalRequest:
    policy = LearningPolicy(meta_approval_hours=hours)
    return await propose_leaving_shadow(exchange.client, exchange.floor.sessions, policy, book, {"shadow": None})


async def is_live(exchange: Exchange, book: str) -> bool:
    async with exchange.floor.sessions() as session:
        mode = await store.meta.mode(session, book)
    return mode is not None and bool(mode["live"])


async def test_an_operator_lets_the_meta_producer_speak(exchange: Exchange) -> None:
    """By signal or update; words that cannot be understood are on record and change nothing."""
    first, second = await asyncio.gather(proposing(exchange, "b"), proposing(exchange, "b"))
    assert first == second
    handle = exchange.client.get_workflow_handle(first.workflow_id)
    await handle.signal("aprove", {"operator": "ann"})
    await handle.signal("approve", "yes")
    await handle.signal("approve", {"operator": "  "})
    assert await handle.query("state") == "pending"
    await handle.signal("approve", {"operator": "ann", "note": "good enough"})
    assert await asyncio.wait_for(handle.result(), PATIENCE) == "approved"
    assert await is_live(exchange, "b")
    assert len(await exchange.floor.events("learning.approval.word_refused.v1")) == 3
    assert await back_to_shadow(exchange.floor.sessions, "b", "bob", "")

    rejected = await proposing(exchange, "b")
    handle = exchange.client.get_workflow_handle(rejected.workflow_id)
    answer = await handle.execute_update("decide", {"verdict": "reject", "operator": "cid", "note": ""})
    assert (answer["accepted"], answer["state"]) == (True, "rejected")
    assert await asyncio.wait_for(handle.result(), PATIENCE) == "rejected"
    assert not await is_live(exchange, "b")


async def test_a_proposal_expires(exchange: Exchange) -> None:
    request = await proposing(exchange, "c", hours=0.0003)
    handle = exchange.client.get_workflow_handle(request.workflow_id)
    assert await asyncio.wait_for(handle.result(), PATIENCE) == "expired"
    assert [e["verdict"] for e in await exchange.floor.events("learning.approval.expired.v1")] == [None]
    assert not await is_live(exchange, "c")
    assert (await proposing(exchange, "c")).id == "2"
