"""Record workflow histories for the replay tests: ``python -m tests.record_histories``. Existing files are kept."""

import asyncio
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from temporalio.client import Client, WorkflowFailureError

from closeloop import store
from closeloop.activities.attribution import attribute
from closeloop.gateways.candles import candle
from closeloop.gateways.language_model import AnthropicModel
from closeloop.models.approvals import ApprovalRequest
from closeloop.models.corpus import CorpusRequest
from closeloop.models.decisions import FillRequest
from closeloop.models.forecasts import ResolutionContinuation, ResolutionRequest
from closeloop.models.imports import ImportRequest
from closeloop.models.launches import LLM_TASK_QUEUE, TASK_QUEUE, received_closes
from closeloop.models.lessons import LessonRequest
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_contexts import MarketBackfillRequest
from closeloop.models.market_runs import MarketRequest
from closeloop.models.overrides import OverrideRequest
from closeloop.models.periods import DueWorkReport, DueWorkRequest, PeriodicTask
from closeloop.models.policy import LearningPolicy
from closeloop.models.positions import CatchUpRequest, KarmaRebuildRequest, PositionKey, PositionOutcome
from closeloop.models.prices import PricesFetched
from closeloop.models.producers import Heartbeat
from closeloop.models.research import ResearchRequest
from closeloop.models.weights import CycleRequest
from closeloop.services.positions import start_close
from closeloop.store.database import Sessions, sessions_of
from closeloop.store.imports import StagedRow
from closeloop.workers.settings import Settings
from closeloop.workers.stack.supervisor import LocalStack
from closeloop.workers.telemetry import Telemetry
from closeloop.workers.wiring import (
    build_llm_worker,
    build_market_worker,
    build_worker,
    connect_temporal,
    learners_of,
    open_database,
)
from tests.activities.forecasting import MINUTE, T0, abstention, forecast
from tests.activities.overriding import mined, overrides
from tests.activities.patterning import AS_OF, FIRST, trades
from tests.activities.researching import PRICES
from tests.activities.test_prices import MARKETS
from tests.closes import closed, message, series
from tests.conftest import free_ports
from tests.gateways.binance_server import BinanceServer
from tests.gateways.coingecko_server import CoinGeckoServer
from tests.gateways.messages_api import KEY, RATE_LIMIT, answer, error, messages_api
from tests.services.markets import put_state

FOLDER = Path(__file__).parent / "histories"
AFTER_AN_HOUR = T0 + timedelta(minutes=66)


class FailsOnce:
    """A learner that works the second time."""

    name = "fails-once"

    def __init__(self) -> None:
        self.calls = 0

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        self.calls += 1
        if self.calls == 1:
            raise RuntimeError("not yet")


