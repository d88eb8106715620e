"""Under ``approvals.require_token`` only a decision on record counts, once, whoever can reach Temporal."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.testing import ActivityEnvironment

from closeloop.activities.approvals import ApprovalActivities
from closeloop.models.approvals import ApprovalAnswer, ApprovalView, StartedAgain
from closeloop.models.errors import NotAcceptable, NotAllowed, NotAuthenticated
from closeloop.models.policy import ApprovalsPolicy, LearningPolicy
from closeloop.models.tokens import Scope, TokenRequest
from closeloop.models.weights import CycleRequest, CycleView, WeightsVerdict
from closeloop.services import approvals, operator_decisions, tokens, weights
from closeloop.services.meta_decisions import propose_leaving_shadow
from closeloop.services.weight_decisions import WeightsProposal
from closeloop.workers.registration import register_search_attributes
from closeloop.workers.wiring import SUBJECTS
from tests.activities.weighing import AS_OF, BALANCED, DAY, Desk, close, desk_on, history, learn_from
from tests.store.databases import query
from tests.waiting import eventually, until
from tests.workers.namespaces import own_namespace

STRICT = LearningPolicy(approvals=ApprovalsPolicy(require_token=True))


@pytest.fixture(scope="module")
async def idle(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    """A desk without a worker, in a namespace of its own."""
    own = await own_namespace(client)
    await register_search_attributes(own)
    async with desk_on(dsn, own, tmp_path_factory.mktemp("tokens")) as desk:
        yield desk


@pytest.fixture(scope="module")
async def desk(idle: Desk) -> AsyncIterator[Desk]:
    """The desk with a worker that asks for tokens."""
    async with idle.worker("closeloop", STRICT):
        yield idle


async def token(desk: Desk, name: str, **changes: Any) -> str:
    async with desk.sessions() as session:
        wanted = TokenRequest.model_validate({"name": name, "scopes": [Scope.operate]} | changes)
        return (await tokens.create(session, wanted)).token


async def proposed(desk: Desk, book: str, **changes: Any) -> str:
    """The id of a cycle that waits."""
    await desk.make(book)
    await learn_from(desk, history(book))
    return (await weights.run_cycle(desk.client, desk.sessions, book, AS_OF, **changes)).cycle_id


async def say(
    desk: Desk, cycle_id: str, verdict: WeightsVerdict = WeightsVerdict.approve, operator: str = "", **with_: Any
) -> ApprovalAnswer:
    return await weights.send_decision(desk.client, desk.sessions, cycle_id, verdict, operator, "why", **with_)


async def recorded(desk: Desk, cycle_id: str, secret: str, verdict: str = "approve") -> str:
    """A decision on record of which no workflow was told."""
    view = await shown(desk, cycle_id)
    async with desk.sessions() as session:
        made = await operator_decisions.record(
            session, view, verdict, operator="", note="why", secret=secret, proposal=view
        )
    return made.decision_id


async def shown(desk: Desk, cycle_id: str) -> ApprovalView:
    async with desk.sessions() as session:
        return await approvals.show(session, SUBJECTS, f"weights/{cycle_id}")


async def listed(desk: Desk, cycle_id: str) -> ApprovalView:
    async with desk.sessions() as session:
        [view] = await approvals.waiting(session, SUBJECTS, book=cycle_id.split("/")[0])
    return view


async def update(desk: Desk, cycle_id: str, **word: Any) -> ApprovalAnswer:
    answer = await approvals.send_update(
        desk.client, f"weights/{cycle_id}", {"verdict": "approve", "operator": "mallory", "note": ""} | word
    )
    assert answer is not None
    return answer


async def refused(desk: Desk, book: str, number: int) -> list[dict[str, Any]]:
    rows = await eventually(lambda: desk.events(book, "word_refused"), lambda found: len(found) >= number)
    assert len(rows) == number, rows
    return [row["payload"] for row in rows]


async def history_of(desk: Desk, workflow_id: str) -> str:
    return (await desk.client.get_workflow_handle(workflow_id).fetch_history()).to_json()


async def test_a_bare_signal_and_a_bare_update_are_on_record_with_their_sender_and_refused(
    desk: Desk, book: str
) -> None:
    cycle_id = await proposed(desk, book)
    handle = desk.client.get_workflow_handle(f"weights/{cycle_id}")
    await handle.signal("approve", {"operator": "ann (CFO)", "note": "do it"})
    await handle.signal("approve", {"operator": "policy", "note": ""})
    [first, second] = await refused(desk, book, 2)
    assert (first["operator"], first["sender"]) == ("ann (CFO)", desk.client.identity)
    for said in ("a token is needed", "approvals.require_token", "CLOSELOOP_TOKEN", "closeloop tokens add"):
        assert said in first["outcome"]
    assert second["operator"] == "policy"
    answer = await update(desk, cycle_id, verdict="reject")
    assert (answer.accepted, answer.state, answer.sender) == (False, "pending", desk.client.identity)
    assert "a token is needed" in answer.reason
    assert (await desk.view(cycle_id)).state == "proposed"
    assert await desk.active(book) is None


async def test_a_token_decides_under_its_name_and_the_secret_is_in_no_history(desk: Desk, book: str) -> None:
    secret = await token(desk, f"ann-{book}")
    cycle_id = await proposed(desk, book)
    answer = await say(desk, cycle_id, secret=secret)
    assert (answer.accepted, answer.operator) == (True, f"ann-{book}")
    view = await shown(desk, cycle_id)
    assert view.decision is not None
    assert (view.decision.operator, view.decision.sender) == (f"ann-{book}", desk.client.identity)
    assert view.decision.token == secret.split("_")[1]
    [event] = await desk.events(book, "applied")
    assert (event["payload"]["sender"], event["payload"]["token"]) == (view.decision.sender, view.decision.token)
    memo = await (await desk.client.get_workflow_handle(f"weights/{cycle_id}").describe()).memo()
    assert memo["outcome"].startswith(f"ann-{book} (sent by {desk.client.identity}) said approve (why): version 1")
    assert secret.split("_", 2)[2] not in await history_of(desk, f"weights/{cycle_id}")
    [made] = await query(desk.sessions, "SELECT * FROM operator_decisions WHERE book_id = :b", b=book)
    assert (made["accepted"], made["operator"], made["token_id"]) == (True, f"ann-{book}", view.decision.token)


async def test_a_name_beside_the_token_has_to_be_its_own(desk: Desk, book: str) -> None:
    secret = await token(desk, f"ann-{book}")
    cycle_id = await proposed(desk, book)
    with pytest.raises(NotAcceptable, match=f"The token is that of ann-{book}"):
        await say(desk, cycle_id, operator="bob", secret=secret)
    assert (await say(desk, cycle_id, operator=f"ann-{book}", secret=secret)).accepted


async def test_a_token_of_another_book_scope_or_time_records_nothing(desk: Desk, book: str) -> None:
    other = f"{book}-other"
    await desk.make(other)
    cycle_id = await proposed(desk, book)
    with pytest.raises(NotAllowed, match=f"not for book {book}"):
        await say(desk, cycle_id, secret=await token(desk, f"o-{book}", books=[other]))
    with pytest.raises(NotAllowed, match="no scope operate"):
        await say(desk, cycle_id, secret=await token(desk, f"r-{book}", scopes=[Scope.read]))
    expired = await token(desk, f"e-{book}", expires_at=datetime.now(UTC) + timedelta(hours=1))
    await query(desk.sessions, "UPDATE api_tokens SET expires_at = now() WHERE name = :n", n=f"e-{book}")
    with pytest.raises(NotAuthenticated, match="expired"):
        await say(desk, cycle_id, secret=expired)
    assert await query(desk.sessions, "SELECT 1 FROM operator_decisions WHERE book_id = :b", b=book) == []
    assert (await desk.view(cycle_id)).state == "proposed"


async def test_a_record_is_for_one_subject_one_verdict_and_one_proposal(desk: Desk, book: str) -> None:
    secret, other = await token(desk, f"ann-{book}"), f"{book}-other"
    cycle_id, another = await proposed(desk, book), await proposed(desk, other)
    of_another = await recorded(desk, another, secret)
    assert "is another one: approve of weights/" in (await update(desk, cycle_id, record=of_another)).reason
    rejection = await recorded(desk, cycle_id, secret, "reject")
    assert "is another one: reject of" in (await update(desk, cycle_id, record=rejection)).reason
    assert "no such decision on record" in (await update(desk, cycle_id, record="made-up")).reason
    seen = await recorded(desk, cycle_id, secret)
    await query(
        desk.sessions,
        "UPDATE weight_cycles SET new = jsonb_set(new, '{onchain}', '0.26') WHERE cycle_id = :id",
        id=cycle_id,
    )
    assert "has changed since" in (await update(desk, cycle_id, record=seen)).reason
    assert (await desk.view(cycle_id)).state == "proposed"
    assert (await update(desk, another, record=of_another)).operator == f"ann-{book}"  # nobody had spent it


async def test_what_was_recorded_with_a_token_that_was_revoked_since_is_refused(desk: Desk, book: str) -> None:
    secret = await token(desk, f"ann-{book}")
    cycle_id = await proposed(desk, book)
    made = await recorded(desk, cycle_id, secret)
    async with desk.sessions() as session:
        await tokens.revoke(session, f"ann-{book}")
    answer = await update(desk, cycle_id, record=made)
    assert (answer.accepted, answer.state) == (False, "pending")
    assert "was revoked at" in answer.reason


async def test_a_record_is_spent_once_however_often_it_is_named(desk: Desk, book: str) -> None:
    secret = await token(desk, f"ann-{book}")
    cycle_id = await proposed(desk, book)
    made = await recorded(desk, cycle_id, secret)
    answers = await asyncio.gather(*(update(desk, cycle_id, record=made) for _ in range(3)))
    assert sorted(answer.accepted for answer in answers) == [False, False, True]
    assert all("was used already" in answer.reason for answer in answers if not answer.accepted)
    assert (await say(desk, cycle_id, WeightsVerdict.revert, "ann")).accepted
    # Whoever reads the history can send the same signal again: it brings nothing back.
    handle = desk.client.get_workflow_handle(f"weights/{cycle_id}")
    with contextlib.suppress(RPCError):
        await handle.signal("approve", {"operator": "x", "note": "", "record": made})
    await handle.result()
    assert (await desk.view(cycle_id)).state == "reverted"
    active = await desk.active(book)
    assert active is not None
    assert active.version == 2


async def test_a_revert_needs_a_record_and_no_token(desk: Desk, book: str) -> None:
    cycle_id = await proposed(desk, book)
    assert (await say(desk, cycle_id, secret=await token(desk, f"ann-{book}"))).accepted
    bare = await update(desk, cycle_id, verdict="revert")
    assert not bare.accepted
    assert "'closeloop weights revert' makes it, also without a token" in bare.reason
    assert (await desk.view(cycle_id)).state == "applied"
    answer = await say(desk, cycle_id, WeightsVerdict.revert, "bob at night")
    assert (answer.accepted, answer.operator) == (True, "bob at night")
    [event] = await desk.events(book, "reverted")
    assert (event["payload"]["sender"], event["payload"]["token"]) == (desk.client.identity, None)


async def test_a_revert_with_a_token_is_under_its_name(desk: Desk, book: str) -> None:
    cycle_id, secret = await proposed(desk, book), await token(desk, f"ann-{book}")
    assert (await say(desk, cycle_id, secret=secret)).accepted
    assert (await say(desk, cycle_id, WeightsVerdict.revert, secret=secret)).operator == f"ann-{book}"


async def test_the_other_subjects(desk: Desk, book: str) -> None:
    await desk.make(book)
    view = await propose_leaving_shadow(desk.client, desk.sessions, STRICT, book, {"shadow": None})
    said = (desk.client, desk.sessions, SUBJECTS, view, "approve")
    assert "a token is needed" in (await approvals.send_decision(*said, "mallory", "")).reason
    answer = await approvals.send_decision(*said, "", "", await token(desk, f"ann-{book}"))
    assert (answer.accepted, answer.operator) == (True, f"ann-{book}")


# -- the door died between recording and telling -----------------------------------------------------------------------


async def look(desk: Desk) -> StartedAgain:
    """What the schedule does every few minutes."""
    activities = ApprovalActivities(desk.sessions, SUBJECTS, desk.client, STRICT.approvals)
    found: StartedAgain = await ActivityEnvironment().run(activities.start_what_waits)
    return found


async def age(desk: Desk, decision_id: str) -> None:
    sql = "UPDATE operator_decisions SET recorded_at = recorded_at - interval '2 min' WHERE decision_id = :id"
    await query(desk.sessions, sql, id=decision_id)


async def test_what_no_workflow_was_told_is_told_by_the_next_look(desk: Desk, book: str) -> None:
    cycle_id, secret = await proposed(desk, book), await token(desk, f"ann-{book}")
    made = await recorded(desk, cycle_id, secret)
    await look(desk)
    assert (await desk.view(cycle_id)).state == "proposed"  # its door may be about to tell it
    await age(desk, made)
    await desk.client.get_workflow_handle(f"weights/{cycle_id}").terminate("by mistake")
    await look(desk)
    assert (await desk.until(cycle_id, "applied")).decided_by == f"ann-{book}"
    await look(desk)
    assert await desk.events(book, "word_refused") == []


async def test_a_proposal_says_what_is_recorded_and_not_carried_out(desk: Desk, book: str) -> None:
    cycle_id, secret = await proposed(desk, book), await token(desk, f"ann-{book}")
    assert (await shown(desk, cycle_id)).recorded is None
    made = await recorded(desk, cycle_id, secret, verdict="reject")
    for view in (await shown(desk, cycle_id), await listed(desk, cycle_id)):
        assert view.recorded is not None
        assert (view.state, view.recorded.verdict, view.recorded.operator) == ("pending", "reject", f"ann-{book}")
    await age(desk, made)
    await look(desk)
    await desk.until(cycle_id, "rejected")
    assert (await shown(desk, cycle_id)).recorded is None


async def test_what_was_decided_otherwise_meanwhile_is_refused_and_not_told_again(desk: Desk, book: str) -> None:
    cycle_id, secret = await proposed(desk, book), await token(desk, f"ann-{book}")
    made = await recorded(desk, cycle_id, secret)
    assert (await say(desk, cycle_id, WeightsVerdict.reject, secret=secret)).accepted
    await age(desk, made)
    await look(desk)
    await look(desk)
    [word] = await refused(desk, book, 1)
    assert word["outcome"].startswith("already decided: rejected by ann-")


async def test_at_the_deadline_the_record_decides(desk: Desk, book: str) -> None:
    secret = await token(desk, f"ann-{book}")
    cycle_id = await proposed(desk, book, deadline=timedelta(seconds=12))
    await recorded(desk, cycle_id, secret)
    view = await desk.until(cycle_id, "applied")
    assert (view.decided_by, await desk.events(book, "expired")) == (f"ann-{book}", [])

    async def written() -> bool:  # the overlay follows, as after any approval
        rows = await query(desk.sessions, "SELECT overlay FROM weight_versions WHERE book_id = :b", b=book)
        return [row["overlay"] for row in rows] == ["written"]

    await until("the overlay is written", written)
    handle = desk.client.get_workflow_handle(f"weights/{cycle_id}")
    memo = await eventually(lambda: _outcome(handle), lambda text: "had decided" in text)
    assert memo.startswith(f"ann-{book} had decided: version 1")


async def _outcome(handle: Any) -> str:
    return str((await (await handle.describe()).memo())["outcome"])


async def test_the_policy_approves_by_itself_as_before(idle: Desk, book: str) -> None:
    willing = STRICT.model_copy(update={"weights": STRICT.weights.model_copy(update={"self_approve_max_q": 0.01})})
    queue = f"strict-and-willing-{book}"
    rows = []
    for i in range(60):
        side = 1 if i % 2 == 0 else -1  # every domain's score tells what becomes of a trade
        scores = {d: side * (-1 if k % 2 else 1) * 0.5 + 0.03 * ((i + k) % 5) for k, d in enumerate(BALANCED)}
        rows.append(close(book, f"h{i}", AS_OF - 25 * DAY * (i + 1) / 60, float(side), scores))
    await idle.make(book)
    await learn_from(idle, [*history(book, n=0), *rows])
    async with idle.worker(queue, willing):
        handle = await idle.client.start_workflow(
            "WeightAdjustmentWorkflow", CycleRequest(book=book, as_of=AS_OF), id=f"weights/{book}/w", task_queue=queue
        )
        view: CycleView = await idle.until(f"{book}/2026-W15", "applied")
        await handle.terminate("its test is over")
    assert view.decided_by == "policy"


async def test_a_worker_without_the_policy_takes_both(idle: Desk, book: str) -> None:
    """The default: a bare word counts, its sender stands beside it, and a token proves the name."""
    async with idle.worker(queue := f"open-{book}"):
        await idle.make(book)
        await learn_from(idle, history(book))
        handle = await idle.client.start_workflow(
            "WeightAdjustmentWorkflow",
            CycleRequest(book=book, as_of=AS_OF),
            id=f"weights/{book}/2026-W15",
            task_queue=queue,
        )
        await idle.until(f"{book}/2026-W15", "proposed")
        await handle.signal("approve", {"operator": "ann", "note": ""})
        await idle.until(f"{book}/2026-W15", "applied")
        view = await shown(idle, f"{book}/2026-W15")
        await handle.terminate("its test is over")
    assert view.decision is not None
    assert (view.decision.operator, view.decision.sender, view.decision.token) == ("ann", idle.client.identity, None)
    assert WeightsProposal().kind == view.kind
