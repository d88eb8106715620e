"""From a close to a lesson to an override that an operator decides on, through Temporal."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.models.approvals import ApprovalAnswer, ApprovalRequest, ApprovalState
from closeloop.models.imports import ImportReport, ImportRequest
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.lessons import LessonReport, LessonRequest
from closeloop.models.overrides import OverrideReport, OverrideRequest, OverrideStatus, OverrideView
from closeloop.models.positions import CatchUpReport, CatchUpRequest, CloseReport
from closeloop.store.database import Sessions, open_engine, sessions_of
from closeloop.store.imports import StagedRow
from tests.activities.overriding import SCOPE, matched, mined, overrides
from tests.activities.patterning import (
    AS_OF,
    EDGE,
    NAMES,
    attribute_all,
    config,
    events_of,
    facts,
    owed,
    trades,
)
from tests.store.databases import query, scratch_database
from tests.waiting import PATIENCE, eventually
from tests.workers.own_worker import own_worker

T = TypeVar("T")
LARGE = {"effect": 2.0}

pytestmark = pytest.mark.usefixtures("worker")


async def run(client: Client, workflow: str, argument: Any, result_type: type[T]) -> T:
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


# -- learning ---------------------------------------------------------------------------------------------------------


async def test_a_close_is_learned_from_within_its_workflow(book: str, client: Client, sessions: Sessions) -> None:
    for position in trades(book, 3):
        report = await run(client, "PositionCloseWorkflow", position, CloseReport)
        assert (report.learned, report.not_learned) == (NAMES, {})
        assert not report.already_attributed
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 3
    again = await run(client, "PositionCloseWorkflow", trades(book, 1)[0], CloseReport)
    assert (again.already_attributed, again.learned) == (True, NAMES)
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 3
    assert await owed(sessions, book) == []


async def test_concurrent_closes_lose_nothing(book: str, client: Client, sessions: Sessions) -> None:
    reports = await asyncio.gather(
        *(run(client, "PositionCloseWorkflow", position, CloseReport) for position in trades(book, 40))
    )
    assert all(report.learned == NAMES for report in reports)
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 40


async def test_an_import_has_learned_when_it_returns(book: str, client: Client, sessions: Sessions) -> None:
    import_id = uuid.uuid4().hex
    positions = trades(book, 50)
    async with sessions.begin() as session:
        await store.imports.create(session, import_id, "a test")
        rows = [StagedRow(i, i, position.model_dump_json()) for i, position in enumerate(positions)]
        await store.imports.stage(session, import_id, rows, [])
    await run(client, "BackfillWorkflow", ImportRequest(import_id=import_id), ImportReport)
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 50
    assert await owed(sessions, book) == []


async def test_a_live_close_and_an_import_come_to_the_same(book: str, client: Client, sessions: Sessions) -> None:
    live, bulk = f"{book}-live", f"{book}-bulk"
    for position in trades(live, 8):
        await run(client, "PositionCloseWorkflow", position, CloseReport)
    await attribute_all(sessions, [p.model_copy(update={"book": bulk}) for p in trades(live, 8)])
    await run(client, "CatchUpWorkflow", CatchUpRequest(), CatchUpReport)
    apart = {"book_id", "created_at"}
    of_live, of_bulk = [
        [{k: v for k, v in row.items() if k not in apart} for row in await facts(sessions, name)]
        for name in (live, bulk)
    ]
    assert of_live == of_bulk
    one, other = await config(sessions, live), await config(sessions, bulk)
    assert one["global_rr"] == {name: pytest.approx(value, rel=1e-12) for name, value in other["global_rr"].items()}


async def test_a_catch_up_repairs_what_was_missed(book: str, client: Client, sessions: Sessions) -> None:
    """Attributed, and the worker died before the learners were called."""
    await attribute_all(sessions, trades(book, 12))
    assert len(await owed(sessions, book)) == 24
    await run(client, "CatchUpWorkflow", CatchUpRequest(), CatchUpReport)
    assert await owed(sessions, book) == []
    assert len(await facts(sessions, book)) == (await config(sessions, book))["global_rr"]["n"] == 12


# -- lessons ----------------------------------------------------------------------------------------------------------


async def test_lessons_of_one_book(book: str, client: Client, sessions: Sessions) -> None:
    positions = trades(book, 900, edge=EDGE)
    await attribute_all(sessions, positions)
    await run(client, "CatchUpWorkflow", CatchUpRequest(), CatchUpReport)
    workflow_id = f"lessons/{uuid.uuid4().hex}"
    handle: WorkflowHandle[Any, LessonReport] = await client.start_workflow(
        "LessonBuildingWorkflow",
        LessonRequest(book=book, as_of=AS_OF),
        id=workflow_id,
        task_queue=TASK_QUEUE,
        result_type=LessonReport,
    )
    [built] = (await handle.result()).books
    assert (built.version, built.actionable, built.as_of) == (1, 1, AS_OF)
    description = await handle.describe()
    assert (await description.memo())["outcome"] == built.sentence
    [made] = (
        await run(client, "OverrideMaterializationWorkflow", {"book": book, "as_of": AS_OF}, OverrideReport)
    ).books
    assert made.created == made.active + made.pending == 0, "its newest trade is longer ago than 30 days"


async def test_every_book_is_built_and_one_that_fails_holds_up_no_other(
    dsn: str, client: Client, tmp_path: Path
) -> None:
    async with scratch_database(dsn) as scratch:
        engine = open_engine(scratch, pool_size=8)
        sessions = sessions_of(engine)
        for name in ("a", "b", "c"):
            await attribute_all(sessions, trades(name, 40))
        queue = f"lessons-{uuid.uuid4().hex[:8]}"
        async with own_worker(client, engine, tmp_path, task_queue=queue):
            await query(sessions, "UPDATE unlearned SET learner = learner")
            for workflow, argument in (
                ("CatchUpWorkflow", {}),
                ("LessonBuildingWorkflow", {"book": "b", "as_of": "2026-05-01T00:00:00Z"}),
            ):
                await client.execute_workflow(workflow, argument, id=f"{queue}/{workflow}", task_queue=queue)
            report = await client.execute_workflow(
                "LessonBuildingWorkflow",
                LessonRequest(as_of=datetime(2026, 4, 1, tzinfo=UTC)),
                id=f"{queue}/all",
                task_queue=queue,
                result_type=LessonReport,
            )
        assert [built.book for built in report.books] == ["a", "c"]
        assert list(report.failed) == ["b"]
        assert "must not be before that of the last run" in report.failed["b"]
        await engine.dispose()


@pytest.mark.parametrize("workflow", ["LessonBuildingWorkflow", "OverrideMaterializationWorkflow"])
async def test_one_book_that_is_refused_fails_with_the_reason(book: str, client: Client, workflow: str) -> None:
    with pytest.raises(WorkflowFailureError) as failed:
        await run(client, workflow, {"book": book, "as_of": "2999-01-01T00:00:00Z"}, LessonReport)
    assert isinstance(failed.value.cause, ApplicationError)
    assert "as_of: must not be in the future" in failed.value.cause.message


# -- operators --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def waiting(book: str, client: Client, sessions: Sessions) -> OverrideView:
    """An override that waits for an operator."""
    await mined(sessions, book, LARGE)
    await run(client, "OverrideMaterializationWorkflow", OverrideRequest(book=book, as_of=AS_OF), OverrideReport)
    [view] = await overrides(sessions, book)
    assert view.status is OverrideStatus.pending
    return view


def workflow_of(client: Client, view: OverrideView) -> WorkflowHandle[Any, Any]:
    return client.get_workflow_handle(f"override/{view.book}/{view.override_id}", result_type=ApprovalState)


async def says(client: Client, view: OverrideView, verdict: Any, operator: Any = "ann", **more: Any) -> ApprovalAnswer:
    word = {"verdict": verdict, "operator": operator} | more
    answer: ApprovalAnswer = await asyncio.wait_for(
        workflow_of(client, view).execute_update("decide", word, result_type=ApprovalAnswer), 30
    )
    return answer


async def test_an_approved_one_is_in_force(client: Client, sessions: Sessions, waiting: OverrideView) -> None:
    answer = await says(client, waiting, "approve", note="looks right")
    assert (answer.accepted, answer.state) == (True, ApprovalState.approved)
    assert await workflow_of(client, waiting).result() == ApprovalState.approved
    [view] = await overrides(sessions, waiting.book)
    assert (view.status, view.verdict, view.decided_by, view.note) == (
        OverrideStatus.active, "approve", "ann", "looks right",
    )  # fmt: skip
    afterwards = AS_OF + timedelta(hours=1)  # it is in force from its approval on, not from the run that proposed it
    assert (await matched(sessions, waiting.book, SCOPE)).size_multiplier == 1.0
    assert (await matched(sessions, waiting.book, SCOPE, afterwards)).size_multiplier == pytest.approx(1.32)
    [event] = await events_of(sessions, waiting.book, "learning.approval.approved.v1")
    assert (event["operator"], event["note"], event["id"]) == ("ann", "looks right", waiting.override_id)
    description = await workflow_of(client, waiting).describe()
    attributes = {pair.key.name: pair.value for pair in description.typed_search_attributes}
    assert attributes["Decision"] == "approve"
    assert (attributes["Operator"], attributes["CycleState"], attributes["Lifecycle"]) == (
        "ann",
        "approved",
        "override",
    )


async def test_a_rejected_one_stays_out_until_its_lesson_is_mined_anew(
    client: Client, sessions: Sessions, waiting: OverrideView
) -> None:
    book = waiting.book
    await workflow_of(client, waiting).signal("reject", {"operator": "ann", "note": "no"})
    assert await workflow_of(client, waiting).result() == ApprovalState.rejected
    assert (await matched(sessions, book, SCOPE)).size_multiplier == 1.0
    request = OverrideRequest(book=book, as_of=AS_OF + timedelta(hours=2))
    await run(client, "OverrideMaterializationWorkflow", request, OverrideReport)
    assert [view.status for view in await overrides(sessions, book)] == [OverrideStatus.rejected]
    await mined(sessions, book, LARGE)
    await run(client, "OverrideMaterializationWorkflow", request, OverrideReport)
    assert {view.status for view in await overrides(sessions, book)} == {
        OverrideStatus.rejected,
        OverrideStatus.pending,
    }


async def test_the_second_operator_is_told_who_was_first(
    client: Client, sessions: Sessions, waiting: OverrideView
) -> None:
    answers = await asyncio.gather(
        *(says(client, waiting, verdict, operator=f"op-{i}") for i, verdict in enumerate(["approve", "reject"] * 4)),
        return_exceptions=True,
    )
    # Who came when it was over finds no workflow: the command looks at the record then.
    late = [a for a in answers if not isinstance(a, ApprovalAnswer)]
    assert all(isinstance(error, RPCError) and error.status == RPCStatusCode.NOT_FOUND for error in late), late
    accepted = [a for a in answers if isinstance(a, ApprovalAnswer) and a.accepted]
    assert len(accepted) == 1
    [view] = await overrides(sessions, waiting.book)
    refused = [a for a in answers if isinstance(a, ApprovalAnswer) and not a.accepted]
    assert all(f"by {view.decided_by}" in answer.reason for answer in refused)
    decided = await events_of(sessions, waiting.book, "learning.approval.approved.v1")
    decided += await events_of(sessions, waiting.book, "learning.approval.rejected.v1")
    assert len(decided) == 1


@pytest.mark.parametrize(
    ("name", "word", "reason"),
    [
        ("decide", "approve", "JSON object"),
        ("decide", {"verdict": "aprove", "operator": "ann"}, "verdict: must be one of approve, reject"),
        ("decide", {"verdict": "approve"}, "operator"),
        ("decide", {"verdict": "approve", "operator": "  "}, "operator: must not be empty"),
        ("decide", {"verdict": "approve", "operator": "x" * 201}, "operator"),
        ("settle", {"verdict": "approve", "operator": "ann"}, "say 'decide'"),
    ],
)
async def test_a_word_that_cannot_be_understood_is_refused_and_recorded(
    client: Client, sessions: Sessions, waiting: OverrideView, name: str, word: Any, reason: str
) -> None:
    answer = await asyncio.wait_for(
        workflow_of(client, waiting).execute_update(name, word, result_type=ApprovalAnswer), 30
    )
    assert not answer.accepted
    assert reason in answer.reason
    [event] = await events_of(sessions, waiting.book, "learning.approval.word_refused.v1")
    assert reason in (event.get("reason") or event["outcome"])
    assert (await says(client, waiting, "approve")).accepted, "it still listens"


async def test_misspelt_signals_neither_stop_it_nor_vanish(
    client: Client, sessions: Sessions, waiting: OverrideView
) -> None:
    handle = workflow_of(client, waiting)
    await handle.signal("aprove", {"operator": "ann"})
    await handle.signal("approve", "yes")
    await handle.signal("approve")
    await handle.signal("approve", {"operator": "ann"})
    assert await asyncio.wait_for(handle.result(), PATIENCE) == ApprovalState.approved
    assert len(await events_of(sessions, waiting.book, "learning.approval.word_refused.v1")) == 3


async def test_it_ends_when_its_lesson_loses_its_reason(
    client: Client, sessions: Sessions, waiting: OverrideView
) -> None:
    await mined(sessions, waiting.book)
    request = OverrideRequest(book=waiting.book, as_of=AS_OF)
    await run(client, "OverrideMaterializationWorkflow", request, OverrideReport)
    assert await asyncio.wait_for(workflow_of(client, waiting).result(), PATIENCE) == ApprovalState.withdrawn
    [view] = await overrides(sessions, waiting.book)
    assert (view.status, view.reason) == (OverrideStatus.ended, "its lesson is no longer actionable")


async def test_nobody_decides_before_the_deadline(
    book: str, client: Client, sessions: Sessions, engine: AsyncEngine, tmp_path: Path
) -> None:
    """On a queue of its own: the question that its materialization asks waits for three days elsewhere."""
    await mined(sessions, book, LARGE)
    await run(client, "OverrideMaterializationWorkflow", OverrideRequest(book=book, as_of=AS_OF), OverrideReport)
    [view] = await overrides(sessions, book)
    queue = f"approvals-{book}"
    async with own_worker(client, engine, tmp_path, task_queue=queue):
        request = ApprovalRequest(
            kind="override", book=book, id=view.override_id, proposal="x", deadline=datetime.now(UTC)
        )
        state = await client.execute_workflow(
            "ApprovalWorkflow", request, id=f"expiring/{book}", task_queue=queue, result_type=ApprovalState
        )
    assert state == ApprovalState.expired
    [view] = await overrides(sessions, book)
    assert (view.status, view.verdict, view.reason) == (
        OverrideStatus.ended, "expired", "nobody decided before the deadline",
    )  # fmt: skip
    assert len(await events_of(sessions, book, "learning.approval.expired.v1")) == 1
    answer = await says(client, view, "approve")
    assert (answer.accepted, answer.state, answer.reason) == (
        False, ApprovalState.expired, "already decided: expired, nobody decided",
    )  # fmt: skip
    again = OverrideRequest(book=book, as_of=AS_OF + timedelta(hours=2))
    await run(client, "OverrideMaterializationWorkflow", again, OverrideReport)
    assert len(await overrides(sessions, book)) == 1, "the same question is not asked every two hours"


async def test_a_larger_one_replaces_the_one_in_force_when_it_is_approved(
    book: str, client: Client, sessions: Sessions
) -> None:
    request = OverrideRequest(book=book, as_of=AS_OF)
    await mined(sessions, book, {})
    await run(client, "OverrideMaterializationWorkflow", request, OverrideReport)
    await mined(sessions, book, LARGE)
    await run(client, "OverrideMaterializationWorkflow", request, OverrideReport)
    pending = next(v for v in await overrides(sessions, book) if v.status is OverrideStatus.pending)
    assert (await says(client, pending, "approve")).accepted
    statuses = {view.lesson_version: view.status for view in await overrides(sessions, book)}
    assert statuses == {1: OverrideStatus.ended, 2: OverrideStatus.active}
    # Approved once, no larger change of the same lesson needs to be asked about again.
    await mined(sessions, book, {"effect": 1.9})
    await run(client, "OverrideMaterializationWorkflow", request, OverrideReport)
    found = await matched(sessions, book, SCOPE, AS_OF + timedelta(hours=1))
    assert found.size_multiplier == pytest.approx(1 + 0.2 * 1.9 * 0.8)


async def test_an_unknown_subject_is_refused(book: str, client: Client) -> None:
    request = ApprovalRequest(kind="nothing", book=book, id="x", proposal="x", deadline=datetime.now(UTC))
    with pytest.raises(WorkflowFailureError):
        await run(client, "ApprovalWorkflow", request, ApprovalState)


async def _state(handle: WorkflowHandle[Any, Any]) -> str:
    return str(await handle.query("state"))


async def test_the_state_can_be_asked_for(client: Client, waiting: OverrideView) -> None:
    handle = workflow_of(client, waiting)
    assert await _state(handle) == "pending"
    await handle.signal("reject", {"operator": "ann"})
    assert await eventually(lambda: _state(handle), lambda state: state == "rejected")