async def record(client: Client, sessions: Sessions, stack: LocalStack) -> None:
    """Run what the lifecycles can do, a file each."""
    await save(client, await start_close(client, closed("r", "first")), "PositionCloseWorkflow.not-learned")
    await save(client, await start_close(client, closed("r", "summary")), "PositionCloseWorkflow.with-attributes")
    by_name = await client.start_workflow(
        "PositionCloseWorkflow", message("r", "by-name"), id="position-close/r/by-name", task_queue=TASK_QUEUE
    )
    await save(client, by_name, "PositionCloseWorkflow.by-name")
    refused = await start_close(client, closed("r", "summary", realized_pnl="1"))
    await save(client, refused, "PositionCloseWorkflow.refused")

    postgres = next(part.child for part in stack._parts if part.name == "postgres")
    await postgres.stop()  # the supervisor starts it again
    await save(
        client,
        await start_close(client, closed("r", "away")),
        "PositionCloseWorkflow.while-the-database-was-away",
    )

    conviction = {"book": "r", "conviction_id": "x", "cycle_id": "y", "symbol": "X", "domain_scores": {"onchain": 0.5}}
    ahead = await client.start_workflow("ConvictionWorkflow", conviction, id="conviction/r/x", task_queue=TASK_QUEUE)
    await save(client, ahead, "ConvictionWorkflow.new")

    rows = [StagedRow(i, i, p.model_dump_json()) for i, p in enumerate(series("r-bulk", 30))]
    async with sessions.begin() as session:
        await store.imports.create(session, "recorded", "a test")
        await store.imports.stage(session, "recorded", [*rows, StagedRow(30, 30, "{not json")], [])
    backfill = await client.start_workflow(
        "BackfillWorkflow", ImportRequest(import_id="recorded"), id="import/recorded", task_queue=TASK_QUEUE
    )
    await save(client, backfill, "BackfillWorkflow.one-book")

    rebuild = await client.start_workflow(
        "KarmaRebuildWorkflow", KarmaRebuildRequest(), id="karma-rebuild/all/recorded", task_queue=TASK_QUEUE
    )
    await save(client, rebuild, "KarmaRebuildWorkflow.all-books")

    corpus = await client.start_workflow("CorpusWorkflow", CorpusRequest(), id="corpus/recorded", task_queue=TASK_QUEUE)
    await save(client, corpus, "CorpusWorkflow.empty")
    for task, work in (
        (PeriodicTask.corpus, "CorpusWorkflow.of-a-day"),
        (PeriodicTask.lessons, "LessonBuildingWorkflow.of-six-hours"),
        (PeriodicTask.retention, "RetentionWorkflow.with-levers"),
    ):
        due = await client.start_workflow(
            "DueWorkWorkflow",
            DueWorkRequest(task=task),
            id=f"due/{task}",
            task_queue=TASK_QUEUE,
            result_type=DueWorkReport,
        )
        await save(client, due, f"DueWorkWorkflow.{task}")
        started = (await due.result()).workflow_id
        assert started is not None, "somebody asked for it"
        await save(client, client.get_workflow_handle(started), work)

    await record_weights(client, sessions)
    await record_patterns(client, sessions)

    async with sessions.begin() as session:
        await session.execute(
            text(
                "INSERT INTO positions (book_id, position_id, symbol, direction, opened_at, closed_at, entry_price, "
                "exit_price, size, realized_pnl) "
                "VALUES ('r', 'row', 'X', 'short', '2026-01-01', '2026-01-02', 1, 1, 1, 2)"
            )
        )
    async with sessions.begin() as session:
        received = {position.key: position for position in series("r-received", 3)}
        await store.positions.record(session, received, attributed=False)
    launch = received_closes()
    together = await client.start_workflow(
        launch.workflow, launch.message, id="received-closes/recorded", task_queue=TASK_QUEUE, start_signal="more"
    )
    await save(client, together, "ReceivedClosesWorkflow.a-few")
    filled = await client.start_workflow(
        "DecisionOutcomesWorkflow", FillRequest(as_of=FIRST), id="decision-outcomes/recorded", task_queue=TASK_QUEUE
    )
    await save(client, filled, "DecisionOutcomesWorkflow.nothing-due")

    catch_up = await client.start_workflow(
        "CatchUpWorkflow", CatchUpRequest(), id="catch-up/recorded", task_queue=TASK_QUEUE
    )
    await save(client, catch_up, "CatchUpWorkflow.one-found")


async def record_forecasts(client: Client, engine: AsyncEngine) -> None:
    """Forecasts and a heartbeat as an engine sends them; resolutions with a source, without one, and going on."""

    async def start(workflow: str, message: Any, name: str) -> Any:
        return await client.start_workflow(workflow, message, id=f"recorded/{name}", task_queue=TASK_QUEUE)

    said = forecast("f")
    await save(client, await start("ForecastWorkflow", said, "forecast"), "ForecastWorkflow.new")
    other = forecast("f", action="short")
    await save(client, await start("ForecastWorkflow", other, "forecast-refused"), "ForecastWorkflow.refused")
    beat = Heartbeat(book="b", producer_id="ta", failures=1, error="timeout")
    await save(client, await start("HeartbeatWorkflow", beat, "heartbeat"), "HeartbeatWorkflow.counted")
    async with sessions_of(engine).begin() as session:
        await store.forecasts.record(session, [abstention("silent"), forecast("unknown", asset="NOBODY/BTC")])
    request = ResolutionRequest(as_of=AFTER_AN_HOUR)
    silent = await start("ForecastResolutionWorkflow", request, "resolution-nobody-asks")
    await save(client, silent, "ForecastResolutionWorkflow.nobody-asks-the-source")
    with BinanceServer() as server:
        server.add("ADA/BTC", MARKETS["ADA/BTC"], 300)
        async with build_market_worker(
            client, engine, LearningPolicy(), binance_url=server.url, coingecko_url=server.url
        ):
            request = ResolutionRequest(as_of=AFTER_AN_HOUR, ask_again=True)
            asked = await start("ForecastResolutionWorkflow", request, "resolution")
            await save(client, asked, "ForecastResolutionWorkflow.asked-the-source")
    stopped = ResolutionContinuation(
        resolution_id="r", after=(T0, "a", "f"), left=1, fetched=PricesFetched(silence="away")
    )
    request = ResolutionRequest(as_of=AFTER_AN_HOUR, continued=stopped)
    going_on = await start("ForecastResolutionWorkflow", request, "resolution-going-on")
    await save(client, going_on, "ForecastResolutionWorkflow.going-on")
    meta = client.get_workflow_handle(f"meta-forecast/{AFTER_AN_HOUR:%Y-%m-%dT%H:%M:%S.%fZ}")
    await save(client, meta, "MetaForecastWorkflow.insufficient-data")


