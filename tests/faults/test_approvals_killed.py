"""Workers are killed, with SIGKILL, while things wait: what counts is when an operator's word reached the server."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from closeloop import store
from closeloop.models.approvals import ApprovalAnswer, ApprovalState, ApprovalVerdict, ApprovalView
from closeloop.models.launches import TASK_QUEUE
from closeloop.models.overrides import OverrideRequest, OverrideStatus
from closeloop.models.policy import LearningPolicy
from closeloop.models.weights import CycleRequest, OpenedCycle, WeightsVerdict
from closeloop.services import approvals, overrides, weights
from closeloop.services.meta_decisions import propose_leaving_shadow
from closeloop.store.database import Sessions
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import SUBJECTS
from tests.activities.attributing import attributed
from tests.activities.overriding import mined
from tests.activities.patterning import AS_OF as LESSONS_AS_OF
from tests.activities.weighing import AS_OF, desk_on, history
from tests.faults.approvals_worker import READY
from tests.store.databases import query
from tests.waiting import PATIENCE, eventually
from tests.workers.namespaces import own_namespace
from tests.workers.processes import line, script

KINDS = ("meta", "override", "weights")
SECONDS = 20.0
"""How long proposals wait here: time to make six of them, to kill a worker and to say six words."""


@dataclass
class ApprovalsDesk:
    """A namespace, a database and a folder that only the worker processes of one test use."""

    client: Client
    dsn: str
    sessions: Sessions
    folder: Path

    @asynccontextmanager
    async def worker(self, seconds: float = SECONDS, mode: str = "lives") -> AsyncIterator[asyncio.subprocess.Process]:
        address = self.client.service_client.config.target_host
        arguments = (address, self.client.namespace, self.dsn, str(self.folder), repr(seconds / 3600), mode)
        async with script("tests.faults.approvals_worker", *arguments, home=self.folder) as process:
            assert await line(process) == READY
            yield process

    async def propose(self, book: str, kinds: tuple[str, ...] = KINDS, seconds: float = SECONDS) -> None:
        if "override" in kinds:
            await mined(self.sessions, book, {"effect": 2.0})
            await overrides.materialize(self.client, OverrideRequest(book=book, as_of=LESSONS_AS_OF))
        if "meta" in kinds:
            policy = LearningPolicy(meta_approval_hours=seconds / 3600)
            await propose_leaving_shadow(self.client, self.sessions, policy, book, {"shadow": None})
        if "weights" in kinds:
            await weights.run_cycle(self.client, self.sessions, book, AS_OF)

    async def waiting(self, book: str | None = None) -> list[ApprovalView]:
        async with self.sessions() as session:
            return await approvals.waiting(session, SUBJECTS, book=book)

    async def show(self, name: str) -> ApprovalView:
        async with self.sessions() as session:
            return await approvals.show(session, SUBJECTS, name)

    async def signal(self, view: ApprovalView, verdict: str, operator: str) -> None:
        handle = self.client.get_workflow_handle(view.workflow_id)
        await handle.signal(verdict, {"operator": operator, "note": "why"})

    async def update(self, view: ApprovalView, operator: str) -> ApprovalAnswer | None:
        """The answer to an approval; None where the workflow had ended before it was taken up."""
        word = {"verdict": "approve", "operator": operator, "note": ""}
        handle = self.client.get_workflow_handle(view.workflow_id)
        try:
            answer: ApprovalAnswer = await handle.execute_update("decide", word, result_type=ApprovalAnswer)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return None
        return answer

    async def say(self, view: ApprovalView, verdict: ApprovalVerdict, operator: str) -> ApprovalAnswer:
        return await approvals.send_decision(self.client, self.sessions, SUBJECTS, view, verdict, operator, "")

    async def in_force(self, book: str) -> tuple[int, list[str], bool]:
        """The version of weights, the statuses of overrides, whether the meta-producer speaks."""
        async with self.sessions() as session:
            active = await store.weights.active(session, book)
            found = await store.overrides.listing(session, book, closed=True)
            mode = await store.meta.mode(session, book)
        return active.version if active else 0, [o.status for o in found], bool(mode and mode["live"])

    async def refused(self, book: str) -> list[tuple[str, str]]:
        """(kind, operator) of the words on record as refused."""
        rows = await query(
            self.sessions,
            "SELECT payload FROM events WHERE type LIKE '%word_refused.v1' AND payload ->> 'book' = :book",
            book=book,
        )
        return sorted((row["payload"]["kind"], row["payload"]["operator"]) for row in rows)


@pytest.fixture
async def desk(dsn: str, client: Client, tmp_path: Path) -> AsyncIterator[ApprovalsDesk]:
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with desk_on(dsn, own, tmp_path) as made:
        yield ApprovalsDesk(own, made.dsn, made.sessions, tmp_path)


async def killed(process: asyncio.subprocess.Process) -> None:
    process.kill()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL


async def until_after(instant: datetime) -> None:
    await asyncio.sleep((instant - datetime.now(UTC)).total_seconds() + 0.05)


async def test_no_worker_runs_when_the_deadline_passes(desk: ApprovalsDesk) -> None:
    """Of each subject: a word that reached the server in time is carried out by the next worker, later ones never."""
    async with proposals_in(desk, "in-time", "rejected", "late", "asked") as process:
        views = await desk.waiting()
        assert sorted((v.book, v.kind) for v in views if v.book == "late") == [("late", kind) for kind in KINDS]
        assert views == sorted(views, key=lambda view: (view.deadline, view.workflow_id))
        assert all(view.proposal for view in views)
        await killed(process)
    of = {name: [view for view in views if view.book == name] for name in ("in-time", "rejected", "late", "asked")}
    for view in of["in-time"]:
        await desk.signal(view, "approve", "ann")
    for view in of["rejected"]:
        await desk.signal(view, "reject", "ann")
    # An update is kept nowhere until a worker takes it.
    asked = [asyncio.create_task(desk.update(view, "updating ann")) for view in of["asked"]]
    assert datetime.now(UTC) < views[0].deadline, "too slow to tell anything"
    await until_after(max(view.deadline for view in views))
    for view in of["late"]:
        await desk.signal(view, "approve", "late ann")
    async with desk.worker():
        assert await eventually(desk.waiting, lambda left: left == []) == []
        assert not any(answer.accepted for answer in await asyncio.gather(*asked) if answer)

        assert await desk.in_force("in-time") == (1, [OverrideStatus.active], True)
        assert await desk.in_force("rejected") == (0, [OverrideStatus.rejected], False)
        for book in ("late", "asked"):
            assert await desk.in_force(book) == (0, [OverrideStatus.ended], False)
        wanted = {"in-time": "approved", "rejected": "rejected", "late": "expired", "asked": "expired"}
        assert {v.workflow_id: (await desk.show(v.workflow_id)).state for v in views} == {
            v.workflow_id: wanted[v.book] for v in views
        }
        late = [(kind, "late ann") for kind in KINDS]
        assert await eventually(lambda: desk.refused("late"), lambda found: len(found) == len(KINDS)) == late

        before = {book: await desk.in_force(book) for book in of}
        for view in views:
            verdict = ApprovalVerdict.reject if view.book == "in-time" else ApprovalVerdict.approve
            answer = await desk.say(view, verdict, "bob")
            assert (answer.accepted, answer.state) == (False, wanted[view.book]), view
            assert answer.reason.startswith("already decided: ")
        assert {book: await desk.in_force(book) for book in of} == before
        assert [word for word in await desk.refused("in-time") if word[1] == "bob"] == [(k, "bob") for k in KINDS]


@asynccontextmanager
async def proposals_in(desk: ApprovalsDesk, *books: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker, and everything that can wait in each of these books."""
    for book in books:
        await learn_from_history(desk, book)
    async with desk.worker() as process:
        await asyncio.gather(*(desk.propose(book) for book in books))
        for view in await desk.waiting():  # no task of theirs is under way: its timeout would be waited for
            await desk.client.get_workflow_handle(view.workflow_id).query(
                "cycle" if view.kind == "weights" else "state"
            )
        yield process


