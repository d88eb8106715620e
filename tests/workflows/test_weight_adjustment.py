"""A weight cycle through Temporal: what operators say by signal and update, deadlines, outages, dispatch, overlays."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from temporalio.api.common.v1 import Payload, Payloads, WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleBackfill,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    ScheduleSpec,
    ScheduleState,
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
)
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from closeloop import store
from closeloop.models.approvals import ApprovalAnswer
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import CycleRequest, CycleState, CycleView, OpenedCycle
from tests.activities.weighing import AS_OF, BALANCED, DAY, HOUR, Desk, close, desk_on, history, learn_from
from tests.store.databases import query
from tests.waiting import PATIENCE, eventually

QUEUE = "weights-tests"
WILLING = "weights-tests-self-approving"
WEEK = 7 * DAY
Handle = WorkflowHandle[Any, OpenedCycle]


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """A desk with a worker, and one whose policy approves by itself."""
    async with desk_on(dsn, client, tmp_path_factory.mktemp("overlays")) as desk:
        willing = LearningPolicy(self_approve_max_q=0.01)
        async with desk.worker(QUEUE), desk.worker(WILLING, willing):
            yield desk


_started: list[Handle] = []


@pytest.fixture(autouse=True)
async def none_left_running() -> AsyncIterator[None]:
    """A cycle that hangs would have its task tried again and again under the tests after it."""
    yield
    while _started:
        with contextlib.suppress(RPCError):
            await _started.pop().terminate("its test is over")


async def start(
    desk: Desk, book: str, as_of: datetime = AS_OF, queue: str = QUEUE, name: str | None = None, **changes: Any
) -> Handle:
    await desk.make(book)
    year, week, _ = as_of.isocalendar()
    handle = await desk.client.start_workflow(
        "WeightAdjustmentWorkflow",
        CycleRequest(book=book, as_of=as_of, **changes),
        id=name or f"weights/{book}/{year}-W{week:02}",
        task_queue=queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        result_type=OpenedCycle,
    )
    _started.append(handle)
    return handle


def cycle_id(book: str, week: int = 15) -> str:
    return f"{book}/2026-W{week:02}"


async def proposing(desk: Desk, book: str, **changes: Any) -> tuple[Handle, CycleView]:
    """A cycle that waits for an operator."""
    await learn_from(desk, history(book))
    handle = await start(desk, book, **changes)
    return handle, await desk.until(cycle_id(book), "proposed")


async def applied(desk: Desk, book: str) -> tuple[Handle, CycleView]:
    """A cycle whose proposal was approved."""
    handle, _ = await proposing(desk, book)
    assert (await decide(handle, "approve")).accepted
    return handle, await desk.view(cycle_id(book))


async def decide(handle: Handle, verdict: str, operator: str = "ann", note: str = "") -> ApprovalAnswer:
    word = {"verdict": verdict, "operator": operator, "note": note}
    return await handle.execute_update("decide", word, result_type=ApprovalAnswer)


async def result(handle: Handle) -> OpenedCycle:
    return await asyncio.wait_for(handle.result(), PATIENCE)


async def refused_words(desk: Desk, book: str, number: int) -> list[dict[str, Any]]:
    """The words on record as refused, once there are so many."""
    rows = await eventually(lambda: desk.events(book, "word_refused"), lambda found: len(found) >= number, PATIENCE)
    assert len(rows) == number, rows
    return [row["payload"] for row in rows]


async def running(handle: Handle) -> bool:
    """It runs, and its workflow task does not fail again and again: it answers a query."""
    await asyncio.wait_for(handle.query("cycle"), PATIENCE)
    return (await handle.describe()).status == WorkflowExecutionStatus.RUNNING


async def keyword(handle: Handle, name: str) -> Any:
    description = await handle.describe()
    return {pair.key.name: pair.value for pair in description.typed_search_attributes}.get(name)


# -- outcomes ----------------------------------------------------------------------------------------------------------


async def test_a_cycle_without_a_proposal_ends_with_its_reason(desk: Desk, book: str) -> None:
    done = await result(await start(desk, book))
    assert (done.state, done.reason) == (CycleState.no_adjustment, "cold_start_baseline")
    description = await desk.client.get_workflow_handle(f"weights/{cycle_id(book)}").describe()
    assert "cold_start_baseline" in (await description.memo())["outcome"]
    assert await desk.kinds(book) == ["unchanged"]


async def test_too_few_closes_and_scores_that_tell_nothing(desk: Desk, book: str) -> None:
    few, dull = f"{book}-few", f"{book}-dull"
    await learn_from(desk, history(few, n=10))
    await learn_from(desk, history(dull, n=0))
    await learn_from(desk, [close(dull, str(i), AS_OF - i * HOUR, 1.0, {"onchain": i / 30}) for i in range(30)])
    assert (await result(await start(desk, few))).reason == "insufficient_data"
    assert (await result(await start(desk, dull))).reason == "no_change"


async def test_a_refused_as_of_fails_at_once_with_a_sentence(desk: Desk, book: str) -> None:
    await result(await start(desk, book))
    for as_of, words in ((AS_OF - WEEK, "must be after that of the last cycle"), (AS_OF + 5200 * WEEK, "future")):
        with pytest.raises(WorkflowFailureError) as failed:
            await result(await start(desk, book, as_of))
        assert isinstance(failed.value.cause, ApplicationError)
        assert (failed.value.cause.type, words in failed.value.cause.message) == ("CycleRefused", True)


async def test_started_ten_times_at_once_it_is_one_cycle(desk: Desk, book: str) -> None:
    """Under its id, and under others as a script might choose: those report whose the cycle is and end."""
    await learn_from(desk, history(book))
    handles = [await start(desk, book, AS_OF + i * HOUR) for i in range(5)]
    owner = await desk.until(cycle_id(book), "proposed")
    others = [await start(desk, book, AS_OF + i * HOUR, name=f"by-hand/{book}/{i}") for i in range(5)]
    ended = [await result(other) for other in others]
    assert {one.workflow_id for one in ended} == {owner.workflow_id} == {handles[0].id}
    assert {handle.id for handle in handles} == {owner.workflow_id}
    assert await desk.kinds(book) == ["proposed"]
    assert (await decide(handles[0], "approve")).accepted


async def test_a_word_to_the_same_cycle_under_another_id_is_decided_before_that_ends(desk: Desk, book: str) -> None:
    _, view = await proposing(desk, book)
    other = await desk.client.start_workflow(
        "WeightAdjustmentWorkflow",
        CycleRequest(book=book, as_of=AS_OF),
        id=f"by-hand/{book}",
        task_queue=QUEUE,
        result_type=OpenedCycle,
        start_signal="approve",
        start_signal_args=[{"operator": "ann", "note": "ok"}],
    )
    await result(other)
    decided = await desk.view(view.cycle_id)
    assert (decided.state, decided.decided_by) == (CycleState.applied, "ann")


async def test_the_query_the_search_attributes_and_the_memo(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book)
    told = await eventually(lambda: handle.query("cycle"), lambda found: found["state"] is not None)
    assert told["state"] == "proposed"
    assert told["proposal"]["new"] == view.new
    assert told["proposal"]["evidence"]["onchain"]["n"] == 40
    assert (await keyword(handle, "Book"), await keyword(handle, "CycleState")) == (book, "proposed")
    assert await keyword(handle, "Decision") is None
    memo = await (await handle.describe()).memo()
    assert memo["outcome"].startswith(f"{book}: proposes ")
    assert "onchain 0.25→0.27" in memo["outcome"]

    await decide(handle, "approve", "ann", "looks right")
    assert (await handle.query("cycle"))["state"] == "applied"
    found = [await keyword(handle, name) for name in ("CycleState", "Decision", "Operator", "Lifecycle")]
    assert found == ["applied", "approve", "ann", "weights"]
    memo = await (await handle.describe()).memo()
    sender = desk.client.identity
    assert memo["outcome"] == f"ann (sent by {sender}) said approve (looks right): version 1 is in force"

    async def visible() -> list[str]:
        listed = desk.client.list_workflows(f"Book = '{book}' AND CycleState = 'applied' AND Operator = 'ann'")
        return [execution.id async for execution in listed]

    assert await eventually(visible, bool) == [handle.id]


# -- operators ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["signal", "update"])
async def test_approve_and_revert(desk: Desk, book: str, door: str) -> None:
    handle, view = await proposing(desk, book)
    file = desk.folder / f"learned_weights.{book}.yaml"

    async def say(verdict: str, operator: str) -> None:
        if door == "signal":
            await handle.signal(verdict, {"operator": operator, "note": f"why {operator}"})
        else:
            assert (await decide(handle, verdict, operator, f"why {operator}")).accepted

    assert await desk.active(book) is None
    await say("approve", "ann")
    assert (await desk.until(view.cycle_id, "applied")).decided_by == "ann"
    assert await desk.weights(book) == view.new
    assert yaml.safe_load(await eventually(lambda: text(file), bool))["weights"] == view.new
    await say("revert", "bob")
    done = await result(handle)
    assert done.state == CycleState.reverted
    assert {d: w.hex() for d, w in (await desk.weights(book)).items()} == {d: w.hex() for d, w in BALANCED.items()}
    assert not file.exists()
    assert await desk.kinds(book) == ["proposed", "applied", "reverted"]
    [event] = await desk.events(book, "reverted")
    assert (event["payload"]["operator"], event["payload"]["note"]) == ("bob", "why bob")


async def text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize("door", ["signal", "update"])
async def test_reject(desk: Desk, book: str, door: str) -> None:
    handle, view = await proposing(desk, book)
    if door == "signal":
        await handle.signal("reject", {"operator": "ann", "note": "no"})
    else:
        assert (await decide(handle, "reject", "ann", "no")).accepted
    done = await result(handle)
    assert done.state == CycleState.rejected
    found = await desk.view(view.cycle_id)
    assert (found.state, found.decided_by, found.note) == (CycleState.rejected, "ann", "no")
    assert await desk.active(book) is None
    assert await desk.kinds(book) == ["proposed", "rejected"]


async def test_a_late_or_repeated_signal_changes_nothing_and_is_on_record(desk: Desk, book: str) -> None:
    handle, view = await applied(desk, book)
    for verdict, operator in (("approve", "ann"), ("approve", "ann"), ("reject", "bob")):
        await handle.signal(verdict, {"operator": operator})
    words = await refused_words(desk, book, 3)
    assert [(word["verdict"], word["operator"]) for word in words] == [
        ("approve", "ann"),
        ("approve", "ann"),
        ("reject", "bob"),
    ]
    assert all(word["outcome"].startswith("already decided: approved by ann at ") for word in words)
    assert await desk.weights(book) == view.new
    assert (await decide(handle, "revert")).accepted


async def test_two_approvals_at_once(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book)
    answers = await asyncio.gather(*(decide(handle, "approve", name) for name in ("ann", "bob")))
    assert sorted(answer.accepted for answer in answers) == [False, True]
    by = (await desk.view(view.cycle_id)).decided_by
    [told] = [answer.reason for answer in answers if not answer.accepted]
    assert f"already decided: approved by {by} at " in told
    assert await desk.kinds(book) == ["proposed", "applied", "word_refused"]


@pytest.mark.parametrize("order", [("approve", "revert"), ("revert", "approve")])
async def test_a_revert_racing_an_approval(desk: Desk, book: str, order: tuple[str, str]) -> None:
    """Both are sent without waiting; one state is the end of it, and both are on record."""
    handle, view = await proposing(desk, book)
    operators = {"approve": "ann", "revert": "bob"}
    await asyncio.gather(*(handle.signal(verdict, {"operator": operators[verdict]}) for verdict in order))
    await eventually(lambda: desk.kinds(book), lambda kinds: len(kinds) == 3)
    kinds = await desk.kinds(book)
    found = await desk.view(view.cycle_id)
    if kinds == ["proposed", "applied", "reverted"]:
        assert (found.state, await desk.weights(book)) == (CycleState.reverted, BALANCED)
    else:  # the revert came first: there was nothing to undo
        assert kinds == ["proposed", "word_refused", "applied"]
        assert (found.state, await desk.weights(book)) == (CycleState.applied, view.new)
    assert {row["payload"].get("operator") for row in await desk.events(book)} == {None, "ann", "bob"}


@pytest.mark.parametrize(("order", "state"), [(("approve", "revert"), "reverted"), (("revert", "approve"), "applied")])
async def test_a_revert_and_an_approval_in_order(desk: Desk, book: str, order: tuple[str, str], state: str) -> None:
    handle, view = await proposing(desk, book)
    for verdict in order:
        await handle.signal(verdict, {"operator": verdict})
    await eventually(lambda: desk.kinds(book), lambda kinds: len(kinds) == 3)
    assert (await desk.view(view.cycle_id)).state == state
    assert await desk.weights(book) == (BALANCED if state == "reverted" else view.new)


async def test_approve_against_reject(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book)
    answers = await asyncio.gather(decide(handle, "approve", "ann"), decide(handle, "reject", "bob"))
    assert sorted(answer.accepted for answer in answers) == [False, True]
    winner = "applied" if answers[0].accepted else "rejected"
    assert (await desk.view(view.cycle_id)).state == winner
    assert (await desk.active(book) is not None) == (winner == "applied")


# -- words of the wrong shape ------------------------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "nothing": [],
    "null": [None],
    "a text": ["ann"],
    "a number": [7],
    "a list": [[{"operator": "ann"}]],
    "an empty object": [{}],
    "no operator": [{"note": "x"}],
    "an empty operator": [{"operator": ""}],
    "a blank operator": [{"operator": "  "}],
    "an operator that is a number": [{"operator": 5}],
    "an operator that is null": [{"operator": None}],
    "a note that is a list": [{"operator": "ann", "note": []}],
    "a long operator": [{"operator": "x" * 201}],
    "a long note": [{"operator": "ann", "note": "x" * 4001}],
    "bytes": [b"{}"],
}
# What a person can type or paste into the Temporal UI, too.
NUL: dict[str, list[Any]] = {
    "NUL in the operator": [{"operator": "ann\x00"}],
    "NUL in the note": [{"operator": "ann", "note": "a\x00b"}],
    "NUL in a key": [{"operator\x00": "ann"}],
}
TWO: dict[str, list[Any]] = {"two arguments": [{"operator": "ann"}, "a note"]}


async def still_decidable(desk: Desk, handle: Handle, book: str, refused: int) -> list[dict[str, Any]]:
    """Nothing happened but that each word is on record, once; a word that can be understood is carried out."""
    words = await refused_words(desk, book, refused)
    assert await running(handle)
    assert await desk.active(book) is None
    assert (await desk.view(cycle_id(book))).state == CycleState.proposed
    assert (await asyncio.wait_for(decide(handle, "approve", "cid"), PATIENCE)).accepted
    return words


async def test_a_wrong_signal_is_on_record_and_the_cycle_stays_decidable(desk: Desk, book: str) -> None:
    handle, _ = await proposing(desk, book)
    plain = await Client.connect(desk.client.service_client.config.target_host)
    raw = plain.get_workflow_handle(handle.id)
    for verdict in ("approve", "reject", "revert"):
        for arguments in WRONG.values():
            await raw.signal(verdict, args=arguments)
    words = await still_decidable(desk, handle, book, 3 * len(WRONG))
    assert all(word.get("reason") or word.get("outcome") for word in words)


async def test_a_wrong_update_is_on_record_and_the_cycle_stays_decidable(desk: Desk, book: str) -> None:
    handle, _ = await proposing(desk, book)
    plain = await Client.connect(desk.client.service_client.config.target_host)
    raw = plain.get_workflow_handle(handle.id)
    wrong = [[{"operator": "ann"}], [{"verdict": "maybe", "operator": "ann"}]]
    wrong += [[a[0] | {"verdict": "approve"}] if a and isinstance(a[0], dict) else a for a in WRONG.values()]
    for arguments in wrong:
        answer = await asyncio.wait_for(raw.execute_update("decide", args=arguments), PATIENCE)
        assert answer["accepted"] is False, arguments
        assert answer["reason"], arguments
    await still_decidable(desk, handle, book, len(wrong))


@pytest.mark.parametrize("shape", [*NUL, *TWO])
async def test_a_signal_of_another_shape_is_on_record_and_the_cycle_stays_decidable(
    desk: Desk, book: str, shape: str
) -> None:
    handle, _ = await proposing(desk, book)
    await handle.signal("approve", args=(NUL | TWO)[shape])
    await still_decidable(desk, handle, book, 1)


@pytest.mark.parametrize("shape", [*NUL, *TWO])
async def test_an_update_of_another_shape_is_on_record_and_the_cycle_stays_decidable(
    desk: Desk, book: str, shape: str
) -> None:
    handle, _ = await proposing(desk, book)
    first, *others = (NUL | TWO)[shape]
    answer = await asyncio.wait_for(
        handle.execute_update("decide", args=[first | {"verdict": "approve"}, *others], result_type=ApprovalAnswer),
        PATIENCE,
    )
    assert not answer.accepted
    await still_decidable(desk, handle, book, 1)


async def raw_signal(handle: Handle, client: Client, name: str, data: bytes) -> None:
    """A payload that says it is JSON, whatever it is."""
    await client.workflow_service.signal_workflow_execution(
        SignalWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            signal_name=name,
            input=Payloads(payloads=[Payload(metadata={"encoding": b"json/plain"}, data=data)]),
        )
    )


@pytest.mark.parametrize("data", [b"{not json", b'{"operator": "ann"', b"\xff\xfe", b'{"operator": "\\ud800"}'])
async def test_a_signal_that_is_no_json_is_on_record(desk: Desk, book: str, data: bytes) -> None:
    handle, _ = await proposing(desk, book)
    await raw_signal(handle, desk.client, "approve", data)
    await still_decidable(desk, handle, book, 1)


@pytest.mark.parametrize("name", ["settled", "next_cycle"])
@pytest.mark.parametrize("arguments", [[], ["x"], [{"accepted": "maybe"}], [None, 1]], ids=json.dumps)
async def test_internal_signals_sent_by_hand_never_hang_the_cycle(
    desk: Desk, book: str, name: str, arguments: list[Any]
) -> None:
    """The Temporal UI offers them beside the others. The cycle decides as before, or has ended: it never hangs."""
    handle, view = await proposing(desk, book)
    await handle.signal(name, args=arguments)
    with contextlib.suppress(RPCError):  # it has ended
        await asyncio.wait_for(decide(handle, "approve"), PATIENCE)
    state = (await desk.view(view.cycle_id)).state
    status = (await handle.describe()).status
    if status == WorkflowExecutionStatus.RUNNING:
        assert state == CycleState.applied
    else:  # nothing waits in the database for a workflow that has ended
        assert (status, state) == (WorkflowExecutionStatus.COMPLETED, CycleState.expired)


async def test_fields_of_tomorrow_are_left_alone(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book)
    await handle.signal("approve", {"operator": "ann", "ticket": "OPS-1", "verdict": 3})
    assert (await desk.until(view.cycle_id, "applied")).decided_by == "ann"


async def test_an_unknown_signal_changes_nothing(desk: Desk, book: str) -> None:
    handle, _ = await proposing(desk, book)
    await handle.signal("aprove", {"operator": "ann"})
    assert await running(handle)
    assert (await decide(handle, "approve")).accepted


# -- the next cycle ----------------------------------------------------------------------------------------------------


async def test_the_next_cycle_ends_a_proposal_that_waits(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book)
    following = await start(desk, book, AS_OF + WEEK)
    done = await result(handle)
    assert done.state == CycleState.expired
    found = await desk.view(view.cycle_id)
    assert (found.state, found.reason) == (CycleState.expired, "superseded")
    assert await keyword(handle, "CycleState") == "expired"
    assert (await decide(following, "approve")).accepted
    assert await desk.kinds(book) == ["proposed", "expired", "proposed", "applied"]


async def test_the_next_cycle_ends_the_watch_of_the_one_before(desk: Desk, book: str) -> None:
    handle, view = await applied(desk, book)
    following = await start(desk, book, AS_OF + WEEK)
    assert (await result(handle)).state == CycleState.applied
    assert await desk.weights(book) == view.new
    second = await desk.until(cycle_id(book, 16), "proposed")
    assert second.old == view.new
    # A revert of the adjustment before is too late now: its workflow has ended, and the database says no, too.
    answer = await desk.decide(OpenedCycle(**view.model_dump(), sentence=""), "revert")  # type: ignore[arg-type]
    assert not answer.accepted
    assert await desk.weights(book) == view.new
    assert (await decide(following, "approve")).accepted


async def test_after_a_cycle_that_failed_the_next_goes_on(desk: Desk, book: str) -> None:
    """Somebody terminated a workflow while its proposal waited: the same start carries the same cycle on."""
    handle, view = await proposing(desk, book)
    await handle.terminate("by accident")
    again = await start(desk, book)
    assert (await asyncio.wait_for(decide(again, "approve"), PATIENCE)).accepted
    assert await desk.weights(book) == view.new


# -- self-approval -----------------------------------------------------------------------------------------------------


async def test_the_policy_approves_only_what_is_supported(desk: Desk, book: str) -> None:
    names = list(BALANCED)

    def row(name: str, i: int, domains: list[str]) -> Any:
        won = i % 2 == 0
        scores = {
            d: (1 if won else -1) * (-1 if k % 2 else 1) * 0.5 + 0.03 * ((i + k) % 5) for k, d in enumerate(domains)
        }
        return close(name, f"h{i}", AS_OF - 25 * DAY * (i + 1) / 60, 1.0 if won else -1.0, scores)

    every, nothing = f"{book}-every", f"{book}-nothing"
    for name in (every, nothing):
        await learn_from(desk, history(name, n=0))
    await learn_from(desk, [row(every, i, names) for i in range(60)])
    noise = [{"technical": ((i * 37) % 19) / 19 - 0.5} for i in range(60)]
    rows = [close(nothing, f"h{i}", AS_OF - (i + 1) * 9 * HOUR, (-1.0) ** i, scores) for i, scores in enumerate(noise)]
    await learn_from(desk, rows)
    handle = await start(desk, every, queue=WILLING)
    waits = await start(desk, nothing, queue=WILLING)
    view = await desk.until(cycle_id(every), "applied")
    assert view.decided_by == "policy"
    assert await desk.weights(every) == view.new
    assert await eventually(lambda: keyword(handle, "Operator"), bool) == "policy"
    await desk.until(cycle_id(nothing), "proposed")
    assert (await decide(waits, "reject")).accepted
    assert (await decide(handle, "revert", "ann")).accepted
    assert await desk.weights(every) == BALANCED


# -- deadlines and outages ---------------------------------------------------------------------------------------------


async def test_a_reminder_half_way_and_then_it_expires(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book, deadline=timedelta(seconds=2))
    done = await result(handle)
    assert done.state == CycleState.expired
    assert await desk.kinds(book) == ["proposed", "reminder", "expired"]
    rows = await query(
        desk.sessions, "SELECT type, ts FROM events WHERE payload ->> 'book' = :book ORDER BY id", book=book
    )
    when = {row["type"]: row["ts"] for row in rows if row["type"].startswith("learning.weights")}
    assert view.deadline is not None
    assert view.created_at + timedelta(seconds=1) <= when["learning.weights.reminder.v1"]
    assert when["learning.weights.expired.v1"] >= view.deadline
    assert await desk.active(book) is None
    assert (await desk.view(view.cycle_id)).reason == "nobody decided before the deadline"


async def test_a_decision_before_half_time_brings_no_reminder(desk: Desk, book: str) -> None:
    handle, view = await proposing(desk, book, deadline=timedelta(seconds=10))
    assert (await decide(handle, "approve")).accepted
    assert view.deadline is not None
    await until_after(view.deadline)
    assert await running(handle)
    assert await desk.kinds(book) == ["proposed", "applied"]  # and it does not expire


async def until_after(instant: datetime) -> None:
    await asyncio.sleep((instant - datetime.now(UTC)).total_seconds() + 0.05)


@pytest.fixture(scope="module")
async def outage(desk: Desk) -> dict[str, Handle]:
    """Cycles whose deadline passed while no worker ran: what was said to each is its key. A worker has run since."""
    queue = "weights-tests-outage"
    keys = ("nothing", "in time", "too late", "rejected in time", "unreadable in time, then too late")
    books = {key: f"outage-{i}" for i, key in enumerate(keys)}
    for book in books.values():
        await learn_from(desk, history(book))
    async with desk.worker(queue):
        handles = {key: await start(desk, b, queue=queue, deadline=timedelta(seconds=15)) for key, b in books.items()}
        views = [await desk.until(cycle_id(b), "proposed") for b in books.values()]
        for handle in handles.values():
            await handle.query("cycle")
    ann = {"operator": "ann"}
    await handles["in time"].signal("approve", ann)
    await handles["rejected in time"].signal("reject", ann)
    await raw_signal(handles["unreadable in time, then too late"], desk.client, "approve", b"{not json")
    assert all(view.deadline and datetime.now(UTC) < view.deadline for view in views), "too slow to tell anything"
    for view in views:
        assert view.deadline
        await until_after(view.deadline)
    await handles["too late"].signal("approve", ann)
    await handles["unreadable in time, then too late"].signal("approve", ann)
    async with desk.worker(queue):
        for book in books.values():
            await eventually(lambda book=book: states(desk, book), lambda found: "proposed" not in found)
        for handle in handles.values():
            await handle.query("cycle")
    return handles


async def states(desk: Desk, book: str) -> list[str]:
    rows = await query(desk.sessions, "SELECT state FROM weight_cycles WHERE book_id = :book", book=book)
    return [row["state"] for row in rows]


@pytest.mark.parametrize(
    ("key", "book", "state"),
    [
        ("nothing", "outage-0", "expired"),
        ("in time", "outage-1", "applied"),
        ("too late", "outage-2", "expired"),
        ("rejected in time", "outage-3", "rejected"),
        ("unreadable in time, then too late", "outage-4", "expired"),
    ],
)
async def test_a_deadline_that_passed_while_no_worker_ran(
    desk: Desk, outage: dict[str, Handle], key: str, book: str, state: str
) -> None:
    """What reached the server before the deadline counts; what was sent after it does not, and is on record."""
    assert await states(desk, book) == [state]
    assert (await desk.active(book) is not None) == (state == "applied")
    words = await desk.events(book, "word_refused")
    assert bool(words) == ("too late" in key), words


async def test_a_signal_while_no_worker_runs_is_carried_out_by_the_next(desk: Desk, book: str) -> None:
    queue = f"weights-{book}"
    async with desk.worker(queue):
        handle, view = await proposing(desk, book, queue=queue)
    await handle.signal("approve", {"operator": "ann", "note": "while it was down"})
    async with desk.worker(queue):
        found = await desk.until(view.cycle_id, "applied")
    assert (found.decided_by, found.note) == ("ann", "while it was down")


# -- dispatch ----------------------------------------------------------------------------------------------------------


@pytest.fixture
async def empty(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk of the test's own: dispatch and overlay watch look at all of its books."""
    async with desk_on(dsn, client, tmp_path) as desk:
        yield desk


