"""What waits for months goes on in new runs: after 10,000 events, most of them wrong words, it decides as it should.

Every word is on record once, and no run's history grows far beyond its bound.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowHandle
from temporalio.common import WorkflowIDConflictPolicy

from closeloop.models.approvals import MOST_EVENTS, ApprovalAnswer, ApprovalRequest, ApprovalState
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.weights import CycleRequest, CycleState, OpenedCycle
from closeloop.store.database import Sessions
from tests.activities.overriding import materialize, mined, overrides
from tests.activities.patterning import events_of
from tests.activities.weighing import AS_OF, Desk, desk_on, history, learn_from
from tests.store.databases import query
from tests.waiting import PATIENCE, eventually

EVENTS = 10_000  # of all runs of one workflow
WORDS = 4500  # that are sent, and make at least as many events
AT_ONCE = 250
SLACK = 3 * AT_ONCE  # what may reach a run between the look at its length and its end, with its tasks

Handle = WorkflowHandle[Any, Any]


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk_on(dsn, client, tmp_path_factory.mktemp("overlays")) as desk:
        yield desk


async def send_words(
    handle: Handle, verdict: str, number: int = WORDS, on_record: Callable[[], Awaitable[int]] | None = None
) -> int:
    """Send so many signals; returns how many of them have to be on record as refused.

    With ``on_record``, how many are, a part is sent once the part before is: a run cannot end while words go on coming
    faster than it replays, and Temporal itself then stops at 10,000 signals a run. Of twenty, sixteen are of the wrong
    shape, one has no meaning, two ask to look at the record, and one is a decision that the record refuses.
    """

    async def send(i: int) -> bool:
        match i % 20:
            case 0 | 1:
                await handle.signal("look")
                return False
            case 2:
                await handle.signal("aprove", {"operator": "ann"})
            case 3:
                await handle.signal(verdict, {"operator": " ", "note": f"number {i}"})
            case _:
                await handle.signal("approve", f"not an object, {i}")
        return True

    refused = 0
    for start in range(0, number, AT_ONCE):
        refused += sum(await asyncio.gather(*(send(i) for i in range(start, min(start + AT_ONCE, number)))))
        if on_record is not None:
            assert await eventually(on_record, lambda told, due=refused: told >= due) == refused  # type: ignore[misc]
    return refused


async def lengths(client: Client, workflow_id: str) -> list[int]:
    """The lengths of the histories of all its runs, once every one is listed."""
    handle = client.get_workflow_handle(workflow_id)
    current = (await handle.describe()).run_id

    async def listed() -> dict[str, int]:
        found = client.list_workflows(f"WorkflowId = '{workflow_id}'")
        return {run.run_id: run.history_length async for run in found}

    runs = await eventually(listed, lambda runs: current in runs)
    described = [await client.get_workflow_handle(workflow_id, run_id=run).describe() for run in runs]
    return [run.history_length for run in described]


async def decided(handle: Handle, verdict: str) -> ApprovalAnswer:
    word = {"verdict": verdict, "operator": "bob"}
    answer: ApprovalAnswer = await asyncio.wait_for(
        handle.execute_update("decide", word, result_type=ApprovalAnswer), PATIENCE
    )
    return answer


async def asked(book: str, client: Client, sessions: Sessions, **changes: Any) -> Handle:
    """An approval of an override that waits."""
    await mined(sessions, book, {"effect": 2.0})
    await materialize(sessions, client, book)
    [view] = await overrides(sessions, book)
    request = ApprovalRequest.model_validate(
        {
            "kind": "override",
            "book": book,
            "id": view.override_id,
            "proposal": "x",
            "deadline": datetime.now(UTC) + timedelta(days=60),
        }
        | changes
    )
    return await client.start_workflow(
        "ApprovalWorkflow",
        request,
        id=f"long-lives/{book}",
        task_queue=TASK_QUEUE,
        result_type=ApprovalState,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
    )


@pytest.mark.usefixtures("worker")
async def test_an_approval_lives_through_ten_thousand_events(book: str, client: Client, sessions: Sessions) -> None:
    handle = await asked(book, client, sessions)

    async def on_record() -> int:
        return len(await events_of(sessions, book, "learning.approval.word_refused.v1"))

    refused = await send_words(handle, "approve", on_record=on_record)
    assert await handle.query("state") == ApprovalState.pending
    assert (await decided(handle, "approve")).accepted
    assert await asyncio.wait_for(handle.result(), PATIENCE) == ApprovalState.approved
    assert await on_record() == refused, "each is on record, once"
    of_runs = await lengths(client, handle.id)
    assert sum(of_runs) >= EVENTS
    assert max(of_runs) <= MOST_EVENTS + SLACK, of_runs


async def test_a_cycle_that_is_watched_lives_through_many_runs(desk: Desk, book: str) -> None:
    words, most_events = 2000, 800
    await learn_from(desk, history(book))
    async with desk.worker(queue := f"long-lives-{book}"):
        handle = await cycle_of(desk, book, queue, history_events=most_events)
        assert (await decided(handle, "approve")).accepted

        async def on_record() -> int:
            return len(await desk.events(book, "word_refused"))

        refused = await send_words(handle, "revert", words, on_record=on_record)
        assert (await handle.query("cycle"))["state"] == "applied"
        description = await handle.describe()
        attributes = {pair.key.name: pair.value for pair in description.typed_search_attributes}
        assert (attributes["Book"], attributes["CycleState"], attributes["Operator"]) == (book, "applied", "bob")
        assert f"bob (sent by {desk.client.identity}) said approve" in (await description.memo())["outcome"]
        assert (await decided(handle, "revert")).accepted
        done: OpenedCycle = await asyncio.wait_for(handle.result(), PATIENCE)
    assert done.state == CycleState.reverted
    assert await on_record() == refused
    of_runs = await lengths(desk.client, handle.id)
    assert len(of_runs) >= words // (most_events + SLACK)
    assert max(of_runs) <= most_events + SLACK, of_runs


async def cycle_of(desk: Desk, book: str, queue: str, **changes: Any) -> Handle:
    """A cycle that waits for an operator."""
    handle = await desk.client.start_workflow(
        "WeightAdjustmentWorkflow",
        CycleRequest(book=book, as_of=AS_OF, **changes),
        id=f"weights/{book}/2026-W15",
        task_queue=queue,
        result_type=OpenedCycle,
    )
    await desk.until(f"{book}/2026-W15", "proposed")
    return handle


async def test_a_short_history_reminds_once_and_expires_in_time(
    book: str, client: Client, sessions: Sessions, worker: None
) -> None:
    """Each of many runs counts to the deadline of the first."""
    deadline = datetime.now(UTC) + timedelta(seconds=8)
    await mined(sessions, book, {"effect": 2.0})
    handle = await asked(book, client, sessions, deadline=deadline, history_events=50)
    await query_until_reminded(sessions, book)
    refused = await send_words(handle, "approve", 100)
    # The record keeps the proposal's own deadline, three days: it is the workflow that counts to this one.
    assert await asyncio.wait_for(handle.result(), PATIENCE) == ApprovalState.expired
    assert len(await events_of(sessions, book, "learning.approval.reminder.v1")) == 1
    assert len(await events_of(sessions, book, "learning.approval.word_refused.v1")) == refused
    assert len(await lengths(client, handle.id)) > 1


async def query_until_reminded(sessions: Sessions, book: str) -> None:
    reminded = "SELECT 1 FROM events WHERE type = 'learning.approval.reminder.v1' AND payload ->> 'book' = :book"
    await eventually(lambda: query(sessions, reminded, book=book), bool)


async def test_words_sent_while_no_worker_runs_are_acted_on_by_the_run_after_the_next(desk: Desk, book: str) -> None:
    """Of 120 words that wait at once, a run of 50 events leaves most to the runs after it; the decision is the last."""
    await learn_from(desk, history(book))
    queue = f"long-lives-{book}"
    async with desk.worker(queue):
        handle = await cycle_of(desk, book, queue, history_events=50)
    for i in range(60):
        await handle.signal("reject", {"operator": " ", "note": str(i)})
        await handle.signal("approve", f"not an object, {i}")
    await handle.signal("approve", {"operator": "ann"})
    async with desk.worker(queue):
        cycle = await desk.until(f"{book}/2026-W15", "applied")
        assert cycle.decided_by == "ann"
        assert len(await desk.events(book, "word_refused")) == 120
        description = await handle.describe()
        assert description.status == WorkflowExecutionStatus.RUNNING
        assert (await handle.query("cycle"))["proposal"]["cycle_id"] == f"{book}/2026-W15"
        assert (await decided(handle, "revert")).accepted
        assert (await asyncio.wait_for(handle.result(), PATIENCE)).state == CycleState.reverted
    assert len(await lengths(desk.client, handle.id)) > 1
