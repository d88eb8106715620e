"""Research as a workflow: retried by Temporal, stopped by its budget, and nothing that trading waits for."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from temporalio.api.enums.v1 import EventType
from temporalio.client import (
    Client,
    ScheduleActionExecutionStartWorkflow,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.exceptions import ApplicationError

from closeloop.models.launches import LLM_TASK_QUEUE
from closeloop.models.positions import CloseReport
from closeloop.models.research import ResearchReport, ResearchRequest, Studied
from closeloop.models.search_attributes import LIFECYCLE
from closeloop.store.database import open_engine
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.schedules import apply_schedules
from closeloop.workers.wiring import build_llm_worker
from tests.activities.researching import RICH, Laboratory, laboratory
from tests.closes import message
from tests.gateways.messages_api import (
    HANG,
    KEY,
    OVERLOADED,
    READING,
    REFUSAL,
    Json,
    Reply,
    answer,
    error,
)
from tests.store.databases import query
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.own_worker import own_worker


def both_levels(request: Json) -> Reply:
    """Answers whatever is asked."""
    properties = request["output_config"]["format"]["schema"]["properties"]
    return answer(READING if "tags" in properties else {"report": "Nothing new.", "hypotheses": []})


@pytest.fixture
async def lab(dsn: str) -> AsyncIterator[Laboratory]:
    async with laboratory(dsn) as lab:
        lab.api.otherwise = both_levels
        yield lab


@asynccontextmanager
async def working(
    client: Client, lab: Laboratory, *, keyed: bool = True, budget: Decimal = RICH, queue: str | None = None
) -> AsyncIterator[str]:
    """A worker for research on a queue of its own; yields the queue."""
    engine = open_engine(lab.dsn, pool_size=4)
    assert LLM_TASK_QUEUE == "closeloop-llm"
    name = queue or f"llm-{uuid.uuid4().hex[:8]}"
    async with lab.model() as model:
        worker = build_llm_worker(
            client, engine, lab.policy, model=model if keyed else None, budget=budget, task_queue=name
        )
        async with worker:
            yield name
    await engine.dispose()


async def start(client: Client, queue: str, argument: Any = None) -> WorkflowHandle[Any, ResearchReport]:
    return await client.start_workflow(
        "LlmResearchWorkflow",
        ResearchRequest() if argument is None else argument,
        id=f"research/{uuid.uuid4().hex}",
        task_queue=queue,
        result_type=ResearchReport,
    )


async def run(client: Client, queue: str, argument: Any = None) -> ResearchReport:
    return await asyncio.wait_for((await start(client, queue, argument)).result(), PATIENCE)


async def test_every_book_is_read_and_looked_over(client: Client, lab: Laboratory) -> None:
    for book, count in (("one", 2), ("two", 1)):
        for i in range(count):
            await lab.close(f"p-{i}", book=book)
    async with working(client, lab) as queue:
        handle = await start(client, queue)
        report = await asyncio.wait_for(handle.result(), PATIENCE)
        assert report.books == {"one": Studied(trades=2), "two": Studied(trades=1)}
        described = await handle.describe()
        sentence = "research: 3 trades read, 0 hypotheses tested, 0 given up"
        assert await described.memo_value("outcome") == report.sentence == sentence
        assert described.typed_search_attributes.get(LIFECYCLE) == "research"
        assert await run(client, queue) == ResearchReport()
    assert [(r["book_id"], r["level"]) for r in await lab.rows()] == [
        ("one", 1),
        ("one", 1),
        ("one", 2),
        ("two", 1),
        ("two", 2),
    ]
    history = (await handle.fetch_history()).to_json()
    # Neither the key nor what was asked and answered: histories are read by many.
    assert KEY not in history
    assert READING["observation"] not in history


async def test_only_the_book_that_is_named(client: Client, lab: Laboratory) -> None:
    for book in ("one", "two"):
        await lab.close("p-1", book=book)
    async with working(client, lab) as queue:
        assert list((await run(client, queue, {"book": "two"})).books) == ["two"]


@pytest.mark.parametrize("reply", [error(429, "rate_limit_error", retry_after="1"), OVERLOADED])
async def test_a_model_that_is_busy_is_asked_again_by_temporal(reply: Reply, client: Client, lab: Laboratory) -> None:
    await lab.close("p-1")
    lab.api.says(reply)
    async with working(client, lab) as queue:
        handle = await start(client, queue)
        assert (await asyncio.wait_for(handle.result(), PATIENCE)).books["b"].trades == 1
    attempts = [
        event.activity_task_started_event_attributes.attempt
        async for event in handle.fetch_history_events()
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED
    ]
    assert attempts == [1, 2, 1]  # which books, read, look over
    assert [c["outcome"] for c in await lab.calls()] == ["busy", "answered", "answered"]


async def test_a_wrong_key_fails_visibly_and_is_in_no_history(client: Client, lab: Laboratory) -> None:
    await lab.close("p-1")
    lab.api.says(error(401, "authentication_error", f"invalid x-api-key {KEY}"))
    async with working(client, lab) as queue:
        handle = await start(client, queue)
        with pytest.raises(WorkflowFailureError) as caught:
            await asyncio.wait_for(handle.result(), PATIENCE)
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "ModelRejected"
    assert "HTTP 401: invalid x-api-key [key]" in str(caught.value.cause)
    assert "failed" in await (await handle.describe()).memo_value("outcome")
    assert KEY not in (await handle.fetch_history()).to_json()
    # Nothing is lost: the next run, with the right key, reads it.
    async with working(client, lab) as queue:
        assert (await run(client, queue)).books["b"].trades == 1


async def test_a_book_that_cannot_be_studied_is_reported_and_holds_up_no_other(client: Client, lab: Laboratory) -> None:
    for book in ("one", "three", "two"):
        await lab.close("p-1", book=book)
    await query(lab.sessions, "ALTER TABLE llm_learning ADD CONSTRAINT broken CHECK (book_id <> 'one')")
    async with working(client, lab, keyed=False) as queue:
        handle = await start(client, queue)
        report = await asyncio.wait_for(handle.result(), PATIENCE)
        assert report.books == {"three": Studied(trades=1), "two": Studied(trades=1)}
        assert list(report.failed) == ["one"]
        assert "broken" in report.failed["one"]
        assert f"one: {report.failed['one']}" in await (await handle.describe()).memo_value("outcome")
        with pytest.raises(WorkflowFailureError) as caught:  # asked for by name, its failure is the run's
            await run(client, queue, {"book": "one"})
    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "DatabaseRefused"


async def test_over_budget_it_stops_before_the_next_book(client: Client, lab: Laboratory) -> None:
    for book in ("one", "two"):
        await lab.close("p-1", book=book)
    async with working(client, lab, budget=Decimal("0.01")) as queue:
        report = await run(client, queue)
        assert list(report.books) == ["one"]
        assert report.books["one"].left == 1
        assert "today's budget of 0.01 USD is spent" in report.sentence
    assert lab.api.requests == []


async def test_what_is_given_up_holds_up_nothing(client: Client, lab: Laboratory) -> None:
    await lab.close("p-1")
    await lab.close("p-2")
    lab.api.says(REFUSAL, REFUSAL, REFUSAL)
    async with working(client, lab) as queue:
        assert (await run(client, queue)).books == {"b": Studied(trades=1, given_up=1)}


async def test_without_a_key_statistics_write(client: Client, lab: Laboratory) -> None:
    await lab.close("p-1")
    async with working(client, lab, keyed=False) as queue:
        assert (await run(client, queue)).books == {"b": Studied(trades=1)}
    assert {row["model"] for row in await lab.rows()} == {"statistics"}
    assert lab.api.requests == []


async def test_a_model_that_hangs_costs_trading_nothing(client: Client, lab: Laboratory, tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def never(request: Json) -> Reply:
        asked.set()
        return HANG

    lab.api.otherwise = never
    await lab.close("p-1")
    engine = open_engine(lab.dsn, pool_size=4)
    trading = f"trading-{uuid.uuid4().hex[:8]}"
    async with working(client, lab) as queue, own_worker(client, engine, tmp_path, task_queue=trading):
        handle = await start(client, queue)
        await asyncio.wait_for(asked.wait(), PATIENCE)
        for i in range(5):
            position = f"q-{i}"
            report: CloseReport = await asyncio.wait_for(
                client.execute_workflow(
                    "PositionCloseWorkflow",
                    message("b", position),
                    id=f"position-close/b/{position}-{trading}",
                    task_queue=trading,
                    result_type=CloseReport,
                ),
                PATIENCE,
            )
            assert not report.already_attributed
        await handle.terminate()
    await engine.dispose()


async def test_the_schedule_runs_it_on_its_own_queue(client: Client, lab: Laboratory) -> None:
    own = await own_namespace(client)
    await register_search_attributes(own)
    await apply_schedules(own)
    await lab.close("p-1")
    async with working(own, lab, queue=LLM_TASK_QUEUE):
        schedule = own.get_schedule_handle("closeloop/research")
        await schedule.trigger()

        async def runs() -> list[str]:
            actions = [recent.action for recent in (await schedule.describe()).info.recent_actions]
            return [a.workflow_id for a in actions if isinstance(a, ScheduleActionExecutionStartWorkflow)]

        [name] = await eventually(runs, bool)
        report = await asyncio.wait_for(own.get_workflow_handle(name, result_type=ResearchReport).result(), PATIENCE)
    assert report.books == {"b": Studied(trades=1)}


@pytest.mark.parametrize("argument", [{"book": "no such name!"}, {"as_of": "2026-01-01T00:00:00"}, [1], "x"])
async def test_a_message_of_another_shape_fails_at_once(argument: Any, client: Client, lab: Laboratory) -> None:
    async with working(client, lab) as queue:
        with pytest.raises(WorkflowFailureError):
            await run(client, queue, argument)