async def books(desk: Desk, **cadences: str) -> None:
    for book, cadence in cadences.items():
        async with desk.sessions.begin() as session:
            await store.books.hold(session, book)
            await store.books.set_preset(session, book, "balanced", BALANCED, cadence)


async def test_a_dispatch_starts_one_cycle_a_book_by_its_cadence(empty: Desk, book: str) -> None:
    a, b, c = (f"{book}-{name}" for name in "abc")
    await books(empty, **{a: "weekly", b: "weekly", c: "monthly"})
    queue = f"weights-{book}"
    async with empty.worker(queue):

        async def dispatch(number: int) -> list[str]:
            report = await empty.client.execute_workflow(
                "WeightDispatchWorkflow", id=f"dispatch/{book}/{number}", task_queue=queue
            )
            return list(report["started"])

        before = datetime.now(UTC)
        year, week, _ = before.isocalendar()
        first = await dispatch(1)
        if datetime.now(UTC).date() == before.date():
            assert sorted(first) == [f"{a}/{year}-W{week:02}", f"{b}/{year}-W{week:02}", f"{c}/{before:%Y-%m}"]
            assert await dispatch(2) == []
        for name in first:
            done = await empty.client.get_workflow_handle(f"weights/{name}").result()
            assert done["cycle_id"] == name
    rows = await query(empty.sessions, "SELECT cycle_id FROM weight_cycles")
    assert sorted(row["cycle_id"] for row in rows) == sorted(first)