async def record_market(client: Client, engine: AsyncEngine) -> None:
    """Runs of the market: nobody asks its sources, and they are asked and there is much to catch up."""

    async def start(timeframe: Timeframe, name: str) -> Any:
        request = MarketRequest(timeframe=timeframe)
        return await client.start_workflow("MarketWorkflow", request, id=f"recorded/{name}", task_queue=TASK_QUEUE)

    await save(client, await start(Timeframe.d1, "market-nobody-asks"), "MarketWorkflow.nobody-asks-the-sources")
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    with BinanceServer() as server, CoinGeckoServer() as gecko:
        begun = now - timedelta(hours=3)
        server.add("BTC/USDT", [candle(begun + i * MINUTE, "1", "1", "1", "1", "1") for i in range(240)], 60)
        async with build_market_worker(
            client,
            engine,
            LearningPolicy(),
            binance_url=server.url,
            coingecko_url=gecko.url,
            market="sources",
            history=timedelta(hours=2),
        ):
            await save(client, await start(Timeframe.m1, "market"), "MarketWorkflow.caught-up")


async def record_weights(client: Client, sessions: Sessions) -> None:
    """Cycles of a book that is old enough: approved by update and reverted by signal, expired, nothing to propose."""
    now = datetime(2026, 6, 1, tzinfo=UTC)
    closes = [
        closed(
            "w",
            f"w-{i}",
            opened_at=(now - timedelta(days=120 if i == 0 else i % 29, hours=5)).isoformat(),
            closed_at=(now - timedelta(days=120 if i == 0 else i % 29, hours=2)).isoformat(),
            realized_pnl="5" if i % 2 else "-5",
            conviction={"conviction_id": f"w-{i}", "domain_scores": {"onchain": 0.9 if i % 2 else -0.2 * (i % 3)}},
        )
        for i in range(60)
    ]
    async with sessions.begin() as session:
        await attribute(session, closes, LearningPolicy(), datetime.now(UTC), "recording")

    async def start(as_of: datetime, **more: Any) -> Any:
        request = CycleRequest(book="w", as_of=as_of, **more)
        cadence = as_of.isocalendar()
        name = f"weights/w/{cadence.year}-W{cadence.week:02}"
        handle = await client.start_workflow("WeightAdjustmentWorkflow", request, id=name, task_queue=TASK_QUEUE)
        while (await handle.query("cycle"))["state"] is None:  # noqa: ASYNC110 (a query is all there is)
            await asyncio.sleep(0.1)
        return handle

    first = await start(now)
    await first.signal("approve", "not an object")
    await first.execute_update("decide", {"verdict": "approve", "operator": "ann", "note": "ok"})
    second = await start(now + timedelta(weeks=1), deadline=timedelta(seconds=3))
    await save(client, first, "WeightAdjustmentWorkflow.inbox-approved-and-watched")
    await save(client, second, "WeightAdjustmentWorkflow.inbox-reminded-and-expired")
    third = await start(now + timedelta(weeks=2))
    await third.signal("approve", {"operator": "ann", "note": "ok"})
    await third.signal("revert", {"operator": "ann", "note": "worse"})
    await save(client, third, "WeightAdjustmentWorkflow.inbox-approved-and-reverted")
    long = CycleRequest(book="w", as_of=now + timedelta(weeks=3), history_events=50)
    await _record_long_life(client, "WeightAdjustmentWorkflow", long, "weights/w/2026-W26")
    nothing = await start(now + timedelta(weeks=20))
    await save(client, nothing, "WeightAdjustmentWorkflow.inbox-insufficient-data")
    for workflow, name in (("WeightDispatchWorkflow", "due-by-the-page"), ("OverlayWatchWorkflow", "what-waits")):
        handle = await client.start_workflow(workflow, id=f"recorded/{workflow}", task_queue=TASK_QUEUE)
        await save(client, handle, f"{workflow}.{name}")


