"""Under ``approvals.four_eyes`` who proposed something does not approve it."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from temporalio.client import Client

from closeloop.models.approvals import ApprovalAnswer, ApprovalView, RecordApproval
from closeloop.models.errors import NotAllowed
from closeloop.models.policy import LearningPolicy
from closeloop.models.tokens import Scope, TokenRequest
from closeloop.services import approvals, operator_decisions, tokens
from closeloop.services.meta_decisions import propose_leaving_shadow
from closeloop.workers.wiring import SUBJECTS
from tests.activities.weighing import Desk, desk_on
from tests.store.databases import query


@pytest.fixture(scope="module")
async def desk(dsn: str, client: Client, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    async with desk_on(dsn, client, tmp_path_factory.mktemp("eyes")) as desk:
        yield desk


async def token(desk: Desk, name: str, **changes: object) -> str:
    async with desk.sessions() as session:
        wanted = TokenRequest.model_validate(
            {"name": f"{name}-{uuid.uuid4().hex[:6]}", "scopes": [Scope.operate]} | changes
        )
        return (await tokens.create(session, wanted)).token


async def proposal(desk: Desk, book: str, secret: str | None = None) -> ApprovalView:
    await desk.make(book)
    evidence: dict[str, object] = {
        "calls": 0, "n": 0, "correct": 0, "hit_rate": None, "hit_low": None, "hit_high": None, "brier": None,
        "return_pct": None,
    }  # fmt: skip
    return await propose_leaving_shadow(desk.client, desk.sessions, LearningPolicy(), book, evidence, secret)


async def decide(
    desk: Desk, found: ApprovalView, verdict: str, secret: str | None, *, four_eyes: bool = True, bare: bool = False
) -> ApprovalAnswer:
    """Carry a decision out as the workflow's activity does."""
    said = {"kind": found.kind, "book": found.book, "id": found.id, "verdict": verdict, "operator": "ann", "note": ""}
    if not bare:
        async with desk.sessions() as session:
            operator = "ann" if secret is None else ""
            made = await operator_decisions.record(
                session, found, verdict, operator=operator, note="", secret=secret, proposal=found
            )
        said |= {"record": made.decision_id}
    record = RecordApproval.model_validate(said | {"at": datetime.now(UTC)})
    async with desk.sessions.begin() as session:
        subject = approvals.subject_of(SUBJECTS, found)
        return await approvals.decide(session, subject, record, four_eyes=four_eyes)


async def test_the_proposers_token_cannot_approve_and_another_can(desk: Desk, book: str) -> None:
    mine, other = await token(desk, "ann"), await token(desk, "bob")
    found = await proposal(desk, book, mine)
    refused = await decide(desk, found, "approve", mine)
    assert not refused.accepted
    assert "another operator has to approve it (policy approvals.four_eyes)" in refused.reason
    assert (await decide(desk, found, "approve", other)).accepted
    events = await query(
        desk.sessions, "SELECT type FROM events WHERE payload ->> 'book' = :book ORDER BY id", book=book
    )
    assert [row["type"] for row in events][-2:] == [
        "learning.approval.word_refused.v1",
        "learning.approval.approved.v1",
    ]


async def test_an_approval_without_a_token_is_refused_and_a_rejection_is_not(desk: Desk, book: str) -> None:
    found = await proposal(desk, book, await token(desk, "ann"))
    for bare in (True, False):
        refused = await decide(desk, found, "approve", None, bare=bare)
        assert not refused.accepted
        assert "a token is needed (policy approvals.four_eyes)" in refused.reason
    assert (await decide(desk, found, "reject", None)).accepted


async def test_the_proposer_may_reject_and_who_asks_again_is_not_the_proposer(desk: Desk, book: str) -> None:
    mine, other = await token(desk, "ann"), await token(desk, "bob")
    found = await proposal(desk, book, mine)
    assert (await proposal(desk, book, other)).id == found.id
    assert not (await decide(desk, found, "approve", mine)).accepted
    assert (await decide(desk, found, "reject", mine)).accepted


async def test_what_nobodys_token_proposed_any_token_approves(desk: Desk, book: str) -> None:
    found = await proposal(desk, book)
    assert (await decide(desk, found, "approve", await token(desk, "ann"))).accepted


async def test_off_by_default(desk: Desk, book: str) -> None:
    assert LearningPolicy().approvals.four_eyes is False
    mine = await token(desk, "ann")
    found = await proposal(desk, book, mine)
    assert (await decide(desk, found, "approve", mine, four_eyes=False)).accepted


async def test_a_token_that_may_not_operate_proposes_nothing(desk: Desk, book: str) -> None:
    with pytest.raises(NotAllowed):
        await proposal(desk, book, await token(desk, "eyes", scopes=[Scope.read]))
    rows = await query(desk.sessions, "SELECT decision_id FROM operator_decisions WHERE book_id = :book", book=book)
    assert rows == []