async def test_a_backfilled_schedule_decides_as_of_its_scheduled_times(empty: Desk, book: str) -> None:
    weekly, monthly = f"{book}-w", f"{book}-m"
    await books(empty, **{weekly: "weekly", monthly: "monthly"})
    queue = f"weights-{book}"
    begin = datetime(2026, 6, 29, tzinfo=UTC)
    schedule = await empty.client.create_schedule(
        f"backfilled-{book}",
        Schedule(
            action=ScheduleActionStartWorkflow("WeightDispatchWorkflow", id=f"dispatch/{book}", task_queue=queue),
            spec=ScheduleSpec(intervals=[ScheduleIntervalSpec(every=DAY)]),
            state=ScheduleState(paused=True),
        ),
    )
    try:
        async with empty.worker(queue):
            await schedule.backfill(
                ScheduleBackfill(
                    start_at=begin - HOUR, end_at=begin + 8 * DAY, overlap=ScheduleOverlapPolicy.BUFFER_ALL
                )
            )

            async def found() -> dict[str, datetime]:
                rows = await query(empty.sessions, "SELECT cycle_id, as_of FROM weight_cycles ORDER BY as_of")
                return {row["cycle_id"]: row["as_of"] for row in rows}

            async def dispatches() -> int:
                listed = empty.client.list_workflows(
                    f"WorkflowId STARTS_WITH 'dispatch/{book}' AND ExecutionStatus = 'Completed'"
                )
                return len([execution async for execution in listed])

            assert await eventually(dispatches, lambda n: n >= 9) >= 9
            cycles = await eventually(found, lambda cycles: len(cycles) == 4)
    finally:
        await schedule.delete()
    assert cycles == {
        f"{weekly}/2026-W27": begin,
        f"{weekly}/2026-W28": begin + WEEK,
        f"{monthly}/2026-06": begin,
        f"{monthly}/2026-07": begin + 2 * DAY,
    }


