"""Decisions on weight cycles that closeloop 0.1 began: the names and messages of then, carried out as today."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.testing import ActivityEnvironment

from closeloop.activities.weights_0_1 import WeightsOf01, as_answered_today, as_asked_by_0_1
from closeloop.models.approvals import ApprovalState, RecordApproval, RefusedApproval
from closeloop.models.weights import CycleKey, CycleState, OpenedCycle, RecordRevert
from tests.activities.weighing import BALANCED, Desk, desk_on, history, learn_from


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk_on(dsn, client, tmp_path_factory.mktemp("overlays")) as desk:
        yield desk


async def proposed(desk: Desk, book: str) -> OpenedCycle:
    await learn_from(desk, history(book))
    return await desk.open(book)


async def execute(desk: Desk, message: Any) -> Any:
    """What a cycle of 0.1 asks for, through JSON as Temporal carries it."""
    old = WeightsOf01(desk.approvals(), desk.decisions())
    activities = {
        "decide_weights": old.decide,
        "expire_weights": old.expire,
        "remind_of_weights": old.remind,
        "refuse_word": old.refuse_word,
    }
    name, asked = as_asked_by_0_1(message)
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(environment.info, scheduled_time=datetime.now(UTC))
    answer = await environment.run(activities[name], type(asked).model_validate_json(asked.model_dump_json()))
    return as_answered_today(answer.model_dump(mode="json") if hasattr(answer, "model_dump") else answer)


async def test_approved_and_reverted(desk: Desk, book: str) -> None:
    cycle = await proposed(desk, book)
    key = CycleKey(cycle_id=cycle.cycle_id, book=book).approval.model_dump()
    said = {"operator": "ann", "note": "ok", "at": datetime.now(UTC), **key}
    await execute(desk, CycleKey(cycle_id=cycle.cycle_id, book=book).approval)
    answer = await execute(desk, RecordApproval.model_validate(said | {"verdict": "approve"}))
    assert (answer.accepted, answer.state, answer.reason) == (True, ApprovalState.approved, "version 1 is in force")
    assert await desk.weights(book) == cycle.new
    answer = await execute(desk, RecordRevert.model_validate(said))
    assert (answer.accepted, answer.state) == (True, ApprovalState.approved)
    assert await desk.weights(book) == BALANCED
    assert await desk.kinds(book) == ["proposed", "reminder", "applied", "reverted"]


async def test_rejected_and_expired(desk: Desk, book: str) -> None:
    cycles = [await proposed(desk, f"{book}-{i}") for i in range(2)]
    for cycle, verdict, state in zip(cycles, ("reject", None), (CycleState.rejected, CycleState.expired), strict=True):
        key = CycleKey(cycle_id=cycle.cycle_id, book=cycle.book).approval.model_dump()
        said = {"operator": "ann", "at": datetime.now(UTC), "verdict": verdict, **key}
        answer = await execute(desk, RecordApproval.model_validate(said))
        assert (answer.accepted, answer.state) == (True, ApprovalState(state))
        assert (await desk.view(cycle.cycle_id)).state is state


async def test_a_word_that_cannot_be_understood(desk: Desk, book: str) -> None:
    key = {"kind": "weights", "book": book, "id": "2026-W15"}
    await execute(desk, RefusedApproval(**key, run_id="r", number=0, word="aprove", reason="there is no signal aprove"))
    [event] = await desk.events(book)
    assert (event["payload"]["word"], event["payload"]["outcome"]) == ("aprove", "there is no signal aprove")


@pytest.mark.parametrize("verdict", ["approve", "reject", "revert"])
async def test_a_word_to_a_cycle_that_proposes_nothing_is_refused(desk: Desk, book: str, verdict: str) -> None:
    cycle = await desk.open(book)
    assert cycle.state is CycleState.no_adjustment
    key = CycleKey(cycle_id=cycle.cycle_id, book=book).approval.model_dump()
    said = {"operator": "ann", "at": datetime.now(UTC), **key}
    record = RecordRevert if verdict == "revert" else RecordApproval
    for _ in range(2):
        answer = await execute(desk, record.model_validate(said | {"verdict": verdict}))
        assert (answer.accepted, answer.state) == (False, ApprovalState.withdrawn)
        assert answer.reason.startswith("nothing to ")
    [word] = await desk.events(book, "word_refused")
    assert word["payload"]["operator"] == "ann"


@pytest.mark.parametrize(
    ("answered", "state"),
    [
        ({"accepted": True, "state": "applied", "reason": "version 1 is in force", "version": 1}, "approved"),
        ({"accepted": True, "state": "reverted", "reason": "", "version": 2}, "approved"),
        ({"accepted": False, "state": "proposed", "reason": "", "version": None}, "pending"),
        ({"accepted": False, "state": "no_adjustment", "reason": "already decided", "version": None}, "withdrawn"),
        ({"accepted": False, "state": "preset_restored", "reason": "", "version": 3}, "withdrawn"),
        ("expired", "expired"),
        ("applied", "approved"),
    ],
)
def test_what_a_worker_of_0_1_answered(answered: Any, state: str) -> None:
    assert as_answered_today(answered).state == state
