"""Convictions ahead, karma rebuilt, learners that fail: the other workflows of the position lifecycle."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from asyncpg.exceptions import DeadlockDetectedError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from temporalio.client import Client

from closeloop.models.launches import TASK_QUEUE
from closeloop.models.positions import (
    CloseReport,
    KarmaRebuildReport,
    KarmaRebuildRequest,
    PositionKey,
    PositionOutcome,
)
from closeloop.store.database import Sessions
from tests.activities.attributing import Tally, attributed, karma_of_book, tally
from tests.activities.patterning import attribute_all
from tests.activities.test_concurrency import sequential
from tests.closes import closed, message, series
from tests.store.databases import query
from tests.waiting import PATIENCE
from tests.workers.own_worker import own_worker

T = TypeVar("T")


async def run(client: Client, workflow: str, argument: object, result_type: type[T]) -> T:
    return await asyncio.wait_for(
        client.execute_workflow(
            workflow,
            argument,
            id=f"{workflow}/{uuid.uuid4().hex}",
            task_queue=TASK_QUEUE,
            result_type=result_type,
        ),
        PATIENCE,
    )


@pytest.mark.usefixtures("worker")
async def test_a_conviction_recorded_ahead_scores_the_close_that_names_it(
    book: str, client: Client, sessions: Sessions
) -> None:
    conviction = {
        "book": book,
        "conviction_id": "c-1",
        "cycle_id": "cycle-1",
        "symbol": "BTC/USDT",
        "magnitude": 7.25,
        "domain_scores": {"onchain": -0.75},
    }
    assert await run(client, "ConvictionWorkflow", conviction, bool) is True
    assert await run(client, "ConvictionWorkflow", conviction | {"domain_scores": {"onchain": 1.0}}, bool) is False
    close = message(book, conviction={"conviction_id": "c-1"}, realized_pnl="-4")
    report = await run(client, "PositionCloseWorkflow", close, CloseReport)
    assert report.outcome.conviction_status == "recorded"
    assert report.outcome.domain_scores_at_entry == {"onchain": -0.75}
    [row] = await query(sessions, "SELECT * FROM conviction_scores WHERE book_id = :book", book=book)
    assert (row["magnitude"], row["outcome"], row["outcome_ts"]) == (7.25, -1, report.outcome.closed_at)


@pytest.mark.usefixtures("worker")
async def test_karma_is_rebuilt_by_its_workflow(book: str, client: Client, sessions: Sessions) -> None:
    positions = series(book, 15)
    for position in reversed(positions):
        await attributed(sessions, position)
    assert await karma_of_book(sessions, book) != sequential(positions)
    report = await run(client, "KarmaRebuildWorkflow", KarmaRebuildRequest(book=book), KarmaRebuildReport)
    assert report.producers == {book: 2}
    assert await karma_of_book(sessions, book) == sequential(positions)


@pytest.mark.usefixtures("worker")
async def test_karma_of_every_book_is_rebuilt_where_none_is_named(
    book: str, client: Client, sessions: Sessions
) -> None:
    books = {f"{book}-{name}": series(f"{book}-{name}", 9) for name in ("a", "b")}
    for positions in books.values():
        for position in reversed(positions):
            await attributed(sessions, position)
    report = await run(client, "KarmaRebuildWorkflow", {}, KarmaRebuildReport)
    for name, positions in books.items():
        assert report.producers[name] == 2
        assert await karma_of_book(sessions, name) == sequential(positions)


class Counting:
    """A learner that fails its first ``failures`` times, and counts the outcomes that it is given."""

    def __init__(self, name: str, failures: int = 0, error: Exception | None = None) -> None:
        self.name = name
        self.told: list[str] = []
        self._failures = failures
        self._error = error or RuntimeError("not yet")

    async def take_in(
        self, session: AsyncSession, outcomes: Sequence[PositionOutcome], contexts: Mapping[PositionKey, Any]
    ) -> None:
        self.told += [outcome.position_id for outcome in outcomes]
        if len(self.told) <= self._failures:
            raise self._error


async def test_a_failing_learner_gets_the_close_again_from_the_catch_up_and_never_undoes_the_attribution(
    book: str, client: Client, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    fine, flaky = Counting(f"fine-{book}"), Counting(f"flaky-{book}", failures=1)
    queue = f"learners-{book}"
    async with own_worker(client, engine, tmp_path, learners=[flaky, fine], task_queue=queue):
        handle = await client.start_workflow(
            "PositionCloseWorkflow",
            closed(book),
            id=f"position-close/{book}/p-1",
            task_queue=queue,
            result_type=CloseReport,
        )
        report = await asyncio.wait_for(handle.result(), PATIENCE)
        assert report.learned == [fine.name]
        assert report.not_learned == {flaky.name: "RuntimeError: not yet"}
        assert (await (await handle.describe()).memo())["not_learned"] == f"{flaky.name}: RuntimeError: not yet"
        await client.execute_workflow("CatchUpWorkflow", {}, id=f"catch-up/{book}", task_queue=queue)
    assert fine.told == ["p-1"], "what worked is not told again"
    assert flaky.told == ["p-1"] * 2
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}


# As SQLAlchemy raises it: of the whole transaction, whoever was in the middle of a statement.
DEADLOCK = DBAPIError("SELECT 1", {}, DeadlockDetectedError("deadlock detected"))


async def test_where_the_database_fails_a_learner_for_a_while_the_whole_is_tried_again(
    book: str, client: Client, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    fine, cut_off = Counting("fine"), Counting("cut off", failures=2, error=DEADLOCK)
    queue = f"learners-{book}"
    async with own_worker(client, engine, tmp_path, learners=[fine, cut_off], task_queue=queue):
        report = await asyncio.wait_for(
            client.execute_workflow(
                "PositionCloseWorkflow",
                closed(book),
                id=f"position-close/{book}/p-1",
                task_queue=queue,
                result_type=CloseReport,
            ),
            PATIENCE,
        )
    assert (report.already_attributed, report.learned, report.not_learned) == (False, ["fine", "cut off"], {})
    assert fine.told == cut_off.told == ["p-1"] * 3
    assert await tally(sessions, book) == Tally(1, 1, 1, 1, convictions=1)
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}


async def test_a_duplicate_is_learned_by_the_learner_that_failed_on_it(
    book: str, client: Client, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    learner, other = Counting(f"owing-{book}"), Counting("has learned it")
    await attribute_all(sessions, [closed(book)], [learner.name])
    queue = f"learners-{book}"
    async with own_worker(client, engine, tmp_path, learners=[learner, other], task_queue=queue):
        report = await client.execute_workflow(
            "PositionCloseWorkflow",
            closed(book),
            id=f"position-close/{book}/p-1",
            task_queue=queue,
            result_type=CloseReport,
        )
    assert (report.already_attributed, report.learned) == (True, [learner.name, other.name])
    assert (learner.told, other.told) == (["p-1"], [])