# -- overlays ----------------------------------------------------------------------------------------------------------


async def test_a_deleted_overlay_is_a_revert_that_the_cycle_knows_of(empty: Desk, book: str) -> None:
    queue = f"weights-{book}"
    file = empty.folder / f"learned_weights.{book}.yaml"

    async def look(number: int) -> dict[str, Any]:
        found: dict[str, Any] = await empty.client.execute_workflow(
            "OverlayWatchWorkflow", id=f"overlays/{book}/{number}", task_queue=queue
        )
        return found

    async with empty.worker(queue):
        handle, view = await proposing(empty, book, queue=queue)
        assert await look(1) == {"repaired": [], "deleted": [], "failed": {}}
        assert (await decide(handle, "approve")).accepted
        await eventually(lambda: text(file), bool)
        assert await look(2) == {"repaired": [], "deleted": [], "failed": {}}
        file.unlink()
        assert (await look(3))["deleted"] == [{"cycle_id": view.cycle_id, "book": book}]
        done = await result(handle)
        assert done.state == CycleState.reverted
        assert await empty.weights(book) == BALANCED
        assert await look(4) == {"repaired": [], "deleted": [], "failed": {}}
    found = await empty.view(view.cycle_id)
    assert found.note == f"learned_weights.{book}.yaml was deleted"
    assert await empty.kinds(book) == ["proposed", "applied", "reverted"]
    memo = await (await empty.client.get_workflow_handle(f"overlays/{book}/3").describe()).memo()
    assert memo["outcome"] == f"{book}: deleted, reverted"


async def test_a_missing_folder_is_no_revert(empty: Desk, book: str) -> None:
    queue = f"weights-{book}"
    async with empty.worker(queue):
        handle, view = await proposing(empty, book, queue=queue)
        await decide(handle, "approve")
        await eventually(lambda: text(empty.folder / f"learned_weights.{book}.yaml"), bool)
        away = empty.folder.rename(empty.folder.with_name("unmounted"))
        for number in range(2):
            report = await empty.client.execute_workflow(
                "OverlayWatchWorkflow", id=f"overlays/{book}/{number}", task_queue=queue
            )
            assert report["deleted"] == []
            empty.folder.mkdir(exist_ok=True)  # the mount point, empty
        assert await empty.weights(book) == view.new
        empty.folder.rmdir()
        away.rename(empty.folder)
