"""Convictions ahead, karma rebuilt, learners that fail: the other workflows of the position lifecycle."""

import asyncio
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from temporalio.client import Client

from closeloop.models.launches import TASK_QUEUE
from closeloop.models.positions import CloseReport, KarmaRebuildReport, KarmaRebuildRequest, PositionOutcome
from closeloop.store.database import Sessions
from tests.activities.attributing import attributed, karma_of_book, tally
from tests.activities.test_concurrency import sequential
from tests.closes import closed, message, series
from tests.store.databases import query
from tests.waiting import eventually
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
        30,
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
    """A learner that fails as often as it is told to, and counts."""

    def __init__(self, name: str, failures: int = 0) -> None:
        self.name = name
        self.told: list[str] = []
        self._failures = failures

    async def calls(self) -> int:
        return len(self.told)

    async def learn(self, session: AsyncSession, outcomes: Sequence[PositionOutcome]) -> None:
        self.told += [outcome.position_id for outcome in outcomes]
        if len(self.told) <= self._failures:
            raise ConnectionError("not yet")


async def test_a_failing_learner_is_retried_alone_and_never_undoes_the_attribution(
    book: str, client: Client, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    fine, flaky, also_fine = Counting("fine"), Counting("flaky", failures=2), Counting("also fine")
    queue = f"learners-{book}"
    worker = own_worker(client, engine, tmp_path, learners=[fine, flaky, also_fine], task_queue=queue)
    async with worker:
        handle = await client.start_workflow(
            "PositionCloseWorkflow",
            closed(book),
            id=f"position-close/{book}/p-1",
            task_queue=queue,
            result_type=CloseReport,
        )
        await eventually(flaky.calls, bool)
        assert (await tally(sessions, book)).attributions == 1, "it is committed before anything is learned"
        report = await asyncio.wait_for(handle.result(), 60)
    assert report.learned == ["fine", "also fine", "flaky"]
    assert report.not_learned == {}
    assert fine.told == also_fine.told == ["p-1"], "what worked is not told again"
    assert flaky.told == ["p-1"] * 3
    assert (await tally(sessions, book)).learning_events == 1
    assert await karma_of_book(sessions, book) == {"ta": (1.0, 1, 0, 1)}


async def test_learners_are_named_in_the_report_of_a_duplicate_too(
    book: str, client: Client, engine: AsyncEngine, sessions: Sessions, tmp_path: Path
) -> None:
    """The first run may have died between the attribution and its learners: the second one tells them."""
    await attributed(sessions, closed(book))
    learner = Counting("fine")
    queue = f"learners-{book}"
    async with own_worker(client, engine, tmp_path, learners=[learner], task_queue=queue):
        report = await client.execute_workflow(
            "PositionCloseWorkflow",
            closed(book),
            id=f"position-close/{book}/p-1",
            task_queue=queue,
            result_type=CloseReport,
        )
    assert (report.already_attributed, report.learned, learner.told) == (True, ["fine"], ["p-1"])