async def learn_from_history(desk: ApprovalsDesk, book: str) -> None:
    await attributed(desk.sessions, *history(book))


@pytest.mark.parametrize("mode", ["before", "after"])
async def test_killed_around_the_commit_of_a_decision(desk: ApprovalsDesk, mode: str) -> None:
    """Carried out once, and the next attempt answers what the first would have answered."""
    async with desk.worker(seconds=3600) as process:
        await desk.propose("b", ("override",), seconds=3600)
        [view] = await desk.waiting()
        await desk.client.get_workflow_handle(view.workflow_id).query("state")
        await killed(process)
    await desk.signal(view, "approve", "ann")
    async with desk.worker(mode=mode) as process:
        assert await asyncio.wait_for(process.wait(), PATIENCE) == -signal.SIGKILL
    found = await desk.show(view.workflow_id)
    assert found.state is (ApprovalState.approved if mode == "after" else ApprovalState.pending)
    async with desk.worker():
        result: Any = await asyncio.wait_for(desk.client.get_workflow_handle(view.workflow_id).result(), PATIENCE)
        assert result == "approved"
    assert (await desk.in_force("b"))[1] == [OverrideStatus.active]
    events = await query(desk.sessions, "SELECT type FROM events WHERE type LIKE 'learning.approval.%'")
    assert [row["type"] for row in events] == ["learning.approval.approved.v1"]


async def test_a_proposal_whose_workflow_is_gone_can_be_decided(desk: ApprovalsDesk) -> None:
    """The worker died before it started the workflow, or somebody terminated that: the decision starts it again."""
    await learn_from_history(desk, "b")
    async with desk.worker(seconds=3600):
        await desk.propose("b", seconds=3600)
        views = await desk.waiting()
        for view in views:
            await desk.client.get_workflow_handle(view.workflow_id).terminate("by accident")
        for view in views:
            assert (await desk.say(view, ApprovalVerdict.approve, "ann")).accepted, view
        assert await desk.in_force("b") == (1, [OverrideStatus.active], True)
        assert await desk.waiting() == []


async def test_a_cycle_whose_workflow_is_gone_can_be_decided_and_undone_whatever_its_id(desk: ApprovalsDesk) -> None:
    """An engine may start a cycle by name, under an id of its own; under that id it goes on, too."""
    await learn_from_history(desk, "b")
    async with desk.worker(seconds=3600):
        request = CycleRequest(book="b", as_of=AS_OF)
        await desk.client.start_workflow(
            "WeightAdjustmentWorkflow", request, id="by-hand", task_queue=TASK_QUEUE, result_type=OpenedCycle
        )
        [view] = await eventually(desk.waiting, lambda found: len(found) == 1)
        cycle = f"b/{view.id}"
        await desk.client.get_workflow_handle("by-hand").terminate("by accident")
        assert (await desk.say(view, ApprovalVerdict.approve, "ann")).accepted
        await desk.client.get_workflow_handle("by-hand").terminate("by accident")
        answer = await weights.send_decision(desk.client, desk.sessions, cycle, WeightsVerdict.revert, "ann", "")
        assert (answer.accepted, answer.reason) == (True, "version 2 has the former weights")
        answer = await weights.send_decision(desk.client, desk.sessions, cycle, WeightsVerdict.revert, "bob", "")
        assert not answer.accepted
        assert (await desk.in_force("b"))[0] == 2