async def record_research(client: Client, engine: AsyncEngine) -> None:
    """By statistics; by a model that is busy once; by one that rejects the key; over budget; where one book fails."""
    policy = LearningPolicy()
    async with sessions_of(engine).begin() as session:
        for book in ("statistics", "busy", "rejected", "budget"):
            await attribute(session, [closed(book, "live")], policy, datetime.now(UTC), str(uuid.uuid4()))
    async with messages_api() as api:
        model = AnthropicModel(name="a-model", key=KEY, base_url=api.url, timeout=30, prices=PRICES)
        for name, asked, budget, replies in (
            ("statistics", None, 0, []),
            ("busy", model, 1_000_000, [RATE_LIMIT, answer(), answer({"report": "r", "hypotheses": []})]),
            ("rejected", model, 1_000_000, [error(401, "authentication_error")]),
            ("budget", model, 0, []),
        ):
            api.says(*replies)
            async with build_llm_worker(client, engine, policy, model=asked, budget=Decimal(budget)):
                request = ResearchRequest(book=name)
                handle = await client.start_workflow(
                    "LlmResearchWorkflow", request, id=f"research/{name}/recorded", task_queue=LLM_TASK_QUEUE
                )
                await save(client, handle, f"LlmResearchWorkflow.{name}")
        await model.close()
    async with sessions_of(engine).begin() as session:
        for book in ("broken", "sound"):
            await attribute(session, [closed(book, "live")], policy, datetime.now(UTC), str(uuid.uuid4()))
        await session.execute(text("ALTER TABLE llm_learning ADD CONSTRAINT broken CHECK (book_id <> 'broken')"))
    async with build_llm_worker(client, engine, policy, model=None, budget=Decimal(0)):
        handle = await client.start_workflow(
            "LlmResearchWorkflow", ResearchRequest(), id="research/all/recorded", task_queue=LLM_TASK_QUEUE
        )
        await save(client, handle, "LlmResearchWorkflow.one-book-fails")


async def record_patterns(client: Client, sessions: Sessions) -> None:
    """A close that is learned from at once, an import and a catch-up that learn, lessons, overrides, an operator."""
    close = await start_close(client, closed("p", "learned"))
    await save(client, close, "PositionCloseWorkflow.learned-with-its-attribution")
    rows = [StagedRow(i, i, p.model_dump_json()) for i, p in enumerate(trades("p-bulk", 80))]
    async with sessions.begin() as session:
        await store.imports.create(session, "recorded-patterns", "a test")
        await store.imports.stage(session, "recorded-patterns", rows, [])
    await put_state(sessions, Driver.btc, Timeframe.h1, FIRST, "S3")
    started: tuple[tuple[str, Any, str], ...] = (
        ("BackfillWorkflow", ImportRequest(import_id="recorded-patterns"), "learned"),
        ("CatchUpWorkflow", CatchUpRequest(), "learned"),
        ("LessonBuildingWorkflow", LessonRequest(book="p-bulk", as_of=AS_OF), "one-book"),
        ("LessonBuildingWorkflow", LessonRequest(as_of=AS_OF), "every-book"),
        ("MarketBackfillWorkflow", MarketBackfillRequest(book="p-bulk"), "one-book"),
    )
    for workflow, request, case in started:
        handle = await client.start_workflow(workflow, request, id=f"recorded/{workflow}/{case}", task_queue=TASK_QUEUE)
        await save(client, handle, f"{workflow}.{case}")
    for verdict in ("approve", "reject"):
        approval = await _ask(client, sessions, f"o-{verdict}")
        await approval.signal("approve", "not an object")
        await approval.signal("look")
        await approval.execute_update("decide", {"verdict": verdict, "operator": "ann", "note": "ok"})
        await save(client, approval, f"ApprovalWorkflow.inbox-{verdict}")
    waiting = await _ask(client, sessions, "o-expired")
    key = {"kind": "override", "book": "o-expired", "id": waiting.id.rsplit("/", 1)[1]}
    request = ApprovalRequest.model_validate(key | {"proposal": "x", "deadline": datetime.now(UTC)})
    late = await client.start_workflow(
        "ApprovalWorkflow",
        request,
        id="recorded/late",
        task_queue=TASK_QUEUE,
        start_signal="approve",
        start_signal_args=[{"operator": "ann", "note": "a word that reaches the server after the deadline"}],
    )
    await save(client, late, "ApprovalWorkflow.inbox-late-word")
    asked = await _ask(client, sessions, "o-long")
    named = {"kind": "override", "book": "o-long", "id": asked.id.rsplit("/", 1)[1], "proposal": "x"}
    waits = {"deadline": datetime.now(UTC) + timedelta(days=1), "history_events": 50}
    long = ApprovalRequest.model_validate(named | waits)
    await _record_long_life(client, "ApprovalWorkflow", long, "recorded/long-approval")


