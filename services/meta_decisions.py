"""A book's meta-producer leaves shadow when an operator approves it, and is sent back to shadow at once."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping
from sqlalchemy.ext.asyncio import AsyncSession
from temporalio.client import Client

from closeloop import store
from closeloop.models.approvals import ApprovalKey, ApprovalState, ApprovalVerdict, ApprovalView, Decision
from closeloop.models.events import EventType
from closeloop.models.launches import Launch
from closeloop.models.policy import LearningPolicy
from closeloop.services import books
from closeloop.services.approvals import ApprovalEvents, DecisionEffect, approval_launch, outcome_of, start_waiting
from closeloop.store.approvals import WaitingPage
from closeloop.store.database import Sessions

META_MODE = "meta"
_MAX_NUMBER = 2**31 - 1  # the largest of PostgreSQL's integer


class LeavingShadow:
    """A proposal that a book's meta-producer speaks, as a subject (services/approvals.py)."""

    kind = META_MODE
    events = ApprovalEvents()

    async def hold(self, session: AsyncSession, key: ApprovalKey) -> None:
        """See Subject. Locks the book, as does the activity that writes what the meta-producer says."""
        await store.books.hold(session, key.book)

    async def find(self, session: AsyncSession, key: ApprovalKey) -> ApprovalView | None:
        """See Subject."""
        if not (key.id.isascii() and key.id.isdecimal() and int(key.id) <= _MAX_NUMBER):
            return None
        row = await store.meta.proposal(session, key.book, int(key.id))
        return None if row is None else _view(row)

    async def waiting(self, session: AsyncSession, page: WaitingPage) -> list[ApprovalView]:
        """See Subject."""
        return [_view(row) for row in await store.meta.waiting(session, page)]

    async def objection(self, session: AsyncSession, found: ApprovalView) -> str | None:
        """See Subject. It may be let out whenever an operator wants."""
        return None

    async def settle(self, session: AsyncSession, found: ApprovalView, decision: Decision | None) -> DecisionEffect:
        """See Subject."""
        approved = decision is not None and decision.verdict is ApprovalVerdict.approve
        rejected = ApprovalState.rejected if decision is not None else ApprovalState.expired
        await store.meta.settle_proposal(
            session,
            found.book,
            int(found.id),
            ApprovalState.approved if approved else rejected,
            decision.verdict if decision else None,
            decision.operator if decision else "",
            decision.note if decision else "",
            decision.at if decision else found.deadline,
        )
        if decision is None or not approved:
            return DecisionEffect("the meta-producer stays in shadow")
        if not await store.meta.set_mode(session, found.book, True, decision.at, decision.operator, decision.note):
            return DecisionEffect("the meta-producer was live already")
        return DecisionEffect(
            f"the meta-producer of {found.book} speaks from now on; "
            f"'closeloop meta shadow --book {found.book} --by NAME' sends it back"
        )

    async def withdraw(self, session: AsyncSession, found: ApprovalView, reason: str, at: datetime) -> None:
        """See Subject."""
        number, state = int(found.id), ApprovalState.withdrawn
        await store.meta.settle_proposal(session, found.book, number, state, None, "", reason, at)

    async def launch(self, session: AsyncSession, found: ApprovalView) -> Launch:
        """See Subject."""
        return approval_launch(found)

    async def watched(self, session: AsyncSession) -> list[Launch]:
        """See Subject. None: it ends with the decision."""
        return []


async def propose_leaving_shadow(
    client: Client, sessions: Sessions, policy: LearningPolicy, book: str, evidence: dict[str, Any]
) -> ApprovalView:
    """Propose that a book's meta-producer leaves shadow, and start the workflow that waits for an operator.

    Asked again while a proposal waits, it is the same proposal. Commits. Raises BookArchived.
    """
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        await books.refuse_archived(session, book)
        await store.books.hold(session, book)
        row = await store.meta.propose(
            session,
            {
                "book_id": book,
                "state": ApprovalState.pending,
                "evidence": evidence,
                "proposed_at": now,
                "deadline": now + timedelta(hours=policy.approvals.meta_hours),
                "policy_hash": policy.meta.hash,
            },
        )
    found = _view(row)
    await start_waiting(client, approval_launch(found))
    return found


async def back_to_shadow(sessions: Sessions, book: str, operator: str, note: str) -> bool:
    """Send a book's meta-producer back to shadow at once. Needs no approval: shadow is the safe direction.

    False if it was in shadow already. Commits.
    """
    now = datetime.now(UTC)
    async with sessions.begin() as session:
        await books.find(session, book)
        await store.books.hold(session, book)
        mode = await store.meta.mode(session, book)
        if not (mode and mode["live"]):
            return False
        await store.meta.set_mode(session, book, False, now, operator, note)
        payload = {"book": book, "operator": operator, "note": note, "at": now, "was_live_since": mode["since"]}
        await store.events.append(session, (EventType.meta_shadowed, f"{book}/{now.isoformat()}", payload))
    return True


def record_sentence(evidence: dict[str, Any]) -> str:
    """A track record in a sentence."""
    shadow = evidence.get("shadow")
    if not shadow:
        return "no track record yet: nothing that it would have said has been resolved"
    others = evidence["producers_meanwhile"]
    beside = (
        f"; the producers it listened to: {others['hit_rate']:.1%}, Brier {others['brier']:.3f}" if others["n"] else ""
    )
    return (
        f"in shadow it was right in {shadow['correct']} of {shadow['n']} ({shadow['hit_low']:.1%} to "
        f"{shadow['hit_high']:.1%}), Brier {shadow['brier']:.3f}{beside}"
    )


def _view(row: RowMapping) -> ApprovalView:
    decision = None
    if row["verdict"] is not None:
        decision = Decision(
            verdict=ApprovalVerdict(row["verdict"]),
            operator=row["operator"],
            note=row["note"] or "",
            at=row["decided_at"],
        )
    state, evidence = ApprovalState(row["state"]), row["evidence"]
    proposal = f"Let the meta-producer of {row['book']} speak: {record_sentence(evidence)}{_gate(evidence)}"
    return ApprovalView(
        kind=META_MODE,
        book=row["book"],
        id=str(row["number"]),
        proposal=proposal[:2000],
        deadline=row["deadline"],
        state=state,
        decision=decision,
        outcome=f"withdrawn: {row['note']}" if state is ApprovalState.withdrawn else outcome_of(state, decision),
    )


def _gate(evidence: dict[str, Any]) -> str:
    if evidence.get("gate_open", True):
        return ""
    needed = evidence["outcomes_needed"]
    return f"; its gate is closed, {evidence['outcomes']} of {needed} outcomes: approved now, it speaks once that opens"
