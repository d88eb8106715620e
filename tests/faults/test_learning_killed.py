"""Workers are killed, with SIGKILL, while they learn and while they build lessons: nothing is lost, nothing doubled."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client

from closeloop import store
from closeloop.models.convictions import RecordedConviction
from closeloop.models.lessons import LessonReport, LessonRequest
from closeloop.models.market import Driver, Timeframe
from closeloop.models.market_contexts import MarketBackfillReport, MarketBackfillRequest
from closeloop.models.positions import CatchUpReport, CatchUpRequest, CloseReport
from closeloop.store.database import Sessions, open_engine, sessions_of
from tests.activities.attributing import attributed
from tests.activities.levering import STATES, contexts, give, naming
from tests.activities.patterning import AS_OF, EDGE, NAMES, config, facts, learn, owed, trades
from tests.closes import closed
from tests.faults.learning_worker import READY
from tests.services.markets import put_state
from tests.store.databases import backend, query, scratch_database, wait_until_it_blocks
from tests.waiting import PATIENCE
from tests.workers.processes import line, script


@pytest.fixture
async def own(dsn: str) -> AsyncIterator[tuple[str, Sessions]]:
    """A database of the test's own: no other worker learns from it."""
    async with scratch_database(dsn) as scratch:
        engine: AsyncEngine = open_engine(scratch, pool_size=8)
        try:
            yield scratch, sessions_of(engine)
        finally:
            await engine.dispose()