async def _record_long_life(client: Client, workflow: str, request: Any, name: str) -> None:
    """A run that ends for the length of its history, and the one after it."""
    handle = await client.start_workflow(workflow, request, id=name, task_queue=TASK_QUEUE)
    await asyncio.gather(*(handle.signal("reject", {"operator": " ", "note": str(i)}) for i in range(30)))
    await handle.signal("approve", "not an object")
    await handle.execute_update("decide", {"verdict": "reject", "operator": "ann", "note": "no"})
    await handle.result()
    first = client.get_workflow_handle(name, run_id=handle.first_execution_run_id)
    await _write(first, f"{workflow}.inbox-goes-on")
    await _write(client.get_workflow_handle(name), f"{workflow}.inbox-went-on")


async def _ask(client: Client, sessions: Sessions, book: str) -> Any:
    await mined(sessions, book, {"effect": 2.0})
    request = OverrideRequest(book=book, as_of=AS_OF)
    handle = await client.start_workflow(
        "OverrideMaterializationWorkflow", request, id=f"recorded/overrides/{book}", task_queue=TASK_QUEUE
    )
    await save(client, handle, "OverrideMaterializationWorkflow.one-book")
    [view] = await overrides(sessions, book)
    return client.get_workflow_handle(f"override/{book}/{view.override_id}")


async def save(client: Client, handle: Any, name: str) -> None:
    """Wait for the end and write the history, without stack traces, which name the folders of one machine."""
    try:
        await handle.result()
    except WorkflowFailureError:
        print(f"{name}: failed, as it may")
    await _write(handle, name)


async def _write(handle: Any, name: str) -> None:
    path = FOLDER / f"{name}.json"
    if path.exists():
        print(f"{name}: kept")
        return
    history = json.loads((await handle.fetch_history()).to_json())
    path.write_text(json.dumps(_without_places(history), indent=1) + "\n")
    print(f"{name}: recorded")


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "closeloop" if key == "identity" else _without_places(item)
            for key, item in value.items()
            if key != "stackTrace"
        }
    return [_without_places(item) for item in value] if isinstance(value, list) else value


async def main() -> None:
    """A stack of its own, a worker with a learner that fails once."""
    home = Path(tempfile.mkdtemp(prefix="closeloop-record-"))
    home.chmod(0o755)
    settings = Settings.load(home).model_copy(update={"database_url": None})
    stack = LocalStack(settings, free_ports(), print, with_worker=False, with_api=False)
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(stack.run(stop, ready))
    await ready.wait()
    client = await connect_temporal(settings, Telemetry(settings))
    engine = open_database(settings)
    try:
        async with build_worker(
            client,
            engine,
            LearningPolicy(),
            concurrency=8,
            overlay_folder=home,
            corpus_folder=home,
            archive_folder=home,
            learners=[FailsOnce(), *learners_of(LearningPolicy())],
        ):
            await record(client, sessions_of(engine), stack)
            await record_forecasts(client, engine)
            await record_market(client, engine)
        await record_research(client, engine)
    finally:
        await engine.dispose()
        stop.set()
        await running
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    asyncio.run(main())
    os._exit(0)