@asynccontextmanager
async def worker(
    client: Client, dsn: str, queue: str, folder: Path, mode: str = "lives"
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker process, killed at the end as everywhere else here."""
    address = client.service_client.config.target_host
    async with script("tests.faults.learning_worker", address, dsn, queue, str(folder), mode, home=folder) as process:
        assert await line(process) == READY
        yield process


@pytest.mark.parametrize("mode", ["before", "after"])
async def test_killed_while_a_close_is_learned_from(
    book: str, own: tuple[str, Sessions], client: Client, tmp_path: Path, mode: str
) -> None:
    """Before anything is committed, and after everything is, before the workflow hears of it."""
    dsn, sessions = own
    queue = f"learning-{book}"
    [position] = trades(book, 1)
    async with worker(client, dsn, queue, tmp_path, mode) as process:
        handle = await client.start_workflow(
            "PositionCloseWorkflow", position, id=f"killed/{book}", task_queue=queue, result_type=CloseReport
        )
        assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
    committed = 0 if mode == "before" else 1
    assert len(await query(sessions, "SELECT 1 FROM attributions")) == committed
    assert len(await facts(sessions, book)) == committed, "learned with the attribution, or not at all"
    async with worker(client, dsn, queue, tmp_path):
        report = await asyncio.wait_for(handle.result(), PATIENCE)
    assert (report.already_attributed, report.learned) == (False, NAMES)
    assert len(await query(sessions, "SELECT 1 FROM attributions")) == 1
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 1
    assert await owed(sessions, book) == []


async def test_what_a_learner_failed_on_is_taken_in_by_another_worker(
    book: str, own: tuple[str, Sessions], client: Client, tmp_path: Path
) -> None:
    dsn, sessions = own
    queue = f"learning-{book}"
    [position] = trades(book, 1)
    async with worker(client, dsn, queue, tmp_path, "fails"):
        report: CloseReport = await client.execute_workflow(
            "PositionCloseWorkflow", position, id=f"fails/{book}", task_queue=queue, result_type=CloseReport
        )
    assert list(report.not_learned) == ["timeframe-coefficients"]
    assert await owed(sessions, book) == [("timeframe-coefficients", position.position_id)]
    async with worker(client, dsn, queue, tmp_path):
        await client.execute_workflow(
            "CatchUpWorkflow", CatchUpRequest(), id=f"catch-up/{book}", task_queue=queue, result_type=CatchUpReport
        )
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 1
    assert await owed(sessions, book) == []


async def test_killed_while_lessons_are_written(
    book: str, own: tuple[str, Sessions], client: Client, tmp_path: Path
) -> None:
    """It has mined and waits to write, which it may not: then it is killed. The next worker writes version 1."""
    dsn, sessions = own
    queue = f"lessons-{book}"
    await learn(sessions, trades(book, 900, edge=EDGE))
    async with sessions() as holding:
        await store.lessons.hold(holding, book)
        async with worker(client, dsn, queue, tmp_path) as process:
            handle = await client.start_workflow(
                "LessonBuildingWorkflow",
                LessonRequest(book=book, as_of=AS_OF),
                id=f"killed/{queue}",
                task_queue=queue,
                result_type=LessonReport,
            )
            await wait_until_it_blocks(sessions, await backend(holding))
            process.kill()
            assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
        await holding.rollback()
    assert await query(sessions, "SELECT 1 FROM lesson_runs") == []
    async with worker(client, dsn, queue, tmp_path):
        report = await asyncio.wait_for(handle.result(), PATIENCE)
    assert [(built.version, built.actionable) for built in report.books] == [(1, 1)]
    assert len(await query(sessions, "SELECT 1 FROM lesson_runs")) == 1
    accepted = "SELECT 1 FROM learning_lessons WHERE status IN ('active', 'baseline')"
    assert len(await query(sessions, "SELECT 1 FROM lesson_history")) == len(await query(sessions, accepted))


@pytest.mark.parametrize("mode", ["before", "after"])
async def test_killed_while_a_close_is_filled_in_from_its_levers(
    book: str, own: tuple[str, Sessions], client: Client, tmp_path: Path, mode: str
) -> None:
    """With the attribution, or not at all; and once, with the same note."""
    dsn, sessions = own
    queue = f"levers-{book}"
    position = naming(book, await give(sessions, book, f"lv-{book}"), A_value=0.5, timeframe="1h")
    async with worker(client, dsn, queue, tmp_path, mode) as process:
        handle = await client.start_workflow(
            "PositionCloseWorkflow", position, id=f"killed/{queue}", task_queue=queue, result_type=CloseReport
        )
        assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
    assert len(await contexts(sessions, book)) == (0 if mode == "before" else 1)
    async with worker(client, dsn, queue, tmp_path):
        report = await asyncio.wait_for(handle.result(), PATIENCE)
    assert (report.already_attributed, report.learned) == (False, NAMES)
    assert [note.field for note in report.noted] == ["entry_context.A_value"]
    assert len(await contexts(sessions, book)) == 1
    [fact] = await facts(sessions, book)
    assert fact["scope"] == STATES | {"A_mode": "mid", "E_mode": "low", "timeframe": "1h"}


async def test_killed_while_contexts_are_filled_in(
    book: str, own: tuple[str, Sessions], client: Client, tmp_path: Path
) -> None:
    """It has written contexts and waits for the book's lessons to give actions their scope: then it is killed."""
    dsn, sessions = own
    queue = f"contexts-{book}"
    positions = trades(book, 3)
    await learn(sessions, positions)
    for position in positions:
        await put_state(sessions, Driver.btc, Timeframe.h1, position.opened_at, "S3")
    async with sessions() as holding:
        await store.lessons.hold(holding, book)
        async with worker(client, dsn, queue, tmp_path) as process:
            handle = await client.start_workflow(
                "MarketBackfillWorkflow",
                MarketBackfillRequest(book=book),
                id=f"killed/{queue}",
                task_queue=queue,
                result_type=MarketBackfillReport,
            )
            await wait_until_it_blocks(sessions, await backend(holding))
            process.kill()
            assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
        await holding.rollback()
    assert await contexts(sessions, book) == []
    assert all("btc_meso" not in row["scope"] for row in await facts(sessions, book))
    async with worker(client, dsn, queue, tmp_path):
        report = await asyncio.wait_for(handle.result(), PATIENCE)
    assert (report.closes, report.filled, report.actions) == (3, 3, 3)
    assert len(await contexts(sessions, book)) == 3
    assert [row["scope"]["btc_meso"] for row in await facts(sessions, book)] == ["S3"] * 3


@pytest.mark.parametrize("by", ["the conviction's workflow", "the catch-up"])
async def test_killed_while_a_conviction_that_came_late_is_taken_in(
    by: str, book: str, own: tuple[str, Sessions], client: Client, tmp_path: Path
) -> None:
    """It waits to complete the attribution: with the conviction, in one transaction, or with what is on record."""
    dsn, sessions = own
    queue = f"late-{book}"
    [position] = await attributed(sessions, closed(book, conviction={"conviction_id": "c-1"}))
    came = RecordedConviction.model_validate(
        {"book": book, "symbol": "BTC/USDT", "conviction_id": "c-1", "cycle_id": "c", "domain_scores": {"onchain": 0.5}}
    )
    if by == "the catch-up":
        async with sessions.begin() as session:
            await store.convictions.record_ahead(session, [came])
    name, message = ("CatchUpWorkflow", CatchUpRequest()) if by == "the catch-up" else ("ConvictionWorkflow", came)
    async with sessions() as holding:
        await holding.execute(text("SELECT 1 FROM attributions FOR UPDATE"))
        async with worker(client, dsn, queue, tmp_path) as process:
            handle = await client.start_workflow(name, message, id=queue, task_queue=queue)
            await wait_until_it_blocks(sessions, await backend(holding))
            process.kill()
            assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
        await holding.rollback()
    assert await query(sessions, "SELECT 1 FROM events WHERE type = 'attribution.completed.v1'") == []
    assert (await query(sessions, "SELECT outcome FROM conviction_scores")) in ([], [{"outcome": None}])
    async with worker(client, dsn, queue, tmp_path):
        await asyncio.wait_for(handle.result(), PATIENCE)
    [row] = await query(sessions, "SELECT conviction_status, domain_scores_at_entry FROM attributions")
    assert dict(row) == {"conviction_status": "recorded", "domain_scores_at_entry": {"onchain": 0.5}}
    assert [dict(row) for row in await query(sessions, "SELECT outcome, outcome_ts FROM conviction_scores")] == [
        {"outcome": 1, "outcome_ts": position.outcome.closed_at}
    ]
    assert len(await query(sessions, "SELECT 1 FROM events WHERE type = 'attribution.completed.v1'")) == 1
